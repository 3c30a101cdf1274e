"""What the living process tells of itself, every second, for whoever looks at the run from outside.

    progress of stages, notes, engines ──▶ one row of the store, replaced each `BEAT_S`, gone at the end

Invariant: a run that tells nothing for long is not alive; telling never fails a run. Not covered: what a page makes of it
(`orchestrator.inspector`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agents.roster import Roster
from orchestrator.controls import Controls
from orchestrator.progress import Progress
from store.store import Store, StoreError
from store.types import Advance, Question, QuestionState

BEAT_S = 1.0
OWNER = "run"
_NOTES = 30
_NOTE = 300
"""Characters of a note that are told."""


@dataclass(kw_only=True)
class Pulse(Progress):
    """Progress that is also told to the store. `shown` is who else wants to know."""

    shown: Progress
    store: Store
    controls: Controls
    roster: Roster | None = None
    _bars: dict[str, tuple[int, int]] = field(default_factory=dict)
    _working: dict[str, float] = field(default_factory=dict)
    _notes: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_NOTES))

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage stands at `done` of `total`."""
        self._bars[name] = done, total
        self.shown.stage(name, done, total)

    def note(self, text: str) -> None:
        """Something worth one line."""
        self._notes.append({"at": time.time(), "text": text[:_NOTE]})
        self.shown.note(text)

    def stepped(self, question: Question, advance: Advance) -> None:
        """A question's tree has grown."""
        self.shown.stepped(question, advance)

    def settled(self, question: Question, state: QuestionState, reason: str) -> None:
        """A question has come to its end."""
        self.shown.settled(question, state, reason)

    @asynccontextmanager
    async def working(self, stage: str) -> AsyncIterator[None]:
        """A stage works while this lasts; add what it took to its seconds, also when it is interrupted."""
        self._working[stage] = started = time.monotonic()
        try:
            yield
        finally:
            del self._working[stage]
            await self.store.add_stage_seconds(stage, time.monotonic() - started)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Tell it, until the end of this."""
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat())
            try:
                yield
            finally:
                beating.cancel()
        await self.store.beat(OWNER, None)

    async def _beat(self) -> None:
        while True:
            try:
                await self.store.beat(OWNER, self._told())
            except StoreError:
                return  # whoever writes next says what is wrong
            await asyncio.sleep(BEAT_S)

    def _told(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "pid": os.getpid(),
            "paused": dict(self.controls.pauses.by),
            "stages": {name: {"seconds": now - since, **self._bar(name)} for name, since in self._working.items()},
            "students": {student.name: {"of": self._updates(student.name)} for student in self.controls.config.students},
            "engines": {name: self._engine(name) for name in (self.roster.models if self.roster else ())},
            "questions": self.controls.config.limits.questions,
            "notes": list(self._notes),
        }

    def _bar(self, stage: str) -> dict[str, int]:
        found = [bar for name, bar in self._bars.items() if name == stage or name.startswith(f"{stage} ")]
        bars = found or [bar for name, bar in self._bars.items() if name.endswith(f"@{stage}")]
        return {"done": sum(done for done, _ in bars), "total": sum(total for _, total in bars)} if bars else {}

    def _updates(self, student: str) -> int | None:
        """How many updates a student's schedule has, once it has told."""
        alone = len(self.controls.config.students) == 1
        bar = self._bars.get(f"train {student}") or (self._bars.get("train") if alone else None)
        return bar[1] if bar else None

    def _engine(self, name: str) -> dict[str, Any]:
        assert self.roster
        gate = self.roster.models[name].gate
        return {
            "in_flight": gate.in_flight,
            "limit": gate.limit,
            "waiting": gate.num_waiting,
            "parked": None if gate.gone else gate.parked,
            "gone": str(gate.gone) if gate.gone else None,
        }
