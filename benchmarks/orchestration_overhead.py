"""What the orchestration costs beside the models: the scripted engine answers after 50 ms, everything else is ours.

Two shapes, each beside the limit, which is the same waiting with nothing kept (bare asyncio, no store), in turn:
  independent   2,000 generations, 64 in flight, each a durable row before it is used
  dependent     32 questions x 8 steps x 2 teachers, all at once; ideal 8 x 50 ms. Each question also scores its steps (a
                prover that answers at once) and writes its answer, a ninth call

    python benchmarks/orchestration_overhead.py [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from solving import solver

from agents.engines.base import Message, Prompt
from agents.ledger import Ledger, Terms
from agents.roster import open_model, open_roster
from configs.engines import ScriptedEngine
from configs.schema import RunConfig
from orchestrator.logs import logging_to
from store.store import Store, open_store
from store.types import Question, content_id

LATENCY_S = 0.05
NUM_CALLS, IN_FLIGHT = 2000, 64
NUM_QUESTIONS, NUM_STEPS, NUM_TEACHERS = 32, 8, 2

Seconds = tuple[float, float]
"""Wall and CPU seconds (all threads)."""


async def timed(work: Awaitable[None]) -> Seconds:
    """How long `work` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - wall, time.process_time() - cpu


async def in_flight(call: Callable[[int], Awaitable[object]]) -> None:
    """NUM_CALLS calls, IN_FLIGHT at a time."""
    numbers = iter(range(NUM_CALLS))

    async def work() -> None:
        for number in numbers:
            await call(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())


async def independent_bare(_: Store) -> Seconds:
    """Only the waiting."""
    return await timed(in_flight(lambda _: asyncio.sleep(LATENCY_S)))


async def independent_ours(store: Store) -> Seconds:
    """Through the ledger, each call a durable row."""
    config = ScriptedEngine(kind="scripted", latency_s=LATENCY_S)
    async with open_model("scripted", config) as model:

        async def call(number: int) -> None:
            ledger = Ledger(subject=f"q{number}", known={}, terms=Terms(keep=store))
            prompt = Prompt(
                messages=(Message(role="user", content=f"{number} and {number} more?"),), prefix="<think>\n### Step 1."
            )
            await ledger.generate(model, "propose", prompt, agent="ann", n=1, max_tokens=64, temperature=0.6, seed=number)

        return await timed(in_flight(call))


async def dependent_bare(_: Store) -> Seconds:
    """Only the waiting, step after step."""

    async def question() -> None:
        for _ in range(NUM_STEPS):
            async with asyncio.TaskGroup() as group:
                for _ in range(NUM_TEACHERS):
                    group.create_task(asyncio.sleep(LATENCY_S))

    async def all_questions() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_QUESTIONS):
                group.create_task(question())

    return await timed(all_questions())


def walk_config() -> RunConfig:
    """Two slow teachers, a prover that answers at once, greedy search."""
    slow = {"kind": "scripted", "latency_s": LATENCY_S, "steps": NUM_STEPS}
    return RunConfig.model_validate(
        {
            "name": "overhead",
            "questions": [{"kind": "word_problems", "count": NUM_QUESTIONS}],
            "engines": {"slow": slow, "fast": {**slow, "latency_s": 0.0}},
            "teachers": [{"name": f"t{index}", "engine": "slow"} for index in range(NUM_TEACHERS)],
            "prover": {"engine": "fast"},
            "search": {"beam": 1},
        }
    )


async def dependent_ours(store: Store) -> Seconds:
    """Whole questions, solved and settled."""
    numbers = [" ".join(str(question + step) for step in range(NUM_STEPS)) for question in range(NUM_QUESTIONS)]
    questions = [
        Question(id=content_id("bench", text), text=f"Add {text}.", answer=str(sum(map(int, text.split()))), kind="math")
        for text in numbers
    ]
    await store.add_questions(questions, split="train")
    config = walk_config()
    async with open_roster(config) as roster, solver(config, roster, store) as bench:

        async def all_questions() -> None:
            async with asyncio.TaskGroup() as group:
                for question in questions:
                    group.create_task(bench.solve(question))

        return await timed(all_questions())


def measure(runs: int) -> dict[str, list[Seconds]]:
    """Every shape, ours and bare in turn, each run with a new store."""
    shapes = (independent_bare, independent_ours, dependent_bare, dependent_ours)
    found: dict[str, list[Seconds]] = {shape.__name__: [] for shape in shapes}

    async def once(shape: Callable[[Store], Awaitable[Seconds]], folder: str) -> Seconds:
        async with open_store(Path(folder) / "bench.db") as store:
            return await shape(store)

    for run in range(runs + 1):
        for shape in shapes:
            with tempfile.TemporaryDirectory() as folder, logging_to(Path(folder) / "log.jsonl", "info"):
                seconds = asyncio.run(once(shape, folder))
            if run:  # the first is warm-up
                found[shape.__name__].append(seconds)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.runs)
    calls = {"independent": NUM_CALLS, "dependent": NUM_QUESTIONS * NUM_STEPS * NUM_TEACHERS}
    rows = []
    for shape, num in calls.items():
        bare, ours = found[f"{shape}_bare"], found[f"{shape}_ours"]
        wall, cpu = statistics.median(w for w, _ in ours), statistics.median(c for _, c in ours)
        limit = statistics.median(w for w, _ in bare)
        rows.append(
            {
                "shape": shape,
                "generations": num,
                "limit_s": limit,
                "ours_s": wall,
                "ratio": wall / limit,
                "cpu_ms": 1000 * cpu / num,
            }
        )
    print(f"{'shape':12} {'generations':>11} {'limit s':>8} {'ours s':>8} {'ratio':>6} {'CPU ms a generation':>20}")
    for row in rows:
        print("{shape:12} {generations:11} {limit_s:8.2f} {ours_s:8.2f} {ratio:6.2f} {cpu_ms:20.3f}".format(**row))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
