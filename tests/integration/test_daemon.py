"""Signals and the status server, around real work in a real event loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from orchestrator.daemon import Draining, Interrupted, PortTaken, drained, status_server


def leaves(error: BaseException) -> list[BaseException]:
    return [leaf for inner in error.exceptions for leaf in leaves(inner)] if isinstance(error, BaseExceptionGroup) else [error]


def interrupted(group: BaseException) -> int:
    (found,) = [leaf for leaf in leaves(group) if isinstance(leaf, Interrupted)]
    return found.code


def test_work_that_is_not_disturbed_gives_its_value_and_the_handlers_are_taken_back() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    async def work(draining: Draining) -> str:
        assert not draining()
        return "done"

    assert asyncio.run(drained(work, 1.0)) == "done"
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_asks_and_the_work_may_end_in_its_own_time(number: signal.Signals, code: int) -> None:
    ended = False

    async def work(draining: Draining) -> str:
        nonlocal ended
        os.kill(os.getpid(), number)
        await draining.asked.wait()
        await asyncio.sleep(0.1)
        ended = True
        raise Interrupted(draining.code)

    with pytest.raises((Interrupted, BaseExceptionGroup)) as caught:
        asyncio.run(drained(work, 10.0))
    assert (interrupted(caught.value), ended) == (code, True)


@pytest.mark.parametrize(("drain_s", "signals"), [(0.2, 1), (30.0, 2), (0.0, 1)])
def test_the_deadline_or_a_second_signal_cancels_and_clean_up_still_happens(drain_s: float, signals: int) -> None:
    clean = False

    async def work(draining: Draining) -> str:
        nonlocal clean
        os.kill(os.getpid(), signal.SIGTERM)
        await draining.asked.wait()
        if signals == 2:
            os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            clean = True
        return "never"

    began = time.monotonic()
    with pytest.raises((Interrupted, BaseExceptionGroup)) as caught:
        asyncio.run(drained(work, drain_s))
    assert interrupted(caught.value) == 143  # the first signal's
    assert clean
    assert drain_s * (signals == 1) <= time.monotonic() - began < 5


def test_an_error_of_the_work_comes_out_as_it_is() -> None:
    async def work(draining: Draining) -> str:
        raise ValueError("the cause")

    with pytest.raises((ValueError, BaseExceptionGroup)) as caught:
        asyncio.run(drained(work, 1.0))
    assert [str(leaf) for leaf in leaves(caught.value)] == ["the cause"]


def fetched(port: int, path: str = "status") -> object:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as response:
        return json.load(response)


def test_the_status_is_served_fresh_on_the_loopback_address_until_the_end() -> None:
    asked = 0

    async def status() -> dict[str, int]:
        nonlocal asked
        asked += 1
        return {"asked": asked}

    async def work() -> int:
        async with status_server(0, status) as port:
            assert port
            assert [await asyncio.to_thread(fetched, port) for _ in range(2)] == [{"asked": 1}, {"asked": 2}]
            with pytest.raises(urllib.error.HTTPError, match="404") as missing:
                await asyncio.to_thread(fetched, port, "elsewhere")
            missing.value.close()
            return port

    port = asyncio.run(work())
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_without_a_port_nothing_is_served() -> None:
    async def work() -> None:
        async with status_server(None, lambda: asyncio.sleep(0, {})) as port:
            assert port is None

    asyncio.run(work())


def test_a_taken_port_is_said_in_one_line() -> None:
    async def work(port: int) -> None:
        async with status_server(port, lambda: asyncio.sleep(0, {})):
            pytest.fail("the port was taken")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"http\.port: {port} .* in use") as caught:
            asyncio.run(work(port))
    assert "\n" not in str(caught.value)
