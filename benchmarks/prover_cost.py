"""Claim: a prover's time hardly grows with the prefix, on every engine; what recomputes the prefix is shown beside.

Scores an answer after prefixes of 256 to 4,096 tokens, each scored once before so that its keys and values may be cached, with
another answer every time; lengths in turn within every run, one engine after the other, on servers that this script starts
(`make servers` installs them). `prompt_logprobs` is the fallback on vLLM servers, which computes the whole prompt again.

    python benchmarks/prover_cost.py [--runs 7] [--json FILE]
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

from transformers import AutoTokenizer

from agents.engines.base import Engine, Message, Prompt
from agents.engines.rendering import render
from agents.models import resolve
from agents.roster import open_model
from configs.engines import EngineConfig, OpenAIEngine, TransformersEngine
from configs.load import load
from orchestrator.logs import logging_to

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LENGTHS = (256, 512, 1024, 2048, 4096)
SENTENCE = "Then {0} more pears are put into the basket, and {1} of them are eaten on the way home by a boy. "


def engines() -> dict[str, EngineConfig]:
    """Every engine that scores, by every method; servers with room for the longest prefix."""
    recipe = load("servers").engines
    vllm, sglang = recipe["vllm"], recipe["sglang"]
    assert isinstance(vllm, OpenAIEngine) and vllm.server and isinstance(sglang, OpenAIEngine) and sglang.server
    room = {"2048": "4608", "8192": "16384"}
    wide_vllm = vllm.server.model_copy(update={"args": tuple(room.get(a, a) for a in vllm.server.args)})
    wide_sglang = sglang.server.model_copy(update={"args": tuple(room.get(a, a) for a in sglang.server.args)})
    return {
        "transformers": TransformersEngine(kind="transformers", model=MODEL),
        "sglang, generate": sglang.model_copy(update={"server": wide_sglang}),
        "vllm, forced": vllm.model_copy(update={"server": wide_vllm, "scoring": "forced"}),
        "vllm, prompt_logprobs": vllm.model_copy(update={"server": wide_vllm, "scoring": "prompt_logprobs"}),
    }


def make_context(tokenizer: Any, num_tokens: int, start: int) -> Prompt:
    """A prompt of about that many tokens; `start` makes it begin unlike any other."""
    messages = (Message(role="user", content=f"Question {start}: how many pears?"),)
    reasoning, number = "<think>\n", start
    while True:
        longer = reasoning + SENTENCE.format(number % 90 + 10, number % 7 + 2)
        if len(tokenizer(render(tokenizer, Prompt(messages=messages, prefix=longer)))["input_ids"]) > num_tokens:
            return Prompt(messages=messages, prefix=reasoning + "\n</think>\n\nThe final answer is ")
        reasoning, number = longer, number + 1


async def seconds(engine: Engine, contexts: list[Prompt], num_runs: int) -> list[float]:
    """Median seconds of one score after each context."""
    for context in contexts:
        await engine.answer_logprobs(context, "1234")
    taken: list[list[float]] = [[] for _ in contexts]
    for run in range(num_runs):
        for place, context in enumerate(contexts):
            started = time.perf_counter()
            await engine.answer_logprobs(context, str(5000 + run))
            taken[place].append(time.perf_counter() - started)
    return [statistics.median(each) for each in taken]


async def measured(num_runs: int) -> dict[str, list[float]]:
    """Every engine's seconds."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(MODEL).path)
    contexts = [make_context(tokenizer, length, 100 * place) for place, length in enumerate(LENGTHS)]
    found = {}
    for name, config in engines().items():
        async with open_model(name.partition(",")[0], config) as model:
            found[name] = await seconds(model.engine, contexts, num_runs)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, logging_to(Path(scratch) / "log.jsonl", "warning"):
        found = asyncio.run(measured(options.runs))
    print(f"{MODEL}: milliseconds to score 4 answer tokens after a prefix of so many tokens, medians of {options.runs} runs")
    print(f"{'engine, method':22} " + " ".join(f"{length:>7}" for length in LENGTHS) + "   last to first")
    for name, times in found.items():
        print(f"{name:22} " + " ".join(f"{each * 1e3:7.0f}" for each in times) + f"   {times[-1] / times[0]:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"lengths": LENGTHS, "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
