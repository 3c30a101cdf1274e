"""A student made from a seed: a tiny random Llama, a byte-level tokenizer, a store of lessons, and the spec of its training."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.schema import Lora, Student
from store.store import open_store
from store.types import Lesson, Outcome, Question, QuestionState, Route, Trajectory, Usage, Verdict
from trainers.spec import Shared, Spec

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAME = "tiny"


def make_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["<think>\n### Step 1. One and one is two.\n</think>\n\nThe final answer is 2."] * 3,
        trainers.BpeTrainer(vocab_size=310, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def make_other_tokenizer() -> PreTrainedTokenizerFast:
    """Of another kind: likely pieces of words instead of merged bytes, other ids, and nothing to pad with."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    letters = [chr(code) for code in range(32, 127)]
    taught = ["### Step 1. 3 and 4 is 7. So said", "The final answer is", "<think>\n", "\n</think>\n\n"] * 3
    tokenizer.train_from_iterator(
        taught,
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<unk>", *SPECIALS], initial_alphabet=letters, unk_token="<unk>", show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHATML)


def make_model(
    folder: Path, template: str = CHATML, tokenizer: PreTrainedTokenizerFast | None = None, *, tied: bool = True
) -> Path:
    """A folder as the hub has them."""
    (tokenizer or make_tokenizer(template)).save_pretrained(str(folder))
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.3,  # large enough that attention, where the adapter is, decides something
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


def make_lesson(number: str, asked: str, text: str, conclusion: str) -> Lesson:
    question = Question(id=f"q{number}", text=asked, answer=None, kind="math")
    trajectory = Trajectory(
        id=f"t{number}",
        question=question.id,
        nodes=(),
        teachers=("teacher",),
        text=text,
        conclusion=conclusion,
        answer=None,
        origin="search",
        score=None,
        best=True,
        usage=Usage(),
    )
    return Lesson(question=question, trajectory=trajectory)


async def make_lessons(path: Path, count: int, seed: int = 0) -> None:
    """A store with accepted trajectories, all routed to the student."""
    chance = random.Random(seed)
    async with open_store(path, create=True) as store:
        await store.begin_run("run", "run", "{}")
        for number in range(count):
            a, b = chance.randint(1, 9), chance.randint(1, 9)
            text = "\n".join(f"### Step {step}. {a} and {b} is {a + b}." for step in range(1, chance.randint(2, 4)))
            lesson = make_lesson(str(number), f"What is {a} and {b}?", text, f"The final answer is {a + b}.")
            trajectory = lesson.trajectory
            await store.add_questions([lesson.question], split="train")
            await store.settle_question(
                lesson.question.id,
                QuestionState.SOLVED,
                "",
                [trajectory],
                [Verdict(trajectory=trajectory.id, outcome=Outcome.ACCEPTED, reason="")],
                [Route(id=f"r{number}", trajectory=trajectory.id, student=NAME)],
            )
        await store.end_search()


def make_spec(root: Path, model: Path, *, config_hash: str = "configuration", **student: Any) -> Spec:
    """Float32, and fast: the lessons are few."""
    settings = {
        "lora": Lora(rank=4, alpha=8),
        "epochs": 4,
        "batch": 4,
        "micro_batch": 2,
        "learning_rate": 0.05,
        "checkpoint_every": 3,
        "dtype": "float32",
    }
    config = Student(name=NAME, model=str(model), device="cpu", **(settings | student))
    shared = Shared(store=root / "store.db", seed=1, config_hash=config_hash, names=(NAME,))
    return Spec(shared=shared, student=config, model=model, directory=root / "student")
