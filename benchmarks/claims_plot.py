"""The plot of the papers' claims: what each condition comes to, and what corrupted rationales cost.

Invariant: what it shows stands in the table too. Not covered: measuring (`distill_claims`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.intervals import interval


def plot(found: Mapping[str, np.ndarray], shared: Sequence[str], rates: Sequence[float], file: Path) -> None:
    """Every condition's values [R, Q] as a mean with its interval; those of `shared` against the share that is corrupted, which
    is in the name: "uniform, 30%"."""
    from matplotlib.figure import Figure  # only whoever draws needs it

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    plain = [name for name in found if not name.endswith("%")]
    for place, name in enumerate(plain):
        _bar(left, found[name], place, horizontal=True)
    left.set_yticks(range(len(plain)), plain)
    left.invert_yaxis()
    left.set(xlabel="share of test answers right")
    left.grid(axis="x", alpha=0.3)
    for offset, name in enumerate(shared):
        points = [(rate, f"{name}, {rate:.0%}" if rate else name) for rate in (0.0, *rates)]
        points = [(rate, key) for rate, key in points if key in found]
        if not points:
            continue
        at = [100 * rate + offset - len(shared) / 2 for rate, _ in points]
        (line,) = right.plot(at, [found[key].mean() for _, key in points], marker="o", label=name)
        for x, (_, key) in zip(at, points, strict=True):
            _bar(right, found[key], x, horizontal=False, color=line.get_color())
    right.set(xlabel="% of the rationales corrupted", ylabel="share of test answers right")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(file, metadata={"Date": None})


def _bar(axes: Any, values: np.ndarray, at: float, *, horizontal: bool, color: str = "C0") -> None:
    low, high = interval(values)
    mean = values.mean()
    error = [[mean - low], [high - mean]]
    if horizontal:
        axes.errorbar(mean, at, xerr=error, fmt="o", capsize=3, color=color)
    else:
        axes.errorbar(at, mean, yerr=error, fmt="none", capsize=3, color=color)
