"""Seeded word problems with one to three operations.

Invariants: the same source gives the same problems on every machine and Python (only `Random.random` is drawn from, the one
method whose sequence Python promises to keep). The split of a problem follows from a hash of its numbers and operations
alone, in any order in which they mean the same, so `train` and `held_out` share no problem in any dress, whatever the
seeds and counts. No two problems of a set have the same sentences with other names or things in them. Numbers in the text
are whole, from 2 to `largest`; what lies between never falls below 1 or exceeds 5 * `largest`.
Not covered: distracting facts, fractions, problems that need more than one pass from left to right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from configs.schema import WordProblems
from orchestrator.word_templates import HE, SHE, THEMES, Happening, Operation, Theme
from store.types import Question, content_id

FACTORS = (2, 3, 4, 5)
"""What is multiplied and divided by."""
TRIES = 3000
"""Draws in a row without a new problem before the source counts as exhausted."""
FRESH_TRIES = 20
"""How many of them insist on numbers that the set does not have yet."""

T = TypeVar("T")


class TooFewProblems(Exception):
    """The source asks for more problems than exist; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Sum:
    """The arithmetic of a problem, from left to right: `start`, then each operation with its number."""

    start: int
    parts: tuple[tuple[Operation, int], ...] = ()

    @property
    def values(self) -> tuple[int, ...]:
        """The start and every result after it."""
        values = [self.start]
        for operation, number in self.parts:
            values.append(calculate(values[-1], operation, number))
        return tuple(values)

    @property
    def equation(self) -> str:
        """The whole arithmetic, in brackets where it needs them: "(5 + 3) * 2 = 16"."""
        text, loose = str(self.start), False
        for operation, number in self.parts:
            text = f"({text})" if loose and operation in "*/" else text
            text, loose = f"{text} {operation} {number}", operation in "+-"
        return f"{text} = {self.values[-1]}"

    @property
    def canonical(self) -> str:
        """Equal for sums that are alike: neighbouring terms, or neighbouring factors, in any order."""
        runs: list[list[str]] = []
        for operation, number in ((self.parts[0][0].translate({45: "+", 47: "*"}), self.start), *self.parts):
            kind = "+" if operation in "+-" else "*"
            if not runs or runs[-1][0] != kind:
                runs.append([kind])
            runs[-1].append(f"{operation}{number}")
        return " ".join("".join(sorted(run[1:])) for run in runs)

    @property
    def split(self) -> str:
        """The split that this sum belongs to, for ever."""
        return "held_out" if hashlib.sha256(self.canonical.encode()).digest()[0] % 2 else "train"


@dataclass(frozen=True, slots=True)
class Plot:
    """A problem before it is told: its theme, its opening, what happens, and the numbers."""

    theme: Theme
    opening: str
    happenings: tuple[Happening, ...]
    """What happens after the opening; one fewer than the operations if the opening is a product."""
    sum: Sum


@dataclass(slots=True)
class Chance:
    """Draws from a seed, by `Random.random` alone."""

    random: Random

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[int(self.random.random() * len(items))]

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        return low + int(self.random.random() * (high - low + 1))


def word_problems(source: WordProblems) -> tuple[Question, ...]:
    """Return exactly `source.count` problems. The first n are the same for every larger count. Raises TooFewProblems."""
    chance = Chance(Random(f"word problems {source.seed} {source.split}"))  # noqa: S311
    problems: list[Question] = []
    told: set[tuple[object, ...]] = set()
    sums: set[str] = set()
    for index in range(source.count):
        operations = source.operations[index % len(source.operations)]
        plot, question = _next(chance, source, operations, told, sums)
        if plot is None:
            raise TooFewProblems(_too_few(source, operations, index))
    return tuple(problems)
