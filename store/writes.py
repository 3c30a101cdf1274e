"""The writes, as ops for the writer: each changes rows and, only if it really changed some, counts and events.

Invariant: running an op twice leaves what running it once left. A tree only moves forward (LATE, OPEN, FINISHED, then KEPT
or PRUNED), and a question's first settlement stands, so that an old message that comes again changes nothing.
An extended lease, a claim and a stage's seconds are about time, and have no event. Not covered: how a question ends
(`settling.py`), checking nouns (`rows.py`).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import Update, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlmodel import SQLModel

from store import tables
from store.database import StoreError
from store.rows import Columns
from store.splits import TRAIN, Split
from store.tables import table
from store.types import NodeState, QuestionState
from store.writer import Transaction

RunState = Literal["running", "finished", "interrupted"]

COST_UNIT = 10**9
"""Costs are summed as whole billionths of a US dollar, so that the sum does not depend on the order."""

LATENCIES_S = tuple(0.001 * 2**power for power in range(21))
"""Upper bounds of the buckets that latencies are counted in: from a millisecond to a quarter of an hour, each twice the last."""

_FORWARD = {NodeState.LATE: 0, NodeState.OPEN: 1, NodeState.FINISHED: 2, NodeState.KEPT: 3, NodeState.PRUNED: 3}
TERMINAL = {QuestionState.SOLVED, QuestionState.UNSOLVED}


def new(row: type[SQLModel]) -> Insert:
    """An insert that leaves what is there already."""
    return insert(table(row)).on_conflict_do_nothing()


_run, _question, _node = table(tables.RunRow), table(tables.QuestionRow), table(tables.NodeRow)

_NEW_RUN, _NEW_QUESTION, _NEW_NODE = new(tables.RunRow), new(tables.QuestionRow), new(tables.NodeRow)
_NEW_CALL, _NEW_FAILURE, _NEW_ATTEMPT = new(tables.CallRow), new(tables.FailureRow), new(tables.AttemptRow)
_NEW_CLAIM, _claim, _call = new(tables.ClaimRow), table(tables.ClaimRow), table(tables.CallRow)
_CALL = select(_call).where(_call.c.id == bindparam("key"))
_CLAIM = select(_claim).where(_claim.c.id == bindparam("key"))
_DROP_CLAIM = delete(_claim).where(
    _claim.c.id == bindparam("key"),
    or_(bindparam("owner") == None, _claim.c.owner == bindparam("owner")),  # noqa: E711 - SQL
)
_DROP_CLAIMS = delete(_claim).where(_claim.c.owner == bindparam("owner"))
_DROP_EXPIRED_CLAIM = delete(_claim).where(_claim.c.id == bindparam("key"), _claim.c.expires_at <= bindparam("now"))
_RENEW_CLAIMS = update(_claim).values(expires_at=bindparam("until")).where(_claim.c.owner == bindparam("owner"))
_RUN = select(_run.c.id, _run.c.state)
_SET_RUN = update(_run).values(state=bindparam("to"), finished_at=bindparam("at")).where(_run.c.state != bindparam("to"))

_LAST_POSITION = select(func.max(_question.c.position)).where(_question.c.split == bindparam("in_split"))
_QUESTION_STATE = select(_question.c.state).where(_question.c.id == bindparam("key"))
_TRAIN = _question.c.split == TRAIN
_IS_LEASED = and_(_TRAIN, _question.c.state == QuestionState.LEASED.value)
_OWNED = or_(bindparam("owner") == None, _question.c.lease_owner == bindparam("owner"))  # noqa: E711 - SQL
_PENDING = (
    select(_question).where(_TRAIN, _question.c.state == QuestionState.PENDING.value).order_by(_question.c.position).limit(1)
)
_EXPIRED = (
    select(_question).where(_IS_LEASED, _question.c.lease_expires_at <= bindparam("now")).order_by(_question.c.position).limit(1)
)
_LEASED_BY = select(_question.c.id).where(_IS_LEASED, _OWNED).order_by(_question.c.position)
_RENEW = update(_question).values(lease_expires_at=bindparam("until")).where(_IS_LEASED, _OWNED)


def _set_question(key: str = "key") -> Update:
    return (
        update(_question)
        .values(
            state=bindparam("to"), reason=bindparam("why"), lease_owner=bindparam("owner"), lease_expires_at=bindparam("until")
        )
        .where(_question.c.id == bindparam(key))
    )


_SET_QUESTION = _set_question()
_SET_TARGET = (
    update(_question)
    .values(target=bindparam("answer_given"), target_support=bindparam("share"))
    .where(_question.c.id == bindparam("key"), _question.c.target == None)  # noqa: E711 - SQL
)

_NODE_NOW = select(_node.c.state, _node.c.rank).where(_node.c.id == bindparam("key"))
_SET_NODE = (
    update(_node)
    .values(state=bindparam("to"), rank=bindparam("place"), reason=bindparam("why"))
    .where(_node.c.id == bindparam("key"))
)

_stage = insert(table(tables.StageRow))
_ADD_SECONDS = _stage.on_conflict_do_update(
    index_elements=["name"], set_={"seconds": table(tables.StageRow).c.seconds + _stage.excluded.seconds}
)


def begin_run(tx: Transaction, run_id: str, name: str, config: str) -> None:
    """Make the run's row, or set the row of an interrupted run back to running. Raises `StoreError` for another run's."""
    row = {"id": run_id, "name": name, "config": config, "state": "running", "started_at": tx.now, "finished_at": None}
    row |= {"searched": False}
    for run in tx.rows(_RUN, {}):
        if run["id"] != run_id:
            raise StoreError(f"this store belongs to run {run['id']}, not to {run_id}")
    if tx.change(_NEW_RUN, row) or tx.change(_SET_RUN, {"to": "running", "at": None}):
        tx.event("run_running", run_id)


def end_run(tx: Transaction, state: RunState) -> None:
    """Note how the run ended. Raises `StoreError` if none was begun."""
    runs = tx.rows(_RUN, {})
    if not runs:
        raise StoreError("no run has begun in this store")
    if tx.change(_SET_RUN, {"to": state, "at": tx.now}):
        tx.event(f"run_{state}", runs[0]["id"])


def add_questions(tx: Transaction, rows: Sequence[Columns], split: Split) -> int:
    """Append the questions that are not here yet, in their order; how many were."""
    last = tx.rows(_LAST_POSITION, {"in_split": split})[0][0]
    position = first = 0 if last is None else last + 1
    unset = dict.fromkeys(("target", "target_support", "lease_owner", "lease_expires_at"))
    kept = {"split": split, "state": QuestionState.PENDING.value, "reason": "", **unset}
    for row in rows:
        if tx.change(_NEW_QUESTION, {**row, **kept, "position": position}):
            position += 1
            tx.event("question", row["id"])
    if position > first:
        tx.count("questions.pending" if split == TRAIN else f"{split}.questions", position - first)
    return position - first


def set_target(tx: Transaction, question: str, answer: str, support: float) -> bool:
    """Keep the answer that stands in for a gold one; the first one stands."""
    if new := bool(tx.change(_SET_TARGET, {"key": question, "answer_given": answer, "share": support})):
        tx.event("target", question)
    return new


def lease_question(tx: Transaction, owner: str, lease_s: float) -> Any | None:
    """Lease the first train question that nobody works on; its row."""
    found = tx.rows(_PENDING, {}) + tx.rows(_EXPIRED, {"now": tx.now})
    if not found:
        return None
    first = min(found, key=lambda row: row["position"])
    move_question(tx, first["id"], first["state"], QuestionState.LEASED, owner=owner, until=tx.now + lease_s)
    tx.event("question_leased", first["id"])
    return first


def renew_leases(tx: Transaction, owner: str, lease_s: float) -> int:
    """Extend all leases of `owner`; how many it has."""
    return tx.change(_RENEW, {"owner": owner, "until": tx.now + lease_s})


def release_leases(tx: Transaction, owner: str | None) -> int:
    """Set the questions leased by `owner` (None: by anyone) back to PENDING; how many."""
    leased = tx.rows(_LEASED_BY, {"owner": owner})
    for row in leased:
        move_question(tx, row["id"], QuestionState.LEASED, QuestionState.PENDING)
        tx.event("question_released", row["id"])
    return len(leased)


def move_question(
    tx: Transaction,
    question: str,
    state: str,
    to: QuestionState,
    *,
    why: str = "",
    owner: str | None = None,
    until: float | None = None,
) -> None:
    """Set a question's state, why, and its lease."""
    tx.change(_SET_QUESTION, {"key": question, "to": to.value, "why": why, "owner": owner, "until": until})
    tx.count(f"questions.{state}", -1)
    tx.count(f"questions.{to.value}")


def record_calls(tx: Transaction, rows: Iterable[Columns]) -> int:
    """Keep the calls that are new; how many were."""
    new = 0
    for row in rows:
        if tx.change(_NEW_CALL, row):
            new += 1
            tx.event("call", row["subject"])
            tx.change(_DROP_CLAIM, {"key": row["id"], "owner": None})
            tx.count(f"calls.{row['purpose']}")
            if row["reused"]:
                tx.count("calls.reused")
                continue
            for kind in ("prompt", "completion", "cached"):
                tx.count(f"tokens.{kind}", row[f"{kind}_tokens"])
            tx.count(f"spent.calls.{row['agent']}")
            tx.happened(f"latency.{latency_bucket(row['latency_s'])}.{row['agent']}")
            tx.happened(f"latency.ms.{row['agent']}", round(row["latency_s"] * 1000))
            _spend(tx, row["agent"], row["prompt_tokens"] + row["completion_tokens"], row["cost"])
    return new


def latency_bucket(latency_s: float) -> int:
    """The number of the first bucket that holds a latency; `len(LATENCIES_S)` for what is longer than all."""
    return bisect.bisect_left(LATENCIES_S, latency_s)


def record_spent(tx: Transaction, agent: str, tokens: int, cost: float | None) -> None:
    """Count what a request that failed cost all the same."""
    _spend(tx, agent, tokens, cost)


def _spend(tx: Transaction, agent: str, tokens: int, cost: float | None) -> None:
    tx.count(f"spent.tokens.{agent}", tokens)
    if cost is not None:
        tx.count(f"spent.billionths.{agent}", round(cost * COST_UNIT))


def claim_call(tx: Transaction, key: str, owner: str, lease_s: float) -> Any | bool:
    """The row of the call if it is there; True if `owner` may make it, now and until the lease ends; False if another may."""
    if found := tx.rows(_CALL, {"key": key}):
        return found[0]
    tx.change(_DROP_EXPIRED_CLAIM, {"key": key, "now": tx.now})
    if tx.change(_NEW_CLAIM, {"id": key, "owner": owner, "expires_at": tx.now + lease_s}):
        return True
    return tx.rows(_CLAIM, {"key": key})[0]["owner"] == owner


def renew_claims(tx: Transaction, owner: str, lease_s: float) -> None:
    """Extend all claims of `owner`."""
    tx.change(_RENEW_CLAIMS, {"owner": owner, "until": tx.now + lease_s})


def release_claim(tx: Transaction, key: str, owner: str | None) -> None:
    """Give up a claim of `owner` (None: whoever has it): the call was not made."""
    tx.change(_DROP_CLAIM, {"key": key, "owner": owner})


def release_claims(tx: Transaction, owner: str) -> None:
    """Give up all claims of `owner`."""
    tx.change(_DROP_CLAIMS, {"owner": owner})


def record_advance(tx: Transaction, question: str, rows: Iterable[Columns], expanded: Sequence[str]) -> bool:
    """Keep new nodes, move known ones forward, mark the expanded ones; whether anything changed."""
    changed = False
    for row in rows:
        changed |= _put_node(tx, row)
    for node in expanded:
        changed |= _move_node(tx, node, NodeState.KEPT)
    if changed:
        tx.event("advance", question)
    return changed


def _put_node(tx: Transaction, row: Columns) -> bool:
    if tx.change(_NEW_NODE, row):
        tx.count(f"nodes.{row['state']}")
        return True
    return _move_node(tx, row["id"], NodeState(row["state"]), row["rank"], row["reason"])


def _move_node(tx: Transaction, node: str, to: NodeState, rank: int | None = None, reason: str = "") -> bool:
    found = tx.rows(_NODE_NOW, {"key": node})
    if not found:
        raise StoreError(f"node {node} is not in the store")
    state, place = NodeState(found[0]["state"]), found[0]["rank"]
    if state != to and _FORWARD[to] <= _FORWARD[state]:
        return False
    rank = place if rank is None else rank
    if (state, place) == (to, rank):
        return False
    tx.change(_SET_NODE, {"key": node, "to": to.value, "place": rank, "why": reason})
    tx.count(f"nodes.{state.value}", -1)
    tx.count(f"nodes.{to.value}")
    return True


def record_failure(tx: Transaction, row: Columns) -> bool:
    """Keep a failure; whether it is new."""
    new = bool(tx.change(_NEW_FAILURE, row))
    if new:
        tx.event("failure", row["subject"])
        tx.count(f"failures.{row['where']}")
        tx.count(f"failed.{row['kind']}")
    return new


def record_attempts(tx: Transaction, rows: Iterable[Columns]) -> int:
    """Keep the attempts that are new; how many were."""
    new = 0
    for row in rows:
        if tx.change(_NEW_ATTEMPT, row):
            new += 1
            tx.event("attempt", row["question"])
            tx.count(f"attempts.{row['model']}")
    return new


def add_stage_seconds(tx: Transaction, stage: str, seconds: float) -> None:
    """Add to the time that a stage has worked."""
    tx.change(_ADD_SECONDS, {"name": stage, "seconds": seconds})
