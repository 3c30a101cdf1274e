"""What is measured in an update.

Invariant: None is what was not measured; a sum over ranks is what one process would have summed. Not covered: how
(`update.py`), what becomes of it (`loop.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is measured on one trajectory; `alpha` and the scores only with compatibility."""

    cross_entropy: float
    routed: bool
    alpha: float | None = None
    adaptability: float | None = None
    consensus: float | None = None
    difficulty: float | None = None
    peer: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one update came to. `loss` is L, None where nothing was learnt."""

    loss: float | None
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    response_tokens: int
    terms: Mapping[str, float]
    told: Mapping[str, Told]


@dataclass(slots=True)
class Sums:
    """Of one update, so far; `weight` and `co_routed` are the whole batch's in every rank."""

    weight: float = 0.0
    co_routed: int = 0
    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """What another rank has of the same update."""
        self.loss += other.loss
        self.told |= other.told
        for name, value in other.terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value
