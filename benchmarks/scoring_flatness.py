"""Claim: scoring an answer after a cached prefix costs about the same however long the prefix is, and is right.

Times `answer_logprobs` after prefixes of 256, 512, 1024 and 2048 tokens, each scored once before so that its keys and values
are cached (another answer every time, or nothing would be left to compute), the lengths in turn within every run. Then a
float32 engine's scores, cached, against one plain uncached forward pass of the library.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/scoring_flatness.py --json scoring.json

Targets: the longest at most 2 times the shortest; agreement to 1e-4.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.engines.base import Message, Prompt
from agents.engines.rendering import encode_answer, render
from agents.engines.transformers import TransformersEngine
from agents.models import ModelFolder, resolve
from configs.engines import TransformersEngine as Config

LENGTHS = (256, 512, 1024, 2048)
SENTENCE = "Then {0} more pears are put into the basket, and {1} of them are eaten on the way home by a boy. "
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """One line of the table. `difference` is the largest one between cached float32 scores and an uncached pass."""

    prefix_tokens: int
    cached_tokens: int
    milliseconds: float
    ratio_to_first: float
    difference: float


def make_context(tokenizer: Any, num_tokens: int, start: int) -> Prompt:
    """A prompt of about that many tokens; `start` makes it begin unlike any other."""
    reasoning = "<think>\n"
    number = start
    while True:
        longer = reasoning + SENTENCE.format(number % 90 + 10, number % 7 + 2)
        prompt = Prompt(messages=(Message(role="user", content=f"Question {start}: how many pears?"),), prefix=longer)
        if len(tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"]) > num_tokens:
            return Prompt(messages=prompt.messages, prefix=reasoning + "\n</think>\n\nThe final answer is ")
        reasoning, number = longer, number + 1


async def time_scores(engine: TransformersEngine, contexts: list[Prompt], num_runs: int) -> list[tuple[float, int]]:
    """Median seconds and cached tokens for each context, once its prefix has been scored before."""
    for context in contexts:
        await engine.answer_logprobs(context, "1234")
    seconds: list[list[float]] = [[] for _ in contexts]
    cached = [0] * len(contexts)
    for run in range(num_runs):
        for place, context in enumerate(contexts):
            started = time.perf_counter()
            scored = await engine.answer_logprobs(context, str(5000 + run))
            seconds[place].append(time.perf_counter() - started)
            cached[place] = scored.usage.cached
    return [(statistics.median(times), tokens) for times, tokens in zip(seconds, cached, strict=True)]


@torch.inference_mode()
def score_plainly(model: Any, tokenizer: Any, context: Prompt, answer: str) -> list[float]:
    """The library's own forward pass over everything."""
    whole = encode_answer(tokenizer, render(tokenizer, context), answer)
    tokens = torch.tensor([whole.tokens], device=model.device)
    logprobs = model(input_ids=tokens, use_cache=False).logits[0, whole.first - 1 : -1].float().log_softmax(-1)
    return logprobs.gather(1, tokens[0, whole.first :, None])[:, 0].tolist()


async def differences(folder: ModelFolder, arguments: argparse.Namespace, contexts: list[Prompt]) -> list[float]:
    """Largest difference of cached float32 scores from a plain pass, for each context."""
    config = Config(kind="transformers", model=arguments.model, device=arguments.device, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    async with TransformersEngine(config, folder) as engine:
        model: Any = AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)
        model = model.to(engine.capabilities.device).eval()
        found = []
        for context in contexts:
            await engine.answer_logprobs(context, "1234")
            scored = await engine.answer_logprobs(context, "5678")
            assert scored.usage.cached > 0
            plain = score_plainly(model, tokenizer, context, "5678")
            found.append(max(abs(a - b) for a, b in zip(scored.values, plain, strict=True)))
    return found


async def main(arguments: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON."""
    folder = resolve(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    contexts = [make_context(tokenizer, length, 100 * place) for place, length in enumerate(LENGTHS)]
    config = Config(kind="transformers", model=arguments.model, device=arguments.device)
    async with TransformersEngine(config, folder) as engine:
        found = engine.capabilities
        timed = await time_scores(engine, contexts, arguments.runs)
    apart = await differences(folder, arguments, contexts)
    first = timed[0][0]
    rows = [
        Row(length, cached, round(seconds * 1e3, 2), round(seconds / first, 2), difference)
        for length, (seconds, cached), difference in zip(LENGTHS, timed, apart, strict=True)
    ]
    print(f"{arguments.model}, {found.device}, {found.dtype} (agreement: float32), medians of {arguments.runs} runs")
    print(f"{'prefix':>6} {'cached':>6} {'ms':>8} {'ratio':>6} {'difference':>11}")
    for row in rows:
        timing = f"{row.prefix_tokens:6} {row.cached_tokens:6} {row.milliseconds:8.1f} {row.ratio_to_first:6.2f}"
        print(f"{timing} {row.difference:11.1e}")
    flat, right = rows[-1].ratio_to_first <= 2, max(apart) <= TOLERANCE
    print(f"flat: {'yes' if flat else 'NO'}; agrees to {TOLERANCE:g}: {'yes' if right else 'NO'}")
    if arguments.json:
        report = {"model": arguments.model, "device": found.device, "dtype": found.dtype, "flat": flat, "agrees": right}
        arguments.json.write_text(json.dumps({**report, "rows": [asdict(row) for row in rows]}, indent=2))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
