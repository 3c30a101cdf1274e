"""Signals, around real work in a real event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from orchestrator.daemon import Draining, Interrupted, drained


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
