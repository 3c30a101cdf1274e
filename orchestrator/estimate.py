"""What a whole run will take, from the questions that a dry run has solved.

The dry run is the beginning of the run: what it paid for is kept, and the run goes on from there.
Invariant: what was measured is told as measured, with the cheapest and the dearest question as bounds; students and evaluation
are not in it (students run on this machine; that teachers are to be measured, the run says).
Not covered: solving the sample (`workers.py`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.table import Table

from store.store import Store
from store.types import Call, QuestionState

_PAGE = 1000
_SETTLED = (QuestionState.SOLVED, QuestionState.UNSOLVED)


async def estimate(store: Store) -> dict[str, Any]:
    """Calls, tokens and US dollars of all questions, from those that are settled; JSON-ready."""
    settled, total, after = [], 0, -1
    while page := await store.questions("train", after=after, limit=_PAGE):
        settled += [placed.question.id for placed in page if placed.state in _SETTLED]
        total, after = total + len(page), page[-1].position
    taken = [_by_agent(await store.calls(question)) for question in settled]
    agents = sorted({agent for each in taken for agent in each})
    return {
        "sampled": len(settled),
        "questions": total,
        "by_agent": {agent: _scaled([each.get(agent, _nothing()) for each in taken], total) for agent in agents},
        "all": _scaled([_sum(each.values()) for each in taken], total),
    }


def show_estimate(found: dict[str, Any], console: Console) -> None:
    """Print the table: what all questions take, and between which bounds."""
    title = (
        f"estimate for {found['questions']} questions, from {found['sampled']} solved ones (as many of the cheapest .. dearest)"
    )
    table = Table(title=title, title_justify="left")
    for name in ("", "calls", "prompt tokens", "generated tokens", "US dollars"):
        table.add_column(name, justify="right" if name else "left")
    for agent, row in [*found["by_agent"].items(), ("all", found["all"])]:
        table.add_row(agent, *(_told(row[key], f".{digits}f") for key, digits in _COLUMNS.items()))
    console.print(table)


_COLUMNS = {"calls": 0, "prompt": 0, "completion": 0, "usd": 4}


def _nothing() -> dict[str, float]:
    return dict.fromkeys(_COLUMNS, 0.0)


def _by_agent(calls: dict[str, Call]) -> dict[str, dict[str, float]]:
    """What each agent took for one question; a reused call costs nothing here, but would have."""
    found: dict[str, dict[str, float]] = defaultdict(_nothing)
    for call in calls.values():
        row = found[call.agent]
        row["calls"] += 1
        row["prompt"] += call.usage.prompt
        row["completion"] += call.usage.completion
        row["usd"] += call.cost or 0.0
    return found


def _sum(rows: Any) -> dict[str, float]:
    total = _nothing()
    for row in rows:
        for key, value in row.items():
            total[key] += value
    return total


def _scaled(rows: list[dict[str, float]], total: int) -> dict[str, dict[str, float]]:
    """The mean, the least and the most of a question, times the number of questions."""
    if not rows:
        return {key: {"mean": 0.0, "low": 0.0, "high": 0.0} for key in _COLUMNS}
    values = {key: [row[key] for row in rows] for key in _COLUMNS}
    return {
        key: {"mean": sum(each) / len(each) * total, "low": min(each) * total, "high": max(each) * total}
        for key, each in values.items()
    }


def _told(value: dict[str, float], form: str) -> str:
    return f"{value['mean']:{form}} ({value['low']:{form}} .. {value['high']:{form}})"
