"""The reads, as functions of a cursor, and the threads that run them beside the writer.

Invariant: each read sees one committed state of the database, however many statements it takes; pages are found by key.
Not covered: reads that decide a write; those are part of the write (`writes.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ClauseElement, bindparam, func, select
from sqlmodel import SQLModel

from store import rows, tables
from store.database import connect, execute, store_error, transaction
from store.settling import SCORE_UNIT
from store.splits import FIRST_AND_AFTER, Split
from store.tables import table
from store.types import (
    Attempt,
    Call,
    Consensus,
    Event,
    Failure,
    Node,
    Question,
    QuestionState,
    Ruling,
    Trajectory,
    Verdict,
)
from store.writes import RunState

T = TypeVar("T")
Read = Callable[[sqlite3.Cursor], T]

NUM_READERS = 4

OF_TIME = ("history", "pulse")
"""Tables that are about when things happen, and differ between equal runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The run that a store belongs to. `config` is its resolved configuration, as text."""

    id: str
    name: str
    config: str
    searched: bool
    started_at: float
    finished_at: float | None
    state: RunState


class Placed(NamedTuple):
    """A question at its place in its split, and where it stands; `reason` is why it was settled so."""

    position: int
    question: Question
    state: QuestionState
    reason: str


class Readers:
    """A few threads, each read on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="store-reader")

    async def run(self, read: Read[T]) -> T:
        """What `read` gives. Raises `StoreError`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, read)

    def _run(self, read: Read[T]) -> T:
        try:
            connection = self._connection()
            try:
                with transaction(connection) as cursor:
                    return read(cursor)
            finally:
                self._idle.put(connection)
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error

    def _connection(self) -> sqlite3.Connection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return connect(self._path, "read")

    async def close(self) -> None:
        """End the threads and their connections."""
        await asyncio.to_thread(self._threads.shutdown)
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


_run, _question, _node = table(tables.RunRow), table(tables.QuestionRow), table(tables.NodeRow)
_call, _trajectory, _verdict = table(tables.CallRow), table(tables.TrajectoryRow), table(tables.VerdictRow)
_route, _failure, _attempt = table(tables.RouteRow), table(tables.FailureRow), table(tables.AttemptRow)
_metrics, _checkpoint, _stage = table(tables.MetricsRow), table(tables.CheckpointRow), table(tables.StageRow)
_count, _event = table(tables.CountRow), table(tables.EventRow)
_ruling, _consensus, _standing = table(tables.RulingRow), table(tables.ConsensusRow), table(tables.StandingRow)

_LIMIT = bindparam("limit")
_RUN = select(_run)
_QUESTIONS = (
    select(_question)
    .where(_question.c.split == bindparam("split"), _question.c.position > bindparam("after"))
    .order_by(_question.c.position)
    .limit(_LIMIT)
)
_HELD_OUT = (
    select(_question.c.id, _question.c.split)
    .where(_question.c.split >= FIRST_AND_AFTER[0], _question.c.split < FIRST_AND_AFTER[1])
    .order_by(_question.c.split, _question.c.position)
)
_QUESTION = select(_question).where(_question.c.id == bindparam("id"))
_TREE = select(_node).where(_node.c.question == bindparam("question")).order_by(_node.c.depth, _node.c.rank, _node.c.id)
_CALL = select(_call).where(_call.c.id == bindparam("key"))
_CALLS = select(_call).where(_call.c.subject == bindparam("subject")).order_by(_call.c.id)
_FAILURES_ABOUT = select(_failure).where(_failure.c.subject == bindparam("subject")).order_by(_failure.c.id)
_FAILURES = select(_failure).where(_failure.c.id > bindparam("after")).order_by(_failure.c.id).limit(_LIMIT)
_ATTEMPTS = (
    select(_attempt).where(_attempt.c.model == bindparam("model")).order_by(_attempt.c.question, _attempt.c.sample, _attempt.c.id)
)
_STAGES = select(_stage).order_by(_stage.c.name)
_COUNTS = select(_count).order_by(_count.c.name)
_EVENTS = select(_event).where(_event.c.seq > bindparam("after")).order_by(_event.c.seq).limit(_LIMIT)
_LAST_EVENT = select(func.max(_event.c.seq))

_TRAJECTORY = select(_trajectory).where(_trajectory.c.id == bindparam("id"))
_TRAJECTORIES = select(_trajectory).where(_trajectory.c.question == bindparam("question")).order_by(_trajectory.c.id)
_VERDICT = select(_verdict).where(_verdict.c.trajectory == bindparam("trajectory"))
_RULINGS = (
    select(_ruling)
    .join(_trajectory, _trajectory.c.id == _ruling.c.trajectory)
    .where(_trajectory.c.question == bindparam("question"))
    .order_by(_ruling.c.trajectory, _ruling.c.judge)
)
_CONSENSUS = select(_consensus).where(_consensus.c.question == bindparam("question"))
_STANDINGS = select(_standing).where(_standing.c.question == bindparam("question")).order_by(_standing.c.trajectory)


def _all(cursor: sqlite3.Cursor, statement: ClauseElement, **params: Any) -> list[sqlite3.Row]:
    return execute(cursor, statement, params).fetchall()


def _one(cursor: sqlite3.Cursor, statement: ClauseElement, **params: Any) -> sqlite3.Row | None:
    return execute(cursor, statement, params).fetchone()


def run(cursor: sqlite3.Cursor) -> RunRecord | None:
    """The run of this store, if one has begun."""
    row = _one(cursor, _RUN)
    return None if row is None else RunRecord(**row)


def _placed(row: sqlite3.Row) -> Placed:
    return Placed(row["position"], rows.question_of(row), QuestionState(row["state"]), row["reason"])


def questions(cursor: sqlite3.Cursor, split: Split, after: int, limit: int) -> list[Placed]:
    """The questions of a split whose position is above `after`, in order."""
    return [_placed(row) for row in _all(cursor, _QUESTIONS, split=split, after=after, limit=limit)]


def held_out(cursor: sqlite3.Cursor) -> dict[str, Split]:
    """The split of every held-out question, by its id; by split and position."""
    return {row["id"]: row["split"] for row in _all(cursor, _HELD_OUT)}


def question(cursor: sqlite3.Cursor, question_id: str) -> Placed | None:
    """One question."""
    row = _one(cursor, _QUESTION, id=question_id)
    return None if row is None else _placed(row)


def target(cursor: sqlite3.Cursor, question_id: str) -> tuple[str, float] | None:
    """The answer that stands in for a question's gold one, with its support."""
    row = _one(cursor, _QUESTION, id=question_id)
    return None if row is None or row["target"] is None else (row["target"], row["target_support"])


def tree(cursor: sqlite3.Cursor, question_id: str) -> list[Node]:
    """The nodes of a question, by depth, rank and id."""
    return [rows.node_of(row) for row in _all(cursor, _TREE, question=question_id)]


def calls(cursor: sqlite3.Cursor, subject: str) -> dict[str, Call]:
    """The calls about a subject, by their id."""
    return {row["id"]: rows.call_of(row) for row in _all(cursor, _CALLS, subject=subject)}


def call(cursor: sqlite3.Cursor, call_id: str) -> Call | None:
    """One call."""
    found = _all(cursor, _CALL, key=call_id)
    return rows.call_of(found[0]) if found else None


def failures(cursor: sqlite3.Cursor, after: str, limit: int) -> list[Failure]:
    """The failures whose id is above `after`, in order."""
    return [rows.failure_of(row) for row in _all(cursor, _FAILURES, after=after, limit=limit)]


def failures_about(cursor: sqlite3.Cursor, subject: str) -> list[Failure]:
    """The failures about a subject."""
    return [rows.failure_of(row) for row in _all(cursor, _FAILURES_ABOUT, subject=subject)]


def attempts(cursor: sqlite3.Cursor, model: str) -> list[Attempt]:
    """The attempts of a model, by question, sample and id."""
    return [rows.attempt_of(row) for row in _all(cursor, _ATTEMPTS, model=model)]


def trajectories(cursor: sqlite3.Cursor, question_id: str) -> list[tuple[Trajectory, Verdict | None]]:
    """The trajectories of a question with their verdicts, by id."""
    found = [rows.trajectory_of(row) for row in _all(cursor, _TRAJECTORIES, question=question_id)]
    verdicts = [_one(cursor, _VERDICT, trajectory=trajectory.id) for trajectory in found]
    return [(t, None if row is None else rows.verdict_of(row)) for t, row in zip(found, verdicts, strict=True)]


def rulings(cursor: sqlite3.Cursor, question_id: str) -> list[Ruling]:
    """The rulings on the trajectories of a question, by trajectory and judge."""
    return [rows.ruling_of(row) for row in _all(cursor, _RULINGS, question=question_id)]


def consensus(cursor: sqlite3.Cursor, question_id: str) -> Consensus | None:
    """The graph of a question's trajectories."""
    row = _one(cursor, _CONSENSUS, question=question_id)
    return None if row is None else rows.consensus_of(row, _all(cursor, _STANDINGS, question=question_id))


def stage_seconds(cursor: sqlite3.Cursor) -> dict[str, float]:
    """How long each stage has worked."""
    return {row["name"]: row["seconds"] for row in _all(cursor, _STAGES)}


def counts(cursor: sqlite3.Cursor) -> dict[str, int]:
    """All counts by name."""
    return {row["name"]: row["value"] for row in _all(cursor, _COUNTS)}


def mean_score(cursor: sqlite3.Cursor) -> float | None:
    """The mean score of the accepted trajectories that have one, to a billionth."""
    now = counts(cursor)
    num_scored = now.get("score.count", 0)
    return now["score.billionths"] / SCORE_UNIT / num_scored if num_scored else None


def events(cursor: sqlite3.Cursor, after: int, limit: int) -> list[Event]:
    """The events whose number is above `after`, in order."""
    return [rows.event_of(row) for row in _all(cursor, _EVENTS, after=after, limit=limit)]


def last_event(cursor: sqlite3.Cursor) -> int:
    """The number of the newest event; 0 of none."""
    return execute(cursor, _LAST_EVENT, {}).fetchone()[0] or 0


def dump(cursor: sqlite3.Cursor) -> dict[str, list[dict[str, Any]]]:
    """Every table's rows by primary key, without times and the numbers of events: equal for equal runs."""
    return {name: _dump(cursor, name) for name in SQLModel.metadata.tables if name not in OF_TIME}


def _dump(cursor: sqlite3.Cursor, name: str) -> list[dict[str, Any]]:
    return [dict(row) for row in _all(cursor, _rows_of(name))]


@functools.cache
def _rows_of(name: str) -> ClauseElement:
    stored = SQLModel.metadata.tables[name]
    kept = [column for column in stored.columns if not _is_time(column.name) and (name, column.name) != ("event", "seq")]
    keys = [column for column in stored.primary_key if column in kept] or kept
    return select(*kept).order_by(*keys)


def _is_time(column: str) -> bool:
    return column in ("time", "latency_s", "seconds") or column.endswith("_at")
