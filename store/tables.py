"""The SQL tables: one class per kind of row. Private to `store`.

Invariant: nouns that have a content hash are keyed by it, the others by what names them, so that a repeated insert finds
its row. Columns that hold times are named `time`, `latency_s`, `seconds` or `*_at`; all others are the same in every
repetition of a deterministic run. Tuples and mappings are JSON text. Not covered: row <-> noun (`rows.py`), and how tables
come to be in a file (`migrations/`).
"""

from __future__ import annotations

from sqlalchemy import Index, Table, UniqueConstraint
from sqlalchemy.orm import declared_attr
from sqlmodel import Field, SQLModel


class _Row(SQLModel):
    """The table of `NodeRow` is `node`."""

    # SQLModel says it is a declared_attr, whose types know columns and not names
    @declared_attr  # pyright: ignore[reportArgumentType]
    def __tablename__(cls) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return cls.__name__.removesuffix("Row").lower()


class RunRow(_Row, table=True):
    """The run that this database belongs to; there is at most one."""

    id: str = Field(primary_key=True)
    name: str
    config: str
    state: str
    searched: bool
    started_at: float
    finished_at: float | None


class QuestionRow(_Row, table=True):
    """A question in its place, and where it stands."""

    __table_args__ = (
        UniqueConstraint("split", "position", name="uq_question_position"),
        Index("ix_question_work", "split", "state", "position"),
    )

    id: str = Field(primary_key=True)
    split: str
    position: int
    text: str
    answer: str | None
    kind: str
    choices: str
    aliases: str
    context: str | None
    source: str
    meta: str
    state: str
    reason: str
    target: str | None
    target_support: float | None
    lease_owner: str | None
    lease_expires_at: float | None


class NodeRow(_Row, table=True):
    """A scored candidate step."""

    __table_args__ = (Index("ix_node_question", "question"),)

    id: str = Field(primary_key=True)
    question: str = Field(foreign_key="question.id")
    parent: str | None = Field(foreign_key="node.id")
    depth: int
    rank: int
    state: str
    step_index: int
    title: str
    text: str
    author: str
    finish: str
    authors: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    score: float
    logprobs: str
    prover: str
    target: str
    cost: float | None
    reason: str


class CallRow(_Row, table=True):
    """A finished request to an engine."""

    id: str = Field(primary_key=True)
    subject: str = Field(index=True)
    agent: str
    engine: str
    purpose: str
    request: str
    response: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    latency_s: float
    cost: float | None
    reused: bool


class ClaimRow(_Row, table=True):
    """A request that a living run is making, in a ledger that several runs share."""

    id: str = Field(primary_key=True)
    owner: str = Field(index=True)
    expires_at: float


class TrajectoryRow(_Row, table=True):
    """One whole reasoning of a question."""

    __table_args__ = (Index("ix_trajectory_question", "question"),)

    id: str = Field(primary_key=True)
    question: str = Field(foreign_key="question.id")
    nodes: str
    teachers: str
    text: str
    conclusion: str
    answer: str | None
    origin: str
    score: float | None
    best: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    where: str | None
    style: str | None
    target: str | None
    cost: float | None


class RulingRow(_Row, table=True):
    """What one judge says of one trajectory."""

    trajectory: str = Field(primary_key=True, foreign_key="trajectory.id")
    judge: str = Field(primary_key=True)
    ruled: str
    reason: str
    details: str
    tries: int


class ConsensusRow(_Row, table=True):
    """The graph of a question's trajectories: its clusters and edges."""

    question: str = Field(primary_key=True, foreign_key="question.id")
    embedder: str
    clusters: str
    edges: str
    target: str | None
    target_support: float | None


class StandingRow(_Row, table=True):
    """Where one trajectory stands in its question's graph."""

    trajectory: str = Field(primary_key=True, foreign_key="trajectory.id")
    question: str = Field(foreign_key="question.id", index=True)
    centrality: float
    nearest: float
    support: float | None
    misleading: bool


class VerdictRow(_Row, table=True):
    """What the sift decided about one trajectory."""

    __table_args__ = (Index("ix_verdict_epoch", "outcome", "epoch"),)

    trajectory: str = Field(primary_key=True, foreign_key="trajectory.id")
    outcome: str
    reason: str
    target: str | None
    epoch: int | None


class PlanRow(_Row, table=True):
    """Which epochs have begun."""

    epoch: int = Field(primary_key=True)
    arrivals: int
    ended: bool


class RouteRow(_Row, table=True):
    """Which student learns a trajectory, in which round."""

    __table_args__ = (Index("ix_route_student", "student", "trajectory", "round"), Index("ix_route_round", "round"))

    id: str = Field(primary_key=True)
    trajectory: str = Field(foreign_key="trajectory.id")
    student: str
    round: int
    gate: int
    probability: float


class FailureRow(_Row, table=True):
    """One item's failure."""

    id: str = Field(primary_key=True)
    where: str
    kind: str
    message: str
    tries: int
    subject: str = Field(index=True)
    request: str


class AttemptRow(_Row, table=True):
    """One answer of a model to a held-out question."""

    __table_args__ = (Index("ix_attempt_model", "model", "question", "sample"),)

    id: str = Field(primary_key=True)
    model: str
    question: str = Field(foreign_key="question.id")
    sample: int
    text: str
    answer: str | None
    correct: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class ReportRow(_Row, table=True):
    """What one student measured on one trajectory."""

    __table_args__ = (Index("ix_report_update", "update"), Index("ix_report_student", "student", "update"))

    student: str = Field(primary_key=True)
    trajectory: str = Field(primary_key=True, foreign_key="trajectory.id")
    update: int = Field(primary_key=True)
    cross_entropy: float
    routed: bool
    alpha: float | None
    adaptability: float | None
    consensus: float | None
    difficulty: float | None
    peer: float | None


class MetricsRow(_Row, table=True):
    """One student's named numbers at one update."""

    student: str = Field(primary_key=True)
    update: int = Field(primary_key=True)
    numbers: str


class CheckpointRow(_Row, table=True):
    """One student's checkpoint at one update."""

    student: str = Field(primary_key=True)
    update: int = Field(primary_key=True)
    directory: str
    config_hash: str
    final: bool


class StageRow(_Row, table=True):
    """How long one stage has worked, over all processes of the run."""

    name: str = Field(primary_key=True)
    seconds: float


class CountRow(_Row, table=True):
    """A running count, moved in the transaction of the change that it counts."""

    name: str = Field(primary_key=True)
    value: int


class HistoryRow(_Row, table=True):
    """By how much a count grew in one minute since the epoch, and what else is counted by the minute."""

    __table_args__ = (Index("ix_history_minute", "minute_at"),)

    name: str = Field(primary_key=True)
    minute_at: int = Field(primary_key=True)
    value: int


class PulseRow(_Row, table=True):
    """What the living process last told of itself."""

    owner: str = Field(primary_key=True)
    beat_at: float
    state: str


class ControlRow(_Row, table=True):
    """What somebody asked of the run, and what came of it."""

    id: int = Field(primary_key=True)
    verb: str
    subject: str
    value: str | None
    was: str | None
    by: str
    asked_at: float
    outcome: str


class EventRow(_Row, table=True):
    """One line of the log; `seq` follows the order of commits."""

    seq: int = Field(primary_key=True)
    time: float
    kind: str
    subject: str


def table(row: type[SQLModel]) -> Table:
    """The SQLAlchemy table behind a row class."""
    return SQLModel.metadata.tables[str(row.__tablename__)]
