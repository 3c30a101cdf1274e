"""What students and the router read and write: plans of epochs, lessons, routes, reports, metrics, checkpoints.

Invariant: an epoch's plan is decided once, by whoever begins it first, and never changes; a report that comes again changes
nothing. As in `writes.py` and `reads.py`, each op is part of one transaction. Not covered: checking nouns (`rows.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from sqlalchemy import and_, bindparam, case, func, or_, select, update
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlmodel import SQLModel

from store import rows, tables
from store.database import StoreError, execute
from store.rows import Columns
from store.tables import table
from store.types import Checkpoint, Lesson, Metrics, Outcome, Plan, Question, Report, Route
from store.writer import Transaction

_run, _question, _trajectory = table(tables.RunRow), table(tables.QuestionRow), table(tables.TrajectoryRow)
_verdict, _route, _plan = table(tables.VerdictRow), table(tables.RouteRow), table(tables.PlanRow)
_report, _metrics, _checkpoint = table(tables.ReportRow), table(tables.MetricsRow), table(tables.CheckpointRow)


def _new(row: type[SQLModel]) -> Insert:
    return insert(table(row)).on_conflict_do_nothing()


_NEW_ROUTE, _NEW_PLAN = _new(tables.RouteRow), _new(tables.PlanRow)
_NEW_REPORT, _NEW_METRICS = _new(tables.ReportRow), _new(tables.MetricsRow)

_PLAN = select(_plan).where(_plan.c.epoch == bindparam("number"))
_IS_WAITING = and_(_verdict.c.outcome == Outcome.ACCEPTED.value, _verdict.c.epoch == None)  # noqa: E711 - SQL
_WAITING = select(func.count()).select_from(_verdict).where(_IS_WAITING)
_TAKE = update(_verdict).values(epoch=bindparam("number")).where(_IS_WAITING)
_SEARCHED = select(_run.c.searched)
_SET_SEARCHED = update(_run).values(searched=True).where(~_run.c.searched)

_put = insert(_checkpoint)
_PUT_CHECKPOINT = _put.on_conflict_do_update(
    index_elements=["student", "update"],
    set_={"directory": _put.excluded.directory, "config_hash": _put.excluded.config_hash, "final": _put.excluded.final},
    where=or_(
        _checkpoint.c.directory != _put.excluded.directory,
        _checkpoint.c.config_hash != _put.excluded.config_hash,
        _checkpoint.c.final != _put.excluded.final,
    ),
)

_IS_ROUTED = (
    select(_route.c.id)
    .where(_route.c.student == bindparam("student"), _route.c.trajectory == _trajectory.c.id, _route.c.gate > 0)
    .exists()
)
_LESSONS = (
    select(_question.c.id.label("question"), _trajectory.c.id.label("trajectory"))
    .select_from(
        _verdict.join(_trajectory, _trajectory.c.id == _verdict.c.trajectory).join(
            _question, _question.c.id == _trajectory.c.question
        )
    )
    .where(_verdict.c.outcome == Outcome.ACCEPTED.value, _verdict.c.epoch == bindparam("number"))
    .where(case((bindparam("best") == 1, _trajectory.c.best), else_=True))
    .order_by(_question.c.position, _trajectory.c.score.desc().nulls_last(), _trajectory.c.id)
)
_ROUTED_LESSONS = _LESSONS.where(_IS_ROUTED)
_THE_QUESTION = select(_question).where(_question.c.id == bindparam("key"))
_THE_TRAJECTORY = select(_trajectory).where(_trajectory.c.id == bindparam("key"))
_STYLE = select(_trajectory.c.style).where(_trajectory.c.id == bindparam("key"))
_ROUTES = select(_route).where(_route.c.round == bindparam("number")).order_by(_route.c.trajectory, _route.c.student)
_REPORTS = (
    select(_report)
    .where(_report.c.update > bindparam("after"), _report.c.update <= bindparam("until"))
    .order_by(_report.c.update, _report.c.trajectory, _report.c.student)
)
_METRICS = select(_metrics).where(_metrics.c.student == bindparam("student")).order_by(_metrics.c.update)
_LAST_UPDATES = select(_metrics.c.student, func.max(_metrics.c.update).label("last")).group_by(_metrics.c.student)
_CHECKPOINTS = select(_checkpoint).where(_checkpoint.c.student == bindparam("student")).order_by(_checkpoint.c.update)


def end_search(tx: Transaction) -> None:
    """Note that no more trajectories will come. Raises `StoreError` if no run has begun."""
    if not tx.rows(_SEARCHED, {}):
        raise StoreError("no run has begun in this store")
    if tx.change(_SET_SEARCHED, {}):
        tx.event("search_ended", "")


def plan_epoch(tx: Transaction, epoch: int, least: int) -> Plan | None:
    """The plan of an epoch; if there is none yet, one of all that has been accepted by now.

    None while fewer than `least` have arrived since the last plan and more will.
    """
    if found := tx.rows(_PLAN, {"number": epoch}):
        return _plan_of(found[0])
    waiting, ended = tx.rows(_WAITING, {})[0][0], bool(tx.rows(_SEARCHED, {})[0][0])
    if waiting < least and not ended:
        return None
    tx.change(_TAKE, {"number": epoch})
    tx.change(_NEW_PLAN, {"epoch": epoch, "arrivals": waiting, "ended": ended})
    tx.event("plan", str(epoch))
    return Plan(epoch=epoch, arrivals=waiting, ended=ended)


def add_routes(tx: Transaction, routes: Iterable[Columns]) -> None:
    """Keep routes; open ones are counted by student, and all by round, gate and style ("search" for what was searched)."""
    styles: dict[str, str] = {}
    for row in routes:
        if tx.change(_NEW_ROUTE, row):
            tx.event("route", row["trajectory"])
            tx.count(f"routes.{row['student']}", row["gate"])
            if (trajectory := row["trajectory"]) not in styles:
                styles[trajectory] = tx.rows(_STYLE, {"key": trajectory})[0]["style"] or "search"
            tx.count(f"gates.{row['round']}.{row['gate']}.{styles[trajectory]}.{row['student']}")


def record_training(tx: Transaction, reports: Iterable[Columns], metrics: Iterable[Columns], checkpoint: Columns | None) -> None:
    """Keep what a student measured, and where its checkpoint of an update lies now."""
    for row in reports:
        if tx.change(_NEW_REPORT, row):
            tx.event("report", row["student"])
            tx.count(f"reports.{row['student']}")
    for row in metrics:
        if tx.change(_NEW_METRICS, row):
            tx.event("metrics", row["student"])
    if checkpoint is not None and tx.change(_PUT_CHECKPOINT, checkpoint):
        tx.event("checkpoint", checkpoint["student"])


def lessons(cursor: sqlite3.Cursor, epoch: int, student: str | None, best_only: bool) -> list[Lesson]:
    """What arrived with an epoch's plan, and is routed to `student` (None: to anyone or nobody): by question, then score."""
    statement = _LESSONS if student is None else _ROUTED_LESSONS
    params = {"number": epoch, "best": int(best_only)} | ({} if student is None else {"student": student})
    known: dict[str, tuple[Question, str | None]] = {}
    found = []
    for key in execute(cursor, statement, params).fetchall():
        if key["question"] not in known:
            row = execute(cursor, _THE_QUESTION, {"key": key["question"]}).fetchone()
            known[key["question"]] = rows.question_of(row), row["answer"] if row["answer"] is not None else row["target"]
        question, target = known[key["question"]]
        trajectory = rows.trajectory_of(execute(cursor, _THE_TRAJECTORY, {"key": key["trajectory"]}).fetchone())
        found.append(Lesson(question=question, trajectory=trajectory, target=target))
    return found


def routes(cursor: sqlite3.Cursor, number: int) -> list[Route]:
    """The routes of a round, by trajectory and student."""
    return [rows.route_of(row) for row in execute(cursor, _ROUTES, {"number": number}).fetchall()]


def reports(cursor: sqlite3.Cursor, after: int, until: int) -> list[Report]:
    """What all students reported of the updates above `after`, up to `until`."""
    return [rows.report_of(row) for row in execute(cursor, _REPORTS, {"after": after, "until": until}).fetchall()]


def last_updates(cursor: sqlite3.Cursor) -> dict[str, int]:
    """The last update that each student has told of."""
    return {row["student"]: row["last"] for row in execute(cursor, _LAST_UPDATES, {}).fetchall()}


def metrics(cursor: sqlite3.Cursor, student: str) -> list[Metrics]:
    """The metrics of a student, by update."""
    return [rows.metrics_of(row) for row in execute(cursor, _METRICS, {"student": student}).fetchall()]


def checkpoints(cursor: sqlite3.Cursor, student: str) -> list[Checkpoint]:
    """The checkpoints of a student, by update."""
    return [rows.checkpoint_of(row) for row in execute(cursor, _CHECKPOINTS, {"student": student}).fetchall()]


def _plan_of(row: sqlite3.Row) -> Plan:
    return Plan(epoch=row["epoch"], arrivals=row["arrivals"], ended=bool(row["ended"]))
