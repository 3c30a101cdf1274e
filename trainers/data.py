"""From lessons to batches: Lesson -> Example -> (which examples, when) -> Batch.

Invariant: the prompt's characters are never learnt, the response's always; an example is whole or left out, never cut.
The order of an epoch depends on nothing but the lengths, the seed and the epoch.
Not covered: chat templates (`student.Chat`), what a response looks like (`store.reasoning`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from store.reasoning import response, user_text
from store.types import Lesson

WINDOW = 16
"""Batches whose examples are sorted by length together: enough to save padding, few enough to keep the order random."""


class Template(Protocol):
    """How a model's conversations are written down and tokenised."""

    end_of_turn: str

    def prompt(self, user: str, system: str | None) -> str:
        """The conversation up to where the response begins."""
        ...

    def inert(self, text: str) -> str:
        """`text` as data: none of the model's special tokens can be read out of it."""
        ...

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of `text`, and the character at which each begins."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A lesson in tokens; those from `first` on are the response."""

    trajectory: str
    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one forward pass, padded on the right. `places` count through all of B x T."""

    trajectories: tuple[str, ...]
    tokens_BT: Tensor
    places_N: Tensor
    """Of the token before each response token: where it is predicted."""
    labels_N: Tensor
    """The response tokens."""
    rows_N: Tensor
    """Which row each of them is in."""


def make_example(lesson: Lesson, template: Template, system: str | None) -> Example:
    """Tokenise prompt and response at once; a token that holds any character of the prompt belongs to the prompt."""
    prompt = template.prompt(user_text(lesson.question), system)
    written = template.inert(response(lesson.trajectory.text, lesson.trajectory.conclusion)) + template.end_of_turn
    tokens, begins = template.encode(prompt + written)
    first = next(index for index, begin in enumerate(begins) if begin >= len(prompt))
    return Example(trajectory=lesson.trajectory.id, tokens=tuple(tokens), first=max(first, 1))


def epoch_batches(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Every example once, in batches of similar lengths; the last batch that is cut may be smaller."""
    chance = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches = []
    for start in range(0, len(order), WINDOW * batch):
        window = sorted(order[start : start + WINDOW * batch], key=lambda index: lengths[index])
        batches += [window[at : at + batch] for at in range(0, len(window), batch)]
    chance.shuffle(batches)
    return batches


def micro_batches(examples: Sequence[Example], rows: int, tokens: int | None) -> Iterator[list[Example]]:
    """Cut one batch into forward passes of at most `rows` rows and (unless one row is longer) `tokens` padded tokens."""
    micro: list[Example] = []
    for example in sorted(examples, key=lambda example: len(example.tokens)):
        if micro and (len(micro) == rows or (tokens is not None and (len(micro) + 1) * len(example.tokens) > tokens)):
            yield micro
            micro = []
        micro.append(example)
    if micro:
        yield micro


def collate(examples: Sequence[Example], *, width: int = 0) -> Batch:
    """One forward pass, padded to the longest example or to `width`."""
    width = max(width, *(len(example.tokens) for example in examples))
    tokens_BT = torch.zeros(len(examples), width, dtype=torch.long)
    places, labels, rows = [], [], []
    for row, example in enumerate(examples):
        tokens_BT[row, : len(example.tokens)] = torch.tensor(example.tokens)
        places += range(row * width + example.first - 1, row * width + len(example.tokens) - 1)
        labels += example.tokens[example.first :]
        rows += [row] * (len(example.tokens) - example.first)
    return Batch(
        trajectories=tuple(example.trajectory for example in examples),
        tokens_BT=tokens_BT,
        places_N=torch.tensor(places),
        labels_N=torch.tensor(labels),
        rows_N=torch.tensor(rows),
    )
