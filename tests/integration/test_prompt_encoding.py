"""Prompts whose turns were encoded before have the tokens of the whole text, with tokenizers of every make."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_student import CHATML, make_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from agents.engines.base import Message, Prompt
from agents.engines.encoding import _PATTERNS, MOST_PIECES, PromptEncoder
from agents.engines.rendering import encode, encode_answer, render
from agents.errors import Terminal
from agents.models import resolve

TEXTS = [
    "<think>\n### Step 1. One and one is two.\n</think>\n\nThe final answer is 2.",
    "user assistant One AND ONE <|x|>",
    "One \n",
]
SPECIALS = [AddedToken("<|im_start|>", special=True, normalized=False), AddedToken("<|im_end|>", special=True, normalized=False)]
THINKING = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


def trained(model: Any, trainer: Any, *added: AddedToken, template: str = CHATML, **parts: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.add_tokens(list(added))
    tokenizer.enable_truncation(16)  # as some folders have it: to be ignored
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)


def metaspace(*added: AddedToken, template: str = CHATML) -> PreTrainedTokenizerFast:
    """As Llama 2: the first piece of a text, and it alone, gets a space before it."""
    trainer = trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    return trained(
        models.Unigram(), trainer, *added, template=template, pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first")
    )


def lowered() -> PreTrainedTokenizerFast:
    """As BERT: the text is changed before it is cut."""
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"], show_progress=False)
    parts = {"normalizer": normalizers.BertNormalizer(), "pre_tokenizer": pre_tokenizers.BertPreTokenizer()}
    return trained(models.WordPiece(unk_token="[UNK]"), trainer, **parts)


def prepended(*added: AddedToken, template: str = CHATML) -> PreTrainedTokenizerFast:
    """As Llama 2's older files: one piece, with every space a visible character, and one of these before each piece."""
    trainer = trainers.BpeTrainer(vocab_size=90, show_progress=False)
    change = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return trained(models.BPE(unk_token=None, fuse_unk=True), trainer, *added, template=template, normalizer=change)


def byte_level(*before: Any, added: tuple[AddedToken, ...] = (), **settings: bool) -> PreTrainedTokenizerFast:
    """As GPT-2, and with patterns of their own as most models since; it has learnt tokens that go over a heading's start."""
    cut = pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **settings})])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    return trained(models.BPE(), trainer, *added, pre_tokenizer=cut, normalizer=normalizers.NFC())


def pattern(text: str) -> Any:
    return pre_tokenizers.Split(Regex(text), "isolated")


TOKENIZERS = {
    "byte-level": make_tokenizer(),
    "gpt-2, digits": byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "qwen": byte_level(pattern(_PATTERNS[0]), use_regex=False),
    "llama 3": byte_level(pattern(_PATTERNS[1]), use_regex=False),
    "lines stay whole": byte_level(pattern(r"\d+"), use_regex=False),
    "text stays whole": byte_level(use_regex=False),
    "spaces are added": byte_level(add_prefix_space=True),
    "headings are tokens": byte_level(added=(AddedToken("\n###", normalized=False), AddedToken("# ", normalized=False))),
    "byte-level, opens the reasoning": make_tokenizer(THINKING),
    "metaspace": metaspace(),
    "metaspace, think is a token": metaspace(AddedToken("<think>", normalized=False), template=THINKING),
    "wordpiece": lowered(),
    "bpe without pieces": prepended(),
    "tokens that look around": metaspace(
        AddedToken("assistant", normalized=False, lstrip=True, single_word=True),
        AddedToken("<|im_start|>assistant\n<think>", normalized=False),
        AddedToken("d|>", normalized=False),
    ),
    "a token that is looked for after a change": prepended(AddedToken("</think>", normalized=True), template=CHATML + "</think>"),
    "a token that must stand alone": metaspace(
        AddedToken("answer", normalized=False, single_word=True), template=CHATML + "\nanswer"
    ),
    "a token that takes white space": metaspace(
        AddedToken("answer", normalized=False, lstrip=True), template=CHATML + "\nanswer"
    ),
}

MARKS = ["<|im_start|>", "<|im_end|>", "<|im_st", "art|>", "d|>", "<|endoftext|>", "<think>", "</think>", "▁", "\u0301"]
WORDS = [
    "### Step 1.",
    ".\n### Step 2.",
    "2\n#",
    "2 \n#",
    "#",
    "One and one",
    "assistant",
    "é",
    "É",
    "😀",
    "2",
    ".",
    "\n",
    " ",
    "  ",
]
texts = st.lists(st.sampled_from(MARKS + WORDS), max_size=8).map("".join)
prompts = st.builds(
    lambda asked, prefix: Prompt(messages=(Message(role="user", content=asked),), prefix=prefix),
    texts,
    st.builds("{}{}".format, st.sampled_from(["", "<think>\n", " <think>"]), texts),
)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(asked=st.lists(prompts, min_size=1, max_size=4), answer=texts.filter(bool))
def test_tokens_are_those_of_the_whole_text(name: str, asked: list[Prompt], answer: str) -> None:
    tokenizer = TOKENIZERS[name]
    encoder = PromptEncoder(tokenizer)
    for prompt in asked * 2:
        assert encoder.tokens(prompt) == encode(tokenizer, render(tokenizer, prompt))
        try:
            right = encode_answer(tokenizer, render(tokenizer, prompt), answer)
        except Terminal:
            with pytest.raises(Terminal):
                encoder.answer(prompt, answer)
        else:
            assert encoder.answer(prompt, answer) == right


PROMPT = Prompt(messages=(Message(role="user", content="One and one?"),), prefix="<think>\n### Step 1.")


def encoded_after_turns(tokenizer: Any) -> str:
    """What is left to be encoded of `PROMPT` once its turns are known."""
    encoder = PromptEncoder(tokenizer)
    encoder.tokens(PROMPT)
    return encoder._turns_of(PROMPT).rest


@pytest.mark.parametrize("name", ["byte-level", "metaspace", "wordpiece", "bpe without pieces"])
def test_only_the_unfinished_turn_is_encoded(name: str) -> None:
    assert encoded_after_turns(TOKENIZERS[name]) == "<|im_start|>assistant\n"


def test_a_token_that_may_become_another_one_is_no_border() -> None:
    assert encoded_after_turns(TOKENIZERS["tokens that look around"]).startswith("<|im_end|>")


class Prefixing(PreTrainedTokenizerFast):
    """Does something to a text before its backend does."""

    def __call__(self, text: Any, *args: Any, **settings: Any) -> Any:
        return super().__call__(f"say: {text}", *args, **settings)


def test_a_tokenizer_that_does_more_than_its_backend_encodes_whole() -> None:
    plain = TOKENIZERS["byte-level"]
    own = Prefixing(tokenizer_object=plain.backend_tokenizer, chat_template=CHATML)
    splitting = PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, chat_template=CHATML, split_special_tokens=True)
    for tokenizer in (own, splitting):
        assert PromptEncoder(tokenizer).tokens(PROMPT) == encode(tokenizer, render(tokenizer, PROMPT))
        assert encoded_after_turns(tokenizer) == render(tokenizer, Prompt(messages=PROMPT.messages))


def reasoning(num_steps: int) -> Prompt:
    steps = [f"### Step {number}. One and {number}.\n" for number in range(1, num_steps + 1)]
    return Prompt(messages=PROMPT.messages, prefix="<think>\n" + "".join(steps) + f"### Step {num_steps + 1}.")


@pytest.mark.parametrize("name", ["byte-level", "gpt-2, digits", "qwen", "llama 3"])
def test_a_growing_reasoning_is_encoded_step_by_step(name: str) -> None:
    encoder = PromptEncoder(TOKENIZERS[name])
    for num_steps in range(10):
        encoder.tokens(reasoning(num_steps))
    assert encoder._piece.cache_info().misses == 1 + 10 + 9  # the opening, ten headings, nine steps


@pytest.mark.parametrize("name", ["lines stay whole", "text stays whole", "spaces are added", "headings are tokens", "metaspace"])
def test_a_tokenizer_that_may_look_over_a_heading_is_not_cut(name: str) -> None:
    encoder = PromptEncoder(TOKENIZERS[name])
    encoder.tokens(reasoning(9))
    assert encoder._piece.cache_info().misses == 1


def test_an_answer_is_found_whatever_piece_it_begins_in() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    heading = Prompt(messages=PROMPT.messages, prefix="<think>\nOne.\n#")
    for answer in ("#", "## Step 1.", "\n#", " 2"):
        right = encode_answer(tokenizer, render(tokenizer, heading), answer)
        assert PromptEncoder(tokenizer).answer(heading, answer) == right


def test_what_is_kept_is_bounded() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    encoder = PromptEncoder(tokenizer)
    for number in range(2 * MOST_PIECES):
        prompt = Prompt(messages=PROMPT.messages, prefix=f"<think>\n### Step {number}.")
        assert encoder.tokens(prompt) == encode(tokenizer, render(tokenizer, prompt))
    assert encoder._piece.cache_info().currsize == MOST_PIECES


def test_a_template_that_refuses_is_refused_each_time() -> None:
    tokenizer = make_tokenizer("{{ raise_exception('no such turns') }}")
    encoder = PromptEncoder(tokenizer)
    for _ in range(2):
        with pytest.raises(Terminal, match="no such turns"):
            encoder.tokens(PROMPT)


@pytest.fixture(scope="session")
def smol() -> Any:
    return AutoTokenizer.from_pretrained(resolve("HuggingFaceTB/SmolLM2-135M-Instruct").path)


@pytest.mark.model
@settings(max_examples=100, deadline=None)
@given(asked=st.lists(prompts, min_size=1, max_size=4), answer=texts.filter(str.strip))
def test_the_real_tokenizer_too(smol: Any, asked: list[Prompt], answer: str) -> None:
    encoder = PromptEncoder(smol)
    for prompt in asked * 2:
        assert encoder.tokens(prompt) == encode(smol, render(smol, prompt))
        assert encoder.answer(prompt, answer) == encode_answer(smol, render(smol, prompt), answer)
    assert encoder._turns_of(PROMPT).rest == "<|im_start|>assistant\n"
