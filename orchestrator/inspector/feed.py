"""What has changed, for whoever watches: the store's events, gathered into ticks, as server-sent events.

    event table ──one look every TICK_S, while anybody watches──▶ ticks ──▶ each watcher: what came after what it has seen

Invariant: a watcher that names the last number it saw misses nothing; one that is slow gets more in one tick, and holds nobody
up. A tick says what changed, not how: the views are read again. Not covered: the events themselves (`/api/events`).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from store.store import Store, StoreError
from store.types import Event

log = structlog.get_logger()

TICK_S = 0.5
MOST_EVENTS = 5000
"""Of one look; more is for the next one."""
MOST_NAMED = 200
"""Questions and trajectories that one tick names; more are told as `more`."""
KEPT = 256
"""Ticks that are kept for those who are behind."""
FAR_BEHIND = 50_000
"""Events behind which a watcher is told to read everything again."""
QUIET_S = 10.0
"""After so long without a tick something is sent, so that a dead connection is found."""

_OF_QUESTIONS = {"advance", "target", "consensus", "question", "question_leased", "question_released", "question_solved"}
_OF_QUESTIONS |= {"question_unsolved", "question_requeued"}
_OF_STUDENTS = {"metrics", "report", "checkpoint"}


@dataclass(slots=True)
class Tick:
    """What changed in the events `first` to `last`: how many of each kind, and which questions and students."""

    first: int
    last: int
    kinds: Counter[str] = field(default_factory=Counter)
    questions: set[str] = field(default_factory=set)
    students: set[str] = field(default_factory=set)
    more: bool = False

    def add(self, event: Event) -> None:
        """Note one event."""
        self.last = event.seq
        self.kinds[event.kind] += 1
        if event.kind in _OF_STUDENTS:
            self.students.add(event.subject)
        if event.kind in _OF_QUESTIONS or event.kind == "failure":
            self.questions.add(event.subject)

    def joined(self, other: Tick) -> Tick:
        """Both, one after the other."""
        return Tick(
            first=self.first,
            last=other.last,
            kinds=self.kinds + other.kinds,
            questions=self.questions | other.questions,
            students=self.students | other.students,
        )

    def told(self) -> str:
        """As a server-sent event."""
        questions = sorted(self.questions)
        row: dict[str, Any] = {
            "seq": self.last,
            "kinds": dict(self.kinds),
            "questions": questions[:MOST_NAMED],
            "students": sorted(self.students),
            "more": len(questions) > MOST_NAMED,
        }
        return f"id: {self.last}\nevent: tick\ndata: {json.dumps(row)}\n\n"


class Feed:
    """One look for all watchers; `follow` gives each its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ticks: deque[Tick] = deque(maxlen=KEPT)
        self._seq = 0
        self._watchers = 0
        self._news = asyncio.Condition()
        self._watched = asyncio.Event()

    @property
    def watchers(self) -> int:
        """How many follow now."""
        return self._watchers

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look at the store while anybody watches, and until the end of this."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look())
            yield
            looking.cancel()

    async def follow(self, after: int | None) -> AsyncIterator[str]:
        """Server-sent events about what came after a number; None: from now on."""
        seen = await self._last() if after is None else after
        yield f"retry: 1000\nid: {seen}\nevent: hello\ndata: {json.dumps({'seq': seen})}\n\n"
        if missed := await self._caught_up(seen):
            seen = missed.last
            yield missed.told()
        if not self._watchers:
            self._seq = seen  # what happens until the first look is in it
        self._watchers += 1
        self._watched.set()
        try:
            while True:
                tick = await self._after(seen)
                if tick is None:
                    yield ": still here\n\n"
                    continue
                seen = tick.last
                yield tick.told()
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._watched.clear()

    async def _after(self, seen: int) -> Tick | None:
        """All that came after `seen`, as one tick; None after `QUIET_S` without any."""
        async with self._news:
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._news.wait_for(lambda: bool(self._ticks) and self._ticks[-1].last > seen)
            except TimeoutError:
                pass
            known = [tick for tick in self._ticks if tick.last > seen]
        if known and known[0].first == seen + 1:
            found = known[0]
            for tick in known[1:]:
                found = found.joined(tick)
            return found
        return await self._caught_up(seen)

    async def _caught_up(self, seen: int) -> Tick | None:
        """What a watcher that is further behind than our ticks reach has missed; one that is ahead knew another store."""
        last = await self._last()
        if last == seen:
            return None
        if not 0 < last - seen <= FAR_BEHIND:
            return Tick(first=last, last=last, kinds=Counter({"reset": 1}))
        tick = Tick(first=seen + 1, last=seen)
        while tick.last < last and (events := await self._store.events(tick.last, MOST_EVENTS)):
            _add(tick, events)
        return tick

    async def _last(self) -> int:
        return await self._store.last_event()

    async def _events(self) -> Sequence[Event]:
        """The next ones; none while the store cannot be read, which whoever asks for a view is told."""
        try:
            return await self._store.events(self._seq, MOST_EVENTS)
        except StoreError as error:
            log.warning("cannot_look", error=str(error))
            return ()

    async def _look(self) -> None:
        while True:
            await self._watched.wait()
            while self._watchers:
                events = await self._events()
                if events:
                    tick = Tick(first=self._seq + 1, last=self._seq)
                    _add(tick, events)
                    self._seq = tick.last
                    async with self._news:
                        self._ticks.append(tick)
                        self._news.notify_all()
                await asyncio.sleep(TICK_S)
            self._ticks.clear()


def _add(tick: Tick, events: Sequence[Event]) -> None:
    for event in events:
        tick.add(event)
