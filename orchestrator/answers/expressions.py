r"""What an answer says in mathematics: a quantity, one expression, a relation, or a list of these. Pure.

Invariant: what is not plainly mathematics as a whole is words, equal to nothing but themselves: a word of two letters or more
outside LaTeX's commands and the names of functions makes words of it, and so does a string of digits and operators alone
("5-7", "12/25/1937", "4:3"), or what people read in two ways ("1/2x", "2\frac{1}{2}x"). Lists, tuples, sets, intervals,
matrices and signs of relation are taken apart here; what is left to a computer algebra system are pairs of scalars.
`same_mathematics` is symmetric and takes time linear in the texts' length.
Not covered: whether two scalars are equal (`symbolic`, `checker`); integrals, sums, limits, vectors, degrees.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.answers.quantities import MEASURE, Quantity, read, tidy, unbox
from orchestrator.answers.scalars import NotPlain, scalar

LONGEST = 400
"""Characters beyond which an answer is words."""
Sign = Literal["=", "!=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Expression:
    """One scalar as LaTeX, with its measure, "" if none is named."""

    latex: str
    measure: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """`difference` (as LaTeX) stands in this relation to zero; less-than is turned round."""

    sign: Sign
    difference: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Several of them: `brackets` "()" and the like in order, "{}" in any order, "or" a union, "and" a chain of relations, "rows"
    a matrix."""

    brackets: str
    items: tuple[Mathematics, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of the items counts."""
        return self.brackets not in ("{}", "or", "and")


@dataclass(frozen=True, slots=True)
class Words:
    """No mathematics: text."""

    text: str


Mathematics = Quantity | Expression | Relation | Listing | Words

_BESIDE_SIGN = re.compile(r" ?([^\w\s¤€£.,-]) ?")


def read_mathematics(answer: str) -> Mathematics | None:
    """Return what an answer says; None if it is empty."""
    text = tidy(answer)
    if quantity := read(text):
        return quantity
    if len(answer) <= LONGEST:
        try:
            return _structure(undressed(answer))
        except (NotPlain, RecursionError):
            pass
    return Words(_BESIDE_SIGN.sub(r"\1", text)) if text else None


def same_mathematics(a: Mathematics | None, b: Mathematics | None) -> bool | None:
    """Return whether both are the same; None where only symbolic equality can tell."""
    match a, b:
        case None, _:
            return False
        case Quantity(), Quantity():
            return a.same(b)
        case Quantity() | Expression(), Quantity() | Expression():
            return True if a == b else None if not (a.measure and b.measure) or a.measure == b.measure else False
        case Relation(), Relation():
            return True if a == b else None if a.sign == b.sign else False
        case Listing(), Listing():
            return _same_listing(a, b)
    return a == b


def _same_listing(a: Listing, b: Listing) -> bool | None:
    if a.brackets != b.brackets or len(a.items) != len(b.items):
        return False
    if a == b:
        return True
    table = [[same_mathematics(one, other) for other in b.items] for one in a.items]
    if a.ordered:
        found = [row[place] for place, row in enumerate(table)]
        return False if False in found else None if None in found else True
    return matched(table)


def matched(table: Sequence[Sequence[bool | None]]) -> bool | None:
    """Whether rows and columns can be paired off one to one; None where that hangs on pairs that are not decided."""
    if pairs_off([[cell is True for cell in row] for row in table]):
        return True
    return None if pairs_off([[cell is not False for cell in row] for row in table]) else False


def pairs_off(table: Sequence[Sequence[bool]]) -> bool:
    """Whether every row finds a column of its own (augmenting paths)."""
    taken: dict[int, int] = {}

    def finds(row: int, seen: set[int]) -> bool:
        for column, fits in enumerate(table[row]):
            if fits and column not in seen:
                seen.add(column)
                if column not in taken or finds(taken[column], seen):
                    taken[column] = row
                    return True
        return False

    return all(finds(row, set()) for row in range(len(table)))


def latex_of(value: Quantity | Expression) -> str:
    """The scalar as LaTeX; percent are hundredths."""
    if isinstance(value, Expression):
        return value.latex
    exact = value.value / 100 if value.measure == "percent" else value.value
    sign = "-" if exact < 0 else ""
    return (
        f"{sign}{abs(exact.numerator)}"
        if exact.denominator == 1
        else rf"{sign}\frac{{{abs(exact.numerator)}}}{{{exact.denominator}}}"
    )


# ----------------------------------------------------------------------------------------------------------------- dress

_TWIN = {
    "-": "\u2212\u2013",
    " ": "\u00a0\u202f",
    r"\times ": "\u00d7",
    r"\cdot ": "\u00b7\u22c5",
    r"\pi ": "\u03c0",
    r"\theta ": "\u03b8",
    r"\alpha ": "\u03b1",
    r"\beta ": "\u03b2",
    r"\lambda ": "\u03bb",
    r"\infty ": "\u221e",
    r"\pm ": "\u00b1",
    r"\cup ": "\u222a",
    r"\le ": "\u2264",
    r"\ge ": "\u2265",
    r"\ne ": "\u2260",
    "^2": "\u00b2",
    "^3": "\u00b3",
}
_TWINS = str.maketrans({character: latex for latex, characters in _TWIN.items() for character in characters})
_UNDRESSING = [
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?|\\displaystyle"), " "),
    (re.compile(r"(?<=[0-9])(?:\{,\}|\\,|\\!)(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![a-zA-Z])"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\frac ?([0-9])([0-9])(?![0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\log ?_ ?(?:\{([^{}]*)\}|([0-9a-z])) ?([0-9]+|[a-z])(?![0-9a-z])"), r"\\log_{\1\2}(\3)"),
    (re.compile(r"√ ?([0-9]+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"√ ?\("), r"sqrt("),
]
_WRAPPINGS = [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`")]
_GROUPED = re.compile(r"(?<![0-9.,(\[{])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_UNITS = re.compile(r"(?: |\\text ?\{ ?)(?:square |cubic )?units?\}?$")
_UNIT = re.compile(r"(?:\\(?:text|mathrm) ?\{ ?([a-z]+)\.? ?\}| ([a-z]{2,}))$")


def undressed(answer: str) -> str:
    """Take off what stands round and inside an expression without changing it."""
    text = unbox(answer.strip()).translate(_TWINS).strip().removesuffix(".")
    if text.startswith("$") and text.count("$") == 2 and not text.endswith("$"):  # "$2\\pi$ meters"
        text = text.replace("$", "")
    for _ in range(3):
        for opening, closing in _WRAPPINGS:
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip().removesuffix(".")
    for pattern, replacement in _UNDRESSING:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left.strip()) == 1 and left.strip().isalpha():
        text = right.strip()
    return text


# ------------------------------------------------------------------------------------------------------------- structure

_OPENING, _CLOSING = "([{", ")]}"
_SIGNS: dict[str, tuple[Sign, bool]] = {
    "=": ("=", False),
    **dict.fromkeys((r"\ne", r"\neq", "!="), ("!=", False)),
    **dict.fromkeys((">", r"\gt"), (">", False)),
    **dict.fromkeys(("<", r"\lt"), (">", True)),
    **dict.fromkeys((r"\ge", r"\geq", ">="), (">=", False)),
    **dict.fromkeys((r"\le", r"\leq", "<="), (">=", True)),
}
"""A sign of relation -> what it becomes, and whether its sides change places."""
_SIGN = re.compile(r"(\\(?:neq?|geq?|leq?|gt|lt)(?![a-zA-Z])|[<>!]=|[=<>])")
_VARIABLE = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]|\\(?:theta|alpha|beta|lambda|phi)")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix)\}(.*)\\end\{\1\}")


def _structure(text: str) -> Mathematics:
    """Take apart a union, a list, a matrix, a relation; raises `NotPlain`."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row for row in matrix[2].split(r"\\") if row.strip()]
        return Listing("rows", tuple(Listing("row", tuple(map(_item, row.split("&")))) for row in rows))
    text = _GROUPED.sub(lambda number: number[0].replace(",", ""), text)
    for separator, brackets in ((r"\cup", "or"), (",", "{}")):
        parts = _split(text, separator)
        if len(parts) > 1:
            items = [_item(part) for part in parts]
            return Listing(brackets, tuple(each for item in items for each in _both(item)))
    if inside := _enclosed(text):
        return inside
    return _relation(text)


def _both(item: Mathematics) -> tuple[Mathematics, ...]:
    """The two that a plus-or-minus sign stands for, or the one that it is."""
    return item.items if isinstance(item, Listing) and item.brackets == "{}" else (item,)


def _item(text: str) -> Mathematics:
    return read(tidy(text)) or _structure(text.strip())


def _enclosed(text: str) -> Listing | None:
    r"""The list that brackets enclose: "(1, 2)", "[0, \infty)", "\{1, 2\}"."""
    braces = text.startswith(r"\{") and text.endswith(r"\}")
    inner = text[2:-2] if braces else text[1:-1]
    if not braces and (text[:1] not in _OPENING or text[-1:] not in _CLOSING or len(text) < 2):
        return None
    try:
        parts = _split(inner, ",")
    except NotPlain:  # "(x - 1)(x + 2)"
        return None
    if len(parts) < 2 and not braces:
        return None
    pair = "{}" if braces else text[0] + text[-1]
    if "{" in pair and pair != "{}":
        raise NotPlain
    return Listing(pair, tuple(map(_item, parts)))


def _split(text: str, separator: str) -> list[str]:
    """Split where no bracket is open; raises `NotPlain` where brackets close that were not opened."""
    parts, start, depth = [], 0, 0
    for match in re.finditer(
        r"\\[{}]|[()\[\]{}]|" + re.escape(separator) + (r"(?![a-zA-Z])" if separator[0] == "\\" else ""), text
    ):
        if match[0] == separator:
            if depth == 0:
                parts.append(text[start : match.start()])
                start = match.end()
        else:
            depth += 1 if match[0][-1] in _OPENING else -1
            if depth < 0:
                raise NotPlain
    if depth:
        raise NotPlain
    return [*parts, text[start:]]


def _relation(text: str) -> Mathematics:
    sides = _SIGN.split(text)
    if len(sides) == 1:
        return _measured(text)
    if len(sides) > 5 or not _VARIABLE.search(text):  # "2^3 = 8" says that it is 8
        raise NotPlain
    links = tuple(_link(sides[at], _SIGNS[sides[at + 1]], sides[at + 2]) for at in range(0, len(sides) - 2, 2))
    return links[0] if len(links) == 1 else Listing("and", links)


def _link(left: str, sign: tuple[Sign, bool], right: str) -> Relation:
    if sign[1]:
        left, right = right, left
    return Relation(sign[0], f"{scalar(left, any_number=True)} - ({scalar(right, any_number=True)})")


def _measured(text: str) -> Mathematics:
    """One scalar, with the measure behind it; plus-or-minus stands for two."""
    measure, text = "", _UNITS.sub("", text)
    if (unit := _UNIT.search(text)) and (measure := MEASURE.get(unit[1] or unit[2], "")):
        text = text[: unit.start()]
    if text.count(r"\pm") == 1:
        return Listing("{}", tuple(_signed(text.replace(r"\pm", sign), measure) for sign in "+-"))
    return Expression(scalar(text), measure)


def _signed(text: str, measure: str) -> Quantity | Expression:
    number = read(text.replace(" ", "").removeprefix("+"))
    return Quantity(number.value, measure) if number else Expression(scalar(text), measure)
