"""What people ask of a run, and what the living process tells of itself.

    pause, resume, set  ──▶ a row and an event, with who and when ──▶ the living process does it, and answers
    requeue             ──▶ done in the same transaction

Invariant: the rows, in their order, are what the run goes by, also in its next life: a paused run stays paused. Not covered:
which subjects and values there are (`orchestrator.controls`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from store import tables
from store.database import execute
from store.settling import requeue_question
from store.tables import table
from store.writer import Transaction

Verb = Literal["pause", "resume", "requeue", "set"]

DONE = "done"
"""The outcome of a control that was done; any other says why it was not; "" while nobody has answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What somebody asked of a run. `subject` is a teacher ("" for the whole run), a question, or a key of the configuration,
    whose value becomes `value`, and was `was`. `by` says who, `asked_at` when, in seconds since the epoch."""

    id: int
    verb: Verb
    subject: str
    value: str | None
    was: str | None
    by: str
    asked_at: float
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What a living process last told of itself, and when, in seconds since the epoch."""

    owner: str
    beat_at: float
    state: Mapping[str, Any]


_control, _pulse = table(tables.ControlRow), table(tables.PulseRow)
_LAST = select(func.max(_control.c.id))
_NEW = insert(_control)
_ANSWER = update(_control).values(outcome=bindparam("told")).where(_control.c.id == bindparam("key"), _control.c.outcome == "")
_CONTROLS = select(_control).where(_control.c.id > bindparam("after")).order_by(_control.c.id).limit(bindparam("limit"))
_OF_RUN = or_(_control.c.verb == "pause", _control.c.verb == "resume") & (_control.c.subject == "")
_LAST_OF_RUN = select(_control.c.verb).where(_OF_RUN).order_by(_control.c.id.desc()).limit(1)
_told = insert(_pulse)
_BEAT = _told.on_conflict_do_update(
    index_elements=["owner"], set_={"beat_at": _told.excluded.beat_at, "state": _told.excluded.state}
)
_STILL = delete(_pulse).where(_pulse.c.owner == bindparam("key"))
_PULSES = select(_pulse).order_by(_pulse.c.owner)


def ask(tx: Transaction, verb: Verb, subject: str, value: str | None, was: str | None, by: str) -> int:
    """Keep what is asked; its number. Raises `StoreError` when a question cannot be requeued."""
    if verb == "requeue":
        requeue_question(tx, subject)
    number = (tx.rows(_LAST, {})[0][0] or 0) + 1
    asked = {"id": number, "verb": verb, "subject": subject, "value": value, "was": was, "by": by, "asked_at": tx.now}
    tx.change(_NEW, asked | {"outcome": DONE if verb == "requeue" else ""})
    tx.event("control", str(number))
    return number


def answer(tx: Transaction, number: int, outcome: str) -> None:
    """Note what came of a control."""
    if tx.change(_ANSWER, {"key": number, "told": outcome}):
        tx.event("controlled", str(number))


def controls(cursor: sqlite3.Cursor, after: int, limit: int) -> list[Control]:
    """The controls whose number is above `after`, in order."""
    return [Control(**row) for row in execute(cursor, _CONTROLS, {"after": after, "limit": limit}).fetchall()]


def paused(cursor: sqlite3.Cursor) -> bool:
    """Whether the whole run is paused."""
    last = execute(cursor, _LAST_OF_RUN, {}).fetchone()
    return last is not None and last["verb"] == "pause"


def beat(tx: Transaction, owner: str, state: Mapping[str, Any]) -> None:
    """Replace what `owner` told of itself."""
    tx.change(_BEAT, {"owner": owner, "beat_at": tx.now, "state": json.dumps(state)})


def still(tx: Transaction, owner: str) -> None:
    """`owner` lives no more."""
    tx.change(_STILL, {"key": owner})


def pulses(cursor: sqlite3.Cursor) -> list[Pulse]:
    """What every living process, and every one that was killed, last told of itself."""
    return [Pulse(**{**row, "state": json.loads(row["state"])}) for row in execute(cursor, _PULSES, {}).fetchall()]
