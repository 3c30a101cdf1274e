"""Claim: continuous batching costs little against a static batch of equal lengths, and wins where lengths differ.

32 requests in flight through the engine against the library's plain `generate` on one static batch of the same 32 prompts,
same model, type and lengths, in turn in one process. Only tokens that were asked for count:
a static batch runs to its longest row.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/engine_throughput.py --json throughput.json

Targets: equal lengths (96 tokens) at least 0.8 of plain `generate`, mixed lengths (16 to 192) more than 1.3.
Workloads: `equal` and `mixed` have short prompts of their own; `few-shot` has 300 tokens in common, as the search's calls do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.engines.base import Message, Prompt
from agents.engines.transformers import TransformersEngine
from agents.models import ModelFolder, resolve
from configs.engines import TransformersEngine as Config

TEMPERATURE = 0.8
EXAMPLE = (
    "A baker has {0} loaves, bakes {1} more, sells {2} and gives {3} away. How many are left? Step by step: add, then take away. "
)


@dataclass(frozen=True)
class Workload:
    """What is asked for: new tokens of each request, and whether the prompts begin alike."""

    name: str
    lengths: tuple[int, ...]
    shared: bool


@dataclass(frozen=True)
class Row:
    """One line of the table: medians in tokens a second."""

    workload: str
    engine: float
    generate: float
    ratio: float
    runs: list[dict[str, float]]


def workloads(num: int) -> list[Workload]:
    """Equal and mixed lengths; the mixed ones are spread evenly over 16 to 192."""
    mixed = [16 + round(176 * i / max(1, num - 1)) for i in range(num)]
    random.Random(0).shuffle(mixed)
    equal = (96,) * num
    return [Workload("equal", equal, False), Workload("mixed", tuple(mixed), False), Workload("few-shot", equal, True)]


def make_prompts(workload: Workload, run: int) -> list[Prompt]:
    """New ones for each run, or the second run would find the first one's keys and values."""
    chance = random.Random(f"{workload.name}/{run}")

    def example() -> str:
        return EXAMPLE.format(*(chance.randrange(10, 99) for _ in range(4)))

    common = "".join(example() for _ in range(7)) if workload.shared else ""
    return [Prompt(messages=(Message(role="user", content=common + example()),)) for _ in workload.lengths]


async def run_engine(engine: TransformersEngine, prompts: list[Prompt], lengths: tuple[int, ...]) -> float:
    """Seconds until every request has its tokens."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            group.create_task(engine.generate(prompt, max_tokens=length, temperature=TEMPERATURE, seed=number))
    return time.perf_counter() - started


@torch.inference_mode()
def run_generate(model: Any, tokenizer: Any, prompts: list[Prompt], lengths: tuple[int, ...]) -> float:
    """Seconds of one static batch, as long as its longest row."""
    texts = [[{"role": m.role, "content": m.content} for m in prompt.messages] for prompt in prompts]
    started = time.perf_counter()
    rendered = [tokenizer.apply_chat_template(text, add_generation_prompt=True, tokenize=False) for text in texts]
    inputs = tokenizer(rendered, add_special_tokens=False, return_tensors="pt", padding=True).to(model.device)
    longest = max(lengths)
    model.generate(
        **inputs, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0, max_new_tokens=longest, min_new_tokens=longest
    )
    return time.perf_counter() - started


async def measure(engine: TransformersEngine, model: Any, tokenizer: Any, workload: Workload, num_runs: int) -> Row:
    """Alternate the two, after one warm-up of each with few tokens."""
    prompts = make_prompts(workload, -1)
    await run_engine(engine, prompts, (4,) * len(prompts))
    run_generate(model, tokenizer, prompts, (4,) * len(prompts))
    tokens, runs = sum(workload.lengths), []
    for run in range(num_runs):
        prompts = make_prompts(workload, run)
        ours = tokens / await run_engine(engine, prompts, workload.lengths)
        theirs = tokens / run_generate(model, tokenizer, prompts, workload.lengths)
        runs.append({"engine": round(ours, 1), "generate": round(theirs, 1), "ratio": round(ours / theirs, 3)})
        print(f"  {workload.name} run {run}: engine {ours:.0f}, generate {theirs:.0f} tokens/s, ratio {ours / theirs:.2f}")
    medians = {key: statistics.median(run[key] for run in runs) for key in ("engine", "generate", "ratio")}
    return Row(workload.name, medians["engine"], medians["generate"], medians["ratio"], runs)


async def main(arguments: argparse.Namespace) -> None:
    """Measure every workload, print the table, write the JSON."""
    folder: ModelFolder = resolve(arguments.model)
    config = Config(kind="transformers", model=arguments.model, device=arguments.device, max_batch=arguments.requests)
    async with TransformersEngine(config, folder, ignore_end=True) as engine:
        found = engine.capabilities
        tokenizer = AutoTokenizer.from_pretrained(folder.path, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(folder.path, dtype=getattr(torch, found.dtype))
        model = model.to(found.device).eval()
        chosen = [workload for workload in workloads(arguments.requests) if workload.name in arguments.workloads]
        rows = [await measure(engine, model, tokenizer, workload, arguments.runs) for workload in chosen]
    print(f"\n{arguments.model}, {found.device}, {found.dtype}, {arguments.requests} requests, medians of {arguments.runs} runs")
    print("tokens a second")
    print(f"{'workload':10} {'engine':>8} {'generate':>9} {'ratio':>6}")
    for row in rows:
        print(f"{row.workload:10} {row.engine:8.0f} {row.generate:9.0f} {row.ratio:6.2f}")
    if arguments.json:
        report = {"model": arguments.model, "device": found.device, "dtype": found.dtype, "requests": arguments.requests}
        arguments.json.write_text(json.dumps({**report, "rows": [asdict(row) for row in rows]}, indent=2))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workloads", nargs="+", default=["equal", "mixed", "few-shot"])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
