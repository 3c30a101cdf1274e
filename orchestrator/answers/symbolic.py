r"""The child program that does algebra: `python -m orchestrator.answers.symbolic SECONDS`, one JSON object a line in, one out.

    {"do": "nothing"}                                       -> {"ready": true}
    {"do": "values", "a": LATEX}                            -> {"values": [[real, imaginary] or null, ...]}, null if unreadable
    {"do": "same", "a": LATEX, "b": LATEX, "up_to": ...}    -> {"same": true or false}

Invariant: a line in, a line out, or this process dies; it dies by itself after SECONDS on one line (an alarm of the kernel's,
which a computation inside C cannot put off), and when its standard input closes; it never has more than `MOST_BYTES`.
Two scalars are the same where math-verify says so in both directions and 40 digits agree at three points; nothing is rounded.
`up_to` "factor" is for equations (2x + 2y = 2 is x + y = 1), "positive factor" for inequalities.
All symbols are real but `i`, the imaginary unit. Its reader is math-verify's, told to keep capitals apart.
Not covered: what is an expression at all (`scalars`), and who waits for us (`algebra`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify import verify

MOST_BYTES = 3 << 30
POINTS = 3
_DIGITS = 40
_SMALLEST = sympy.Float(f"1e-{_DIGITS - 10}", _DIGITS)
_READING = ConversionConfig(lowercase_symbols=False, interpret_as_mixed_fractions=False)


@lru_cache(maxsize=2048)
def parsed(latex: str) -> sympy.Expr | None:
    """Return the expression; None if it cannot be read."""
    try:
        found = latex2sympy(latex, is_real=None, normalization_config=None, conversion_config=_READING)
        if not isinstance(found, sympy.Expr):
            return None
        names = {symbol: sympy.Symbol(symbol.name, real=True) for symbol in found.atoms(sympy.Symbol)}
        names |= {symbol: sympy.I for symbol in names if symbol.name == "i"}
        return found.xreplace(names).doit()
    except Exception:  # noqa: BLE001 - a parser of foreign strings: whatever it raises, it could not read this one
        return None


@lru_cache(maxsize=2048)
def values(latex: str) -> tuple[sympy.Expr | None, ...] | None:
    """What the expression is worth at each point, None where that is no finite number."""
    expression = parsed(latex)
    return None if expression is None else tuple(_value(expression, point) for point in range(POINTS))


def _value(expression: sympy.Expr, point: int) -> sympy.Expr | None:
    try:
        symbols = {symbol: _place(symbol.name, point) for symbol in expression.atoms(sympy.Symbol)}
        value: Any = cast(sympy.Expr, expression.xreplace(symbols)).evalf(_DIGITS, maxn=400)
    except Exception:  # noqa: BLE001 - no value there
        return None
    real, imaginary = value.as_real_imag()
    known = all(part.is_Float or part.is_Rational for part in (real, imaginary))
    return value if known and value.is_finite else None


def _place(name: str, point: int) -> sympy.Basic:
    """Where a symbol stands: the same place in every expression; only the first point has positive places alone."""
    drawn = int.from_bytes(hashlib.sha256(f"{name}/{point}".encode()).digest()[:4])
    size = sympy.Rational(drawn % 100_003 + 5_000, 37_003)
    return size if point == 0 or drawn & 1 << 20 else -size


def same(a: str, b: str, up_to: str) -> bool:
    """Whether both are the same, or the same but for a constant factor."""
    first, second = parsed(a), parsed(b)
    if first is None or second is None:
        return False
    if up_to == "nothing":
        return _agree(values(a), values(b)) and _equal(first, second)
    if first.is_zero or second.is_zero:
        return False
    ratio = sympy.simplify(first / second)
    return bool(ratio.is_number and ratio.is_finite and ratio.is_zero is False and (up_to == "factor" or ratio.is_positive))


def _agree(a: tuple[Any, ...] | None, b: tuple[Any, ...] | None) -> bool:
    """Whether the values are equal to all but the last digits, wherever both are known."""
    pairs = [(x, y) for x, y in zip(a or (), b or (), strict=True) if x is not None and y is not None]
    return all(abs(x - y) <= _SMALLEST * max(abs(x), abs(y)) for x, y in pairs)


def _equal(first: sympy.Expr, second: sympy.Expr) -> bool:
    def one_way(gold: sympy.Expr, other: sympy.Expr) -> bool:
        return verify(gold, other, float_rounding=_DIGITS, numeric_precision=_DIGITS, timeout_seconds=None)

    return bool(first == second or (one_way(first, second) and one_way(second, first)))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request."""
    try:
        if request["do"] == "nothing":
            return {"ready": True}
        if request["do"] == "same":
            return {"same": same(request["a"], request["b"], request["up_to"])}
        found = values(request["a"])
        return {"values": None if found is None else [None if value is None else _pair(value) for value in found]}
    except Exception:  # noqa: BLE001 - algebra on foreign expressions: what raises is not the same
        return {"same": False, "values": None}


def _pair(value: sympy.Expr) -> list[float] | None:
    with contextlib.suppress(OverflowError):
        number = complex(value)
        return [number.real, number.imag] if abs(number) < 1e300 else None
    return None


def main(seconds: float) -> None:
    """Answer lines until there are none."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for our parent
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # what a library prints is no reply
    tell: Callable[[dict[str, Any]], None] = lambda reply: print(json.dumps(reply), file=replies, flush=True)  # noqa: E731
    tell({"ready": True})
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        reply = answer(json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell(reply)


if __name__ == "__main__":
    main(float(sys.argv[1]))
