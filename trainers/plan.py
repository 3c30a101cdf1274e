"""Which examples are learnt in which update, and how fast: pure.

    arrivals of each epoch ──▶ what is learnt in it ──▶ batches ──▶ forward passes

Every trajectory is learnt `epochs` times, from the epoch with which it arrived on. Invariant: order and learning rate
depend on nothing but what arrived when, the texts' lengths, the seed and the configuration, so students that agree on these
walk together, whatever their tokenizers, and a resumed one walks on. Not covered: deciding what arrives (`store.learning`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from store.types import Lesson

WINDOW = 16
"""Batches whose lessons are sorted by length together: enough to save padding, few enough to keep the order random."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One lesson in the order: characters instead of tokens, so that all students see the same."""

    trajectory: str
    question: str
    characters: int


def item_of(lesson: Lesson) -> Item:
    """A lesson as the order sees it."""
    trajectory = lesson.trajectory
    length = len(lesson.question.text) + len(lesson.question.context or "") + len(trajectory.text) + len(trajectory.conclusion)
    return Item(trajectory=trajectory.id, question=lesson.question.id, characters=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """All epochs so far: `arrivals[e]` came with epoch e; `ended_with` is the first epoch that was known to be the last to
    bring any, None while more may come."""

    arrivals: tuple[tuple[Item, ...], ...]
    ended_with: int | None
    epochs: int
    batch: int
    batch_of: Literal["trajectories", "questions"]
    seed: int

    def has_epoch(self, epoch: int) -> bool:
        """Whether anything is learnt in `epoch`, by what is known."""
        return any(self.arrivals[max(0, epoch - self.epochs + 1) : epoch + 1])

    def batches(self, epoch: int) -> list[list[Item]]:
        """The batches of an epoch."""
        arrived = self.arrivals[max(0, epoch - self.epochs + 1) : epoch + 1]
        return order([item for items in arrived for item in items], self.batch, self.batch_of, self.seed, epoch)

    def first_update(self, epoch: int) -> int:
        """How many updates were done when `epoch` begins."""
        return sum(self._count(each) for each in range(epoch))

    def epochs_done(self, epoch: int, update: int) -> float:
        """After `update` updates, the last of which was one of `epoch`."""
        return epoch + (update - self.first_update(epoch)) / max(1, self._count(epoch))

    def round_of(self, epoch: int, update: int, every: int) -> int:
        """The router's round that an update is in: `every` updates each, anew in every epoch."""
        before = sum(math.ceil(self._count(each) / every) for each in range(epoch))
        return before + (update - self.first_update(epoch)) // every

    @property
    def updates(self) -> int | None:
        """Updates of the whole schedule, None while it is not known."""
        return None if self.ended_with is None else self.first_update(self.ended_with + self.epochs)

    def rate(self, number: int, peak: float, warmup: float) -> float:
        """The learning rate of the `number`th update, from 0: a straight rise, the peak while more may come, half a cosine."""
        rising = math.ceil(warmup * self.epochs * self._count(0))
        if number < rising:
            return peak * (number + 1) / rising
        if self.ended_with is None or self.updates is None:
            return peak
        falling = max(rising, self.first_update(self.ended_with))
        if number < falling:
            return peak
        return peak * 0.5 * (1 + math.cos(math.pi * (number - falling) / max(1, self.updates - falling)))

    def _count(self, epoch: int) -> int:
        items = [item for each in self.arrivals[max(0, epoch - self.epochs + 1) : epoch + 1] for item in each]
        units = {item.question for item in items} if self.batch_of == "questions" else items
        return math.ceil(len(units) / self.batch)


def order(
    items: Sequence[Item], batch: int, batch_of: Literal["trajectories", "questions"], seed: int, epoch: int
) -> list[list[Item]]:
    """Every item once, in batches of similar lengths; the last batch that is cut may be smaller."""
    chance = random.Random(f"{seed}/{epoch}")
    units = _by_question(items) if batch_of == "questions" else [[item] for item in items]
    chance.shuffle(units)
    batches = []
    for start in range(0, len(units), WINDOW * batch):
        window = sorted(units[start : start + WINDOW * batch], key=lambda unit: max(item.characters for item in unit))
        batches += [[item for unit in window[at : at + batch] for item in unit] for at in range(0, len(window), batch)]
    chance.shuffle(batches)
    return batches


def _by_question(items: Iterable[Item]) -> list[list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.question, []).append(item)
    return list(found.values())


def passes(units: Sequence[Sequence[T]], lengths: Sequence[int], rows: int, tokens: int | None) -> Iterator[list[T]]:
    """Cut one batch into forward passes of at most `rows` rows and `tokens` padded tokens; no unit is cut, however large.

    `lengths` has the longest example of each unit, in tokens. The order stays.
    """
    held: list[T] = []
    longest = 0
    for unit, length in zip(units, lengths, strict=True):
        wide = max(longest, length)
        too_many = len(held) + len(unit) > rows or (tokens is not None and (len(held) + len(unit)) * wide > tokens)
        if held and too_many:
            yield held
            held, wide = [], length
        held += unit
        longest = wide
    if held:
        yield held
