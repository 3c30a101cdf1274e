"""The reads behind every view, as functions of a cursor: pages found by key, each in a bounded time.

Invariant: a page looks at no more than `SCAN` rows, however rare what is looked for. Pages come in the order of `rowid`, which
is that of arrival, or against it: newest first. Not covered: what a page is made of (`lines.py`), threads (`views.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from store import rows
from store.lines import (
    Assigned,
    CallLine,
    CallWhole,
    FailureLine,
    Graph,
    NodeLine,
    NodeWhole,
    Page,
    QuestionLine,
    QuestionWhole,
    TrajectoryLine,
    TrajectoryWhole,
)
from store.reads import consensus as read_consensus
from store.types import NodeState, Outcome, QuestionState

SCAN = 500
"""Rows that one page looks at."""
TITLE = 120
"""Characters of a step's title, and of a trajectory's opening, in a list."""


def _start(column: str) -> str:
    """SQL for the bytes that a text's first `TITLE` characters need: as a text, it would end at a null character."""
    return f"substr(CAST({column} AS BLOB), 1, {4 * TITLE})"


def _begins(start: bytes | None) -> str:
    return (start or b"").decode(errors="ignore")[:TITLE]


def questions(
    cursor: sqlite3.Cursor, *, split: str, states: Sequence[str], text: str | None, after: int | None, limit: int
) -> Page[QuestionLine]:
    """The questions of a split, in order: in some states (none given: in any), with a text in them."""
    alone = states[0] if len(states) == 1 else None  # the index has one state's in order; of several, each row is looked at
    scan = limit if text is None and len(states) < 2 else SCAN
    found = cursor.execute(
        "SELECT position, ((:text IS NULL OR instr(lower(text), :text) > 0 OR id = :text) "
        f"{f'AND state IN ({marks(states)})' if states else ''}) AS hit FROM question "
        f"WHERE split = :split AND position > :after {'AND state = :alone' if alone else ''} ORDER BY position LIMIT :scan",
        {
            "split": split,
            "after": -1 if after is None else after,
            "scan": scan,
            "text": _lower(text),
            "alone": alone,
            **named(states),
        },
    ).fetchall()
    chosen, more = hits(found, limit, scan)
    lines = [
        _question_line(cursor, cursor.execute("SELECT * FROM question WHERE split = ? AND position = ?", (split, at)).fetchone())
        for at in chosen
    ]
    return Page(items=lines, next=more)


def _question_line(cursor: sqlite3.Cursor, row: sqlite3.Row) -> QuestionLine:
    settled = cursor.execute("SELECT best, score FROM trajectory WHERE question = ?", (row["id"],)).fetchall()
    return QuestionLine(
        **{key: row[key] for key in ("position", "id", "split", "kind", "text", "answer", "target", "target_support", "reason")},
        state=QuestionState(row["state"]),
        trajectories=len(settled),
        best_score=next((score for best, score in settled if best), None),
    )


def question(cursor: sqlite3.Cursor, id: str) -> QuestionWhole | None:
    """One question, with what belongs to it."""
    row = cursor.execute("SELECT * FROM question WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    given = rows.question_of(row)
    states = cursor.execute("SELECT state, count(*) FROM node WHERE question = ? GROUP BY state", (id,)).fetchall()
    return QuestionWhole(
        line=_question_line(cursor, row),
        choices=given.choices,
        aliases=given.aliases,
        context=given.context,
        source=given.source,
        meta=given.meta,
        nodes=dict(states),
        failures=cursor.execute("SELECT count(*) FROM failure WHERE subject = ?", (id,)).fetchone()[0],
    )


_NODE = (
    f"SELECT rowid AS place, id, parent, depth, rank, state, step_index AS step, {_start('title')}, author, "
    "authors, finish, score, prompt_tokens, completion_tokens, cost, reason FROM node "
)


_NODE_KEYS = [field.name for field in dataclasses.fields(NodeLine)]
_STATES = {state.value: state for state in NodeState}
_STEP = "SELECT id, parent, question, text, logprobs, prover, target FROM node WHERE id = ?"


def _node_line(row: sqlite3.Row) -> NodeLine:
    values = dict(zip(_NODE_KEYS, row, strict=True))  # half the time of a mapping of the row: trees are large
    values["state"], values["authors"] = _STATES[values["state"]], _authors(values["authors"])
    values["title"] = _begins(values["title"])
    return NodeLine(**values)


@functools.lru_cache(maxsize=1024)
def _authors(names: str) -> list[str]:
    return json.loads(names)


def tree(cursor: sqlite3.Cursor, question: str, after: int | None, limit: int) -> Page[NodeLine]:
    """The nodes of a question in the order of their arrival: a parent before its children."""
    found = cursor.execute(
        f"{_NODE} INDEXED BY ix_node_question WHERE question = ? AND rowid > ? ORDER BY rowid LIMIT ?",
        (question, after or 0, limit),
    ).fetchall()
    return Page(items=[_node_line(row) for row in found], next=found[-1]["place"] if len(found) == limit else None)


def node(cursor: sqlite3.Cursor, id: str) -> NodeWhole | None:
    """One node, with the steps that lead to it and its own."""
    path: list[sqlite3.Row] = []
    at: str | None = id
    while at is not None:
        row = cursor.execute(
            "SELECT id, parent, question, text, logprobs, prover, target FROM node WHERE id = ?", (at,)
        ).fetchone()
        if row is None:
            return None
        path.append(row)
        at = row["parent"]
    own, path = path[0], path[::-1]
    return NodeWhole(
        line=_node_line(cursor.execute(f"{_NODE} WHERE id = ?", (id,)).fetchone()),
        question=own["question"],
        text=own["text"],
        logprobs=[each if math.isfinite(each) else None for each in json.loads(own["logprobs"])],
        tokens=[],
        prover=own["prover"],
        target=own["target"],
        path=[row["id"] for row in path],
        steps=[row["text"] for row in path],
    )


_CALL = (
    "SELECT rowid AS place, id, subject, agent, engine, purpose, prompt_tokens, completion_tokens, cached_tokens, latency_s, "
    "cost, reused FROM call "
)


def _call_line(row: sqlite3.Row) -> CallLine:
    return CallLine(**{**row, "reused": bool(row["reused"])})


def calls(cursor: sqlite3.Cursor, subject: str, after: int | None, limit: int) -> Page[CallLine]:
    """The calls about a subject, in the order of their ends."""
    found = cursor.execute(
        f"{_CALL} INDEXED BY ix_call_subject WHERE subject = ? AND rowid > ? ORDER BY rowid LIMIT ?", (subject, after or 0, limit)
    ).fetchall()
    return Page(items=[_call_line(row) for row in found], next=found[-1]["place"] if len(found) == limit else None)


def call(cursor: sqlite3.Cursor, id: str) -> CallWhole | None:
    """One call, with what was sent and what came back."""
    row = cursor.execute(f"{_CALL} WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    whole = cursor.execute("SELECT request, response FROM call WHERE id = ?", (id,)).fetchone()
    return CallWhole(line=_call_line(row), request=json.loads(whole["request"]), response=json.loads(whole["response"]))


def calls_with(cursor: sqlite3.Cursor, subject: str, purpose: str, prefix: str, agents: Sequence[str]) -> list[CallLine]:
    """The calls about a subject whose request continues exactly `prefix`, by some agents."""
    found = cursor.execute(
        f"{_CALL} INDEXED BY ix_call_subject WHERE subject = :subject AND purpose = :purpose AND agent IN ({marks(agents)}) "
        "AND instr(request, :prefix) > 0 ORDER BY rowid LIMIT 16",
        {"subject": subject, "purpose": purpose, "prefix": f'"prefix":{rows.encoded(prefix)}', **named(agents)},
    ).fetchall()
    return [_call_line(row) for row in found]


TRAJECTORY = (
    "SELECT t.rowid AS place, t.id, t.question, q.position, t.teachers, t.origin, t.style, t.score, t.best, t.answer, v.outcome, "
    f"coalesce(v.reason, '') AS reason, t.completion_tokens, t.cost, {_start('t.text')} AS opening "
    "FROM trajectory t JOIN question q ON q.id = t.question LEFT JOIN verdict v ON v.trajectory = t.id "
)


def trajectory_line(row: sqlite3.Row) -> TrajectoryLine:
    """The line of a row of `TRAJECTORY`."""
    outcome = None if row["outcome"] is None else Outcome(row["outcome"])
    return TrajectoryLine(
        **{
            **row,
            "teachers": json.loads(row["teachers"]),
            "best": bool(row["best"]),
            "outcome": outcome,
            "opening": _begins(row["opening"]),
        }
    )


def trajectories(
    cursor: sqlite3.Cursor,
    *,
    question: str | None,
    teacher: str | None,
    outcomes: Sequence[str],
    least: float | None,
    most: float | None,
    text: str | None,
    after: int | None,
    limit: int,
) -> Page[TrajectoryLine]:
    """Trajectories, newest first: of one question, with steps of a teacher, a verdict, a score in a range, a text in them."""
    scan = SCAN if outcomes or not (teacher is least is most is text is None) else limit
    found = cursor.execute(
        "SELECT t.rowid, ((:teacher IS NULL OR instr(t.teachers, :teacher) > 0) AND (:least IS NULL OR t.score >= :least) "
        f"AND (:most IS NULL OR t.score <= :most) {f'AND v.outcome IN ({marks(outcomes)})' if outcomes else ''} "
        "AND (:text IS NULL OR instr(lower(t.text), :text) > 0 OR instr(lower(t.conclusion), :text) > 0)) AS hit "
        f"FROM trajectory t {'INDEXED BY ix_trajectory_question' if question else ''} "
        "LEFT JOIN verdict v ON v.trajectory = t.id "
        f"WHERE t.rowid < :after {'AND t.question = :question' if question else ''} ORDER BY t.rowid DESC LIMIT :scan",
        {
            "question": question,
            "teacher": teacher and rows.encoded(teacher),
            "least": least,
            "most": most,
            "text": _lower(text),
            "after": NEWEST if after is None else after,
            "scan": scan,
            **named(outcomes),
        },
    ).fetchall()
    chosen, more = hits(found, limit, scan)
    lines = [trajectory_line(cursor.execute(f"{TRAJECTORY} WHERE t.rowid = ?", (at,)).fetchone()) for at in chosen]
    return Page(items=lines, next=more)


ASSIGNED = (
    "SELECT r.student, r.round, r.gate, r.probability, p.[update], p.cross_entropy, p.alpha, p.adaptability, p.consensus, "
    "p.difficulty, p.peer FROM route r LEFT JOIN report p "
    "ON p.student = r.student AND p.trajectory = r.trajectory AND p.[update] = "
    "(SELECT max([update]) FROM report WHERE student = r.student AND trajectory = r.trajectory) "
)


def trajectory(cursor: sqlite3.Cursor, id: str, students: Sequence[str]) -> TrajectoryWhole | None:
    """One trajectory, with all that is said of it, and whether it is for some students."""
    row = cursor.execute("SELECT * FROM trajectory WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    own = rows.trajectory_of(row)
    rulings = cursor.execute("SELECT * FROM ruling WHERE trajectory = ? ORDER BY judge", (id,)).fetchall()
    standing = cursor.execute("SELECT * FROM standing WHERE trajectory = ?", (id,)).fetchone()
    assigned = cursor.execute(
        f"{ASSIGNED} WHERE r.student IN ({marks(students)}) AND r.trajectory = :id ORDER BY r.student, r.round",
        {"id": id, **named(students)},
    ).fetchall()
    return TrajectoryWhole(
        line=trajectory_line(cursor.execute(f"{TRAJECTORY} WHERE t.id = ?", (id,)).fetchone()),
        nodes=own.nodes,
        text=own.text,
        conclusion=own.conclusion,
        where=own.where,
        target=own.target,
        rulings=[rows.ruling_of(each) for each in rulings],
        standing=None if standing is None else rows.standing_of(standing),
        assigned=[Assigned(**each) for each in assigned],
    )


def graph(cursor: sqlite3.Cursor, question: str) -> Graph | None:
    """The consensus of a question; None when it has none."""
    found = read_consensus(cursor, question)
    if found is None:
        return None
    lines = cursor.execute(f"{TRAJECTORY} WHERE t.question = ?", (question,)).fetchall()
    return Graph(
        consensus=found,
        outcomes={row["id"]: Outcome(row["outcome"]) for row in lines if row["outcome"] is not None},
        teachers={row["id"]: json.loads(row["teachers"]) for row in lines},
    )


def failures(
    cursor: sqlite3.Cursor, *, kind: str | None, subject: str | None, after: int | None, limit: int
) -> Page[FailureLine]:
    """Failures, newest first: of a kind, about a subject."""
    found = cursor.execute(
        "SELECT rowid, (:kind IS NULL OR kind = :kind) AS hit FROM failure WHERE rowid < :after "
        f"{'AND subject = :subject' if subject else ''} ORDER BY rowid DESC LIMIT :scan",
        {"kind": kind, "subject": subject, "after": NEWEST if after is None else after, "scan": SCAN},
    ).fetchall()
    chosen, more = hits(found, limit, SCAN)
    line = "SELECT rowid AS place, id, [where], kind, message, tries, subject FROM failure WHERE rowid = ?"
    return Page(items=[FailureLine(**cursor.execute(line, (place,)).fetchone()) for place in chosen], next=more)


NEWEST = 2**62
"""Above every key."""


def hits(found: Sequence[sqlite3.Row], limit: int, scan: int) -> tuple[list[int], int | None]:
    """The keys of the first `limit` hits among up to `scan` rows that were looked at, and after which key to go on."""
    chosen: list[int] = []
    for key, hit in found:
        if hit:
            chosen.append(key)
        if len(chosen) == limit:
            return chosen, key
    return chosen, found[-1][0] if len(found) == scan else None


def _lower(text: str | None) -> str | None:
    """As SQLite's lower() makes it: of ASCII letters only."""
    return None if text is None else "".join(each.lower() if each.isascii() else each for each in text)


def marks(values: Iterable[Any]) -> str:
    """Places in SQL for some values."""
    return ", ".join(f":v{index}" for index, _ in enumerate(values))


def named(values: Iterable[Any]) -> dict[str, Any]:
    """The values for those places."""
    return {f"v{index}": value for index, value in enumerate(values)}
