"""What the inspector says that is not a row of the store: the run as a person wants to see it.

Invariant: made of what `store` and the living process tell, computed in `overview.py`. Times are seconds since the epoch.
Not covered: rows and pages of them (`store.lines`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

RunState = Literal["running", "paused", "finished", "interrupted", "lost"]
"""`lost`: the store says that it runs, and nobody has been heard for a while: its process was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLine:
    """A stage: how long it has worked over all lives of the run, and how far it is."""

    name: str
    seconds: float
    active: bool
    done: int | None
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLine:
    """A teacher, the prover or a judge. `recent` figures are of the last minutes; latencies are upper bounds of buckets that
    double, of the last minutes if there were calls, else of all time; `won` is its share of the steps of chosen paths, early, in
    the middle and late, None where nothing was chosen; `idle`: its engine is not open."""

    name: str
    role: Literal["teacher", "prover", "judge", "student"]
    engine: str
    state: Literal["asked", "parked", "paused", "gone", "idle"]
    why: str
    calls: int
    recent_calls: int
    tokens: int
    usd: float
    cap_usd: float | None
    cap_tokens: int | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    won: Mapping[str, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLine:
    """An engine of the living process."""

    name: str
    in_flight: int
    limit: int
    waiting: int
    parked: str | None
    gone: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLine:
    """A student: updates so far, of how many if that is known, and where it ends."""

    name: str
    model: str
    updates: int
    of: int | None
    final: str | None
    stopped: str | None
    routed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person should see at once."""

    kind: Literal["no_success", "parked", "paused", "lost", "budget", "failures", "stopped"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A line that the living process told."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """All of the run at one moment. `balance` says whether the counts add up: none is below zero, and every unsolved question has
    one reason."""

    name: str
    id: str
    state: RunState
    now: float
    seq: int
    started_at: float
    finished_at: float | None
    beat_at: float | None
    pid: int | None
    stages: Sequence[StageLine]
    questions: Mapping[str, int]
    unsolved: Mapping[str, int]
    nodes: Mapping[str, int]
    trajectories: Mapping[str, int]
    rulings: Mapping[str, Mapping[str, int]]
    balance: bool
    accepted: int
    wanted: int | None
    misleading: int
    mean_score: float | None
    tokens: Mapping[str, int]
    calls: int
    calls_reused: int
    recent_s: float
    settled_per_minute: float
    tokens_per_s: float
    calls_per_minute: float
    usd: float
    cap_usd: float | None
    cap_tokens: int | None
    eta_s: float | None
    solved_at: float | None
    accepted_at: float | None
    answered_at: float | None
    failures: Mapping[str, int]
    recent_failures: Mapping[str, int]
    agents: Sequence[AgentLine]
    engines: Sequence[EngineLine]
    students: Sequence[StudentLine]
    alerts: Sequence[Alert]
    notes: Sequence[Note]
    in_flight_questions: int
    controls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as it was sent: its turns, and the beginning of the answer that was to be continued. `turns` is empty where they
    could not be made again from the configuration; then the request holds only their hash."""

    turns: Sequence[Message]
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLine:
    """How many trajectories of a style a student's gate was open for in a round."""

    student: str
    round: int
    style: str
    open: int
    shut: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of a control that was asked for."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """Why a request was refused."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the server lives, or is ready."""

    status: str
