"""What happens in a run now, and how it came to that: counts at one moment, and their growth by the minute.

Invariant: what is read does not grow with the run, but for the minutes that it has lasted. Not covered: rows (`pages.py`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from store.control import pulses
from store.lines import Activity, HistoryLine
from store.pages import marks, named
from store.writer import LATEST

RECENT_MIN = 10
"""Minutes over which what is recent is summed."""


def now(cursor: sqlite3.Cursor) -> Activity | None:
    """The run as it is; None when none has begun."""
    run = cursor.execute("SELECT * FROM run").fetchone()
    if run is None:
        return None
    at = time.time()
    minute = int(at // 60)
    since = minute - RECENT_MIN
    recent = cursor.execute("SELECT name, sum(value) FROM history WHERE minute_at > ? GROUP BY name", (since,)).fetchall()
    all_time = dict(cursor.execute("SELECT name, value FROM history WHERE minute_at = 0").fetchall())
    began_s = max(run["started_at"], (since + 1) * 60)
    return Activity(
        seq=cursor.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0],
        state=run["state"],
        searched=bool(run["searched"]),
        started_at=run["started_at"],
        finished_at=run["finished_at"],
        counts=dict(cursor.execute("SELECT name, value FROM count").fetchall()),
        seconds=dict(cursor.execute("SELECT name, seconds FROM stage").fetchall()),
        finals=dict(cursor.execute("SELECT student, directory FROM checkpoint WHERE final").fetchall()),
        stopped=_stopped(cursor),
        updates=dict(cursor.execute("SELECT student, max([update]) FROM metrics GROUP BY student").fetchall()),
        pulses=pulses(cursor),
        recent=dict(recent),
        latencies={name: value for name, value in all_time.items() if name.startswith("latency.")},
        recent_s=max(1.0, at - began_s),
        solved_at=all_time.get(f"{LATEST}questions.solved"),
        accepted_at=all_time.get(f"{LATEST}trajectories.accepted"),
        answered_at=all_time.get(f"{LATEST}tokens.prompt"),
    )


def _stopped(cursor: sqlite3.Cursor) -> dict[str, str]:
    """Why a student's training ended early."""
    return dict(cursor.execute("SELECT subject, message FROM failure WHERE kind = 'Diverged'").fetchall())


def history(cursor: sqlite3.Cursor, names: Sequence[str], since: float, points: int) -> list[HistoryLine]:
    """The growth of some counts since a time, up to the last that there was, in at most `points` equal spans of whole minutes."""
    first, last = cursor.execute("SELECT min(minute_at), max(minute_at) FROM history WHERE minute_at > 0").fetchone()
    start = max(first or 0, int(since // 60))
    span = max(1, -(-((last or 0) - start + 1) // points))
    found = cursor.execute(
        f"SELECT name, (minute_at - :start) / :span AS at, sum(value) AS value FROM history "
        f"WHERE name IN ({marks(names)}) AND minute_at >= :start GROUP BY name, at ORDER BY at, name",
        {"start": start, "span": span, **named(names)},
    )
    return [HistoryLine(time=60 * (start + span * at), name=name, value=value) for name, at, value in found.fetchall()]
