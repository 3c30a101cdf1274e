"""Claim: what students tell each other is small and quick, and a short list of tokens teaches nearly what all of them would.

Bytes of a message by token of its response, and milliseconds of each of its stations: `speak` makes it (of states and lists that
the forward pass has made), `leave` and `take` it on a shelf (of memory; of files), `hear` and the gradient down to the student's
states. `hidden` has words of width 512; `logits` the k likeliest tokens; `other tokenizer` is `logits` from a peer that cuts the
text otherwise (a vocabulary of 4,000, trained on these texts), compared by `hybrid` with either merge: there are no full logits
to hold that against.

    python benchmarks/peer_exchange.py [--data ../shared/data] [--texts 24] [--json FILE]

The agreement: two students of one model on the same real texts (GSM8K's solutions), for temperatures 1 and 2. `trained`: each has
learnt the solutions of half of other questions; `noise`: the weights of one's adapter are drawn. KL is that over the whole
vocabulary in float32; what is held against it went through a message, in half precision. `loss`: ratio to KL, over all texts;
`cosine` of the gradients with respect to all of the student's states, and the lowest of a text; `norm`: ratio of their lengths.
`not heard`: the peer's probability that is outside its k tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lessons import examples_of, gsm8k_lessons, word_lessons
from machine import device
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agents.models import resolve
from configs import schema
from store.types import Lesson
from trainers import peers
from trainers.data import Example, collate
from trainers.exchange import FileShelf, MemoryShelf, Message, Shelf
from trainers.look import Look
from trainers.losses import mean_by_row, token_cross_entropy
from trainers.student import Chat, StudentModel, load_chat, load_student
from trainers.teaching import HiddenStates, Logits, Spoken
from trainers.update import Learner

T = TypeVar("T")
KS = (16, 64, 256)
TEMPERATURES = (1.0, 2.0)
TRAINED_UPDATES = 12
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(slots=True)
class Side:
    """One student: its name, model and tokenizer."""

    name: str
    model: StudentModel
    chat: Chat

    @property
    def vocabulary(self) -> list[str | None]:
        """Of the whole head."""
        return self.chat.vocabulary + [None] * (self.model.vocabulary_size - len(self.chat.vocabulary))


# ---------------------------------------------------------------------------------------------------------------- students


def config(model: Path, name: str) -> schema.Student:
    """Float32, so that what differs is what is compared."""
    lora = schema.Lora(dropout=0.0)
    return schema.Student(name=name, model=str(model), device="cpu", dtype="float32", lora=lora, conclusion="common")


def train(side: Side, folder: Path, lessons: Sequence[Lesson], updates: int) -> None:
    """As plain training does it, over and over."""
    learner = Learner(side.model, config(folder, side.name), 0)
    examples = list(examples_of(lessons, side.chat).values())
    for number in range(updates):
        batch = [examples[(4 * number + place) % len(examples)] for place in range(4)]
        learner.begin(number, 2e-4, batch)
        learner.learn(batch)
        learner.finish()
        learner.step()
    side.model.learn(False)


def perturb(side: Side, size: float, seed: int) -> None:
    """Draw the half of the adapter that begins at zero."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in side.model.parameters:
            if not weights.any():
                weights.copy_(size * torch.randn(weights.shape, generator=chance))
    side.model.learn(False)


def other_student(scratch: Path, lessons: Sequence[Lesson], width: int) -> Side:
    """A peer with a tokenizer of its own: what it believes is noise, which costs as much to send and to hear."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made: Any = trainers.BpeTrainer(vocab_size=4000, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    texts = [f"{lesson.question.text}\n{lesson.trajectory.text}" for lesson in lessons]
    tokenizer.train_from_iterator(texts, made)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    torch.manual_seed(0)
    small: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(whole),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=8,
            initializer_range=0.1,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    small.save_pretrained(str(scratch))
    whole.save_pretrained(str(scratch))
    return Side("other", load_student(scratch, config(scratch, "other"), 0), load_chat(scratch))


# ------------------------------------------------------------------------------------------------------------- what is said


@torch.no_grad()
def states_of(side: Side, example: Example) -> tuple[Tensor, Tensor]:
    """The states that predict the response, and the response."""
    batch = collate([example])
    return side.model.states(batch.tokens_BT).flatten(0, 1)[batch.places_N], batch.labels_N


def spoken(side: Side, example: Example, settings: schema.Peers, states_ND: Tensor | None = None) -> Spoken:
    """What the forward pass would have made of it."""
    batch = collate([example])
    states_ND = states_of(side, example)[0] if states_ND is None else states_ND
    look = Look(batch, gold=False, peers=settings if settings.kind == "logits" else None)
    with torch.no_grad():
        losses_N = token_cross_entropy(side.model.head, states_ND, batch.labels_N, look=look)
    return Spoken(
        example=example,
        states_ND=states_ND,
        labels_N=batch.labels_N,
        cross_entropy=mean_by_row(losses_N, batch.rows_N, 1).item(),
        top=(look.ids_NK, look.log_probs_NK),
        label_log_probs_N=look.labels_N,
    )


def timed(seconds: list[float], function: Callable[..., T], *arguments: Any) -> T:
    """Call it, and keep how long it took."""
    started = time.perf_counter()
    found = function(*arguments)
    seconds.append(time.perf_counter() - started)
    return found


# -------------------------------------------------------------------------------------------------------- bytes and latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One kind of message."""

    name: str
    settings: schema.Peers
    peer: Side


def teaching_of(side: Side, settings: schema.Peers, shelf: Shelf) -> HiddenStates | Logits:
    """As `make_teaching` would."""
    if settings.kind == "hidden":
        return HiddenStates(peers.Projection(side.model.width, settings.width))
    return Logits(settings, side.model.head, side.vocabulary, side.chat.fingerprint, shelf.vocabulary)


def talked(talk: Talk, own: Side, lessons: Sequence[Lesson], scratch: Path, runs: int) -> dict[str, Any]:
    """Bytes and times of every station, over all texts."""
    memory, files = MemoryShelf(), FileShelf(scratch)
    for shelf in (memory, files):
        for side in (own, talk.peer):
            shelf.introduce(side.name, side.vocabulary)
    speaker, hearer = teaching_of(talk.peer, talk.settings, memory), teaching_of(own, talk.settings, memory)
    theirs, ours = examples_of(lessons, talk.peer.chat), examples_of(lessons, own.chat)
    times: dict[str, list[float]] = {name: [] for name in ("speak", "leave", "take", "leave file", "take file", "hear")}
    sizes, tokens, on_disk = 0, 0, 0
    for run in range(runs + 1):
        if run == 1:  # the first warms up
            times, sizes, tokens, on_disk = {name: [] for name in times}, 0, 0, 0
        for trajectory, example in theirs.items():
            said = spoken(talk.peer, example, talk.settings)
            (message,) = timed(times["speak"], speaker.speak, [said], talk.peer.name, run)
            timed(times["leave"], memory.put, [message])
            timed(times["take"], memory.get, talk.peer.name, trajectory, run)
            timed(times["leave file"], files.put, [message])
            taken = timed(times["take file"], files.get, talk.peer.name, trajectory, run)
            assert taken is not None
            _hear(times["hear"], hearer, own, ours[trajectory], taken, talk.settings)
            sizes, tokens = sizes + message.num_bytes, tokens + len(example.tokens) - example.first
            on_disk += (scratch / talk.peer.name / f"{trajectory}.safetensors").stat().st_size
    found = {"name": talk.name, "bytes": sizes / tokens, "file_bytes": on_disk / tokens}
    return found | {name: {"median": statistics.median(each), "p95": _p95(each)} for name, each in times.items()}


def _hear(seconds: list[float], hearer: Any, own: Side, example: Example, message: Message, settings: schema.Peers) -> None:
    states_ND, _ = states_of(own, example)
    states_ND.requires_grad_(True)
    mine = spoken(own, example, settings, states_ND)
    hearer.speak([mine], own.name, 0)  # hidden states are heard with what was said

    def hear() -> None:
        heard = hearer.hear(mine, [message])
        assert heard is not None
        heard.loss.backward()

    timed(seconds, hear)


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


# --------------------------------------------------------------------------------------------------------------- agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """A loss of one text and its gradient, towards the states."""

    loss: float
    gradient_ND: Tensor
    tokens: int


def full(states_ND: Tensor, said_NV: Tensor, head: Any, temperature: float) -> Learnt:
    """KL over the whole vocabulary, at once: these texts are short."""
    leaf_ND = states_ND.detach().requires_grad_(True)
    own_NV = torch.log_softmax(head(leaf_ND) / temperature, -1)
    loss = peers.mean_at_temperature((said_NV.exp() * (said_NV - own_NV)).sum(-1), temperature)
    (gradient_ND,) = torch.autograd.grad(loss, leaf_ND)
    return Learnt(loss=loss.item(), gradient_ND=gradient_ND, tokens=len(leaf_ND))


def heard(own: Side, peer: Side, example: Example, states: tuple[Tensor, Tensor], settings: schema.Peers) -> Learnt:
    """The same by a message."""
    shelf = MemoryShelf()
    (message,) = teaching_of(peer, settings, shelf).speak([spoken(peer, example, settings, states[1])], peer.name, 0)
    leaf_ND = states[0].detach().requires_grad_(True)
    mine = replace(spoken(own, example, settings, states[0]), states_ND=leaf_ND)
    found = teaching_of(own, settings, shelf).hear(mine, [message])
    assert found is not None
    found.loss.backward()
    assert leaf_ND.grad is not None
    num = len(message.tensors["tokens_N"])
    return Learnt(loss=found.loss.item(), gradient_ND=leaf_ND.grad[:num], tokens=num)


def agreement(name: str, own: Side, peer: Side, examples: Iterable[Example]) -> list[dict[str, Any]]:
    """A row for each temperature and k."""
    pairs: dict[tuple[float, int], list[tuple[Learnt, Learnt]]] = {(t, k): [] for t in TEMPERATURES for k in KS}
    missed: dict[tuple[float, int], list[float]] = {key: [] for key in pairs}
    for example in examples:
        states = states_of(own, example)[0], states_of(peer, example)[0]
        num = sum(begin < len(example.response) for begin in example.begins)
        for temperature in TEMPERATURES:
            with torch.no_grad():
                said_NV = torch.log_softmax(peer.model.head(states[1][:num]) / temperature, -1)
            target = full(states[0][:num], said_NV, own.model.head, temperature)
            for k in KS:
                settings = schema.Peers(kind="logits", top=k, temperature=temperature)
                pairs[temperature, k].append((target, heard(own, peer, example, states, settings)))
                missed[temperature, k] += (1 - said_NV.topk(k, dim=-1).values.exp().sum(-1)).tolist()
    return [
        {"pair": name, "temperature": t, "k": k, **_agreement(each), "not_heard": statistics.mean(missed[t, k])}
        for (t, k), each in pairs.items()
    ]


def _agreement(pairs: Sequence[tuple[Learnt, Learnt]]) -> dict[str, float]:
    tokens = sum(target.tokens for target, _ in pairs)
    losses = [sum(each[side].loss * each[side].tokens for each in pairs) / tokens for side in (0, 1)]
    gradients = [torch.cat([(each[side].gradient_ND * each[side].tokens).flatten() for each in pairs]) for side in (0, 1)]
    cosines = [torch.cosine_similarity(a.gradient_ND.flatten(), b.gradient_ND.flatten(), 0).item() for a, b in pairs]
    return {
        "kl": losses[0],
        "loss": losses[1] / losses[0],
        "cosine": torch.cosine_similarity(gradients[0], gradients[1], 0).item(),
        "lowest_cosine": min(cosines),
        "norm": (gradients[1].norm() / gradients[0].norm()).item(),
    }


# ------------------------------------------------------------------------------------------------------------------- tables


def tell_talks(rows: Sequence[dict[str, Any]]) -> None:
    """Bytes, and milliseconds as median/p95."""
    stations = ("speak", "leave", "take", "leave file", "take file", "hear")
    print(f"{'message':24} {'bytes':>6} {'file':>6} " + " ".join(f"{name:>15}" for name in stations))
    for row in rows:
        times = " ".join(f"{row[name]['median'] * 1e3:8.3f}/{row[name]['p95'] * 1e3:6.3f}" for name in stations)
        print(f"{row['name']:24} {row['bytes']:6.0f} {row['file_bytes']:6.0f} {times}")


def tell_agreement(rows: Sequence[dict[str, Any]]) -> None:
    """Ratios and cosines."""
    print(f"{'students':9} {'T':>3} {'k':>4} {'KL':>8} {'loss':>6} {'cosine':>7} {'lowest':>7} {'norm':>6} {'not heard':>10}")
    for row in rows:
        numbers = "{kl:8.4f} {loss:6.3f} {cosine:7.4f} {lowest_cosine:7.4f} {norm:6.3f} {not_heard:10.5f}".format(**row)
        print(f"{row['pair']:9} {row['temperature']:3.0f} {row['k']:4} {numbers}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="of gsm8k/test.jsonl; else made ones")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.01, help="of the drawn weights")
    parser.add_argument("--updates", type=int, default=TRAINED_UPDATES, help="of `trained`, of 4 solutions each")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    folder = resolve(options.model).path
    source = options.data / "gsm8k/test.jsonl"
    num_taught = 8 * options.updates
    found = gsm8k_lessons(source, options.texts + num_taught) if source.exists() else word_lessons(options.texts + num_taught, 1)
    lessons, taught = found[: options.texts], found[options.texts :]
    chat = load_chat(folder)

    def fresh(name: str) -> Side:
        return Side(name, load_student(folder, config(folder, name), 1 if name == "own" else 2), chat)

    own, trained, drawn = fresh("own"), fresh("trained"), fresh("drawn")
    train(own, folder, taught[::2], options.updates)
    train(trained, folder, taught[1::2], options.updates)
    perturb(drawn, options.noise, 2)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        other = other_student(place / "model", found, 256)
        talks = [Talk(name="hidden, width 512", settings=schema.Peers(kind="hidden"), peer=trained)]
        talks += [Talk(name=f"logits, k = {k}", settings=schema.Peers(kind="logits", top=k), peer=trained) for k in KS]
        for merge in ("span", "first"):
            for k in KS:
                settings = schema.Peers(kind="logits", top=k, merge=merge)
                talks.append(Talk(name=f"other tokenizer, {merge}, {k}", settings=settings, peer=other))
        said = [talked(talk, own, lessons, place / f"shelf{n}", options.runs) for n, talk in enumerate(talks)]
    examples = list(examples_of(lessons, chat).values())
    rows = agreement("trained", own, trained, examples) + agreement("noise", own, drawn, examples)
    num = sum(len(each.tokens) - each.first for each in examples)
    text = "GSM8K" if source.exists() else "made word problems"
    print(f"{options.model}, float32, {device()}; {options.texts} responses ({text}) of {num / options.texts:.0f} tokens")
    print(f"\nbytes of a token of the response; milliseconds of a message, median/p95 of {options.runs} runs")
    tell_talks(said)
    print("\nwhat is heard against the KL of whole vocabularies")
    tell_agreement(rows)
    if options.json:
        report = {"model": options.model, "machine": device(), "texts": options.texts, "text": text, "tokens": num}
        options.json.write_text(json.dumps({**report, "talks": said, "agreement": rows}, indent=1))


if __name__ == "__main__":
    main()
