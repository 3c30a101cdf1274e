"""Seeded word problems with one to three operations.

Invariants: the same source gives the same problems on every machine and Python (only `Random.random` is drawn from, the one
method whose sequence Python promises to keep). The split of a problem follows from a hash of its numbers and operations
alone, in any order in which they mean the same, so `train` and `held_out` share no problem in any dress, whatever the
seeds and counts. No two problems of a set differ only in their names, their things and their last question. Numbers in the
text are whole, from 2 to `largest`; results on the way stay between 2 and 5 * `largest`, the last one may be 1.
Not covered: distracting facts, fractions, problems that need more than one pass from left to right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from configs.schema import WordProblems
from orchestrator.questions.word_templates import HE, SHE, THEMES, Happening, Operation, Theme
from store.types import Question, content_id

FACTORS = (2, 3, 4, 5)
"""What is multiplied and divided by."""
TRIES = 3000
"""Draws in a row without a new problem, after which the source counts as exhausted."""
FRESH_TRIES = 20
"""How many of these insist on numbers that the set does not have yet."""
OPERATIONS: tuple[Operation, ...] = ("+", "-", "*", "/")
CONNECTORS = ("", "Then ", "Later, ", "After that, ")

T = TypeVar("T")


class TooFewProblems(Exception):
    """The source asks for more problems than exist; the message is one line for the user."""


class Chance:
    """Draws from a seed, by `Random.random` alone."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[self.between(0, len(items) - 1)]

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        return low + int(self._random.random() * (high - low + 1))


# ------------------------------------------------------------------------------------------------------------- arithmetic


@dataclass(frozen=True, slots=True)
class Sum:
    """The arithmetic of a problem, from left to right: a start, then each operation with its number."""

    start: int
    parts: tuple[tuple[Operation, int], ...]

    @property
    def values(self) -> list[int]:
        """The start and every result after it."""
        values = [self.start]
        for operation, number in self.parts:
            values.append(_calculate(values[-1], operation, number))
        return values

    @property
    def steps(self) -> list[str]:
        """One calculation for each operation: "5 + 3 = 8"."""
        values = self.values
        return [f"{before} {op} {n} = {after}" for (op, n), before, after in zip(self.parts, values, values[1:], strict=False)]

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
        runs: list[tuple[str, list[str]]] = []
        for operation, number in (("+" if self.parts[0][0] in "+-" else "*", self.start), *self.parts):
            kind = "+" if operation in "+-" else "*"
            if not runs or runs[-1][0] != kind:
                runs.append((kind, []))
            runs[-1][1].append(f"{operation}{number}")
        return " ".join("".join(sorted(terms)) for _, terms in runs)

    @property
    def split(self) -> str:
        """The split that this sum belongs to, for ever."""
        return "held_out" if hashlib.sha256(self.canonical.encode()).digest()[0] % 2 else "train"


def _calculate(value: int, operation: Operation, number: int) -> int:
    match operation:
        case "+":
            return value + number
        case "-":
            return value - number
        case "*":
            return value * number
        case "/":
            return value // number


# ---------------------------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True, slots=True)
class Plot:
    """A problem before it is told. If `opening` is a product, it is the first operation, and the rest is what happens."""

    theme: Theme
    opening: str
    happenings: tuple[Happening, ...]
    sum: Sum

    @property
    def opens_with_product(self) -> bool:
        """Whether the first operation stands in the opening."""
        return len(self.happenings) < len(self.sum.parts)

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two problems of a set alike."""
        return self.opening, *(happening.clause for happening in self.happenings), self.sum


def word_problems(source: WordProblems) -> tuple[Question, ...]:
    """Return exactly `source.count` problems; fewer of them are the first ones of more. Raises TooFewProblems."""
    chance = Chance(f"word problems {source.seed} {source.split}")
    told: set[tuple[object, ...]] = set()
    sums: set[str] = set()
    problems: list[Question] = []
    for index in range(source.count):
        operations = source.operations[index % len(source.operations)]
        plot = _new_plot(chance, source, operations, told, sums)
        if plot is None:
            raise TooFewProblems(_too_few(source, operations, len(problems)))
        told.add(plot.key)
        sums.add(plot.sum.canonical)
        problems.append(_question(plot, chance))
    return tuple(problems)


def _too_few(source: WordProblems, operations: int, found: int) -> str:
    return (
        f"word_problems: {source.count} problems asked for, but only {found} found in split {source.split!r}: "
        f"those with {operations} operation{'s' if operations > 1 else ''} and numbers up to {source.largest} are used up; "
        f"accepted: a smaller count, a larger `largest`, or more operations"
    )


def _new_plot(
    chance: Chance, source: WordProblems, operations: int, told: set[tuple[object, ...]], sums: set[str]
) -> Plot | None:
    """Draw until a plot of this split is new: at first with new numbers, then at least with new words for them."""
    for attempt in range(TRIES):
        plot = _plot(chance, operations, source.largest)
        if plot is None or plot.sum.split != source.split or plot.key in told:
            continue
        if attempt >= FRESH_TRIES or plot.sum.canonical not in sums:
            return plot
    return None


def _plot(chance: Chance, operations: int, largest: int) -> Plot | None:
    """Draw one plot; None if the drawn operations, words and numbers do not go together."""
    theme = chance.pick(THEMES)
    wanted: list[Operation] = [chance.pick(OPERATIONS) for _ in range(operations)]
    product = wanted[0] == "*" and chance.between(0, 2) > 0
    opening = chance.pick(theme.products if product else theme.openings)
    happenings: list[Happening] = []
    for index in range(int(product), operations):
        fitting = [h for h in theme.happenings if h.operation == wanted[index] and (not h.question or index == operations - 1)]
        if not fitting or (happening := chance.pick(fitting)) in happenings:
            return None
        happenings.append(happening)
    total = _sum(chance, wanted, happenings, largest)
    return Plot(theme, opening, tuple(happenings), total) if total else None


def _sum(chance: Chance, wanted: Sequence[Operation], happenings: Sequence[Happening], largest: int) -> Sum | None:
    """Draw the numbers; None if they come out uneven, too small or too large."""
    product = len(happenings) < len(wanted)
    start = chance.pick(FACTORS) if product else chance.between(2, largest)
    value = start
    parts: list[tuple[Operation, int]] = []
    for operation, happening in zip(wanted, [None, *happenings] if product else happenings, strict=True):
        number = _number(chance, operation, happening, value, largest)
        if number is None or value < 2 or not 1 <= (value := _calculate(value, operation, number)) <= 5 * largest:
            return None
        parts.append((operation, number))
    return Sum(start, tuple(parts))


def _number(chance: Chance, operation: Operation, happening: Happening | None, value: int, largest: int) -> int | None:
    """Draw the number of one operation on `value`; without a happening it is the second factor of an opening."""
    if happening is None or operation == "+":
        return chance.between(2, largest)
    if operation == "-":
        return chance.between(2, min(largest, value - 1)) if value > 2 else None
    fitting = [n for n in FACTORS if operation == "*" or (value % n == 0 and value > n)]
    fitting = [n for n in fitting if happening.only in (None, n)]
    return chance.pick(fitting) if fitting else None


# ---------------------------------------------------------------------------------------------------------------- telling


def _question(plot: Plot, chance: Chance) -> Question:
    clauses, connectors, asked = _tell(plot, chance)
    sentences = [_capital(f"{connector}{clause}.") for connector, clause in zip(connectors, clauses, strict=True)]
    text = " ".join([*sentences, asked])
    answer = str(plot.sum.values[-1])
    told = clauses if plot.opens_with_product else [f"{clauses[0]}, and {clauses[1]}", *clauses[2:]]
    return Question(
        id=content_id("question", text, answer, "math", ()),
        text=text,
        answer=answer,
        kind="math",
        source="word_problems",
        meta={
            "operations": len(plot.sum.parts),
            "equation": plot.sum.equation,
            "solution": tuple(f"{_capital(clause)}: {step}." for clause, step in zip(told, plot.sum.steps, strict=True)),
        },
    )


def _tell(plot: Plot, chance: Chance) -> tuple[list[str], list[str], str]:
    """Put a plot into words: its clauses, how each is joined to what comes before, and the question."""
    cast = _Cast(chance)
    opening_box = chance.pick(plot.theme.boxes)
    box = chance.pick([each for each in plot.theme.boxes if each != opening_box] or [opening_box])
    start, *numbers = (plot.sum.start, *(number for _, number in plot.sum.parts))
    words = cast.words | {"objs": chance.pick(plot.theme.things), "now": ""}
    clauses = [plot.opening.format(a=start, b=numbers[0], box=opening_box[0], boxes=opening_box[1], **words)]
    connectors = [""]
    words |= {"box": box[0], "boxes": box[1]}
    for happening, number in zip(plot.happenings, numbers[int(plot.opens_with_product) :], strict=True):
        words |= {"friend": cast.friend()}
        times = "twice" if number == 2 else f"{number} times"
        clauses.append(happening.clause.format(n=number, times=times, **words))
        connectors.append("" if happening.state else chance.pick(CONNECTORS if len(clauses) > 2 else CONNECTORS[:2]))
        if happening.switches:
            cast.follow(words["friend"])
            words |= cast.words
        if not happening.state or happening.switches:
            words["now"] = "" if happening.switches else " has now"
    return clauses, connectors, _last_question(plot, chance).format(**words)


def _last_question(plot: Plot, chance: Chance) -> str:
    if not plot.happenings:
        return plot.theme.total
    last = plot.happenings[-1]
    if last.question or last.state:
        return last.question or plot.theme.plain
    return chance.pick(plot.theme.left if last.operation == "-" else plot.theme.asked)


class _Cast:
    """Who takes part: the subject, and friends, each of whom is new and not of the subject's gender."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._male = bool(chance.between(0, 1))
        self._met: set[str] = set()
        self._subject = self._meet(male=self._male)

    @property
    def words(self) -> dict[str, str]:
        """The words for the subject."""
        he, him, his = ("he", "him", "his") if self._male else ("she", "her", "her")
        return {"name": self._subject, "he": he, "him": him, "his": his}

    def friend(self) -> str:
        """Someone new."""
        return self._meet(male=not self._male)

    def follow(self, friend: str) -> None:
        """Make a friend the subject."""
        self._subject, self._male = friend, not self._male

    def _meet(self, *, male: bool) -> str:
        name = self._chance.pick([each for each in (HE if male else SHE) if each not in self._met])
        self._met.add(name)
        return name


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
