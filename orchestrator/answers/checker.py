"""Whether answers are right: the one rule of sift and evaluation.

Invariant: the same two answers get the same comparison in either order; one that takes longer than the deadline is "not the
same", and says so. Numbers need no child process. The partition that `groups` makes does not depend on the order of the answers.
Not covered: where an answer stands in a text (`answer.py`), judges.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from orchestrator.answers.algebra import Algebra, Late, Undecided, open_algebra
from orchestrator.answers.answer import Form, read_form, same_form
from orchestrator.answers.expressions import Expression, Listing, Relation, latex_of, matched
from orchestrator.answers.quantities import Quantity
from orchestrator.answers.spans import f1
from store.types import Kind, Question

_MOST_KNOWN = 20_000
"""Comparisons, and fingerprints, that are kept."""
_MOST_UNORDERED = 12
"""Items of a set beyond which nobody tries which is which."""
_CLOSE = 1e-9

K = TypeVar("K")
V = TypeVar("V")
F = TypeVar("F", bound=Form)
Values = tuple[complex | None, ...] | None
"""What an expression is worth at the points of `symbolic`; None if nobody knows."""


class Checked(NamedTuple):
    """Whether an answer is right, and in words what decided; `f1` of a span."""

    right: bool
    how: str
    f1: float | None = None


class Comparison(NamedTuple):
    """Whether two answers are the same, and in words what decided; not `decided`: nobody could tell, so they are not."""

    same: bool
    how: str
    decided: bool = True


class Checker:
    """Compares answers; remembers what algebra it has asked for."""

    def __init__(self, algebra: Algebra) -> None:
        self.algebra = algebra
        self._known: dict[tuple[str, str, str], Comparison] = {}
        self._values: dict[str, Values] = {}

    async def same(self, a: str, b: str, kind: Kind, choices: Sequence[str] = ()) -> bool:
        """Return whether both are the same answer."""
        return (await self._compared(read_form(a, kind, choices), read_form(b, kind, choices))).same

    async def check(self, question: Question, answer: str, target: str, *, span_f1: float = 1.0) -> Checked:
        """Return whether `answer` is `target`, or one of the question's other answers where `target` is its gold one.

        A span is right from an F1 of `span_f1` on; 1 leaves exact match alone.
        """
        kind, choices, span = question.kind, question.choices, question.kind == "span"
        form = read_form(answer, kind, choices)
        comparison = await self._compared(form, read_form(target, kind, choices))
        if comparison.same:
            return Checked(True, comparison.how, 1.0 if span else None)
        others = question.aliases if target == question.answer else ()
        for other in others:
            if (await self._compared(form, read_form(other, kind, choices))).same:
                return Checked(True, "one of the question's other answers", 1.0 if span else None)
        if span:
            overlap = max(f1(answer, each) for each in (target, *others))
            return Checked(span_f1 < 1 and 0 < overlap >= span_f1, f"F1 {overlap:.2f}", overlap)
        return Checked(False, "only a judge can tell" if kind == "open" else comparison.how)

    async def groups(self, answers: Sequence[str], kind: Kind, choices: Sequence[str] = ()) -> list[int]:
        """Return the group of each answer, numbered as they first appear; what is plainly no answer is alone."""
        read = {answer: read_form(answer, kind, choices) for answer in set(answers)}
        counts = Counter(form for answer in answers if (form := read[answer]) is not None)
        stands = await self._stand_ins(sorted(counts, key=repr))
        weights: Counter[Form] = Counter()
        for form, count in counts.items():
            weights[stands[form]] += count
        leaders = _linked(weights)
        numbers: dict[object, int] = {}
        found = []
        for place, answer in enumerate(answers):
            form = read[answer]
            found.append(numbers.setdefault(place if form is None else leaders[stands[form]], len(numbers)))
        return found

    async def _stand_ins(self, forms: Sequence[Form]) -> dict[Form, Form]:
        """The form that stands for each: an equal number, or the first of the equal ones, with the measure of its own."""
        stands: dict[Form, Form] = {form: form for form in forms if not isinstance(form, Expression | Relation | Listing)}
        scalars: list[Quantity | Expression] = [
            Quantity(value, "") for value in sorted({form.value for form in forms if isinstance(form, Quantity)})
        ]
        async with asyncio.TaskGroup() as group:
            for latex in {form.latex for form in forms if isinstance(form, Expression)}:
                group.create_task(self._worth(Expression(latex)))
        for form in forms:
            if isinstance(form, Expression):
                bare = await self._first_same(Expression(form.latex), scalars)
                if bare is None:
                    scalars.append(bare := Expression(form.latex))
                stands[form] = (
                    Quantity(bare.value, form.measure) if isinstance(bare, Quantity) else Expression(bare.latex, form.measure)
                )
        others: list[Relation | Listing] = []
        for form in forms:
            if isinstance(form, Relation | Listing):
                first = await self._first_same(form, others)
                others += [] if first else [form]
                stands[form] = first or form
        return stands

    async def _first_same(self, form: Form, others: Iterable[F]) -> F | None:
        for other in others:
            if await self._may_be_same(form, other) and (await self._compared(form, other)).same:
                return other
        return None

    async def _may_be_same(self, a: Form, b: Form) -> bool:
        """Whether fingerprints leave it open that both are the same."""
        if not isinstance(a, Quantity | Expression) or not isinstance(b, Quantity | Expression):
            return True
        first, second = await self._worth(a), await self._worth(b)
        if first is None or second is None:
            return first is second
        return all(_close(x, y) for x, y in zip(first, second, strict=True) if x is not None and y is not None)

    async def _worth(self, scalar: Quantity | Expression) -> Values:
        """The fingerprint of a scalar; one that cannot be had is None."""
        if isinstance(scalar, Quantity):
            return _constant(scalar)
        latex = scalar.latex
        if latex not in self._values:
            try:
                values = (await self.algebra.ask({"do": "values", "a": latex}))["values"]
            except Undecided:
                values = None
            _keep(self._values, latex, values and tuple(pair and complex(*pair) for pair in values))
        return self._values.get(latex)

    async def _compared(self, a: Form | None, b: Form | None) -> Comparison:
        """Whether two forms are the same, by algebra where only that can tell."""
        plain = same_form(a, b)
        if plain is not None:
            return Comparison(plain, "answer check")
        if isinstance(a, Listing) and isinstance(b, Listing):
            return await self._compared_listings(a, b)
        if isinstance(a, Relation) and isinstance(b, Relation):
            return await self._algebra(a.difference, b.difference, "factor" if a.sign in ("=", "!=") else "positive factor")
        assert isinstance(a, Quantity | Expression)
        assert isinstance(b, Quantity | Expression)
        return await self._algebra(latex_of(a), latex_of(b), "nothing")

    async def _compared_listings(self, a: Listing, b: Listing) -> Comparison:
        size = len(a.items)
        if not a.ordered and size > _MOST_UNORDERED:
            return Comparison(False, f"more than {_MOST_UNORDERED} expressions in any order", decided=False)
        table = [[False] * size for _ in range(size)]
        for row, one in enumerate(a.items):
            for column, other in enumerate(b.items):
                if a.ordered and row != column:
                    continue
                comparison = await self._compared(one, other)
                if not comparison.decided or (a.ordered and not comparison.same):
                    return comparison
                table[row][column] = comparison.same
        return Comparison(a.ordered or matched(table) is True, "symbolic equality")

    async def _algebra(self, a: str, b: str, up_to: str) -> Comparison:
        key = (min(a, b), max(a, b), up_to)
        if key not in self._known:
            try:
                same = (await self.algebra.ask({"do": "same", "a": key[0], "b": key[1], "up_to": up_to}))["same"]
            except Late as error:
                _keep(self._known, key, Comparison(False, str(error), decided=False))
                return self._known[key]
            except Undecided as error:
                return Comparison(False, str(error), decided=False)
            _keep(self._known, key, Comparison(same, "symbolic equality"))
        return self._known[key]


@asynccontextmanager
async def open_checker(*, deadline_s: float = 5.0, workers: int = 2) -> AsyncIterator[Checker]:
    """Give a checker; the child processes that it may have started are gone afterwards."""
    async with open_algebra(deadline_s=deadline_s, workers=workers) as algebra:
        yield Checker(algebra)


def _keep(known: dict[K, V], key: K, value: V) -> None:
    """Remember; of too many, forget the oldest."""
    known[key] = value
    if len(known) > _MOST_KNOWN:
        del known[next(iter(known))]


def _close(x: complex, y: complex) -> bool:
    return abs(x - y) <= _CLOSE * max(abs(x), abs(y))


def _constant(quantity: Quantity) -> Values:
    try:
        return (complex(float(quantity.value)),) * 3
    except OverflowError:
        return None


def _linked(weights: Counter[Form]) -> dict[Form, Form]:
    """Every form -> the leader of its group: groups grow by the heaviest pairs first, and all in a group are the same.

    Sameness is not transitive: "3" is "3 hours" and "3 minutes", which differ.
    """
    forms = sorted(weights, key=lambda form: (-weights[form], repr(form)))
    same = {(a, b) for place, a in enumerate(forms) for b in forms[place + 1 :] if same_form(a, b) is True}
    members: dict[Form, list[Form]] = {form: [form] for form in forms}
    leader = {form: form for form in forms}
    for a in forms:
        for b in forms:
            one, other = leader[a], leader[b]
            if (
                (a, b) in same
                and one != other
                and all((x, y) in same or (y, x) in same for x in members[one] for y in members[other])
            ):
                for form in members.pop(other):
                    leader[form] = one
                    members[one].append(form)
    return leader
