"""The reads behind the students' view: what they were given, what they measured, how they weighed their teachers.

Invariant: as in `pages.py`, a page looks at no more than `SCAN` rows. Not covered: the run's own reads (`reads.py`).
"""

from __future__ import annotations

import json
import math
import sqlite3

from store.lines import Assigned, LessonLine, MetricsLine, Page, WeightLine
from store.pages import ASSIGNED, NEWEST, SCAN, TRAJECTORY, hits, trajectory_line


def lessons(cursor: sqlite3.Cursor, student: str, gate: int | None, after: int | None, limit: int) -> Page[LessonLine]:
    """What a student was given (gate 1), was not (0), or both, newest first."""
    found = cursor.execute(
        "SELECT rowid, (student = :student AND (:gate IS NULL OR gate = :gate)) AS hit FROM route WHERE rowid < :after "
        "ORDER BY rowid DESC LIMIT :scan",
        {"student": student, "gate": gate, "after": NEWEST if after is None else after, "scan": SCAN},
    ).fetchall()
    chosen, more = hits(found, limit, SCAN)
    return Page(items=[_lesson(cursor, place) for place in chosen], next=more)


def _lesson(cursor: sqlite3.Cursor, place: int) -> LessonLine:
    assigned = cursor.execute(f"{ASSIGNED} WHERE r.rowid = ?", (place,)).fetchone()
    of = f"{TRAJECTORY} WHERE t.id = (SELECT trajectory FROM route WHERE rowid = ?)"
    return LessonLine(
        place=place, trajectory=trajectory_line(cursor.execute(of, (place,)).fetchone()), assigned=Assigned(**assigned)
    )


def metrics(cursor: sqlite3.Cursor, student: str, after: int | None, every: int, limit: int) -> Page[MetricsLine]:
    """A student's metrics by update, those whose number is divisible by `every`: each is found by its key."""
    last = cursor.execute("SELECT max([update]) FROM metrics WHERE student = ?", (student,)).fetchone()[0] or 0
    first = every * ((after or 0) // every + 1)
    wanted = range(first, last + 1, every)[:limit]
    one = "SELECT * FROM metrics WHERE student = ? AND [update] = ?"
    found = [cursor.execute(one, (student, number)).fetchone() for number in wanted]
    more = wanted[-1] if wanted and wanted[-1] + every <= last else None
    return Page(items=[_metrics_line(row) for row in found if row], next=more)


def _metrics_line(row: sqlite3.Row) -> MetricsLine:
    values = {name: value if math.isfinite(value) else None for name, value in json.loads(row["numbers"]).items()}
    return MetricsLine(student=row["student"], update=row["update"], values=values)


_REPORTS = (
    "SELECT p.[update], p.alpha, p.cross_entropy, json_extract(t.teachers, '$[0]') AS teacher "
    "FROM (SELECT [update], alpha, cross_entropy, trajectory FROM report INDEXED BY ix_report_student "
    "WHERE student = ? AND [update] > ? AND [update] <= ? AND routed AND alpha IS NOT NULL ORDER BY [update] LIMIT ?) p "
    "JOIN trajectory t ON t.id = p.trajectory ORDER BY p.[update], teacher"
)


def weights(cursor: sqlite3.Cursor, student: str, after: int | None) -> Page[WeightLine]:
    """The mean alpha by update and teacher (a trajectory's first one), of what a student learnt; whole updates only.

    So many updates as have up to `SCAN` reports; one that alone has more is a page of its own.
    """
    found, more = cursor.execute(_REPORTS, (student, after or 0, NEWEST, SCAN + 1)).fetchall(), None
    if len(found) > SCAN:
        begun = found[-1]["update"]
        found = [row for row in found if row["update"] < begun]
        found = found or cursor.execute(_REPORTS, (student, begun - 1, begun, -1)).fetchall()
        more = found[-1]["update"]
    sums: dict[tuple[int, str], list[sqlite3.Row]] = {}
    for row in found:
        sums.setdefault((row["update"], row["teacher"]), []).append(row)
    items = [
        WeightLine(
            update=update,
            teacher=teacher,
            alpha=sum(row["alpha"] for row in some) / len(some),
            cross_entropy=sum(row["cross_entropy"] for row in some) / len(some),
            num=len(some),
        )
        for (update, teacher), some in sums.items()
    ]
    return Page(items=items, next=more)
