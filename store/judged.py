"""Trajectories with all that is said of them, page by page: what exports are made of.

Invariant: a page is one committed state of the database, and is found by key. Not covered: steps that are in no trajectory
(`reads.tree`).
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from sqlalchemy import ClauseElement, FromClause, and_, bindparam, or_, select

from store import rows, tables
from store.database import execute
from store.tables import table
from store.types import Node, Outcome, Question, Ruling, Standing, Trajectory, Verdict


class Judged(NamedTuple):
    """A trajectory with the nodes of its path, root first, the rulings on it by judge, and its standing.

    `target` is the answer that stands in for its question's gold one, with the support that made it so; `position` its
    question's. `verdict` is None where none was given, which no settled question leaves so.
    """

    question: Question
    trajectory: Trajectory
    verdict: Verdict | None
    nodes: list[Node]
    rulings: list[Ruling]
    standing: Standing | None
    target: str | None
    target_support: float | None
    position: int

    @property
    def cursor(self) -> tuple[int, str]:
        """What the next page comes after."""
        return self.position, self.trajectory.id


_question, _node, _trajectory = table(tables.QuestionRow), table(tables.NodeRow), table(tables.TrajectoryRow)
_verdict, _ruling = table(tables.VerdictRow), table(tables.RulingRow)
_consensus, _standing = table(tables.ConsensusRow), table(tables.StandingRow)

_EVERY = _question.join(_trajectory, _trajectory.c.question == _question.c.id)
_ACCEPTED = _EVERY.join(_verdict, and_(_verdict.c.trajectory == _trajectory.c.id, _verdict.c.outcome == Outcome.ACCEPTED.value))


def _keys(source: FromClause) -> ClauseElement:
    return (
        select(_question.c.position, _question.c.id.label("question"), _trajectory.c.id.label("trajectory"))
        .select_from(source)
        .where(
            _question.c.split == "train",
            _question.c.position >= bindparam("position"),
            or_(_question.c.position > bindparam("position"), _trajectory.c.id > bindparam("after")),
        )
        .order_by(_question.c.position, _trajectory.c.id)
        .limit(bindparam("limit"))
    )


_EVERY_KEY, _ACCEPTED_KEY = _keys(_EVERY), _keys(_ACCEPTED)
_QUESTION = select(_question).where(_question.c.id == bindparam("key"))
_TRAJECTORY = select(_trajectory).where(_trajectory.c.id == bindparam("key"))
_NODE = select(_node).where(_node.c.id == bindparam("key"))
_VERDICT = select(_verdict).where(_verdict.c.trajectory == bindparam("key"))
_RULINGS = select(_ruling).where(_ruling.c.trajectory == bindparam("key")).order_by(_ruling.c.judge)
_STANDING = select(_standing).where(_standing.c.trajectory == bindparam("key"))
_TARGET = select(_consensus.c.target, _consensus.c.target_support).where(_consensus.c.question == bindparam("key"))


def judged(cursor: sqlite3.Cursor, after: tuple[int, str], limit: int, accepted_only: bool) -> list[Judged]:
    """The trajectories that come after a cursor, by question, then id."""
    keys = _ACCEPTED_KEY if accepted_only else _EVERY_KEY
    found = execute(cursor, keys, {"position": after[0], "after": after[1], "limit": limit}).fetchall()
    return [_judged(cursor, key["position"], key["question"], key["trajectory"]) for key in found]


def _judged(cursor: sqlite3.Cursor, position: int, question: str, trajectory: str) -> Judged:
    def of(statement: ClauseElement, key: str = trajectory) -> list[sqlite3.Row]:
        return execute(cursor, statement, {"key": key}).fetchall()

    (row,) = [rows.trajectory_of(row) for row in of(_TRAJECTORY)]
    (asked,) = [rows.question_of(row) for row in of(_QUESTION, question)]
    target, target_support = next(iter(of(_TARGET, question)), (None, None))
    return Judged(
        question=asked,
        trajectory=row,
        verdict=next((rows.verdict_of(row) for row in of(_VERDICT)), None),
        nodes=[rows.node_of(node) for id in row.nodes for node in of(_NODE, id)],
        rulings=[rows.ruling_of(row) for row in of(_RULINGS)],
        standing=next((rows.standing_of(row) for row in of(_STANDING)), None),
        target=target,
        target_support=target_support,
        position=position,
    )
