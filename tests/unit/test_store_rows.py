"""Every noun survives its row; what is not of its vocabulary never reaches the database; no statement scans a table."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ClauseElement, Select, Update, insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import SQLModel

from store import reads, rows, tables, writes
from store.database import execute
from store.tables import table
from store.types import (
    Attempt,
    Call,
    Checkpoint,
    Failure,
    Metrics,
    Node,
    NodeState,
    Outcome,
    Question,
    Report,
    Route,
    Ruling,
    Score,
    Step,
    Trajectory,
    Usage,
    Verdict,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WHOLE = st.integers(0, 2**62)
REAL = st.floats(allow_nan=False, allow_infinity=False)
LOGPROB = st.floats(max_value=0, allow_nan=False)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | REAL | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MAPPING = st.dictionaries(TEXT, JSON, max_size=3)
USAGE = st.builds(Usage, prompt=WHOLE, completion=WHOLE, cached=WHOLE)
STEP = st.builds(Step, index=WHOLE, title=TEXT, text=TEXT, author=TEXT, finish=st.sampled_from(["step", "closed", "capped"]))
SCORE = st.builds(
    Score,
    value=st.floats(0, 1),
    logprobs=st.lists(LOGPROB, max_size=4).map(tuple),
    prover=TEXT,
    target=st.sampled_from(["gold", "consensus"]),
)
NOUNS = {
    Question: (
        st.builds(
            Question,
            id=TEXT,
            text=TEXT,
            answer=st.none() | TEXT,
            kind=st.sampled_from(["math", "choice", "boolean", "entailment", "span", "open"]),
            choices=TEXTS,
            aliases=TEXTS,
            context=st.none() | TEXT,
            source=TEXT,
            meta=MAPPING,
        ),
        rows.question_row,
        rows.question_of,
        tables.QuestionRow,
    ),
    Node: (
        st.builds(
            Node,
            id=TEXT,
            question=TEXT,
            parent=st.none() | TEXT,
            depth=WHOLE,
            rank=WHOLE,
            step=STEP,
            authors=TEXTS,
            usage=USAGE,
            score=SCORE,
            state=st.sampled_from(NodeState),
        ),
        rows.node_row,
        rows.node_of,
        tables.NodeRow,
    ),
    Call: (
        st.builds(
            Call,
            id=TEXT,
            subject=TEXT,
            engine=TEXT,
            purpose=st.sampled_from(["propose", "score", "answer", "evaluate"]),
            request=MAPPING,
            response=MAPPING,
            usage=USAGE,
            latency_s=st.floats(0, 1e6),
        ),
        rows.call_row,
        rows.call_of,
        tables.CallRow,
    ),
    Trajectory: (
        st.builds(
            Trajectory,
            id=TEXT,
            question=TEXT,
            nodes=TEXTS,
            teachers=TEXTS,
            text=TEXT,
            conclusion=TEXT,
            answer=st.none() | TEXT,
            origin=st.sampled_from(["search", "style"]),
            score=st.none() | st.floats(0, 1),
            best=st.booleans(),
            usage=USAGE,
            where=st.sampled_from([None, "statement", "box", "last"]),
            style=st.none() | TEXT,
            target=st.sampled_from([None, "gold", "consensus"]),
            cost=st.none() | REAL,
        ),
        rows.trajectory_row,
        rows.trajectory_of,
        tables.TrajectoryRow,
    ),
    Verdict: (
        st.builds(
            Verdict,
            trajectory=TEXT,
            outcome=st.sampled_from(Outcome),
            reason=TEXT,
            target=st.sampled_from([None, "gold", "consensus"]),
        ),
        rows.verdict_row,
        rows.verdict_of,
        tables.VerdictRow,
    ),
    Ruling: (
        st.builds(
            Ruling,
            trajectory=TEXT,
            judge=TEXT,
            ruled=st.sampled_from(["valid", "invalid", "unreadable"]),
            reason=TEXT,
            details=MAPPING,
            tries=WHOLE,
        ),
        rows.ruling_row,
        rows.ruling_of,
        tables.RulingRow,
    ),
    Route: (
        st.builds(
            Route, id=TEXT, trajectory=TEXT, student=TEXT, round=WHOLE, gate=st.integers(0, 1), probability=st.floats(0, 1)
        ),
        rows.route_row,
        rows.route_of,
        tables.RouteRow,
    ),
    Failure: (
        st.builds(Failure, id=TEXT, where=TEXT, kind=TEXT, message=TEXT, tries=WHOLE, subject=TEXT),
        rows.failure_row,
        rows.failure_of,
        tables.FailureRow,
    ),
    Attempt: (
        st.builds(
            Attempt,
            id=TEXT,
            model=TEXT,
            question=TEXT,
            sample=WHOLE,
            text=TEXT,
            answer=st.none() | TEXT,
            correct=st.booleans(),
            usage=USAGE,
        ),
        rows.attempt_row,
        rows.attempt_of,
        tables.AttemptRow,
    ),
    Report: (
        st.builds(Report, student=TEXT, trajectory=TEXT, update=WHOLE, cross_entropy=REAL),
        rows.report_row,
        rows.report_of,
        tables.ReportRow,
    ),
    Metrics: (
        st.builds(Metrics, student=TEXT, update=WHOLE, values=st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=3)),
        rows.metrics_row,
        rows.metrics_of,
        tables.MetricsRow,
    ),
    Checkpoint: (
        st.builds(Checkpoint, student=TEXT, update=WHOLE, directory=TEXT, config_hash=TEXT, final=st.booleans()),
        rows.checkpoint_row,
        rows.checkpoint_of,
        tables.CheckpointRow,
    ),
}
UNSET = dict.fromkeys(("target", "target_support", "lease_owner", "lease_expires_at"))
PLACE = {"split": "train", "position": 0, "state": "pending", "reason": "", **UNSET}


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    for stored in SQLModel.metadata.sorted_tables:
        for part in (CreateTable(stored), *(CreateIndex(index) for index in stored.indexes)):
            connection.execute(str(part.compile(dialect=sqlite.dialect())))
    yield connection
    connection.close()


def through_the_database(database: sqlite3.Connection, row: dict[str, Any], kind: type[SQLModel]) -> sqlite3.Row:
    stored = table(kind)
    execute(database.cursor(), inserted(kind), {**(PLACE if kind is tables.QuestionRow else {}), **row})
    try:
        return database.execute(f'SELECT * FROM "{stored.name}"').fetchone()
    finally:
        database.rollback()


def inserted(kind: type[SQLModel], known: dict[type[SQLModel], Any] = {}) -> Any:  # noqa: B006 - one statement a table
    return known.setdefault(kind, insert(table(kind)))


@pytest.mark.parametrize("kind", NOUNS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_noun_survives_its_row(database: sqlite3.Connection, kind: type, data: st.DataObject) -> None:
    nouns, row_of, noun_of, stored = NOUNS[kind]
    noun = data.draw(nouns)
    assert noun_of(through_the_database(database, row_of(noun), stored)) == noun


STEP_1 = Step(index=1, title="t", text="x", author="a", finish="step")
NODE = Node(
    id="n",
    question="q",
    parent=None,
    depth=1,
    rank=0,
    step=STEP_1,
    authors=("a",),
    usage=Usage(),
    score=Score(value=0.5, logprobs=(), prover="p"),
    state=NodeState.OPEN,
)


@pytest.mark.parametrize(
    ("row_of", "noun"),
    [
        (rows.node_row, replace(NODE, state="lost")),
        (rows.node_row, replace(NODE, step=replace(STEP_1, finish="bored"))),
        (rows.node_row, replace(NODE, score=replace(NODE.score, value=float("nan")))),
        (rows.question_row, Question(id="q", text="", answer=None, kind="riddle")),
        (rows.verdict_row, Verdict(trajectory="t", outcome="splendid", reason="")),
        (rows.report_row, Report(student="s", trajectory="t", update=1, cross_entropy=float("inf"))),
    ],
)
def test_what_is_not_of_its_vocabulary_is_refused(row_of: Callable[[Any], Any], noun: Any) -> None:
    with pytest.raises(ValueError, match="is not"):
        row_of(noun)


STATEMENTS = {
    f"{module.__name__}.{name}": value
    for module in (reads, writes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, Select | Update)
}
SMALL = {"run", "count", "stage"}
"""Tables of at most some dozens of rows."""


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_scans_a_table(database: sqlite3.Connection, name: str) -> None:
    for line in plan(database, STATEMENTS[name]):
        assert not line.startswith("SCAN") or line.split()[1] in SMALL, f"{name}: {line}"


def plan(database: sqlite3.Connection, statement: ClauseElement) -> list[str]:
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    return [row["detail"] for row in database.execute(f"EXPLAIN QUERY PLAN {compiled}", compiled.params)]
