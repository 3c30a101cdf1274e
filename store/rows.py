"""Row <-> noun, the door of the database: what comes in is checked here, since `table=True` models check nothing.

Invariant: `noun_of(row_of(noun)) == noun`, tuples as tuples and enums as enums; a number that is not finite, or a word
that is not of its vocabulary, is a `ValueError` before anything is queued. Not covered: columns that only the store keeps
(a question's place, state and lease).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from store.types import (
    Attempt,
    Call,
    Checkpoint,
    Cluster,
    Consensus,
    Event,
    Failure,
    Finish,
    Kind,
    Metrics,
    Node,
    NodeState,
    Origin,
    Outcome,
    Question,
    Report,
    Route,
    Ruled,
    Ruling,
    Score,
    Standing,
    Step,
    Target,
    Trajectory,
    Usage,
    Verdict,
    Where,
)

Columns = dict[str, Any]
Row = sqlite3.Row

_KINDS = get_args(Kind)
_FINISHES = get_args(Finish)
_ORIGINS = get_args(Origin)
_TARGETS = get_args(Target)
_WHERES = get_args(Where)
_RULED = get_args(Ruled)
_PURPOSES = ("propose", "score", "answer", "judge", "evaluate")

encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""JSON as the columns hold it."""


def _one_of(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _usage_columns(usage: Usage) -> Columns:
    return {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "cached_tokens": usage.cached}


def _usage(row: Row) -> Usage:
    return Usage(prompt=row["prompt_tokens"], completion=row["completion_tokens"], cached=row["cached_tokens"])


def _strings(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def question_row(question: Question) -> Columns:
    """The columns of a question, without its place and state."""
    return {
        "id": question.id,
        "text": question.text,
        "answer": question.answer,
        "kind": _one_of(question.kind, _KINDS),
        "choices": encoded(question.choices),
        "aliases": encoded(question.aliases),
        "context": question.context,
        "source": question.source,
        "meta": encoded(dict(question.meta)),
    }


def question_of(row: Row) -> Question:
    """The question of a row."""
    return Question(
        id=row["id"],
        text=row["text"],
        answer=row["answer"],
        kind=row["kind"],
        choices=_strings(row["choices"]),
        aliases=_strings(row["aliases"]),
        context=row["context"],
        source=row["source"],
        meta=json.loads(row["meta"]),
    )


def node_row(node: Node) -> Columns:
    """The columns of a node, its step and its score."""
    step, score = node.step, node.score
    return {
        "id": node.id,
        "question": node.question,
        "parent": node.parent,
        "depth": node.depth,
        "rank": node.rank,
        "state": NodeState(node.state).value,
        "step_index": step.index,
        "title": step.title,
        "text": step.text,
        "author": step.author,
        "finish": _one_of(step.finish, _FINISHES),
        "authors": encoded(node.authors),
        "score": _finite(score.value),
        "logprobs": encoded(score.logprobs),
        "prover": score.prover,
        "target": _one_of(score.target, _TARGETS),
        "cost": None if node.cost is None else _finite(node.cost),
        "reason": node.reason,
        **_usage_columns(node.usage),
    }


def node_of(row: Row) -> Node:
    """The node of a row."""
    return Node(
        id=row["id"],
        question=row["question"],
        parent=row["parent"],
        depth=row["depth"],
        rank=row["rank"],
        step=Step(index=row["step_index"], title=row["title"], text=row["text"], author=row["author"], finish=row["finish"]),
        authors=_strings(row["authors"]),
        usage=_usage(row),
        score=Score(value=row["score"], logprobs=tuple(json.loads(row["logprobs"])), prover=row["prover"], target=row["target"]),
        state=NodeState(row["state"]),
        cost=row["cost"],
        reason=row["reason"],
    )


def call_row(call: Call) -> Columns:
    """The columns of a call."""
    return {
        "id": call.id,
        "subject": call.subject,
        "agent": call.agent,
        "engine": call.engine,
        "purpose": _one_of(call.purpose, _PURPOSES),
        "request": encoded(call.request),
        "response": encoded(call.response),
        "latency_s": _finite(call.latency_s),
        "cost": None if call.cost is None else _finite(call.cost),
        "reused": call.reused,
        **_usage_columns(call.usage),
    }


def call_of(row: Row) -> Call:
    """The call of a row."""
    return Call(
        id=row["id"],
        subject=row["subject"],
        agent=row["agent"],
        engine=row["engine"],
        purpose=row["purpose"],
        request=json.loads(row["request"]),
        response=json.loads(row["response"]),
        usage=_usage(row),
        latency_s=row["latency_s"],
        cost=row["cost"],
        reused=bool(row["reused"]),
    )


def trajectory_row(trajectory: Trajectory) -> Columns:
    """The columns of a trajectory."""
    return {
        "id": trajectory.id,
        "question": trajectory.question,
        "nodes": encoded(trajectory.nodes),
        "teachers": encoded(trajectory.teachers),
        "text": trajectory.text,
        "conclusion": trajectory.conclusion,
        "answer": trajectory.answer,
        "origin": _one_of(trajectory.origin, _ORIGINS),
        "score": None if trajectory.score is None else _finite(trajectory.score),
        "best": bool(trajectory.best),
        "where": trajectory.where and _one_of(trajectory.where, _WHERES),
        "style": trajectory.style,
        "target": trajectory.target and _one_of(trajectory.target, _TARGETS),
        "cost": None if trajectory.cost is None else _finite(trajectory.cost),
        **_usage_columns(trajectory.usage),
    }


def trajectory_of(row: Row) -> Trajectory:
    """The trajectory of a row."""
    return Trajectory(
        id=row["id"],
        question=row["question"],
        nodes=_strings(row["nodes"]),
        teachers=_strings(row["teachers"]),
        text=row["text"],
        conclusion=row["conclusion"],
        answer=row["answer"],
        origin=row["origin"],
        score=row["score"],
        best=bool(row["best"]),
        usage=_usage(row),
        where=row["where"],
        style=row["style"],
        target=row["target"],
        cost=row["cost"],
    )


def verdict_row(verdict: Verdict) -> Columns:
    """The columns of a verdict."""
    target = verdict.target and _one_of(verdict.target, _TARGETS)
    outcome = Outcome(verdict.outcome).value
    return {"trajectory": verdict.trajectory, "outcome": outcome, "reason": verdict.reason, "target": target, "epoch": None}


def verdict_of(row: Row) -> Verdict:
    """The verdict of a row."""
    return Verdict(trajectory=row["trajectory"], outcome=Outcome(row["outcome"]), reason=row["reason"], target=row["target"])


def ruling_row(ruling: Ruling) -> Columns:
    """The columns of a ruling."""
    return {
        "trajectory": ruling.trajectory,
        "judge": ruling.judge,
        "ruled": _one_of(ruling.ruled, _RULED),
        "reason": ruling.reason,
        "details": encoded(dict(ruling.details)),
        "tries": ruling.tries,
    }


def ruling_of(row: Row) -> Ruling:
    """The ruling of a row."""
    return Ruling(**{**row, "details": json.loads(row["details"])})


def consensus_row(consensus: Consensus) -> Columns:
    """The columns of a consensus, without its standings."""
    return {
        "question": consensus.question,
        "embedder": consensus.embedder,
        "clusters": encoded([asdict(cluster) for cluster in consensus.clusters]),
        "edges": encoded([(one, other, _finite(similarity)) for one, other, similarity in consensus.edges]),
        "target": consensus.target,
        "target_support": None if consensus.target_support is None else _finite(consensus.target_support),
    }


def standing_row(standing: Standing, question: str) -> Columns:
    """The columns of a standing in the graph of a question."""
    return {
        **asdict(standing),
        "question": question,
        "centrality": _finite(standing.centrality),
        "nearest": _finite(standing.nearest),
        "misleading": bool(standing.misleading),
    }


def standing_of(row: Row) -> Standing:
    """The standing of a row."""
    return Standing(
        trajectory=row["trajectory"],
        centrality=row["centrality"],
        nearest=row["nearest"],
        support=row["support"],
        misleading=bool(row["misleading"]),
    )


def consensus_of(row: Row, standings: Sequence[Row]) -> Consensus:
    """The consensus of a row and of its standings' rows."""
    clusters = [Cluster(**{**each, "trajectories": tuple(each["trajectories"])}) for each in json.loads(row["clusters"])]
    return Consensus(
        question=row["question"],
        embedder=row["embedder"],
        clusters=tuple(clusters),
        standings=tuple(standing_of(each) for each in standings),
        edges=tuple((one, other, similarity) for one, other, similarity in json.loads(row["edges"])),
        target=row["target"],
        target_support=row["target_support"],
    )


def route_row(route: Route) -> Columns:
    """The columns of a route."""
    return {**asdict(route), "probability": _finite(route.probability)}


def route_of(row: Row) -> Route:
    """The route of a row."""
    return Route(**row)


def failure_row(failure: Failure) -> Columns:
    """The columns of a failure."""
    return asdict(failure)


def failure_of(row: Row) -> Failure:
    """The failure of a row."""
    return Failure(**row)


def attempt_row(attempt: Attempt) -> Columns:
    """The columns of an attempt."""
    return {
        "id": attempt.id,
        "model": attempt.model,
        "question": attempt.question,
        "sample": attempt.sample,
        "text": attempt.text,
        "answer": attempt.answer,
        "correct": bool(attempt.correct),
        **_usage_columns(attempt.usage),
    }


def attempt_of(row: Row) -> Attempt:
    """The attempt of a row."""
    return Attempt(
        id=row["id"],
        model=row["model"],
        question=row["question"],
        sample=row["sample"],
        text=row["text"],
        answer=row["answer"],
        correct=bool(row["correct"]),
        usage=_usage(row),
    )


def report_row(report: Report) -> Columns:
    """The columns of a report."""
    return {**asdict(report), "routed": bool(report.routed), "cross_entropy": _finite(report.cross_entropy)}


def report_of(row: Row) -> Report:
    """The report of a row."""
    return Report(**{**row, "routed": bool(row["routed"])})


def metrics_row(metrics: Metrics) -> Columns:
    """The columns of a student's metrics; a value may be infinite or not a number: that too was measured."""
    return {"student": metrics.student, "update": metrics.update, "numbers": encoded(dict(metrics.values))}


def metrics_of(row: Row) -> Metrics:
    """The metrics of a row."""
    return Metrics(student=row["student"], update=row["update"], values=json.loads(row["numbers"]))


def checkpoint_row(checkpoint: Checkpoint) -> Columns:
    """The columns of a checkpoint."""
    return {**asdict(checkpoint), "final": bool(checkpoint.final)}


def checkpoint_of(row: Row) -> Checkpoint:
    """The checkpoint of a row."""
    return Checkpoint(**{**row, "final": bool(row["final"])})


def event_of(row: Row) -> Event:
    """The event of a row."""
    return Event(**row)
