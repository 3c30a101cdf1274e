"""Claim: a model server makes as many tokens a second for us as for a bare client that sends it the same requests.

The recipe's own vLLM server, which this script starts (`make servers` installs it), at 8 and at 32 requests in flight, twice as
many in all, 64 tokens each:

    direct     bare aiohttp, bodies ready-made
    ours       ledger (a real store: each call is a durable row before it is used), gate, engine `openai`

Both send the same token ids, seeds and caps, in turn: direct, ours, ours, direct in one run, and the other way round in the next,
so that what drifts meets both alike. Every run has new prompts, which both find in the server's prefix cache, because each was
sent once before. No end of a text is forbidden: the prompts count upwards, and only tokens that the server says it made are
counted. Target: ours at least 0.95 of direct.

Whatever else the machine does moves what is measured in turn; so, beside it, both at the same time, with half the requests in
flight each: the same server, the same moments, and only the way to it differs.

    python benchmarks/server_throughput.py [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from machine import device
from transformers import AutoTokenizer

from agents.engines import dialects
from agents.engines.base import Message, Prompt
from agents.engines.rendering import encode, render
from agents.ledger import Ledger, Model, Terms
from agents.limits import Gate
from agents.models import resolve
from agents.roster import open_model
from configs.engines import OpenAIEngine
from configs.load import load
from orchestrator.logs import logging_to
from store.store import Store, open_store

IN_FLIGHT = (8, 32)
ROUNDS = 2
MAX_TOKENS = 64
TEMPERATURE, TOP_P = 0.6, 0.95

Json = dict[str, Any]
Call = Callable[[int], Awaitable[int]]
"""Makes request number i; its generated tokens."""


def make_prompts(num: int, start: int) -> list[Prompt]:
    """Prompts that go on for long; others for every `start`."""
    found = []
    for first in range(start, start + num):
        asked = f"Count upwards from {first} to {first + 500}, with a comma after every number."
        prefix = ", ".join(str(first + each) for each in range(12)) + ","
        found.append(Prompt(messages=(Message(role="user", content=asked),), prefix=prefix))
    return found


def direct(session: aiohttp.ClientSession, url: str, tokenizer: Any, asked: Sequence[Prompt], max_tokens: int) -> Call:
    """A bare call of the server."""
    bodies = []
    for number, prompt in enumerate(asked):
        sampling = dialects.Sampling(
            n=1, max_tokens=max_tokens, stop=(), temperature=TEMPERATURE, top_p=TOP_P, seed=number, logprobs=False
        )
        common = dialects.body("vllm", "smol", sampling, stream=False)
        bodies.append(dialects.raw(common, encode(tokenizer, render(tokenizer, prompt)), logprobs=False))

    async def call(number: int) -> int:
        async with session.post(url + dialects.COMPLETIONS, json=bodies[number]) as response:
            answer: Json = json.loads(await response.read())
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer}")
        return answer["usage"]["completion_tokens"]

    return call


def ours(model: Model, store: Store, asked: Sequence[Prompt]) -> Call:
    """A call as a teacher makes it: each of another question, whose row is durable before it is used."""
    subjects = count()

    async def call(number: int) -> int:
        ledger = Ledger(subject=f"{asked[0].prefix} {next(subjects)}", known={}, terms=Terms(keep=store))
        (completion,) = await ledger.generate(
            model,
            "propose",
            asked[number],
            agent="ann",
            n=1,
            max_tokens=MAX_TOKENS,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            seed=number,
        )
        return completion.usage.completion

    return call


async def load_with(call: Call, num: int, in_flight: int) -> tuple[float, int]:
    """Seconds of `num` calls, so many in flight, and their tokens."""
    numbers = iter(range(num))
    tokens: list[int] = []

    async def work() -> None:
        for number in numbers:
            generated = await call(number)
            tokens.append(generated)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    return time.perf_counter() - started, sum(tokens)


async def one_run(model: Model, store: Store, session: aiohttp.ClientSession, tokenizer: Any, run: int, in_flight: int) -> Json:
    """Both sides in turn, after every prompt was sent once."""
    url, num = model.engine.capabilities.device, ROUNDS * in_flight
    asked = make_prompts(num, start=1000 * (run + 1) + 100 * in_flight)
    await load_with(direct(session, url, tokenizer, asked, 1), num, in_flight)
    sides: dict[str, Call] = {
        "direct": direct(session, url, tokenizer, asked, MAX_TOKENS),
        "ours": ours(model, store, asked),
    }
    seconds, tokens = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    for side in ("direct", "ours", "ours", "direct") if run % 2 else ("ours", "direct", "direct", "ours"):
        took, made = await load_with(sides[side], num, in_flight)
        seconds[side], tokens[side] = seconds[side] + took, tokens[side] + made
    rates = {side: tokens[side] / seconds[side] for side in sides}
    async with asyncio.TaskGroup() as group:
        tasks = {side: group.create_task(load_with(call, num, in_flight // 2)) for side, call in sides.items()}
    beside = {side: made / took for side, (took, made) in ((side, task.result()) for side, task in tasks.items())}
    ratios = {"ratio": rates["ours"] / rates["direct"], "beside_ratio": beside["ours"] / beside["direct"]}
    return {**rates, **ratios, "seconds": seconds, "tokens": tokens, "beside": beside}


async def measure(num_runs: int, folder: Path) -> dict[int, list[Json]]:
    """The runs at each load; the first run at each warms up."""
    config = load("servers").engines["vllm"]
    assert isinstance(config, OpenAIEngine) and config.server
    tokenizer = AutoTokenizer.from_pretrained(resolve(config.server.model).path)
    found: dict[int, list[Json]] = {in_flight: [] for in_flight in IN_FLIGHT}
    async with (
        open_model("vllm", config, outputs=folder) as opened,
        open_store(folder / "bench.db") as store,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)) as session,
    ):
        model = replace(opened, gate=Gate(config.limits, name="vllm", adaptive=True))
        for in_flight in IN_FLIGHT:
            for run in range(num_runs + 1):
                row = await one_run(model, store, session, tokenizer, run, in_flight)
                print(
                    f"  {in_flight} in flight, run {run}: {row['ratio']:.3f}, at the same time {row['beside_ratio']:.3f}",
                    flush=True,
                )
                if run:
                    found[in_flight].append(row)
    return found


def spread(runs: Sequence[Json], key: str) -> str:
    """Median, least and most."""
    values = [run[key] for run in runs]
    return f"{statistics.median(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, logging_to(Path(scratch) / "log.jsonl", "warning"):
        found = asyncio.run(measure(options.runs, Path(scratch)))
    print(f"\n{device()}; vLLM, {MAX_TOKENS} tokens a request, medians of {options.runs} runs")
    print("tokens a second, and ours to direct (of all runs)")
    print(f"{'in flight':>9} {'direct':>8} {'ours':>8}   {'in turn':21} at the same time")
    for in_flight, runs in found.items():
        direct_, ours_ = (statistics.median(run[side] for run in runs) for side in ("direct", "ours"))
        print(f"{in_flight:9} {direct_:8.0f} {ours_:8.0f}   {spread(runs, 'ratio'):21} {spread(runs, 'beside_ratio')}")
    if options.json:
        options.json.write_text(json.dumps({"device": device(), "max_tokens": MAX_TOKENS, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
