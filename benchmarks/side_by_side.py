"""Claim: several models in one process are quicker when they compute in turn on the CPU than side by side.

Untrained models of the proving ground, each with 48 requests of 64 tokens at once; with the turns that the engine takes, and
without them, in turn. The limit is one model after the other.

    python benchmarks/side_by_side.py [--models 2 5] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import device
from proving_ground import Ground, build, tiny
from proving_ground.build import engine

from agents.engines.base import Engine, Message, Prompt
from agents.engines.transformers import CPU, TransformersEngine
from agents.models import resolve
from configs.engines import TransformersEngine as Config

NUM_REQUESTS, NUM_TOKENS = 48, 64
WAYS: dict[str, AbstractContextManager[None]] = {"in turn": CPU, "side by side": nullcontext()}


async def asked(model: Engine) -> None:
    """All requests of one model."""
    async with asyncio.TaskGroup() as group:
        for number in range(NUM_REQUESTS):
            prompt = Prompt(messages=(Message(role="user", content=f"Start with {number}. (1) add 7"),), prefix="<think>\n")
            group.create_task(model.generate(prompt, max_tokens=NUM_TOKENS, seed=number))


async def once(folders: list[Path], turns: AbstractContextManager[None], *, at_once: bool) -> tuple[float, float]:
    """Wall and CPU seconds."""
    configs = [Config(**engine(folder)) for folder in folders]
    with patch("agents.engines.transformers.CPU", turns):
        async with AsyncExitStack() as stack:
            models = [
                await stack.enter_async_context(TransformersEngine(config, resolve(config.model), ignore_end=True))
                for config in configs
            ]
            wall, cpu = time.perf_counter(), time.process_time()
            if at_once:
                async with asyncio.TaskGroup() as group:
                    for model in models:
                        group.create_task(asked(model))
            else:
                for model in models:
                    await asked(model)
            return time.perf_counter() - wall, time.process_time() - cpu


def measured(ground: Ground, num_models: int, runs: int) -> list[dict[str, Any]]:
    """A row for each way."""
    folders = [*ground.teachers.values(), *ground.provers.values()][:num_models]
    found: dict[str, list[tuple[float, float]]] = {}
    for run in range(runs + 1):
        for name, turns in [*WAYS.items(), ("one after the other", CPU)]:
            seconds = asyncio.run(once(folders, turns, at_once=name in WAYS))
            if run:  # the first warms up
                found.setdefault(name, []).append(seconds)
    limit = found["one after the other"]
    return [
        {
            "models": num_models,
            "way": name,
            "wall_s": statistics.median(wall for wall, _ in each),
            "cpu_s": statistics.median(cpu for _, cpu in each),
            "to_limit": statistics.median(ours / theirs for (ours, _), (theirs, _) in zip(each, limit, strict=True)),
        }
        for name, each in found.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[2, 5])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        ground = build(tiny(), Path(scratch), processes=1, tell=lambda _: None)
        rows = [row for num in options.models for row in measured(ground, num, options.runs)]
    print(f"{device()}, one thread each; medians of {options.runs} runs")
    print(f"{'models':>6} {'':20} {'seconds':>8} {'CPU s':>7} {'to one after the other':>23}")
    for row in rows:
        print("{models:6} {way:20} {wall_s:8.2f} {cpu_s:7.2f} {to_limit:23.2f}".format(**row))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
