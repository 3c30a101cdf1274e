"""Claims: servers take nearly all of a search's prompts that they can from their prefix caches; a prover costs little.

1. A run of the recipe `servers` (`make servers` installs them) on 12 questions, on servers that this script starts and reaches
   through a relay, which notes every request in the order of arrival:

   reached    share of prompt tokens served from the prefix cache, as the server itself counts them: vLLM under /metrics, SGLang
              in its log (what it reports with an answer of several samples is only the last of their prompts, and looks better)
   possible   share that the tree makes possible: of each prompt, the longest beginning that it has in common with an earlier
              one, at most all that need not be computed in any case (the last token, or what is scored); `in blocks` rounds that
              down to the server's block. Prompts are counted as the servers count them: a request for n samples is n prompts in
              vLLM, n + 1 in SGLang. A server also keeps what it wrote itself, so that `reached` may be above `possible`
   prover     its share of the summed seconds of all calls (the store's), and of the search's time: when some score was awaited,
              and when nothing else was

   Target: reached / possible at least 0.9. vLLM keeps whole blocks only: of 128 tokens on a CPU if nothing is said, of 32 in the
   recipe, of 16 on a GPU.

2. On the same servers, with room: 4 beams of about 1,500 tokens, known to the server; seconds to generate 16 candidates (2
   teachers, 2 samples), a step of 128 tokens each, and seconds to score them. Target: scoring under 5% of generating.

Not counted as possible: requests on the chat route, a few when an engine is opened.

    python benchmarks/prefix_cache.py [--runs 3 | 0: only the first part] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from machine import device
from transformers import AutoTokenizer

from agents import prompts
from agents.engines.base import Engine
from agents.engines.rendering import encode, render
from agents.models import resolve
from agents.roster import open_model
from configs.engines import OpenAIEngine
from configs.load import load
from configs.schema import Asking, RunConfig
from orchestrator.daemon import Draining
from orchestrator.folder import held
from orchestrator.logs import logging_to
from orchestrator.progress import Lines
from orchestrator.run import run
from store.reasoning import header
from store.store import open_store
from store.types import Question

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SERVERS = ("vllm", "sglang")
VLLM_COUNTERS = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
SGLANG_PREFILL = re.compile(r"Prefill batch.*#new-token: (\d+), #cached-token: (\d+)")
NUM_BEAMS, NUM_TEACHERS, NUM_SAMPLES = 4, 2, 2
PREFIX_TOKENS, STEP_TOKENS = 1500, 128

Json = dict[str, Any]


class Opening(Lines):
    """Shows nothing; notes when the last engine was open."""

    ended = 0.0

    def note(self, text: str) -> None:
        """Look whether it tells of an engine."""
        if text.startswith("engine "):
            self.ended = time.perf_counter()


# What was sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it went to a server; `computed` prompt tokens cannot come from a cache."""

    tokens: tuple[int, ...]
    samples: int
    computed: int
    scores: bool
    started: float
    ended: float


@dataclass(slots=True, kw_only=True)
class Relay:
    """Passes everything on to `target`, and notes the requests with token ids."""

    target: str
    session: aiohttp.ClientSession
    requests: list[Request] = field(default_factory=list)
    others: int = 0

    async def handle(self, asked: web.Request) -> web.Response:
        """One request, there and back."""
        data = await asked.read()
        started = time.perf_counter()
        place = len(self.requests)
        kept = self._request(json.loads(data), started) if asked.method == "POST" else None
        if kept:
            self.requests.append(kept)
        kind = {"Content-Type": asked.headers.get("Content-Type", "application/json")}
        async with self.session.request(asked.method, self.target + asked.path_qs, data=data, headers=kind) as response:
            answer = await response.read()
        if kept:
            self.requests[place] = replace(kept, ended=time.perf_counter())
        return web.Response(status=response.status, body=answer, headers={"Content-Type": response.headers["Content-Type"]})

    def _request(self, body: Json, now: float) -> Request | None:
        tokens = body.get("input_ids", body.get("prompt"))
        if not isinstance(tokens, list):
            self.others += 1
            return None
        computed = len(tokens) - body["logprob_start_len"] if "logprob_start_len" in body else 1
        if "prompt_logprobs" in body:
            computed = len(tokens)
        scores = "input_ids" in body or "allowed_token_ids" in body or "prompt_logprobs" in body
        return Request(tokens=tuple(tokens), samples=body.get("n", 1), computed=computed, scores=scores, started=now, ended=now)


@asynccontextmanager
async def relayed(target: str, session: aiohttp.ClientSession) -> AsyncIterator[tuple[Relay, str]]:
    """A relay and its address."""
    relay = Relay(target=target, session=session)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{route:.*}", relay.handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield relay, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def possible(requests: Sequence[Request], server: str, block: int) -> tuple[int, int, int]:
    """Prompt tokens as this server counts them; those that might be cached; those in whole blocks."""
    seen: dict[int, Any] = {}
    total = most = in_blocks = 0
    for request in requests:
        node, common = seen, 0
        for place, token in enumerate(request.tokens):
            if token in node and common == place:
                common += 1
            node = node.setdefault(token, {})
        prompts_made = request.samples + (server == "sglang" and request.samples > 1)
        for copy in range(prompts_made):
            found = min(len(request.tokens) if copy else common, len(request.tokens) - request.computed)
            total, most, in_blocks = total + len(request.tokens), most + found, in_blocks + found // block * block
    return total, most, in_blocks


# The servers


def engine_of(server: str, room: dict[str, str] | None = None) -> OpenAIEngine:
    """The recipe's engine with its server; `room` replaces arguments."""
    engine = load("servers").engines[server]
    assert isinstance(engine, OpenAIEngine) and engine.server
    args = tuple((room or {}).get(each, each) for each in engine.server.args)
    return engine.model_copy(update={"server": engine.server.model_copy(update={"args": args})})


async def counted(server: str, url: str, session: aiohttp.ClientSession, scratch: Path) -> tuple[float, float]:
    """Prompt tokens so far, and those of them that came from the cache."""
    if server == "sglang":
        text = await asyncio.to_thread((scratch / "sglang.log").read_text, encoding="utf-8", errors="replace")
        prefills = [(int(new), int(cached)) for new, cached in SGLANG_PREFILL.findall(text)]
        return sum(new + cached for new, cached in prefills), sum(cached for _, cached in prefills)
    async with session.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    queries, hits = (
        sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))
        for name in VLLM_COUNTERS
    )
    return queries, hits


async def block_of(server: str, url: str, session: aiohttp.ClientSession) -> int:
    """Tokens of one block of the cache."""
    if server == "sglang":
        async with session.get(f"{url}/server_info") as response:
            return int((await response.json())["page_size"])
    async with session.get(f"{url}/metrics") as response:
        line = next(line for line in (await response.text()).splitlines() if line.startswith("vllm:cache_config_info"))
    return int(line.partition('block_size="')[2].partition('"')[0])


# Part 1


async def one_run(scratch: Path) -> Json:
    """The recipe's run, on servers behind relays."""
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=None)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        )
        relays: dict[str, Relay] = {}
        engines: dict[str, OpenAIEngine] = {}
        for server in SERVERS:
            started = await stack.enter_async_context(open_model(server, engine_of(server), outputs=scratch))
            relay, address = await stack.enter_async_context(relayed(started.engine.capabilities.device, session))
            relays[server] = relay
            engines[server] = OpenAIEngine(kind="openai", url=address, model="smol", tokenizer=MODEL)
        before = {server: await counted(server, relays[server].target, session, scratch) for server in SERVERS}
        config = load("servers").model_copy(update={"engines": engines, "run_dir": scratch / "run"})
        opening = Opening()
        calls = await _calls(config, opening)
        rows = []
        for server, relay in relays.items():
            queries, hits = await counted(server, relay.target, session, scratch)
            block = await block_of(server, relay.target, session)
            total, most, in_blocks = possible(relay.requests, server, block)
            asked, reached = queries - before[server][0], hits - before[server][1]
            rows.append(
                {
                    "server": server,
                    "requests": len(relay.requests),
                    "other_requests": relay.others,
                    "prompt_tokens": total,
                    "counted_tokens": asked,
                    "block": block,
                    "reached": reached / asked,
                    "possible": most / total,
                    "in_blocks": in_blocks / total,
                }
            )
        every = [request for relay in relays.values() for request in relay.requests if request.started > opening.ended]
        return {"servers": rows, "prover": _prover_share(every, calls)}


async def _calls(config: RunConfig, opening: Opening) -> dict[str, list[float]]:
    """The run; the seconds of its calls by purpose."""
    with held(config) as folder:
        await run(config, folder, opening, Draining())
        found: dict[str, list[float]] = {}
        async with open_store(folder.database, create=False, read_only=True) as store:
            for placed in await store.questions("train"):
                for call in (await store.calls(placed.question.id)).values():
                    found.setdefault(call.purpose, []).append(call.latency_s)
    return found


def _prover_share(requests: Sequence[Request], calls: dict[str, list[float]]) -> Json:
    """Of all calls' seconds, and of the time in which the search awaited anything."""
    events = sorted(
        [(request.started, 1, request.scores) for request in requests]
        + [(request.ended, -1, request.scores) for request in requests]
    )
    out = {True: 0, False: 0}
    scoring = alone = busy = 0.0
    for (now, change, scores), (then, _, _) in pairwise(events):
        out[scores] += change
        scoring += (then - now) * (out[True] > 0)
        alone += (then - now) * (out[True] > 0 and not out[False])
        busy += (then - now) * (out[True] + out[False] > 0)
    seconds = {purpose: sum(each) for purpose, each in calls.items()}
    return {
        "calls": {purpose: len(each) for purpose, each in calls.items()},
        "seconds": seconds,
        "of_calls": seconds["score"] / sum(seconds.values()),
        "awaited": scoring / busy,
        "alone": alone / busy,
    }


# Part 2


def long_steps(tokenizer: Any, question: Question, asking: Asking, beam: int) -> list[str]:
    """Steps of a beam whose prompt has about PREFIX_TOKENS tokens, each step about STEP_TOKENS."""
    steps: list[str] = []
    while True:
        number, body = len(steps) + 1, ""
        while len(encode(tokenizer, body)) < STEP_TOKENS - 12:
            pears = 7 * beam + len(body) % 83 + number
            body += f" Then {pears} more pears are put into the basket, and {beam + number} of them are eaten on the way."
        longer = [*steps, f"{header(number)}{body}"]
        if len(encode(tokenizer, render(tokenizer, prompts.propose(question, longer, asking)))) > PREFIX_TOKENS:
            return steps
        steps = longer


async def one_step(engine: Engine, tokenizer: Any, asking: Asking, run_number: int) -> tuple[float, float, float]:
    """Seconds to generate a beam's candidates and to score them; tokens of a candidate."""
    question = Question(id="bench", text=f"Case {run_number}: how many pears are in the basket?", answer="42", kind="math")
    beams = [long_steps(tokenizer, question, asking, 10 * run_number + beam) for beam in range(NUM_BEAMS)]
    for steps in beams:  # their last step was scored, so that the server knows them
        await engine.answer_logprobs(prompts.conclude(question, "\n".join(steps), asking), "42")
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        asked = [
            (
                steps,
                group.create_task(
                    engine.generate(
                        prompts.propose(question, steps, asking),
                        n=NUM_SAMPLES,
                        max_tokens=STEP_TOKENS,
                        temperature=0.6,
                        top_p=0.95,
                        seed=100 * run_number + teacher,
                    )
                ),
            )
            for steps in beams
            for teacher in range(NUM_TEACHERS)
        ]
    generated = time.perf_counter() - started
    candidates = [(steps, completion) for steps, task in asked for completion in task.result()]
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for steps, completion in candidates:
            text = "\n".join([*steps, f"{header(len(steps) + 1)}{completion.text}"])
            group.create_task(engine.answer_logprobs(prompts.conclude(question, text, asking), "42"))
    scored = time.perf_counter() - started
    return generated, scored, statistics.mean(completion.usage.completion for _, completion in candidates)


async def steps_on(server: str, scratch: Path, num_runs: int) -> Json:
    """Medians on one server; the first run warms up."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(MODEL).path)
    config = engine_of(server, {"2048": "4096", "8192": "32768"})
    async with open_model(server, config, outputs=scratch) as model:
        found = [await one_step(model.engine, tokenizer, load("servers").asking, number) for number in range(num_runs + 1)]
    runs = [{"generate_s": g, "score_s": s, "tokens": t, "to_generate": s / g} for g, s, t in found[1:]]
    return {"server": server, "runs": runs, **{key: statistics.median(row[key] for row in runs) for key in runs[0]}}


async def measure(num_runs: int, scratch: Path) -> Json:
    """Both parts."""
    found = await one_run(scratch)
    steps = [await steps_on(server, scratch, num_runs) for server in SERVERS if num_runs]
    return {"device": device(), **found, "steps": steps}


def show(found: Json) -> None:
    """Print the tables."""
    print(f"{found['device']}; {MODEL}; recipe `servers`")
    print(f"{'server':8} {'requests':>8} {'prompt tokens':>13} {'block':>5} {'reached':>8} {'possible':>8} {'ratio':>6}", end=" ")
    print(f"{'in blocks':>9} {'ratio':>6}")
    for row in found["servers"]:
        ratios = [row["reached"] / row[key] for key in ("possible", "in_blocks")]
        print(f"{row['server']:8} {row['requests']:8} {row['prompt_tokens']:13} {row['block']:5} {row['reached']:8.1%}", end=" ")
        print(f"{row['possible']:8.1%} {ratios[0]:6.2f} {row['in_blocks']:9.1%} {ratios[1]:6.2f}")
    prover = found["prover"]
    calls = ", ".join(f"{number} {purpose}" for purpose, number in prover["calls"].items())
    print(
        f"prover, in this run ({calls}): {prover['of_calls']:.1%} of all calls' seconds; awaited in {prover['awaited']:.1%}",
        end=" ",
    )
    print(f"of the time, and nothing but it in {prover['alone']:.1%}")
    if not found["steps"]:
        return
    num = NUM_BEAMS * NUM_TEACHERS * NUM_SAMPLES
    print(f"\n{num} candidates after prefixes of about {PREFIX_TOKENS} tokens, medians")
    print(f"{'server':8} {'tokens each':>11} {'generate s':>10} {'score s':>8} {'score/generate':>14}")
    for row in found["steps"]:
        print(
            f"{row['server']:8} {row['tokens']:11.0f} {row['generate_s']:10.2f} {row['score_s']:8.2f} {row['to_generate']:14.1%}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, logging_to(Path(scratch) / "log.jsonl", "warning"):
        found = asyncio.run(measure(options.runs, Path(scratch)))
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
