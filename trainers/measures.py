"""What is measured in an update.

Invariant: None is what was not measured; a sum over ranks is what one process would have summed. Not covered: how
(`update.py`), what becomes of it (`loop.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from store.types import Report

USUAL = 20
"""Losses whose median is the usual one."""
LASTING = 5
"""High losses in a row that are no accident. One alone is: a router may leave a batch of two hundred tokens, and in 2 of
the 15 routed trainings of `benchmarks/distill_claims.py` one was ten times the usual and learnt like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one update came to. `loss` is L, None where nothing was learnt."""

    loss: float | None
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    response_tokens: int
    terms: Mapping[str, float]
    reports: Sequence[Report]


@dataclass(slots=True)
class Sums:
    """Of one update, so far; `number` counts from 0; what stands above `loss` is the whole batch's in every rank."""

    number: int = 0
    weight: float = 0.0
    co_routed: int = 0
    tokens: int = 0
    response_tokens: int = 0
    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)

    def add(self, other: Sums) -> None:
        """What another rank has of the same update."""
        self.loss += other.loss
        self.reports += other.reports
        for name, value in other.terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value


def num_high(losses: Sequence[float], factor: float) -> int:
    """How many losses (in nats) at the end, up to `LASTING`, are all over `factor` times the median of the `USUAL` before them.

    0 as long as there are no more than `USUAL`; what is before the last `USUAL + LASTING` does not matter.
    """
    for num in range(min(LASTING, len(losses) - USUAL), 0, -1):
        usual = median(losses[-num - USUAL : -num])
        if min(losses[-num:]) > factor * usual:
            return num
    return 0
