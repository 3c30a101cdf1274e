"""How many accepted trajectories a run still wants.

Invariant: questions are settled one after the other, so that what is accepted never exceeds what is wanted, however many are in
flight. Not covered: what is accepted (`sift.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Quota:
    """`wanted` accepted trajectories in all (None: any number), of which the run has `have`."""

    def __init__(self, wanted: int | None, have: int) -> None:
        self._wanted = wanted
        self._have = have
        self._turn = asyncio.Lock()

    @property
    def met(self) -> bool:
        """Whether nothing more is wanted."""
        return self._wanted is not None and self._have >= self._wanted

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[int | None]:
        """While one question is settled: how many more may be accepted; None: any number."""
        async with self._turn:
            yield None if self._wanted is None else max(0, self._wanted - self._have)

    def add(self, accepted: int) -> None:
        """So many have been accepted, and are durable."""
        self._have += accepted
