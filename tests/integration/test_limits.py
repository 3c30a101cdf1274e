"""The gate of an engine: order, rates, retries, deadlines, places given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stub_server import limited, says, serving
from three_teachers import NAMES, Stage, configured

from agents.engines.base import Completion, Message, Prompt, together
from agents.engines.openai import OpenAIEngine
from agents.engines.scripted import ScriptedEngine
from agents.errors import Broken, EngineError, Parked, Quarantined, Retryable, Terminal, Throttled, TimedOut
from agents.ledger import Model
from agents.limits import MOST_TURNED_AWAY, Gate
from configs.engines import EngineLimits
from configs.engines import OpenAIEngine as Config
from configs.engines import ScriptedEngine as Scripted

Call = Callable[[], Awaitable[Any]]


def gate(tries: int = 3, adaptive: bool = False, **limits: Any) -> Gate:
    return Gate(EngineLimits(**limits), adaptive=adaptive, tries=tries)


def failing(*errors: EngineError | None) -> Call:
    """Raises these, one a call; then answers."""
    left = list(errors)

    async def call() -> str:
        if left and (error := left.pop(0)):
            raise error
        return "answer"

    return call


def taking(seconds: float, log: list[str] | None = None, name: str = "") -> Call:
    async def call() -> str:
        if log is not None:
            log.append(name)
        await asyncio.sleep(seconds)
        return name

    return call


def test_no_more_than_the_limit_are_in_flight_and_all_get_through() -> None:
    out = most = 0

    async def call() -> None:
        nonlocal out, most
        out, most = out + 1, max(most, out + 1)
        await asyncio.sleep(0.002)
        out -= 1

    async def work() -> None:
        one = gate(in_flight=7)
        await together([one.ask(call) for _ in range(200)])

    asyncio.run(work())
    assert most == 7


def test_first_come_first_served_and_a_retry_has_its_old_place() -> None:
    log: list[str] = []
    fails = [True]

    async def first() -> None:
        log.append("first")
        if fails.pop():
            fails.append(False)
            raise Retryable("busy")

    async def work() -> None:
        one = gate(in_flight=1)
        waiting = [one.ask(first), *(one.ask(taking(0.2, log, name)) for name in ("second", "third", "fourth"))]
        await together(waiting)

    asyncio.run(work())
    assert log[:2] == ["first", "second"]
    assert log.index("first", 1) in (2, 3), "as soon as its wait is over, before those that came later"


def test_what_was_begun_first_goes_first_whenever_it_comes() -> None:
    log: list[str] = []

    async def work() -> None:
        one = gate(in_flight=1)
        asked = [(0.0, "now"), (3.0, "young"), (2.0, "old"), (3.0, "young too"), (1.0, "oldest")]
        await together([one.ask(taking(0.02, log, name), begun=begun) for begun, name in asked])

    asyncio.run(work())
    assert log == ["now", "oldest", "old", "young", "young too"]


def test_of_many_questions_the_one_begun_first_is_finished_while_its_prefixes_are_warm(tmp_path: Path) -> None:
    asked: list[str] = []

    class Slow(ScriptedEngine):
        async def generate(self, prompt: Prompt, **sampling: Any) -> list[Completion]:
            asked.append(prompt.messages[-1].content)
            return await super().generate(prompt, **sampling)

    async def work() -> None:
        stage = Stage(steps=4)
        slow = Slow(Scripted(kind="scripted", latency_s=0.02, steps=4))  # longer than a step takes to be kept
        shared = Model(name="slow", identity="slow", engine=slow, gate=gate(in_flight=1))
        stage.models.update({name: replace(shared, name=name) for name in NAMES})
        async with stage.life(tmp_path / "run.db", configured(beam=2), 8) as life:
            await life.solve(at_once=8)

    asyncio.run(work())
    first, num = asked[0], len(asked)
    of_first = [place for place, text in enumerate(asked) if text == first]
    assert num > 7 * len(of_first)
    assert of_first[-1] < 5 * len(of_first), "first come, first served, it would be 8: others are asked while it is being scored"


def test_one_that_is_cancelled_gives_its_place_back_wherever_it_was() -> None:
    async def work() -> None:
        one = gate(in_flight=1)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(one.ask(taking(60)))
            queued = group.create_task(one.ask(taking(60)))
            last = group.create_task(one.ask(taking(0)))
            await asyncio.sleep(0.01)
            queued.cancel()
            running.cancel()
            await asyncio.wait_for(last, 1)

    asyncio.run(work())


def test_requests_a_minute_are_sent_evenly() -> None:
    async def work() -> float:
        one = gate(requests_per_minute=6000)
        began = time.monotonic()
        await together([one.ask(taking(0)) for _ in range(100)])
        return time.monotonic() - began

    assert 0.85 < asyncio.run(work()) < 1.5


def test_tokens_a_minute_hold_back_and_what_was_not_used_is_given_back() -> None:
    async def work(used: int) -> float:
        one = gate(tokens_per_minute=60_000)
        began = time.monotonic()
        for _ in range(5):
            await one.ask(taking(0), tokens=200, used=lambda _: used)
        return time.monotonic() - began

    assert asyncio.run(work(200)) > 0.7
    assert asyncio.run(work(20)) < 0.4


def test_tries_are_bounded_by_the_class_of_the_error() -> None:
    async def asked(call: Call, tries: int = 3) -> str | EngineError:
        try:
            return await gate(tries).ask(call)
        except EngineError as error:
            return error

    assert asyncio.run(asked(failing(Retryable("a"), TimedOut("b")))) == "answer"
    third = asyncio.run(asked(failing(Retryable("a"), TimedOut("b"), Retryable("c"))))
    assert isinstance(third, Retryable)
    assert (str(third), third.tries) == ("c", 3)
    assert isinstance(asyncio.run(asked(failing(Terminal("no")))), Terminal)
    turned_away = [Throttled("too many") for _ in range(8)]
    assert asyncio.run(asked(failing(*turned_away))) == "answer", "to be turned away is no fault of the request"


def test_nobody_is_turned_away_for_ever() -> None:
    async def work() -> int:
        one = gate(give_up_s=0.5)
        began = time.monotonic()
        with pytest.raises(Throttled) as raised:
            await one.ask(failing(*(Throttled("too many") for _ in range(1000))))
        assert time.monotonic() - began < 1
        return raised.value.tries

    assert 2 <= asyncio.run(work()) < MOST_TURNED_AWAY


def test_retry_after_is_kept() -> None:
    async def work() -> float:
        began = time.monotonic()
        assert await gate().ask(failing(Throttled("too many", 0.6), None)) == "answer"
        return time.monotonic() - began

    assert 0.55 < asyncio.run(work()) < 1.0


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    async def work() -> None:
        with pytest.raises(Throttled):
            await gate(give_up_s=1.0).ask(failing(Throttled("tomorrow", 3600.0)))

    asyncio.run(asyncio.wait_for(work(), 5))


def test_a_server_that_fails_for_everyone_is_parked_and_looked_at_by_one() -> None:
    down = [True]
    sent = 0

    async def call() -> str:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0.01)
        if down:
            raise Retryable("connection refused")
        return "answer"

    async def asked(one: Gate) -> str:
        try:
            return await one.ask(call)
        except Parked:
            return "parked"

    async def work() -> None:
        told: list[str] = []
        one = Gate(EngineLimits(), name="far", adaptive=True, tell=told.append)
        assert set(await together([asked(one) for _ in range(20)])) == {"parked"}
        assert one.parked
        before = sent
        assert set(await together([asked(one) for _ in range(20)])) == {"parked"}
        assert sent == before, "while it is parked, nobody asks"
        await one.available()
        looks = await together([asked(one) for _ in range(20)])
        assert (sent - before, set(looks)) == (1, {"parked"})
        down.clear()
        await one.available()
        first, *others = await together([asked(one) for _ in range(5)])
        assert first == "answer"
        assert set(others) == {"parked"}
        assert not one.parked
        assert await asked(one) == "answer"
        assert len(told) == 2, "told when it is parked, and when it is back"

    asyncio.run(work())


def test_a_request_that_fails_alone_and_in_the_same_way_is_put_into_quarantine() -> None:
    poison_sent = 0

    async def poison() -> None:
        nonlocal poison_sent
        poison_sent += 1
        await asyncio.sleep(0.05)
        raise Retryable("500: internal error")

    async def work() -> EngineError:
        one = gate(tries=3, adaptive=True)
        async with asyncio.TaskGroup() as group:
            bad = group.create_task(_caught(one.ask(poison)))
            for _ in range(100):
                await one.ask(taking(0.01))
                if bad.done():
                    break
        return bad.result()

    error = asyncio.run(work())
    assert isinstance(error, Quarantined)
    assert (poison_sent, error.tries) == (3, 3)
    assert "500: internal error" in str(error)


def test_an_engine_that_is_gone_is_gone_for_all() -> None:
    async def work() -> None:
        one = gate(in_flight=1, adaptive=True)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(_caught(one.ask(failing(Broken("the GPU fell off the bus")))))
            waiting = group.create_task(_caught(one.ask(taking(0))))
        assert isinstance(first.result(), Broken)
        assert isinstance(waiting.result(), Parked)
        with pytest.raises(Broken, match="fell off"):
            await one.available()

    asyncio.run(work())


async def _caught(asked: Awaitable[Any]) -> EngineError:
    try:
        raise AssertionError(f"no error, but {await asked!r}")
    except EngineError as error:
        return error


def at_thirty_a_second(**limits: Any) -> tuple[float, float]:
    """300 calls to a server that lets in 30 requests a second: seconds, and the share that was refused."""

    async def work() -> tuple[float, float]:
        async with (
            serving(limited(30, 10, says("five", usage={"prompt_tokens": 5, "completion_tokens": 1}, pause_s=0.05))) as server,
            OpenAIEngine(Config(kind="openai", url=server.url, model="stub"), server.url, None) as engine,
        ):
            one = gate(adaptive=True, **limits)
            prompt = Prompt(messages=(Message(role="user", content="What is 2 + 3?"),))
            began = time.monotonic()
            await together([one.ask(lambda: engine.generate(prompt, max_tokens=8)) for _ in range(300)])
            return time.monotonic() - began, 1 - 300 / len(server.bodies)

    return asyncio.run(work())


def test_at_a_known_rate_calls_go_through_at_the_bound() -> None:
    seconds, refused = at_thirty_a_second(requests_per_minute=1800)
    assert seconds < 10 * 1.1
    assert refused < 0.1


def test_an_unknown_rate_is_found() -> None:
    seconds, refused = at_thirty_a_second()
    assert seconds < 10 * 1.25
    assert refused < 0.1
