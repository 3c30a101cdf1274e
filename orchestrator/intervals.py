"""Means with 95% intervals, by bootstrap (methods part 6). Pure.

    values [R, Q]    R runs, Q questions that all have; each value the mean of a question's answers, or a difference of two

Invariant: a resample draws R of the runs and Q of the questions, the same questions for all runs: a question is as hard in one
run as in the other, so drawing it for each run anew would make the interval too narrow. With one run it is the bootstrap over
questions. Draws are fixed: the same values have the same interval. Not covered: that few runs tell little of other seeds; a
bootstrap over two or three of them is narrower than the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from store.types import Attempt

_RESAMPLES = 2000
_AT_ONCE = 100
"""Resamples that are drawn together: 2,000 of 10,000 questions at once would take 300 MB."""

Means = Mapping[str, float]
"""The mean of a question's answers, right 1 and wrong 0, by question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95% interval over `items` questions, `samples` answers each, in each of `runs`."""

    mean: float
    low: float
    high: float
    items: int
    samples: int
    runs: int = 1


def means(attempts: Iterable[Attempt], *, sampled: bool) -> tuple[dict[str, float], int]:
    """The mean of each question's greedy answer, or of its sampled ones, and the most answers that a question has."""
    right: dict[str, list[bool]] = {}
    for attempt in attempts:
        if (attempt.sample > 0) == sampled:
            right.setdefault(attempt.question, []).append(attempt.correct)
    return {key: sum(each) / len(each) for key, each in right.items()}, max(map(len, right.values()), default=0)


def differences(after: Means, before: Means) -> dict[str, float]:
    """After minus before, of each question that has both."""
    return {key: after[key] - before[key] for key in after if key in before}


def estimate(runs: Sequence[Means], samples: int) -> Estimate | None:
    """Over the questions that all runs have; None when there is none."""
    items = sorted(set(runs[0]).intersection(*runs[1:]))
    if not items:
        return None
    values = np.array([[run[key] for key in items] for run in runs])
    low, high = interval(values)
    return Estimate(mean=float(values.mean()), low=low, high=high, items=len(items), samples=samples, runs=len(runs))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the mean of `values` [R, Q], or [Q] of one run."""
    values = np.atleast_2d(values)
    num_runs, num_items = values.shape
    chance = np.random.default_rng(0)
    drawn: list[np.ndarray] = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        items = chance.integers(0, num_items, size=(_AT_ONCE, num_items))
        times = chance.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=_AT_ONCE)  # how often each run is drawn
        drawn.append(np.take_along_axis(times @ values / num_runs, items, axis=1).mean(axis=1))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return float(low), float(high)
