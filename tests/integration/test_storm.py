"""A server that misbehaves in every way that we have seen: every request ends, in time, as a row; nothing is lost or grows."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from stub_server import Behaviour, StubServer, cut, endless, limited, reset, says, serving, silent, status

from agents.engines.base import Completion, Message, Prompt, together
from agents.engines.openai import OpenAIEngine
from agents.errors import EngineError
from agents.ledger import Ledger, Model, Terms
from agents.limits import Gate
from configs.engines import EngineLimits
from configs.engines import OpenAIEngine as Config
from store.store import Store, open_store
from store.types import Failure, content_id

USAGE = {"prompt_tokens": 9, "completion_tokens": 4}
GOOD = says("2 + 3 = 5.", "\n### Step", " 2.", usage=USAGE)
STORM: dict[str, Behaviour] = {
    "429": status(429, {"error": {"message": "too many requests"}}),
    "429 and when": status(429, {"error": {"message": "too many requests"}}, Retry_After="1"),
    "500": status(500, {"error": {"message": "internal error"}}),
    "503": status(503, "the queue is full"),
    "404": status(404, {"error": {"message": "the model 'stub' does not exist"}}),
    "400": status(400, {"error": {"message": "bad request"}}),
    "silence": silent,
    "cut": cut("2 + ", "3 "),
    "no JSON": status(200, "<html>welcome</html>"),
    "empty text": says("", usage=USAGE),
    "giant text": endless("and so on " * 1000),
    "text after stop": says("2 + 3 = 5.", "\n### Step 2. And more,", " and more." * 50, usage=USAGE),
    "reset": reset,
    "trickle": says(*"so slow that it never ends", pause_s=0.4),
    "no end": says("2 + 3", done=False),
}
DEADLINE_S = 1.5
GIVE_UP_S = 3.0
MAX_TOKENS = 300
"""So many that every server is read as a stream."""


async def ask(book: Ledger, model: Model, store: Store, number: int) -> Completion | EngineError:
    """One request; what came of it, and how long it took, is checked here."""
    prompt = Prompt(messages=(Message(role="user", content=f"What is 2 + {number}?"),), prefix="<think>\n### Step 1.")
    began = time.monotonic()
    try:
        async with asyncio.timeout(60):
            (found,) = await book.generate(
                model, "propose", prompt, agent="ann", waits=False, n=1, max_tokens=MAX_TOKENS, stop=("\n### Step",), seed=number
            )
        return found
    except EngineError as error:
        kind = type(error).__name__
        row = Failure(id=content_id(number, kind), where="storm", kind=kind, message=str(error), tries=error.tries, subject="q")
        await store.record_failure(row)
        assert "\n" not in str(error)
        return error
    finally:
        assert time.monotonic() - began < GIVE_UP_S + 4 * DEADLINE_S + 30, "queueing, tries and their waits"


async def storm(server: StubServer, store: Store, model: Model, numbers: Sequence[int]) -> Counter[str]:
    """Ask for all numbers at once; what came of them, by kind."""
    book = Ledger(subject="q", known={}, terms=Terms(keep=store))
    ended = await together([ask(book, model, store, number) for number in numbers])
    for each in ended:
        if isinstance(each, Completion):
            assert "### Step" not in each.text
            assert len(each.text) < MAX_TOKENS * 256 + 10_000
    return Counter("answered" if isinstance(each, Completion) else type(each).__name__ for each in ended)


def played(path: Path, default: Behaviour, *rounds: int, owner: str = "stub", share: float = 0.4) -> list[Counter[str]]:
    """Rounds of so many requests, of which a `share` meets a storm; after each, the rows balance."""

    async def work() -> list[Counter[str]]:
        chance, numbers = random.Random(0), itertools.count()
        found: list[Counter[str]] = []
        async with serving(default, owner) as server, open_store(path) as store:
            config = Config(kind="openai", url=server.url, model="stub", deadline_s=DEADLINE_S, silence_s=0.8)
            async with OpenAIEngine(config, server.url, None) as engine:
                gate = Gate(EngineLimits(give_up_s=GIVE_UP_S, park_s=1.0), adaptive=True)
                model = Model(name="stub", identity="stub", engine=engine, gate=gate)
                for num_requests in rounds:
                    ways = list(STORM)
                    server.behaviours.clear()
                    server.bodies.clear()
                    server.headers.clear()
                    for _ in range(num_requests):
                        server.behaviours.append(STORM[chance.choice(ways)] if chance.random() < share else default)
                    asked = list(itertools.islice(numbers, num_requests))
                    found.append(await storm(server, store, model, asked))
                    assert sum(found[-1].values()) == num_requests
                    counts = await store.counts()
                    assert counts.get("calls.propose", 0) == sum(each["answered"] for each in found)
                    assert counts.get("failures.storm", 0) == sum(each.total() - each["answered"] for each in found)
        return found

    return asyncio.run(work())


@pytest.mark.parametrize("way", STORM)
def test_a_server_that_does_nothing_else(tmp_path: Path, way: str) -> None:
    """Every request ends; a server that never answers well is parked, and the others learn it at once."""
    (ended,) = played(tmp_path / "run.db", STORM[way], 12, share=0.0)
    answers = {"empty text", "text after stop"}
    assert (ended["answered"] == 12) == (way in answers), ended


@pytest.mark.parametrize("owner", ["stub", "vllm"])
def test_a_storm_of_everything_ends_and_leaves_nothing_behind(tmp_path: Path, owner: str) -> None:
    (ended,) = played(tmp_path / "run.db", GOOD, 150, owner=owner)
    assert ended["answered"] > 0, ended


def test_every_seventh_request_fails_and_nearly_all_are_answered(tmp_path: Path) -> None:
    number = itertools.count()

    async def sometimes(server: StubServer, request: object, body: dict[str, object]) -> object:
        return await (STORM["500"] if next(number) % 7 == 6 else GOOD)(server, request, body)  # type: ignore[arg-type]

    (ended,) = played_plainly(tmp_path / "run.db", sometimes, 200)  # type: ignore[arg-type]
    assert ended["answered"] >= 196, "three times in a row is once in 343"
    assert ended.total() == 200


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "1"}])
def test_a_storm_of_429_is_weathered(tmp_path: Path, headers: dict[str, str]) -> None:
    (ended,) = played_plainly(tmp_path / "run.db", limited(60, 5, GOOD, **headers), 120)
    assert ended["answered"] + ended["Throttled"] == 120, ended
    assert ended["answered"] >= 100, ended


def played_plainly(path: Path, default: Behaviour, num_requests: int) -> list[Counter[str]]:
    """One round of one behaviour."""

    async def work() -> list[Counter[str]]:
        async with serving(default) as server, open_store(path) as store:
            config = Config(kind="openai", url=server.url, model="stub")
            async with OpenAIEngine(config, server.url, None) as engine:
                model = Model(name="stub", identity="stub", engine=engine, gate=Gate(EngineLimits(give_up_s=60), adaptive=True))
                return [await storm(server, store, model, range(num_requests))]

    return asyncio.run(work())


def test_memory_stays_flat_over_storms(tmp_path: Path) -> None:
    def resident_mb() -> float:
        gc.collect()
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize() / (1 << 20)

    played(tmp_path / "warm.db", GOOD, 40, 40)
    before = resident_mb()
    played(tmp_path / "run.db", GOOD, *[40] * 5)
    assert resident_mb() - before < 24
    assert len(os.listdir("/proc/self/fd")) < 200
