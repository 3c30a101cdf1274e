"""What a page of a view is made of: nouns cut down to a line, and nouns with all that belongs to them.

Invariant: nothing here decides anything; a field that was not measured is None. Not covered: how they are read (`pages.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from store.control import Pulse
from store.types import Consensus, NodeState, Outcome, QuestionState, Ruling, Standing

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some items in their order. `next` is what the next page comes after; None: this is the last one. A page that looked at as
    many rows as it may can be short, even empty, and still have a next one."""

    items: Sequence[T]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """The run at one moment: all its counts, its living process, and what happened in the last minutes.

    `recent` sums the growth of counts over `recent_s` seconds; `latencies` are of all time; `solved_at`, `answered_at` and
    `accepted_at` say when that last happened, in seconds since the epoch; None: never. `seq` is the last event's number. Students
    by name: how many `updates`, where their `finals` are, and why they `stopped` early.
    """

    seq: int
    state: str
    searched: bool
    started_at: float
    finished_at: float | None
    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    updates: Mapping[str, int]
    finals: Mapping[str, str]
    stopped: Mapping[str, str]
    pulses: Sequence[Pulse]
    recent: Mapping[str, int]
    latencies: Mapping[str, int]
    recent_s: float
    solved_at: float | None
    answered_at: float | None
    accepted_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionLine:
    """A question in a list. `trajectories` counts those that are settled; `best_score` is that of tau*."""

    position: int
    id: str
    split: str
    kind: str
    text: str
    answer: str | None
    target: str | None
    target_support: float | None
    state: QuestionState
    reason: str
    trajectories: int
    best_score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionWhole:
    """A question with all that was given, how many nodes of each state its tree has, and its failures."""

    line: QuestionLine
    choices: Sequence[str]
    aliases: Sequence[str]
    context: str | None
    source: str
    meta: Mapping[str, Any]
    nodes: Mapping[str, int]
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLine:
    """A node in a tree; `title` is the beginning of its step's. `place` is its number in the order of arrival."""

    place: int
    id: str
    parent: str | None
    depth: int
    rank: int
    state: NodeState
    step: int
    title: str
    author: str
    authors: Sequence[str]
    finish: str
    score: float
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLine:
    """A call, without what was sent and what came back."""

    place: int
    id: str
    subject: str
    agent: str
    engine: str
    purpose: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    latency_s: float
    cost: float | None
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallWhole:
    """A call with its request (whole turns by their hash) and its response."""

    line: CallLine
    request: Mapping[str, Any]
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWhole:
    """A node with its words, the log-probs of the answer's tokens (nats; None: no probability at all), those tokens where they
    are known, and the nodes from the root to it: their ids, and their steps' words."""

    line: NodeLine
    question: str
    text: str
    logprobs: Sequence[float | None]
    tokens: Sequence[str]
    prover: str
    target: str
    path: Sequence[str]
    steps: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryLine:
    """A trajectory in a list, with its verdict; `opening` is how its text begins."""

    place: int
    id: str
    question: str
    position: int
    teachers: Sequence[str]
    origin: str
    style: str | None
    score: float | None
    best: bool
    answer: str | None
    outcome: Outcome | None
    reason: str
    completion_tokens: int
    cost: float | None
    opening: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A student's gate for one trajectory in one round, and what it reported last of it."""

    student: str
    round: int
    gate: int
    probability: float
    update: int | None
    cross_entropy: float | None
    alpha: float | None
    adaptability: float | None
    consensus: float | None
    difficulty: float | None
    peer: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryWhole:
    """A trajectory with its words and all that is said of it."""

    line: TrajectoryLine
    nodes: Sequence[str]
    text: str
    conclusion: str
    where: str | None
    target: str | None
    rulings: Sequence[Ruling]
    standing: Standing | None
    assigned: Sequence[Assigned]


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonLine:
    """What a student was given, or not, in a round, and what it made of it."""

    place: int
    trajectory: TrajectoryLine
    assigned: Assigned


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLine:
    """A failure in a list."""

    place: int
    id: str
    where: str
    kind: str
    message: str
    tries: int
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsLine:
    """Named numbers of a student at one update; None: infinite, or no number any more."""

    student: str
    update: int
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLine:
    """The mean alpha that a student gave the trajectories of one teacher in one update, and of how many."""

    update: int
    teacher: str
    alpha: float
    cross_entropy: float
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLine:
    """By how much a count grew from `time`, in seconds since the epoch, on."""

    time: int
    name: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The consensus of a question, with the verdict and the teachers of each trajectory in it."""

    consensus: Consensus
    outcomes: Mapping[str, Outcome]
    teachers: Mapping[str, Sequence[str]]
