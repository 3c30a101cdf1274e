"""The one writer: a thread that takes everything queued, runs it in one transaction, and commits once for all of it.

    submit --> [ bounded queue ] --> thread: BEGIN IMMEDIATE, op, op, ..., COMMIT (fsync) --> futures, in order, in one go

Invariant: a future is resolved only after the commit that holds its write; an op that fails leaves nothing behind and
takes no other op with it; after an error of the disk or the file nothing is written any more. A submitter that is
cancelled does not take back what it has queued. Not covered: what the ops do (`writes.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ClauseElement, func, text
from sqlalchemy.dialects.sqlite import insert

from store.database import StoreError, execute, is_lasting, is_locked, store_error, transaction
from store.tables import CountRow, HistoryRow, table

T = TypeVar("T")
Clock = Callable[[], float]

MAX_QUEUED = 1024
MAX_GROUP = 256

_EVENT = text("INSERT INTO event (time, kind, subject) VALUES (:time, :kind, :subject)")
_inserted = insert(table(CountRow))
_COUNT = _inserted.on_conflict_do_update(
    index_elements=["name"], set_={"value": table(CountRow).c.value + _inserted.excluded.value}
)
_happened = insert(table(HistoryRow))
_HISTORY = _happened.on_conflict_do_update(
    index_elements=["name", "minute_at"], set_={"value": table(HistoryRow).c.value + _happened.excluded.value}
)
_LATEST = _happened.on_conflict_do_update(
    index_elements=["name", "minute_at"], set_={"value": func.max(table(HistoryRow).c.value, _happened.excluded.value)}
)
_BY_MINUTE = ("questions.solved", "questions.unsolved", "trajectories.", "calls.", "tokens.", "spent.", "failed.", "attempts.")
"""The counts whose growth is kept by the minute too."""


LATEST = "latest."
"""Before the name of a count in the history's minute 0: when it last grew, in seconds since the epoch."""
_DATED = ("questions.solved", "trajectories.accepted", "tokens.prompt")


class Transaction:
    """What an op writes through. Events and counts are gathered, and written once when all ops of a group have run."""

    def __init__(self, cursor: sqlite3.Cursor, now: float) -> None:
        self.now = now
        self._cursor = cursor
        self._events: list[tuple[str, str]] = []
        self._counts: Counter[str] = Counter()
        self._history: Counter[str] = Counter()

    def change(self, statement: ClauseElement, params: Mapping[str, Any]) -> int:
        """Insert or update; how many rows are now different."""
        return execute(self._cursor, statement, params).rowcount

    def rows(self, statement: ClauseElement, params: Mapping[str, Any]) -> list[sqlite3.Row]:
        """The rows of a query, as this transaction sees them."""
        return execute(self._cursor, statement, params).fetchall()

    def event(self, kind: str, subject: str) -> None:
        """Tell of a change."""
        self._events.append((kind, subject))

    def count(self, name: str, change: int = 1) -> None:
        """Move a count. A move by zero still makes its row, so that grouping does not decide which rows exist."""
        self._counts[name] += change
        if change > 0 and name.startswith(_BY_MINUTE):
            self._history[name] += change

    def happened(self, name: str, value: int = 1) -> None:
        """Count something by the minute, and in all (as minute 0), only: what depends on time is no count of the run's."""
        self._history[name] += value

    def flush(self) -> None:
        """Write what was gathered."""
        for kind, subject in self._events:
            execute(self._cursor, _EVENT, {"time": self.now, "kind": kind, "subject": subject})
        for name, value in self._counts.items():
            execute(self._cursor, _COUNT, {"name": name, "value": value})
        for name, value in self._history.items():
            execute(self._cursor, _HISTORY, {"name": name, "minute_at": int(self.now // 60), "value": value})
            if name not in self._counts:
                execute(self._cursor, _HISTORY, {"name": name, "minute_at": 0, "value": value})
            if name in _DATED:
                execute(self._cursor, _LATEST, {"name": LATEST + name, "minute_at": 0, "value": int(self.now)})


Op = Callable[[Transaction], T]
"""A write. It may be run again after a rollback, so it must change nothing but the transaction."""


@dataclass(slots=True)
class _Job:
    op: Op[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Writer:
    """Consumes ops, produces commits; waits for the queue, unblocked by `submit` and `close`. Lives in one event loop."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, clock: Clock, loop: asyncio.AbstractEventLoop, busy_s: float
    ) -> None:
        self._path = path
        self._connection = connection
        self._clock = clock
        self._busy_s = busy_s
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(MAX_QUEUED)
        self._broken: StoreError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    async def submit(self, op: Op[T]) -> T:
        """Run `op` in the next group; returns when it is durable. Raises `StoreError`, and what `op` raises."""
        await self._room.acquire()
        if self._closed:
            self._room.release()
            raise StoreError(f"{self._path}: the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(op, future))
        return await future

    async def close(self) -> None:
        """Write what is queued, then end the thread and its connection."""
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        with contextlib.closing(self._connection):
            while group := self._next_group():
                self._write(group)
                with contextlib.suppress(RuntimeError):  # the loop was closed under us; nobody waits any more
                    self._loop.call_soon_threadsafe(self._resolve, group)

    def _next_group(self) -> list[_Job]:
        """Everything that is queued, at least one job; empty at the end."""
        group: list[_Job] = []
        with contextlib.suppress(queue.Empty):
            while len(group) < MAX_GROUP:
                job = self._jobs.get(block=not group)
                if job is None:
                    if group:
                        self._jobs.put(None)  # the end is for the next time
                    break
                group.append(job)
        return group

    def _write(self, group: list[_Job]) -> None:
        """Write the group as one; if an op fails, write each job alone, so that only the bad one fails."""
        error = self._run(group)
        if error is not None:
            for job in group:
                job.error = error if len(group) == 1 or is_locked(error) else self._run([job])

    def _run(self, group: list[_Job]) -> Exception | None:
        if self._broken is not None:
            return type(self._broken)(*self._broken.args)
        try:
            with transaction(self._connection, self._busy_s) as cursor:
                writing = Transaction(cursor, self._clock())
                for job in group:
                    job.result = job.op(writing)
                writing.flush()
        except sqlite3.Error as error:
            found = store_error(self._path, error)
            found.__cause__ = error
            self._broken = found if is_lasting(error) else None
            return found
        except Exception as error:  # noqa: BLE001 - whatever an op raises belongs to its submitter
            return error
        return None

    def _resolve(self, group: list[_Job]) -> None:
        for job in group:
            self._room.release()
            if job.future.done():  # its submitter was cancelled
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
