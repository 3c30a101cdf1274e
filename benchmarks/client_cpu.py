"""Claim: a call through our clients costs the caller little CPU beside bare aiohttp, which sends the same bodies.

CPU seconds of this process (`time.process_time`, all its threads) for one call, 64 in flight, against a stub server in another
process that answers as vLLM does: a step of 20 tokens, whole or as a stream of one event a token. The prompts are CoRD's: the
recipe `servers`' turns and two worked examples, a question, a reasoning that grows from 0 to 5 steps, 4 beams at each depth,
each prompt asked by two teachers on one engine; in the rows "one teacher" each is asked once. Every run has new questions. All
rows are measured in turn within every run.

    bare       `session.post(json=body)`, the answer read and decoded, of a stream every event; bodies are ready-made, so the
               bare client neither renders nor tokenises
    openai     the engine, on its chat route (no tokenizer), and with the model's own tokenizer (template rendered, token ids)
    litellm    the engine; always a stream

Target: `openai` at most twice bare. Not measured here: the ledger, the store (`orchestration_overhead.py`), the server.

    python benchmarks/client_cpu.py [--runs 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from machine import device
from transformers import AutoTokenizer

from agents import prompts
from agents.engines import dialects
from agents.engines.base import Engine, Prompt
from agents.engines.litellm import LitellmEngine
from agents.engines.openai import OpenAIEngine
from agents.engines.rendering import encode, render
from agents.models import resolve
from agents.steps import STOPS
from configs.engines import LitellmEngine as LitellmConfig
from configs.engines import OpenAIEngine as OpenAIConfig
from configs.load import load
from configs.schema import WordProblems
from orchestrator.questions.load import load_questions
from store.reasoning import header

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
IN_FLIGHT = 64
NUM_QUESTIONS, NUM_STEPS, NUM_BEAMS, NUM_TEACHERS = 16, 5, 4, 2
WHOLE_TOKENS, STREAMED_TOKENS = 48, 300
STEP = " The shop has 12 boxes and 7 more of them are brought, so that there are: 12 + 7 = 19 boxes."
TOKENS = re.findall(r" \S+", STEP)
WAIT_S = 0.02
EVENT_S = 0.005

Json = dict[str, Any]
Call = Callable[[int], Awaitable[object]]

PAIRS = {
    "openai, chat route": "bare, chat",
    "openai, own tokenizer": "bare, token ids",
    "openai, own tokenizer, one teacher": "bare, token ids, one teacher",
    "openai, chat route, streamed": "bare, chat, streamed",
    "openai, own tokenizer, streamed": "bare, token ids, streamed",
    "litellm, streamed": "bare, chat, streamed",
}
"""Which bare row each of ours stands against."""


# The server


async def answer(request: web.Request) -> web.StreamResponse:
    """As vLLM answers: whole, or one event a token."""
    body = await request.json()
    chat = "messages" in body
    if not body.get("stream"):
        await asyncio.sleep(WAIT_S)
        return web.json_response(_whole(chat, "".join(TOKENS)))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for token in TOKENS:
        await response.write(_event(_piece(chat, token, None)))
        await asyncio.sleep(EVENT_S)
    await response.write(_event(_piece(chat, "", "stop")))
    await response.write(_event({**_head(chat), "choices": [], "usage": _usage()}) + b"data: [DONE]\n\n")
    return response


def _head(chat: bool) -> Json:
    kind = "chat.completion" if chat else "text_completion"
    return {"id": "cmpl-8f14e45fceea167a5a36dedd4bea2543", "object": kind, "created": 1_700_000_000, "model": "stub"}


def _usage() -> Json:
    return {"prompt_tokens": 300, "total_tokens": 324, "completion_tokens": 24, "prompt_tokens_details": {"cached_tokens": 288}}


def _whole(chat: bool, text: str) -> Json:
    said = {"message": {"role": "assistant", "content": text, "tool_calls": []}} if chat else {"text": text}
    choice = {
        "index": 0,
        **said,
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": STOPS["header"][0],
        "prompt_logprobs": None,
    }
    return {**_head(chat), "choices": [choice], "usage": _usage(), "kv_transfer_params": None}


def _piece(chat: bool, text: str, finish: str | None) -> Json:
    said = {"delta": {"content": text}} if chat else {"text": text}
    stop = STOPS["header"][0] if finish else None
    return {**_head(chat), "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish, "stop_reason": stop}]}


def _event(event: Json) -> bytes:
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


async def models(_: web.Request) -> web.Response:
    """One model, served by vLLM."""
    return web.json_response({"data": [{"id": "stub", "owned_by": "vllm", "max_model_len": 8192}]})


def serve(port: Connection) -> None:
    """Tell the port, then answer until this process is ended."""

    async def forever() -> None:
        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/{route:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=256).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(forever())


@contextmanager
def stub_server() -> Iterator[str]:
    """Its address; it ends with the block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        if not here.poll(60):
            raise RuntimeError("the stub server did not start")
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


# The load


def make_prompts(seed: int, num_teachers: int) -> list[Prompt]:
    """A run's prompts in the order in which a search asks them, each made anew for each teacher."""
    asking = load("servers").asking
    questions = load_questions(WordProblems(kind="word_problems", count=NUM_QUESTIONS, seed=1000 + seed), Path()).questions
    found = []
    for depth in range(NUM_STEPS + 1):
        for place, question in enumerate(questions):
            for beam in range(NUM_BEAMS if depth else 1):
                steps = [step(depth, place, beam) for depth in range(depth)]
                found += [prompts.propose(question, steps, asking) for _ in range(num_teachers)]
    return found


def step(depth: int, place: int, beam: int) -> str:
    """A step of the usual length; another one for every question and beam."""
    have, more = 3 * place + 7 * depth + 2, beam + 2 * depth + 3
    return f"{header(depth + 1)} The shop has {have} boxes and {more} more are brought: {have} + {more} = {have + more}."


def bodies(asked: Sequence[Prompt], max_tokens: int, tokenizer: Any) -> list[Json]:
    """What the engine sends for each prompt: token ids, or turns where there is no tokenizer."""
    found = []
    for number, prompt in enumerate(asked):
        sampling = dialects.Sampling(
            n=1, max_tokens=max_tokens, stop=STOPS["header"], temperature=0.6, top_p=0.95, seed=number, logprobs=False
        )
        common = dialects.body("vllm", "stub", sampling, stream=max_tokens == STREAMED_TOKENS)
        if tokenizer:
            found.append(dialects.raw(common, encode(tokenizer, render(tokenizer, prompt)), logprobs=False))
        else:
            found.append(dialects.chat("vllm", common, prompt, logprobs=False))
    return found


def bare(session: aiohttp.ClientSession, url: str, ready: Sequence[Json]) -> Call:
    """A call of bare aiohttp."""

    async def call(number: int) -> object:
        async with session.post(url, json=ready[number]) as response:
            return json.loads(await response.read())

    return call


def bare_streamed(session: aiohttp.ClientSession, url: str, ready: Sequence[Json]) -> Call:
    """A streamed call of bare aiohttp: every event is decoded."""

    async def call(number: int) -> object:
        async with session.post(url, json=ready[number]) as response:
            return [json.loads(line[5:]) async for line in response.content if line.startswith(b"data: {")]

    return call


def ours(engine: Engine, asked: Sequence[Prompt], max_tokens: int) -> Call:
    """A call of one of our engines."""

    async def call(number: int) -> object:
        return await engine.generate(
            asked[number], max_tokens=max_tokens, stop=STOPS["header"], temperature=0.6, top_p=0.95, seed=number
        )

    return call


async def cpu_ms(call: Call, num: int) -> float:
    """CPU milliseconds of one call, of `num`, 64 in flight. Everything that lies about is kept from the garbage collector."""
    numbers = iter(range(num))

    async def work() -> None:
        for number in numbers:
            await call(number)

    gc.collect()
    gc.freeze()
    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    return (time.process_time() - started) / num * 1e3


async def measure(url: str, num_runs: int) -> dict[str, list[float]]:
    """Every row of every run; the first run warms up."""
    folder = resolve(MODEL).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    os.environ["STUB_KEY"] = "none"
    openai = OpenAIConfig(kind="openai", url=url, model="stub")
    litellm = LitellmConfig(kind="litellm", model="openai/stub", url=f"{url}/v1", key="STUB_KEY", continues="prefill")
    found: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        chat = await stack.enter_async_context(OpenAIEngine(openai, url, None))
        own = await stack.enter_async_context(OpenAIEngine(openai, url, folder))
        hosted = await stack.enter_async_context(LitellmEngine(litellm))
        for run in range(num_runs + 1):
            both, one = make_prompts(2 * run, NUM_TEACHERS), make_prompts(2 * run + 1, 1)
            texts, ids = url + dialects.CHAT, url + dialects.COMPLETIONS
            calls: dict[str, tuple[Call, int]] = {
                "bare, chat": (bare(session, texts, bodies(both, WHOLE_TOKENS, None)), len(both)),
                "openai, chat route": (ours(chat, both, WHOLE_TOKENS), len(both)),
                "bare, token ids": (bare(session, ids, bodies(both, WHOLE_TOKENS, tokenizer)), len(both)),
                "openai, own tokenizer": (ours(own, both, WHOLE_TOKENS), len(both)),
                "bare, token ids, one teacher": (bare(session, ids, bodies(one, WHOLE_TOKENS, tokenizer)), len(one)),
                "openai, own tokenizer, one teacher": (ours(own, one, WHOLE_TOKENS), len(one)),
                "bare, chat, streamed": (bare_streamed(session, texts, bodies(both, STREAMED_TOKENS, None)), len(both)),
                "openai, chat route, streamed": (ours(chat, both, STREAMED_TOKENS), len(both)),
                "bare, token ids, streamed": (bare_streamed(session, ids, bodies(both, STREAMED_TOKENS, tokenizer)), len(both)),
                "openai, own tokenizer, streamed": (ours(own, both, STREAMED_TOKENS), len(both)),
                "litellm, streamed": (ours(hosted, one, STREAMED_TOKENS), len(one)),
            }
            for name, (call, num) in calls.items():
                taken = await cpu_ms(call, num)
                if run:
                    found.setdefault(name, []).append(taken)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with stub_server() as url:
        found = asyncio.run(measure(url, options.runs))
    num = len(make_prompts(0, NUM_TEACHERS))
    print(f"{device()}; {num} calls a row (one teacher: half), {IN_FLIGHT} in flight, medians of {options.runs} runs")
    print(f"{'':34} {'CPU ms a call':>13} {'to bare':>8}  {'of all runs':>12}")
    rows = []
    for name, taken in found.items():
        ratios = [one / other for one, other in zip(taken, found[PAIRS.get(name, name)], strict=True)]
        rows.append({"name": name, "cpu_ms": statistics.median(taken), "to_bare": statistics.median(ratios), "runs": taken})
        span = f"{min(ratios):.2f} to {max(ratios):.2f}" if name in PAIRS else ""
        print(f"{name:34} {rows[-1]['cpu_ms']:13.3f} {rows[-1]['to_bare']:8.2f}  {span:>12}")
    if options.json:
        options.json.write_text(json.dumps({"device": device(), "in_flight": IN_FLIGHT, "calls": num, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
