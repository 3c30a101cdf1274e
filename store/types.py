"""The nouns that every package shares.

Invariant: every noun is frozen, and its id is a hash of its content, so that writing it twice is harmless and a resumed
run makes the same ids. `None` means "not measured"; zero is a measurement. Not covered: how nouns are kept (`tables.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Kind = Literal["math", "choice", "boolean", "entailment", "span", "open"]
Finish = Literal["step", "closed", "capped"]
Origin = Literal["search", "style"]
Where = Literal["statement", "box", "last"]
Target = Literal["gold", "consensus"]
Ruled = Literal["valid", "invalid", "unreadable"]

_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def content_id(*parts: object) -> str:
    """The first 16 bytes, in hex, of SHA-256 over `parts` as canonical JSON: equal content, equal id, on any machine."""
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()[:32]


class QuestionState(StrEnum):
    """Where a question stands. SOLVED and UNSOLVED are terminal."""

    PENDING = "pending"
    LEASED = "leased"
    SOLVED = "solved"
    UNSOLVED = "unsolved"


class NodeState(StrEnum):
    """Where a node stands in its tree. OPEN is in the beam and not yet expanded, KEPT was in the beam and has been expanded,
    PRUNED fell out, LATE came after its step was pruned, FINISHED is a closed hypothesis that still competes (CoRD, Eq. 4)."""

    OPEN = "open"
    KEPT = "kept"
    PRUNED = "pruned"
    LATE = "late"
    FINISHED = "finished"


class Outcome(StrEnum):
    """The verdicts a trajectory can get; exactly one each. WRONG_ANSWER failed the answer check, UNSOUND the judges, MISLEADING
    is right by luck, DUPLICATE says what an accepted one says, SURPLUS is more than was asked for; UNDECIDED: nobody can tell."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    UNSOUND = "unsound"
    MISLEADING = "misleading"
    DUPLICATE = "duplicate"
    SURPLUS = "surplus"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with, usually, its gold answer. `choices` holds the option texts of a choice question, in order; `aliases`
    other answers that are as right as the gold one."""

    id: str
    text: str
    answer: str | None
    kind: Kind
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    context: str | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one request: `cached` counts those prompt tokens whose keys and values were not computed again."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt=self.prompt + other.prompt,
            completion=self.completion + other.completion,
            cached=self.cached + other.cached,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One reasoning step as its teacher wrote it. `index` counts from 1; `text` is the whole step including its header; `title`
    is the header's words. `finish`: "step" stopped before the next header, "closed" ended its reasoning, "capped" ran into a
    token cap."""

    index: int
    title: str
    text: str
    author: str
    finish: Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A proposed next step of the beam `parent` (None at the root); `authors` are all teachers that proposed this text. `usage`
    and `cost`, in US dollars (None where no price is known), are what the first of them took. `style` is how a whole reasoning
    was asked for, None for a step."""

    parent: str | None
    step: Step
    usage: Usage
    authors: tuple[str, ...]
    cost: float | None = None
    style: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Predictive perplexity in [0, 1] (CoRD, Eq. 3) with the log-prob of each answer token, in float32."""

    value: float
    logprobs: tuple[float, ...]
    prover: str
    target: Target = "gold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A scored candidate in its question's tree; `rank` is its place among those it last competed with, best first, and
    `reason` says why it was pruned."""

    id: str
    question: str
    parent: str | None
    depth: int
    rank: int
    step: Step
    authors: tuple[str, ...]
    usage: Usage
    score: Score
    state: NodeState
    cost: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """The one message that changes a tree. `kept` and `finished` are the new beam, `pruned` fell out (earlier finished hypotheses
    among them), `late` came after the prune, `expanded` are the ids of the beams that this advance grew from."""

    question: str
    expanded: tuple[str, ...] = ()
    kept: tuple[Node, ...] = ()
    pruned: tuple[Node, ...] = ()
    late: tuple[Node, ...] = ()
    finished: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One whole reasoning: `text` is the steps, `conclusion` what follows `</think>`, `answer` what was extracted from it.
    `where` says in which form the answer stood there; `style` how a sampled one was asked for; `target` what `score` is about.
    `best` marks tau*, the finished beam with the highest score of its question. `cost` is in US dollars, None where unknown."""

    id: str
    question: str
    nodes: tuple[str, ...]
    teachers: tuple[str, ...]
    text: str
    conclusion: str
    answer: str | None
    origin: Origin
    score: float | None
    best: bool
    usage: Usage
    where: Where | None = None
    style: str | None = None
    target: Target | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What one judge says of one trajectory; `details` is its whole answer in the form of the configured schema, empty where it
    could not be read."""

    trajectory: str
    judge: str
    ruled: Ruled
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The trajectories of a question that give the same answer, by id; `answer` is its most frequent form. `support` is their
    share of all trajectories of the question, `teachers` of all its distinct teachers; `strength` what the leading one is chosen
    by."""

    answer: str
    trajectories: tuple[str, ...]
    support: float
    teachers: float
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one trajectory stands in its question's graph: `centrality` by weighted PageRank, 1 is the average; `nearest` the
    highest similarity to another one; `support` that of its answer, None without one."""

    trajectory: str
    centrality: float
    nearest: float
    support: float | None
    misleading: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """The graph of a question's trajectories (methods part 4): `clusters`, the leading one first; `standings` by trajectory;
    `edges` as (trajectory, trajectory, similarity above 0), each once. `target` is the answer that stands in for a gold one, with
    the `target_support` that made it so; None where there is gold, or too little support."""

    question: str
    embedder: str
    clusters: tuple[Cluster, ...]
    standings: tuple[Standing, ...]
    edges: tuple[tuple[str, str, float], ...]
    target: str | None = None
    target_support: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the sift decided about one trajectory, and why; `target` is what its answer was compared with, None: with nothing."""

    trajectory: str
    outcome: Outcome
    reason: str
    target: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Whether this trajectory is to be learnt by this student in this round: its gate, 1 or 0, and the probability of 1."""

    id: str
    trajectory: str
    student: str
    round: int = 0
    gate: int = 1
    probability: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One finished request to an engine. `id` is the content key of the request: an equal request is never made twice. `agent` is
    who asked; `cost` in US dollars, None where no price is known; `reused`: an earlier run paid for it."""

    id: str
    subject: str
    agent: str
    engine: str
    purpose: Literal["propose", "score", "answer", "judge", "evaluate"]
    request: Mapping[str, Any]
    response: Mapping[str, Any]
    usage: Usage
    latency_s: float
    cost: float | None = None
    reused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One item's failure, as data: where, which kind, the message, after how many tries, about which subject. `kind` is a class
    of `agents.errors`; `request` the content key of the request that failed, "" for none."""

    id: str
    where: str
    kind: str
    message: str
    tries: int
    subject: str
    request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the log, written in the same transaction as the change that it tells of."""

    seq: int
    time: float
    kind: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One answer of a model to a held-out question. `model` names who answered ("student@before"); `sample` 0 is greedy."""

    id: str
    model: str
    question: str
    sample: int
    text: str
    answer: str | None
    correct: bool
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one student measured on one trajectory: mean cross-entropy (nats per response token) just before one update. `routed`:
    it was learnt there, not only measured. `alpha` is its weight among its question's (COMPACT, Eq. 7), with the three scores
    that made it; None where they were not measured. `peer` is the peer loss, None where no peer's message was there."""

    student: str
    trajectory: str
    update: int
    cross_entropy: float
    routed: bool = True
    alpha: float | None = None
    adaptability: float | None = None
    consensus: float | None = None
    difficulty: float | None = None
    peer: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Named numbers of one student at one update."""

    student: str
    update: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint directory of one student after `update` updates; `final` marks the end of its schedule."""

    student: str
    update: int
    directory: str
    config_hash: str
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which accepted trajectories an epoch is about: all that arrived up to it. `ended`: no more will arrive. The first process
    that begins an epoch decides it, for all students and the router."""

    epoch: int
    arrivals: int
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a student learns from: an accepted trajectory beside its question. `target` is the right answer: the gold one, or
    the consensus that stands in for it; None where there is neither."""

    question: Question
    trajectory: Trajectory
    target: str | None = None


def sum_cost(costs: Sequence[float | None]) -> float | None:
    """The sum of several costs in US dollars; None where one of them is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def sum_usage(usages: Sequence[Usage]) -> Usage:
    """The sum of several usages; of none, zero."""
    return sum(usages, Usage())
