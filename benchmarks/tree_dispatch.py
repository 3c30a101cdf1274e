"""Claim: requests go out in an order that finds shared prefixes still cached, when the cache cannot hold all trees at once.

Two teachers and a prover of the embedded engine, untrained, 8 rows at a time, each with a prefix cache of so many MiB; 64
questions at once, a beam of 2, 8 steps. Two orders in turn: ours, in which the question that was begun first goes first, and
first come, first served. (Real servers: `benchmarks/prefix_cache.py`.)

    computed     prompt tokens that the engines had to compute, to those of a cache that holds everything
    seconds      of the whole run, to ours with that cache

    python benchmarks/tree_dispatch.py [--mib 1 2 4] [--runs 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import device
from proving_ground import Ground, build, tiny
from proving_ground.questions import Sizes
from solving import solver

from agents.limits import Gate
from agents.roster import open_roster
from configs.schema import RunConfig
from orchestrator.logs import logging_to
from orchestrator.questions.load import load_questions
from store.store import open_store

NUM_QUESTIONS, TEACHERS, EVERYTHING = 64, ("whole", "digits"), 1024


class FirstCome(Gate):
    """First come, first served."""

    async def ask(self, call: Callable[[], Awaitable[Any]], *, begun: float = 0.0, **more: Any) -> Any:
        """As a gate that knows nothing of questions."""
        return await super().ask(call, **more)


ORDERS = {"ours": Gate, "first come": FirstCome}


def ground_of(num_questions: int, folder: Path) -> Ground:
    """Untrained models, and so many questions."""
    plan = replace(tiny(), sizes=Sizes(train=1, test=num_questions, longer=1, unseen=1))
    return build(plan, folder, processes=1, tell=lambda _: None)


def configured(ground: Ground, mib: int) -> RunConfig:
    """A search that takes all its steps: these models hardly ever end a reasoning."""
    agents = ground.agents(teachers=TEACHERS)
    for engine in agents["engines"].values():
        engine |= {"prefix_cache_mb": mib, "max_batch": 8}
    search = {"beam": 2, "max_steps": 8, "max_step_tokens": 16}
    return RunConfig.model_validate({"name": "dispatch", **ground.asked("test"), **agents, "search": search})


async def once(config: RunConfig, folder: Path, order: type[Gate]) -> dict[str, float]:
    """One run, all questions at once."""
    questions = load_questions(config.questions[0], Path()).questions
    async with open_store(folder / "bench.db") as store:
        await store.add_questions(questions, split="train")
        with patch("agents.roster.Gate", order):
            async with open_roster(config) as roster, solver(config, roster, store) as bench:
                started = time.perf_counter()
                async with asyncio.TaskGroup() as group:
                    for question in questions:
                        group.create_task(bench.solve(question))
                seconds = time.perf_counter() - started
        calls = [call for question in questions for call in (await store.calls(question.id)).values()]
    prompt, cached = (sum(getattr(call.usage, key) for call in calls) for key in ("prompt", "cached"))
    return {"prompt": prompt, "computed": prompt - cached, "seconds": seconds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, logging_to(Path(scratch) / "log.jsonl", "warning"):
        ground = ground_of(NUM_QUESTIONS, Path(scratch))
        for _ in range(options.runs):
            for mib in [EVERYTHING, *options.mib]:
                for name, order in ORDERS.items():
                    with tempfile.TemporaryDirectory() as folder:
                        row = asyncio.run(once(configured(ground, mib), Path(folder), order))
                    found.setdefault((mib, name), []).append(row)
    print(f"{device()}; {NUM_QUESTIONS} questions at once; medians of {options.runs} runs")
    print(f"{'MiB':>6} {'order':12} {'prompt tokens':>13} {'from the cache':>14} {'computed':>9} {'seconds':>8}")
    all_of = found[EVERYTHING, "ours"]
    for (mib, name), runs in found.items():
        middle = {key: statistics.median(row[key] for row in runs) for key in runs[0]}
        ratios = [
            statistics.median(a[key] / b[key] for a, b in zip(runs, all_of, strict=True)) for key in ("computed", "seconds")
        ]
        cached = 1 - middle["computed"] / middle["prompt"]
        size = "all" if mib == EVERYTHING else str(mib)
        print(f"{size:>6} {name:12} {middle['prompt']:13.0f} {cached:14.1%} {ratios[0]:9.2f} {ratios[1]:8.2f}")
    if options.json:
        options.json.write_text(
            json.dumps([{"mib": mib, "order": name, "runs": runs} for (mib, name), runs in found.items()], indent=1)
        )


if __name__ == "__main__":
    main()
