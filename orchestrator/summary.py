"""What a run came to: one object from the store, as a table for people and as JSON for programs.

Invariant: every figure is read from the store or from the folder, so that a resumed run and `status` tell the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, get_args

from rich.console import Console
from rich.table import Table

from configs.schema import RunConfig
from orchestrator.agreement import agreements
from orchestrator.comparison import measured, row_of, rows
from orchestrator.comparison import table as accuracies
from orchestrator.folder import Folder
from store.store import Store

Stage = Literal["questions", "search", "before", "train", "after", "export", "teachers"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The stages of a run, in order."""


async def summarise(config: RunConfig, folder: Folder, store: Store) -> dict[str, Any]:
    """Counts, tokens, seconds by stage, accuracies and places; JSON-ready."""
    counts = await store.counts()
    seconds = await store.stage_seconds()
    record = await store.run()
    generated = counts.get("tokens.completion", 0)
    asking = seconds.get("search", 0.0) + seconds.get("teachers", 0.0)
    states = {state: counts.get(f"questions.{state}", 0) for state in ("pending", "leased", "solved", "unsolved")}
    return {
        "name": config.name,
        "state": record.state if record else "unknown",
        "questions": sum(states.values()),
        "questions_by_state": states,
        "nodes": sum(value for key, value in counts.items() if key.startswith("nodes.")),
        "trajectories": sum(value for key, value in counts.items() if key.startswith("trajectories.")),
        "trajectories_by_verdict": {k.partition(".")[2]: v for k, v in counts.items() if k.startswith("trajectories.")},
        "accepted": counts.get("trajectories.accepted", 0),
        "target": config.target.accepted,
        "unsolved_by_reason": {k.partition(".")[2]: v for k, v in counts.items() if k.startswith("unsolved.")},
        "consensus_targets": counts.get("targets.consensus", 0),
        "misleading": counts.get("standings.misleading", 0),
        "rulings": rulings_of(counts),
        "agreement": [asdict(each) for each in agreements(counts, config.judging.audit)] if config.judges else [],
        "mean_score": await store.mean_score(),
        "failures": sum(value for key, value in counts.items() if key.startswith("failures.")),
        "failures_by_kind": {k.partition(".")[2]: v for k, v in counts.items() if k.startswith("failed.")},
        "calls": sum(value for key, value in counts.items() if key.startswith("calls.") and key != "calls.reused"),
        "calls_reused": counts.get("calls.reused", 0),
        "spent": _spent(counts),
        "tokens": generated,
        "tokens_prompt": counts.get("tokens.prompt", 0),
        "tokens_cached": counts.get("tokens.cached", 0),
        "tokens_per_second": generated / asking if asking else None,
        "seconds": sum(seconds.values()),
        "seconds_by_stage": {stage: seconds[stage] for stage in STAGES if seconds.get(stage, 0.0) >= 0.05},
        "accuracy": await _accuracy(config, store),
        "run_dir": str(folder.root),
        "database": str(folder.database),
        "export": str(folder.messages) if folder.messages.exists() else None,
        "students": {student.name: await _student(folder, store, student.name) for student in config.students},
    }


async def _accuracy(config: RunConfig, store: Store) -> list[dict[str, Any]]:
    """What was measured, a row for each model, set and kind of answer; the bootstrap takes too long for the loop."""
    found = [await measured(config, store)] if config.evaluation else []
    return [asdict(row) for row in await asyncio.to_thread(rows, config, found)] if found else []


async def _student(folder: Folder, store: Store, name: str) -> dict[str, Any]:
    """Where its weights are, how far it is, what it could not learn, and why it stopped early, if it did."""
    final = folder.student(name) / "final"
    last = (await store.last_updates()).get(name, 0)
    failures = await store.failures_about(name)
    return {
        "final": str(final) if final.is_dir() else None,
        "updates": last,
        "stopped": next((each.message for each in failures if each.kind == "Diverged"), None),
    }


def rulings_of(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """How often each judge ruled what."""
    found: dict[str, dict[str, int]] = {}
    for name, value in counts.items():
        if name.startswith("rulings."):
            _, ruled, judge = name.split(".", 2)
            found.setdefault(judge, {})[ruled] = value
    return found


def _spent(counts: dict[str, int]) -> dict[str, dict[str, float]]:
    """Calls, tokens and US dollars by agent, over all lives of the run; what an earlier run paid for is not in it."""
    agents = sorted(name.removeprefix("spent.calls.") for name in counts if name.startswith("spent.calls."))
    return {
        agent: {
            "calls": counts[f"spent.calls.{agent}"],
            "tokens": counts.get(f"spent.tokens.{agent}", 0),
            "usd": counts.get(f"spent.billionths.{agent}", 0) / 1e9,
        }
        for agent in agents
    }


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the table, and below it that of the accuracies."""
    table = Table(title=f"{summary['name']}: {summary['state']}", show_header=False, title_justify="left")
    for name, value in _rows(summary):
        table.add_row(name, value)
    console.print(table)
    if summary["accuracy"]:
        console.print(accuracies([row_of(each) for each in summary["accuracy"]]))


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    target = f" of {summary['target']} wanted" if summary["target"] else ""
    told = {"questions without gold have a target": "consensus_targets", "accepted trajectories look right by luck": "misleading"}
    consensus = ", ".join(f"{summary[key]} {words}" for words, key in told.items() if summary[key])
    mean = f", mean score {summary['mean_score']:.3f}" if summary["mean_score"] is not None else ""
    rate = f" ({summary['tokens_per_second']:.0f}/s)" if summary["tokens_per_second"] else ""
    cached = f"{summary['tokens_cached']} of {summary['tokens_prompt']} prompt tokens from cache"
    return [
        ("questions", _counted(summary["questions"], summary["questions_by_state"])),
        *([("unsolved", _reasons(summary["unsolved_by_reason"]))] if summary["unsolved_by_reason"] else []),
        ("trajectories", _counted(summary["trajectories"], summary["trajectories_by_verdict"])),
        ("accepted", f"{summary['accepted']}{target}{mean}"),
        *([("consensus", consensus)] if consensus else []),
        *((f"judge {judge}", _ruled(judge, summary)) for judge in summary["rulings"]),
        ("tokens", f"{summary['tokens']} generated{rate}, {cached}"),
        ("calls", _calls(summary)),
        *([("US dollars", _money(summary["spent"]))] if any(row["usd"] for row in summary["spent"].values()) else []),
        ("failures", _counted(summary["failures"], summary["failures_by_kind"])),
        ("seconds", ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in summary["seconds_by_stage"].items())),
        *((f"student {name}", _student_told(row)) for name, row in summary["students"].items() if row["updates"] or row["final"]),
        *((place, summary[place]) for place in ("export", "database") if summary[place]),
    ]


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _ruled(judge: str, summary: dict[str, Any]) -> str:
    """What a judge ruled, and how it agrees with others."""
    counts = summary["rulings"][judge]
    shown = [f"{counts[ruled]} {ruled}" for ruled in ("valid", "invalid", "unreadable") if counts.get(ruled)]
    for each in summary["agreement"]:
        if judge in (each["one"], each["other"]) and each["kappa"] is not None:
            other = each["other"] if each["one"] == judge else each["one"]
            shown.append(f"kappa with {other} {each['kappa']:.2f} (n={each['items']})")
    return ", ".join(shown)


def _calls(summary: dict[str, Any]) -> str:
    reused = f", {summary['calls_reused']} of them paid by earlier runs" if summary["calls_reused"] else ""
    agents = ", ".join(f"{agent} {row['calls']}" for agent, row in summary["spent"].items())
    return f"{summary['calls']}{reused}" + (f": {agents}" if agents else "")


def _money(spent: dict[str, dict[str, float]]) -> str:
    parts = ", ".join(f"{agent} {row['usd']:.4f}" for agent, row in spent.items() if row["usd"])
    return f"{sum(row['usd'] for row in spent.values()):.4f}: {parts}"


def _counted(total: int, counts: dict[str, int]) -> str:
    parts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()) if count)
    return f"{total}: {parts}" if parts else str(total)


def _student_told(row: dict[str, Any]) -> str:
    return row["final"] or (f"stopped: {row['stopped']}" if row["stopped"] else f"at update {row['updates']}")
