"""Claim: a slow teacher does not idle the fast ones: a quorum keeps nearly all of their throughput.

Scripted engines, one for each teacher, each taking four requests at once, as a model server does: two that answer after 40 ms
and one that takes ten times as long. Real search, ledger and store; 24 questions of 6 steps, beam 2, 8 questions at once.
Questions a second, and what came of the slow one's proposals: steps of the tree, or not there yet when their question ended.

    fast only        the two fast teachers alone: the limit
    all, no quorum   three teachers, each step waits for the slow one
    quorum of 2      three teachers, a step is decided by any two

Target: a quorum keeps at least 0.8 of `fast only`.

    python benchmarks/mixed_speeds.py [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import device
from solving import solver

from agents.roster import open_roster
from configs.schema import RunConfig
from orchestrator.logs import logging_to
from store.store import open_store
from store.types import Question, content_id

FAST_S, SLOW_S = 0.04, 0.4
NUM_QUESTIONS, NUM_STEPS, AT_ONCE = 24, 6, 8
TEACHERS = {"ann": FAST_S, "bob": FAST_S, "cy": SLOW_S}
SHAPES: dict[str, dict[str, Any]] = {
    "fast only": {"teachers": ("ann", "bob")},
    "all, no quorum": {"teachers": tuple(TEACHERS)},
    "quorum of 2": {"teachers": tuple(TEACHERS), "quorum": 2},
}


def configured(teachers: tuple[str, ...], quorum: int | None = None) -> RunConfig:
    """A run with these teachers, each on its engine, and a prover that answers at once."""
    engines: dict[str, Any] = {
        name: {"kind": "scripted", "seed": seed, "latency_s": TEACHERS[name], "steps": NUM_STEPS, "limits": {"in_flight": 4}}
        for seed, name in enumerate(teachers)
    }
    return RunConfig.model_validate(
        {
            "name": "mixed",
            "questions": [{"kind": "word_problems", "count": NUM_QUESTIONS}],
            "engines": engines | {"prover": {"kind": "scripted", "steps": NUM_STEPS}},
            "teachers": [{"name": name, "engine": name} for name in teachers],
            "prover": {"engine": "prover"},
            "search": {"beam": 2, "quorum": quorum},
        }
    )


def make_questions() -> list[Question]:
    """Sums of as many numbers as there are steps."""
    numbers = [[number + step for step in range(NUM_STEPS)] for number in range(NUM_QUESTIONS)]
    return [
        Question(id=content_id("bench", each), text=f"Add {' '.join(map(str, each))}.", answer=str(sum(each)), kind="math")
        for each in numbers
    ]


async def once(config: RunConfig, folder: Path) -> dict[str, float]:
    """One run: questions a second, and what came of the proposals."""
    async with (
        open_store(folder / "bench.db") as store,
        open_roster(config) as roster,
        solver(config, roster, store) as bench,
    ):
        await store.add_questions(make_questions(), split="train")

        async def work() -> None:
            while question := await store.lease_question("bench", 600):
                await bench.solve(question)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        seconds = time.perf_counter() - started
        nodes, counts = (await store.dump())["node"], await store.counts()
    return {
        "questions_a_second": NUM_QUESTIONS / seconds,
        "nodes": len(nodes),
        "slow": sum("cy" in json.loads(row["authors"]) for row in nodes),
        "never": sum(value for name, value in counts.items() if name.startswith("failures.")),
        "solved": counts.get("questions.solved", 0),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs: list[dict[str, dict[str, float]]] = []
    for run in range(options.runs + 1):
        found = {}
        for name, shape in SHAPES.items():
            with tempfile.TemporaryDirectory() as folder, logging_to(Path(folder) / "log.jsonl", "warning"):
                found[name] = asyncio.run(once(configured(**shape), Path(folder)))
        if run:  # the first warms up
            runs.append(found)
    print(f"{device()}; one teacher of three takes {SLOW_S / FAST_S:.0f} times as long; medians of {options.runs} runs")
    print(f"{'':16} {'questions/s':>11} {'to fast only':>12} {'steps':>6} {'slow one':>9} {'never':>6} {'solved':>7}")
    for name in SHAPES:
        middle = {key: statistics.median(run[name][key] for run in runs) for key in runs[0][name]}
        ratio = statistics.median(run[name]["questions_a_second"] / run["fast only"]["questions_a_second"] for run in runs)
        print(
            f"{name:16} {middle['questions_a_second']:11.2f} {ratio:12.2f} {middle['nodes']:6.0f} {middle['slow']:9.0f}", end=" "
        )
        print(f"{middle['never']:6.0f} {middle['solved']:7.0f}")
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
