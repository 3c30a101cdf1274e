"""How judges agree, with each other and with the answer check: Cohen's kappa.

Kappa is how much more two raters agree than chance would have them: 1 always, 0 as chance, below 0 less. Of the trajectories that
the answer check refuses only a share is judged (`judging.audit`): each of these stands for 1 / share of them. Rulings that could
not be read count nowhere. Not covered: single rulings (`agents.judge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CHECK = "answer check"
_YES = ("valid", "right")
_EVEN = {True: 1.0, False: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two raters over `items` trajectories: the share on which they say the same, and kappa; None where both always say one and
    the same thing, or nothing was rated by both."""

    one: str
    other: str
    items: int
    share: float | None
    kappa: float | None


def agreements(counts: Mapping[str, int], audit: float) -> list[Agreement]:
    """Of every two judges, and of every judge with the answer check; `counts` are the store's. Without an `audit` nobody has seen
    what the answer check refuses, so nothing is known of how they agree with it."""
    found = []
    for names, cells in sorted(_tables(counts, "votes").items()):
        one, _, other = names.partition("/")
        found.append(kappa(one, other, cells))
    if audit > 0:
        weights = {True: 1.0, False: 1 / audit}
        found += [kappa(judge, CHECK, cells, weights) for judge, cells in sorted(_tables(counts, "checked").items())]
    return found


def _tables(counts: Mapping[str, int], kind: str) -> dict[str, dict[tuple[bool, bool], int]]:
    """Counts such as `votes.valid.invalid.NAMES`, as a table for each of the names."""
    found: dict[str, dict[tuple[bool, bool], int]] = {}
    for name, value in counts.items():
        if name.startswith(f"{kind}."):
            _, one, other, names = name.split(".", 3)
            found.setdefault(names, {})[one in _YES, other in _YES] = value
    return found


def kappa(one: str, other: str, cells: Mapping[tuple[bool, bool], int], weights: Mapping[bool, float] = _EVEN) -> Agreement:
    """From how often each pair of votes was cast; `weights` by what `other` says."""
    items, weighed = sum(cells.values()), {pair: num * weights[pair[1]] for pair, num in cells.items()}
    if not (total := sum(weighed.values())):
        return Agreement(one=one, other=other, items=items, share=None, kappa=None)
    same = sum(weight for (a, b), weight in weighed.items() if a == b) / total
    p, q = (sum(weight for pair, weight in weighed.items() if pair[at]) / total for at in (0, 1))
    chance = p * q + (1 - p) * (1 - q)
    value = (same - chance) / (1 - chance) if chance < 1 - 1e-12 else None
    return Agreement(one=one, other=other, items=items, share=same, kappa=value)
