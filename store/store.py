"""The store: the only door to what a run keeps. Nouns in, nouns out.

Invariant: when an awaited write returns, it is durable, with its events and counts; writing the same thing twice leaves
what writing it once left. Several processes may have the same store open. Every method raises `StoreError`, whose message is
one line; after `StoreFull` nothing more is written. Not covered: tensors (`blobs.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from store import control, database, learning, reads, rows, settling, writes
from store.control import Control, Verb
from store.database import BUSY_S, Mode, StoreError, StoreFull, connect, prepare
from store.judged import Judged, judged
from store.reads import Placed, Read, Readers, RunRecord
from store.splits import Split
from store.types import (
    Advance,
    Attempt,
    Call,
    Checkpoint,
    Consensus,
    Event,
    Failure,
    Lesson,
    Metrics,
    Node,
    Plan,
    Question,
    QuestionState,
    Report,
    Route,
    Ruling,
    Trajectory,
    Verdict,
)
from store.writer import Clock, Op, Writer
from store.writes import RunState

__all__ = [
    "Control",
    "Judged",
    "Placed",
    "RunRecord",
    "RunState",
    "Split",
    "Store",
    "StoreError",
    "StoreFull",
    "Verb",
    "holds_run",
    "open_store",
]

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def open_store(
    path: Path, *, create: bool = True, read_only: bool = False, clock: Clock = time.time, busy_s: float = BUSY_S
) -> AsyncIterator[Store]:
    """Open the database at `path`, at the newest revision; `read_only` never changes it, while others may write.

    A write waits up to `busy_s` for another process's.
    Raises `StoreError` if there is no store and `create` is not set, if it is not a store, or was made by a newer version.
    """
    mode: Mode = "read" if read_only else "create" if create else "write"
    await asyncio.to_thread(prepare, path, mode)
    async with AsyncExitStack() as stack:
        readers = Readers(path)
        stack.push_async_callback(readers.close)
        writer = None
        if not read_only:
            writer = Writer(path, connect(path, "write"), clock, asyncio.get_running_loop(), busy_s)
            stack.push_async_callback(writer.close)
        yield Store(path, readers, writer)


async def holds_run(path: Path) -> bool:
    """Whether a run has begun in the store at `path`, of any revision; there may be none. Raises `StoreError`."""
    return await asyncio.to_thread(database.holds_run, path)


class Store:
    """What `open_store` gives. Writes go through the one writer of this process, reads beside it."""

    def __init__(self, path: Path, readers: Readers, writer: Writer | None) -> None:
        self._path = path
        self._readers = readers
        self._writer = writer

    async def _write(self, op: Op[T]) -> T:
        if self._writer is None:
            raise StoreError(f"{self._path}: opened for reading only")
        return await self._writer.submit(op)

    async def _read(self, read: Read[T]) -> T:
        return await self._readers.run(read)

    # The run

    async def begin_run(self, run_id: str, name: str, config: str) -> None:
        """The run begins, or goes on. A store belongs to one run: another id is a `StoreError`."""
        await self._write(lambda tx: writes.begin_run(tx, run_id, name, config))

    async def run(self) -> RunRecord | None:
        """The run of this store, if one has begun."""
        return await self._read(reads.run)

    async def end_run(self, state: RunState) -> None:
        """The run ends as `state`."""
        await self._write(lambda tx: writes.end_run(tx, state))

    async def add_stage_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has worked, in this process and those before it."""
        await self._write(lambda tx: writes.add_stage_seconds(tx, stage, seconds))

    async def stage_seconds(self) -> dict[str, float]:
        """How long each stage has worked."""
        return await self._read(reads.stage_seconds)

    # Questions

    async def add_questions(self, questions: Sequence[Question], *, split: Split) -> int:
        """Append those that are not in the store yet, in their order; how many were new."""
        columns = [rows.question_row(question) for question in questions]
        return await self._write(lambda tx: writes.add_questions(tx, columns, split))

    async def questions(self, split: Split, after: int = -1, limit: int = 1000) -> list[Placed]:
        """The questions of a split whose position is above `after`, in order."""
        return await self._read(lambda cursor: reads.questions(cursor, split, after, limit))

    async def held_out(self) -> dict[str, Split]:
        """The split of every held-out question, by its id: in the order of each split."""
        return await self._read(reads.held_out)

    async def question(self, question_id: str) -> tuple[Question, QuestionState, str] | None:
        """One question, where it stands, and why."""
        placed = await self._read(lambda cursor: reads.question(cursor, question_id))
        return None if placed is None else (placed.question, placed.state, placed.reason)

    async def set_target(self, question_id: str, answer: str, support: float) -> None:
        """Keep the answer that stands in for a question's gold one, and the share that gave it; the first one stands."""
        await self._write(lambda tx: writes.set_target(tx, question_id, answer, support))

    async def target(self, question_id: str) -> tuple[str, float] | None:
        """What `set_target` has kept."""
        return await self._read(lambda cursor: reads.target(cursor, question_id))

    async def lease_question(self, owner: str, lease_s: float) -> Question | None:
        """Lease the first train question that is pending, or whose lease has expired; None if there is none now."""
        row = await self._write(lambda tx: writes.lease_question(tx, owner, lease_s))
        return None if row is None else rows.question_of(row)

    async def renew_leases(self, owner: str, lease_s: float) -> int:
        """Let all leases of `owner` last `lease_s` from now; how many it has."""
        return await self._write(lambda tx: writes.renew_leases(tx, owner, lease_s))

    async def release_leases(self, owner: str | None = None) -> int:
        """Set leased questions back to PENDING: those of `owner`, or all; how many."""
        return await self._write(lambda tx: writes.release_leases(tx, owner))

    async def settle_question(
        self,
        question_id: str,
        state: QuestionState,
        reason: str,
        trajectories: Sequence[Trajectory],
        verdicts: Sequence[Verdict],
        routes: Sequence[Route],
        tree_update: Advance | None = None,
        rulings: Sequence[Ruling] = (),
        consensus: Consensus | None = None,
    ) -> bool:
        """End a question's work: its last advance, its trajectories and what is said of them, its state and its lease, all or
        nothing.

        False if it was settled before: the first settlement stands.
        """
        if state not in writes.TERMINAL:
            raise ValueError(f"a question is not settled as {state!r}")
        op = partial(
            settling.settle_question,
            question=question_id,
            state=QuestionState(state),
            reason=reason,
            trajectories=[rows.trajectory_row(trajectory) for trajectory in trajectories],
            verdicts=[rows.verdict_row(verdict) for verdict in verdicts],
            routes=[rows.route_row(route) for route in routes],
            rulings=[rows.ruling_row(ruling) for ruling in rulings],
            consensus=None if consensus is None else _graph(consensus),
            tree=None if tree_update is None else (_nodes(tree_update), tree_update.expanded),
        )
        return await self._write(op)

    # A question's work

    async def tree(self, question_id: str) -> list[Node]:
        """The nodes of a question, by depth, rank and id."""
        return await self._read(lambda cursor: reads.tree(cursor, question_id))

    async def calls(self, subject: str) -> dict[str, Call]:
        """The calls about a subject, by their id: what need not be asked again."""
        return await self._read(lambda cursor: reads.calls(cursor, subject))

    async def call(self, call_id: str) -> Call | None:
        """One call, if it has been made."""
        return await self._read(lambda cursor: reads.call(cursor, call_id))

    async def record_calls(self, calls: Sequence[Call]) -> None:
        """Keep finished calls."""
        columns = [rows.call_row(call) for call in calls]
        await self._write(lambda tx: writes.record_calls(tx, columns))

    async def record_spent(self, agent: str, tokens: int, cost: float | None) -> None:
        """Count what a request that failed cost all the same, in tokens and US dollars."""
        await self._write(lambda tx: writes.record_spent(tx, agent, tokens, cost))

    async def claim_call(self, call_id: str, owner: str, lease_s: float) -> Call | bool:
        """The call if it has been made; True if `owner` is to make it; False while another owner is making it."""
        found = await self._write(lambda tx: writes.claim_call(tx, call_id, owner, lease_s))
        return found if isinstance(found, bool) else rows.call_of(found)

    async def renew_claims(self, owner: str, lease_s: float) -> None:
        """Let all claims of `owner` last `lease_s` from now."""
        await self._write(lambda tx: writes.renew_claims(tx, owner, lease_s))

    async def release_claim(self, call_id: str, owner: str | None = None) -> None:
        """Give up a claim, of `owner` or of anyone: the call was not made."""
        await self._write(lambda tx: writes.release_claim(tx, call_id, owner))

    async def release_claims(self, owner: str) -> None:
        """Give up all claims of `owner`."""
        await self._write(lambda tx: writes.release_claims(tx, owner))

    async def record_advance(self, advance: Advance) -> None:
        """Keep the new nodes, move known ones forward, set the expanded ones to KEPT."""
        columns = _nodes(advance)
        await self._write(lambda tx: writes.record_advance(tx, advance.question, columns, advance.expanded))

    async def trajectories(self, question_id: str) -> list[tuple[Trajectory, Verdict | None]]:
        """The trajectories of a question with their verdicts, by id."""
        return await self._read(lambda cursor: reads.trajectories(cursor, question_id))

    async def rulings(self, question_id: str) -> list[Ruling]:
        """The rulings on the trajectories of a question, by trajectory and judge."""
        return await self._read(lambda cursor: reads.rulings(cursor, question_id))

    async def consensus(self, question_id: str) -> Consensus | None:
        """The graph of a question's trajectories, if it is settled and has any."""
        return await self._read(lambda cursor: reads.consensus(cursor, question_id))

    async def judged(self, after: tuple[int, str] = (-1, ""), limit: int = 100, accepted_only: bool = False) -> list[Judged]:
        """A page of all trajectories, or of the accepted ones, with all that is said of them, in the order of `accepted`."""
        return await self._read(lambda cursor: judged(cursor, after, limit, accepted_only))

    async def record_failure(self, failure: Failure) -> None:
        """Keep a failure."""
        columns = rows.failure_row(failure)
        await self._write(lambda tx: writes.record_failure(tx, columns))

    async def failures(self, after: str = "", limit: int = 1000) -> list[Failure]:
        """The failures whose id is above `after`, by id."""
        return await self._read(lambda cursor: reads.failures(cursor, after, limit))

    async def failures_about(self, subject: str) -> list[Failure]:
        """The failures about a subject, by id."""
        return await self._read(lambda cursor: reads.failures_about(cursor, subject))

    # Students

    async def end_search(self) -> None:
        """Note that no more trajectories will come."""
        await self._write(learning.end_search)

    async def plan_epoch(self, epoch: int, least: int = 0) -> Plan | None:
        """The plan of an epoch, decided now if it is not yet; None while fewer than `least` are new and more will come."""
        return await self._write(lambda tx: learning.plan_epoch(tx, epoch, least))

    async def lessons(self, epoch: int, student: str | None = None, best_only: bool = False) -> list[Lesson]:
        """What arrived with the plan of an epoch: all of it, or what is routed to a student; by question, best score first."""
        return await self._read(lambda cursor: learning.lessons(cursor, epoch, student, best_only))

    async def record_routes(self, routes: Sequence[Route]) -> None:
        """Keep the routes of a round, all or nothing."""
        columns = [rows.route_row(route) for route in routes]
        await self._write(lambda tx: learning.add_routes(tx, columns))

    async def routes(self, number: int) -> list[Route]:
        """The routes of a round, by trajectory and student."""
        return await self._read(lambda cursor: learning.routes(cursor, number))

    async def record_training(
        self, reports: Sequence[Report], metrics: Sequence[Metrics], checkpoint: Checkpoint | None = None
    ) -> None:
        """Keep what a student measured. A checkpoint of the same update replaces the one before: it is what lies on disk."""
        op = partial(
            learning.record_training,
            reports=[rows.report_row(report) for report in reports],
            metrics=[rows.metrics_row(one) for one in metrics],
            checkpoint=None if checkpoint is None else rows.checkpoint_row(checkpoint),
        )
        await self._write(op)

    async def reports(self, after: int, until: int) -> list[Report]:
        """What all students reported of the updates above `after`, up to `until`."""
        return await self._read(lambda cursor: learning.reports(cursor, after, until))

    async def last_updates(self) -> dict[str, int]:
        """The last update that each student has told of."""
        return await self._read(learning.last_updates)

    async def checkpoints(self, student: str) -> list[Checkpoint]:
        """The checkpoints of a student, by update."""
        return await self._read(lambda cursor: learning.checkpoints(cursor, student))

    async def metrics(self, student: str) -> list[Metrics]:
        """The metrics of a student, by update."""
        return await self._read(lambda cursor: learning.metrics(cursor, student))

    async def record_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Keep answers to held-out questions."""
        columns = [rows.attempt_row(attempt) for attempt in attempts]
        await self._write(lambda tx: writes.record_attempts(tx, columns))

    async def attempts(self, model: str) -> list[Attempt]:
        """The attempts of a model, by question, sample and id."""
        return await self._read(lambda cursor: reads.attempts(cursor, model))

    # Control

    async def ask(self, verb: Verb, subject: str = "", value: str | None = None, *, was: str | None = None, by: str) -> int:
        """Ask something of the run, as `by`; its number. A requeue is done when this returns, or is a `StoreError`."""
        return await self._write(lambda tx: control.ask(tx, verb, subject, value, was, by))

    async def controls(self, after: int = 0, limit: int = 1000) -> list[Control]:
        """What was asked, above a number, in order."""
        return await self._read(lambda cursor: control.controls(cursor, after, limit))

    async def paused(self) -> bool:
        """Whether the whole run is paused."""
        return await self._read(control.paused)

    async def answer(self, number: int, outcome: str) -> None:
        """Note what came of what was asked."""
        await self._write(lambda tx: control.answer(tx, number, outcome))

    async def beat(self, owner: str, state: Mapping[str, Any] | None) -> None:
        """Tell what the process `owner` is doing; None: it ends."""
        await self._write(lambda tx: control.still(tx, owner) if state is None else control.beat(tx, owner, state))

    # The whole

    async def counts(self) -> dict[str, int]:
        """The counts by name, such as `questions.solved`, `nodes.pruned`, `trajectories.accepted`, `tokens.prompt`."""
        return await self._read(reads.counts)

    async def mean_score(self) -> float | None:
        """The mean score of the accepted trajectories that have one, to a billionth."""
        return await self._read(reads.mean_score)

    async def page(self, read: Callable[Concatenate[sqlite3.Cursor, P], T], *about: P.args, **which: P.kwargs) -> T:
        """What a function of `pages` or `training_pages` reads: `await store.page(pages.tree, question, None, 100)`."""
        return await self._read(lambda cursor: read(cursor, *about, **which))

    async def events(self, after: int = 0, limit: int = 1000) -> list[Event]:
        """The events whose number is above `after`, in the order of their commits."""
        return await self._read(lambda cursor: reads.events(cursor, after, limit))

    async def last_event(self) -> int:
        """The number of the newest event; 0 of none."""
        return await self._read(reads.last_event)

    async def dump(self) -> dict[str, list[dict[str, Any]]]:
        """Every table's rows by primary key, without times and the numbers of events: equal for equal runs."""
        return await self._read(reads.dump)


def _graph(consensus: Consensus) -> tuple[rows.Columns, list[rows.Columns]]:
    return rows.consensus_row(consensus), [rows.standing_row(each, consensus.question) for each in consensus.standings]


def _nodes(advance: Advance) -> list[rows.Columns]:
    return [rows.node_row(node) for node in (*advance.kept, *advance.finished, *advance.pruned, *advance.late)]
