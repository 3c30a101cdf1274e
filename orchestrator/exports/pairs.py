"""Pairs of whole trajectories of one question: an accepted one against one that is wrong or unsound. Pure.

Invariant: every rejected one is in one pair, the accepted ones take turns, best first, and the two sides of a pair differ.
Not covered: trajectories that are no worse than others (duplicates, surplus), and those of which nobody can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from store.store import Judged
from store.types import Outcome

REJECTED = (Outcome.WRONG_ANSWER, Outcome.UNSOUND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two trajectories of the same question."""

    chosen: Judged
    rejected: Judged


def paired(judged: Sequence[Judged]) -> list[Pair]:
    """The pairs of a question's trajectories, best accepted first; none without an accepted and a rejected one."""
    chosen = _ranked([each for each in judged if each.verdict and each.verdict.outcome is Outcome.ACCEPTED])
    rejected = _ranked([each for each in judged if each.verdict and each.verdict.outcome in REJECTED])
    if not chosen:
        return []
    turns = zip(cycle(chosen), rejected, strict=False)
    return [Pair(chosen=one, rejected=other) for one, other in turns if _text(one) != _text(other)]


def _ranked(judged: Sequence[Judged]) -> list[Judged]:
    """The highest score first, those without one last."""
    return sorted(judged, key=lambda each: (each.trajectory.score is None, -(each.trajectory.score or 0.0), each.trajectory.id))


def _text(judged: Judged) -> tuple[str, str]:
    return judged.trajectory.text, judged.trajectory.conclusion
