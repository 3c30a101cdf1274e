r"""Random expressions for `answers.py`: equal ones by rules of rewriting, unequal ones by their values at four points.

Every tree is written in two ways that algebra says are equal, and carries a plain Python function for its value, so that nothing
here depends on a parser of LaTeX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from answer_pairs import Pair
from mpmath import mp, mpc

Place = Mapping[str, Any]
PLACES: tuple[Place, ...] = (
    {"x": mp.mpf("1.37"), "y": mp.mpf("2.11")},
    {"x": mp.mpf("-0.71"), "y": mp.mpf("3.3")},
    {"x": mp.mpf("4.2"), "y": mp.mpf("-1.9")},
    {"x": mp.mpf("-2.3"), "y": mp.mpf("-5.7")},
)


@dataclass(frozen=True)
class Tree:
    """An expression in two ways, and its value."""

    text: str
    other: str
    value: Callable[[Place], Any]


def leaf(chance: Random) -> Tree:
    """A letter or a small number."""
    name = chance.choice(["x", "y", "", ""])
    if name:
        return Tree(name, name, lambda place: place[name])
    number = chance.randint(1, 6)
    ways = [str(number), f"({number})", f"{number}.0", rf"\frac{{{2 * number}}}{{2}}", rf"\sqrt{{{number * number}}}"]
    return Tree(str(number), chance.choice(ways), lambda _: mp.mpf(number))


def tree(chance: Random, depth: int) -> Tree:
    """A tree of that depth at most."""
    if depth == 0:
        return leaf(chance)
    a, b = tree(chance, depth - 1), tree(chance, depth - 1)
    match chance.choice(["+", "-", "*", "*", "/", "square", "root", "minus", "sine", "size"]):
        case "+":
            return Tree(f"{a.text}+{b.text}", f"({b.other})+({a.other})", lambda p: a.value(p) + b.value(p))
        case "-":
            return Tree(f"{a.text}-({b.text})", f"-({b.other})+({a.other})", lambda p: a.value(p) - b.value(p))
        case "*":
            return Tree(f"({a.text})({b.text})", rf"({b.other}) \cdot ({a.other})", lambda p: a.value(p) * b.value(p))
        case "/":
            other = rf"\dfrac{{3({a.other})}}{{3({b.other})}}"
            return Tree(rf"\frac{{{a.text}}}{{{b.text}}}", other, lambda p: a.value(p) / b.value(p))
        case "square":
            return Tree(f"({a.text})^2", f"({a.other})({a.other})", lambda p: a.value(p) ** 2)
        case "root":
            return Tree(rf"\sqrt{{{a.text}}}", f"sqrt({a.other})", lambda p: mp.sqrt(a.value(p)))
        case "sine":
            return Tree(rf"\sin({a.text})", rf"-\sin(-({a.other}))", lambda p: mp.sin(a.value(p)))
        case "size":
            return Tree(rf"|{leaf_text(a)}|", rf"\left|-({leaf_text(a)})\right|", lambda p: abs(first_leaf(a, p)))
        case _:
            return Tree(f"-({a.text})", f"(-1)({a.other})", lambda p: -a.value(p))


def leaf_text(a: Tree) -> str:
    """What stands between bars: a letter or number alone, for bars do not nest."""
    return next((character for character in a.text if character in "xy"), "2")


def first_leaf(a: Tree, place: Place) -> Any:
    """The value of `leaf_text`."""
    return place.get(leaf_text(a), mp.mpf(2))


def values(made: Tree) -> list[Any] | None:
    """The values at all places; None where one is not finite."""
    try:
        found = [mpc(made.value(place)) for place in PLACES]
    except ZeroDivisionError:
        return None
    return found if all(mp.isfinite(value) for value in found) else None


def tree_pairs(chance: Random, count: int) -> Iterator[Pair]:
    """Each tree against its other form, and against another tree with other values."""
    mp.dps = 30
    made: list[tuple[Tree, list[Any]]] = []
    while len(made) < count:
        new = tree(chance, chance.choice([1, 2, 2]))
        found = values(new)
        if found and len(new.text) < 120 and ("x" in new.text or "y" in new.text):
            made.append((new, found))
    for (one, ours), (another, theirs) in zip(made, made[1:] + made[:1], strict=True):
        yield Pair("tree, equal", f"The final answer is ${one.other}$.", one.text, True)
        if any(abs(a - b) > 1e-9 for a, b in zip(ours, theirs, strict=True)):
            yield Pair("tree, unequal", f"The final answer is ${another.other}$.", one.text, False)
