r"""One scalar expression as a text writes it -> LaTeX that a parser reads in one way. Pure.

Invariant: `scalar` returns LaTeX in which every argument is in braces, every product has its sign, every number is an integer or
a fraction of integers, and every letter is a variable or one of the functions f, g, h; or raises `NotPlain`. `x^10` means ten, as
people mean it. Signs of products are there because parsers have been seen to read "(2)(6) + x" as 2 + 6 + x.
Not covered: what it is worth (`symbolic`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from orchestrator.answers.quantities import words_of

_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp"
_GREEK = "alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi varphi psi omega Delta Omega Gamma"
_COMMANDS = words_of(f"{_FUNCTIONS} {_GREEK} frac sqrt pi infty binom cdot times lfloor rfloor lceil rceil")
_SUBSTANCE = _COMMANDS - {"cdot", "times"}
_WRITTEN_OUT = words_of(f"{_FUNCTIONS} sqrt pi")
_PRODUCTS = words_of("xy xz yz yx zx zy xyz ab ac bc abc")
"""Runs of letters that are products, not words."""
_TOKEN = re.compile(
    r"\\[a-zA-Z]+|[a-zA-Z]+|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\*\*|[-+*/^_(){}\[\]|!]|(?P<space> )|(?P<other>.)", re.DOTALL
)
_NUMBER = re.compile(r"[0-9.]+")
_APPLIED = frozenset("\\" + name for name in _FUNCTIONS.split())
_OPERATORS = frozenset({"+", "-", "*", "/", r"\cdot", r"\times"})
_OPENING = frozenset({r"\lfloor", r"\lceil"})
_CLOSING = frozenset({r"\rfloor", r"\rceil"})
_BRACKETS = {"(": ")", "{": "}", "[": "]"}
_LONGEST_NUMBER = 40
_DEEPEST = 25


class NotPlain(Exception):
    """A text is not plainly one expression."""


def scalar(text: str, *, any_number: bool = False) -> str:
    """Return the LaTeX of a whole text; without `any_number`, digits and operators alone are not enough. Raises `NotPlain`."""
    tokens = _tokens(text)
    _check_brackets(tokens)
    numbers = any_number and len(tokens) <= 2
    if not numbers and not any(token in "^!" or token.isalpha() or token[1:] in _SUBSTANCE for token in tokens):
        raise NotPlain
    _check_neighbours(tokens)
    _check_divisions(tokens)
    written, end = _sequence(tokens, 0, None)
    assert end == len(tokens)
    return written


def _tokens(text: str) -> list[str]:
    """The tokens, products of letters taken apart, commands and functions with their backslash."""
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match["other"] or len(token) > _LONGEST_NUMBER:
            raise NotPlain
        if match["space"]:
            continue
        if token[0] == "\\" and token[1:] not in _COMMANDS:
            raise NotPlain
        if token.isalpha() and len(token) > 1:
            if token in _WRITTEN_OUT:
                tokens.append("\\" + token)
            elif token in _PRODUCTS:
                tokens.extend(token)
            else:
                raise NotPlain
        else:
            tokens.append({"**": "^"}.get(token, token))
    if not tokens or "I" in tokens:  # a parser takes I for the imaginary unit
        raise NotPlain
    return tokens


def _check_brackets(tokens: list[str]) -> None:
    """Brackets must pair off by kind; square ones are only for the degree of a root."""
    opened: list[str] = []
    for place, token in enumerate(tokens):
        if token == "[" and (place == 0 or tokens[place - 1] != r"\sqrt"):
            raise NotPlain
        if token in _BRACKETS:
            opened.append(_BRACKETS[token])
        elif token in ")}]" and (not opened or opened.pop() != token):
            raise NotPlain
        if len(opened) > _DEEPEST:
            raise NotPlain
    if opened:
        raise NotPlain


def _check_neighbours(tokens: list[str]) -> None:
    """No number behind a number, a letter or a bracket; no fraction behind a number; no operator without a right side."""
    for one, other in zip(tokens, [*tokens[1:], "end"], strict=True):
        if _NUMBER.fullmatch(other) and (_NUMBER.fullmatch(one) or one.isalpha() or one in ")]!"):
            raise NotPlain
        if other == r"\frac" and _NUMBER.fullmatch(one):
            raise NotPlain
        if one in ("+", "-", "*", "/", "^", "_", r"\cdot", r"\times") and (other == "end" or other in "*/^_)}]!"):
            raise NotPlain
        if (one in "([{" and other in "*/^_!)}]") or (one == other and one in ("!", "^")):
            raise NotPlain
        if one == "d" and other.isalpha() and other != "end":  # dx
            raise NotPlain
    if tokens[0] in ("*", "/", "^", "_", "!", r"\cdot", r"\times"):
        raise NotPlain


def _check_divisions(tokens: list[str]) -> None:
    """What is divided by must end at an operator: "1/2x" is read in two ways; so is "x^1/2"."""
    for place, token in enumerate(tokens):
        if token != "/":
            continue
        if tokens[place - 2 : place] == ["^", "1"]:
            raise NotPlain
        after = _factor_end(tokens, place + 1)
        if after < len(tokens) and tokens[after] not in ("+", "-", "*", ")", "}", "]", "|", r"\cdot", r"\times"):
            raise NotPlain


def _factor_end(tokens: list[str], at: int) -> int:
    """Where the factor that starts at `at` ends, its powers and arguments with it."""
    if tokens[at] in ("-", "+"):
        at += 1
    at = _skipped(tokens, at)
    while at < len(tokens) and (tokens[at] in ("^", "_", "!") or (tokens[at] in _BRACKETS and tokens[at - 1][0] in "\\}]")):
        at = at + 1 if tokens[at] == "!" else _skipped(tokens, at + (tokens[at] in "^_"))
    return at


def _skipped(tokens: list[str], at: int) -> int:
    """The place behind one token, or behind the group that it opens."""
    if at >= len(tokens) or tokens[at] not in _BRACKETS:
        return at + 1
    depth = 0
    for place in range(at, len(tokens)):
        depth += (tokens[place] in _BRACKETS) - (tokens[place] in (")", "}", "]"))
        if depth == 0:
            return place + 1
    raise NotPlain


def _sequence(tokens: list[str], at: int, closing: str | None) -> tuple[str, int]:
    """Write tokens up to a closing bracket, with a sign for every product: the text and the place behind it."""
    written: list[str] = []
    ends_value, barred = False, False
    while at < len(tokens):
        token = tokens[at]
        if token == closing:
            break
        closes = token in _CLOSING or (token == "|" and barred)
        operator = token in _OPERATORS
        if ends_value and not (operator or closes or token in "^_!") and not _applies(tokens, at):
            written.append(r"\cdot ")
        part, at = _part(tokens, at)
        written.append(part)
        opens = token in _OPENING or (token == "|" and not closes)
        if token == "|":
            barred = opens
        if closes and not ends_value:
            raise NotPlain
        ends_value = not operator and not opens
    if barred or (closing is not None and at == len(tokens)):
        raise NotPlain
    return "".join(written), at + (closing is not None)


def _applies(tokens: list[str], at: int) -> bool:
    """Whether a bracket holds the argument of f, g, h or a capital; behind another letter it is a factor."""
    return tokens[at] == "(" and (tokens[at - 1] in "fgh" or tokens[at - 1].isupper())


def _part(tokens: list[str], at: int) -> tuple[str, int]:
    """Write what starts at `at`, with its arguments in braces."""
    token = tokens[at]
    if token in (r"\frac", r"\binom"):
        top, at = _argument(tokens, at + 1)
        bottom, at = _argument(tokens, at)
        return f"{token}{{{top}}}{{{bottom}}}", at
    if token == r"\sqrt":
        degree = ""
        if tokens[at + 1 : at + 2] == ["["]:
            degree, at = _sequence(tokens, at + 2, "]")
            degree, at = f"[{degree}]", at - 1
        inside, at = _argument(tokens, at + 1)
        return rf"\sqrt{degree}{{{inside}}}", at
    if token in "^_":
        minus = "-" if tokens[at + 1 : at + 2] == ["-"] else ""
        inside, at = _argument(tokens, at + 1 + len(minus))
        return f"{token}{{{minus}{inside}}}", at
    if token in _BRACKETS:
        inside, at = _sequence(tokens, at + 1, _BRACKETS[token])
        return f"{token}{inside}{_BRACKETS[token]}", at
    if token in _APPLIED:
        return _function(tokens, at)
    if _NUMBER.fullmatch(token):
        return _number(token), at + 1
    return {"*": r"\cdot "}.get(token, f"{token} " if token[0] == "\\" else token), at + 1


def _function(tokens: list[str], at: int) -> tuple[str, int]:
    """Write a function with its argument in brackets: what is in brackets, or the product up to the next operator."""
    written, at = tokens[at], at + 1
    while at < len(tokens) and tokens[at] in "^_":
        part, at = _part(tokens, at)
        written += part
    if at < len(tokens) and tokens[at] in "({":
        inside, at = _sequence(tokens, at + 1, _BRACKETS[tokens[at]])
        return f"{written}({inside})", at
    end = at
    while end < len(tokens) and tokens[end] not in _OPERATORS | _APPLIED | _CLOSING | {")", "}", "]", "|"}:
        if tokens[end] == "(":
            raise NotPlain
        end = _skipped(tokens, end)
    inside, _ = _sequence(tokens[at:end], 0, None)
    if not inside:
        raise NotPlain
    return f"{written}({inside})", end


def _argument(tokens: list[str], at: int) -> tuple[str, int]:
    """Write one argument: a group without its brackets, or one token; the number behind a bare root must have one digit."""
    if at >= len(tokens) or (tokens[at - 1] in (r"\sqrt", r"\frac") and _NUMBER.fullmatch(tokens[at]) and len(tokens[at]) > 1):
        raise NotPlain
    token = tokens[at]
    if token in "{(":
        return _sequence(tokens, at + 1, _BRACKETS[token])
    if token.isalpha() or _NUMBER.fullmatch(token) or token in (r"\pi", r"\infty", r"\frac", r"\sqrt") or token[1:] in _SUBSTANCE:
        return _part(tokens, at)
    raise NotPlain


def _number(token: str) -> str:
    if "." not in token:
        return token
    value = Fraction(token)
    return rf"{{\frac{{{value.numerator}}}{{{value.denominator}}}}}" if value.denominator != 1 else str(value.numerator)
