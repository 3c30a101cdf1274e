"""Which student learns what in an update, as a student sees it.

Invariant: a student obeys the newest routes that it can have in time; without a router everybody learns everything.
Not covered: how routes come to be (`router.py`), what is done with them (`loop.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from configs.schema import Router
from store.store import Store
from trainers.plan import Item, Walk

LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one student does with the trajectories of one batch, by id; `fellows` are the other students that learn each."""

    learns: frozenset[str]
    measures: frozenset[str]
    fellows: Mapping[str, Sequence[str]]


class Routing(Protocol):
    """Where assignments come from."""

    @property
    def counts(self) -> Counter[str]:
        """What went wrong, how often."""
        ...

    async def assign(self, walk: Walk, epoch: int, update: int, items: Sequence[Item]) -> Assignment | None:
        """Of the update `update`, from 0, in an epoch of a walk; None when asked to stop before it was known."""
        ...


@dataclass(frozen=True, slots=True)
class Everything:
    """No router: all students learn all that they are given."""

    others: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)
    """Nothing."""

    async def assign(self, walk: Walk, epoch: int, update: int, items: Sequence[Item]) -> Assignment:
        """All of it, with everybody."""
        ids = frozenset(item.trajectory for item in items)
        return Assignment(learns=ids, measures=frozenset(), fellows=dict.fromkeys(ids, self.others))


@dataclass(slots=True)
class Routed:
    """The router's routes, a round at a time."""

    store: Store
    config: Router
    student: str
    names: tuple[str, ...]
    seed: int
    stopping: asyncio.Event
    counts: Counter[str] = field(default_factory=Counter)
    """`missed`: rounds for which no routes came in time."""
    _round: int = -1
    _gates: dict[str, dict[str, int]] = field(default_factory=dict)
    """By trajectory and student: the newest known."""

    async def assign(self, walk: Walk, epoch: int, update: int, items: Sequence[Item]) -> Assignment | None:
        """What the round's routes say; of what they do not name, everything."""
        number = walk.round_of(epoch, update, self.config.every)
        if number != self._round:
            if not await self._learn_of(number):
                return None
            self._round = number
        gates = {item.trajectory: self._gates.get(item.trajectory, {}) for item in items}
        learns = {trajectory for trajectory, open_to in gates.items() if open_to.get(self.student, 1)}
        measures = {each for each in gates if each not in learns and explores(self.config, self.seed, self.student, each, number)}
        others = [name for name in self.names if name != self.student]
        fellows = {each: [name for name in others if gates[each].get(name, 1)] for each in learns}
        return Assignment(learns=frozenset(learns), measures=frozenset(measures), fellows=fellows)

    async def _learn_of(self, number: int) -> bool:
        """Know a round's routes, or do without; False when asked to stop, as the router may have been."""
        until = time.monotonic() + self.config.wait_s
        while not (routes := await self.store.routes(number)):
            if self.stopping.is_set():
                return False
            if time.monotonic() > until:
                self.counts["missed"] += 1
                break
            await asyncio.sleep(LOOK_S)
        for route in routes:
            self._gates.setdefault(route.trajectory, {})[route.student] = route.gate
        return True


def explores(config: Router, seed: int, student: str, trajectory: str, number: int) -> bool:
    """Whether a student measures a trajectory that is not routed to it, drawn with probability `explore`."""
    drawn = sha256(f"{seed}/{student}/{trajectory}/{number}".encode()).digest()[:7]
    return int.from_bytes(drawn) / 2**56 < config.explore
