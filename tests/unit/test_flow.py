"""The controller of one server, against servers that are simulated on a clock of their own."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.flow import CUT, FIRST_IN_FLIGHT, Flow

Admits = Callable[[float], bool]


def bucket(per_second: float, burst: int) -> Admits:
    """Lets in so many a second, and `burst` at once after a rest."""
    state = [float(burst), 0.0]

    def admits(now: float) -> bool:
        state[0] = min(burst, state[0] + (now - state[1]) * per_second)
        state[1] = now
        if state[0] < 1 - 1e-9:
            return False
        state[0] -= 1
        return True

    return admits


def sliding(per_second: int) -> Admits:
    """Lets in so many in any second."""
    let_in: deque[float] = deque()

    def admits(now: float) -> bool:
        while let_in and let_in[0] <= now - 1:
            let_in.popleft()
        if len(let_in) >= per_second:
            return False
        let_in.append(now)
        return True

    return admits


def played(admits: Admits, latency_s: float, num_calls: int) -> tuple[float, float]:
    """Seconds until all calls were let in, and the share of requests that were refused."""
    flow, chance, numbers = Flow(256), random.Random(0), itertools.count()
    now = paced_until = 0.0
    ready = num_calls
    events: list[tuple[float, int, float, bool | None]] = []  # at, order, sent at, let in (None: to be sent again)
    in_flight = done = sent = refused = 0
    while done < num_calls:
        while ready and in_flight < flow.limit and now >= paced_until:
            ready, in_flight, sent = ready - 1, in_flight + 1, sent + 1
            pace = flow.pace(now)
            paced_until = max(now - 0.02, paced_until) + (0.0 if math.isinf(pace) else 1.0 / pace)
            let_in = admits(now)
            heapq.heappush(events, (now + (latency_s if let_in else 0.01) * chance.uniform(0.8, 1.2), next(numbers), now, let_in))
        times = [events[0][0]] if events else []
        now = max(now, min([*times, paced_until] if ready and in_flight < flow.limit else times))
        while events and events[0][0] <= now:
            _, _, sent_at, let_in = heapq.heappop(events)
            if let_in is None:
                ready += 1
                continue
            if let_in:
                flow.answered(now, sent_at, in_flight)
                done += 1
            else:
                flow.refused(now, sent_at)
                refused += 1
                heapq.heappush(events, (now + 0.1, next(numbers), now, None))
            in_flight -= 1
    return now, refused / sent


@pytest.mark.parametrize("latency_s", [0.05, 0.2])
@pytest.mark.parametrize("burst", [3, 10, 30])
def test_a_server_that_counts_is_followed_without_being_told_its_rate(latency_s: float, burst: int) -> None:
    seconds, refused = played(bucket(30, burst), latency_s, 1200)
    assert seconds < 1200 / 30 * 1.1
    assert refused < 0.1


@pytest.mark.parametrize("latency_s", [0.05, 0.2])
def test_so_is_one_that_counts_in_windows(latency_s: float) -> None:
    seconds, refused = played(sliding(30), latency_s, 1200)
    assert seconds < 1200 / 30 * 1.2
    assert refused < 0.1


def test_a_slow_rate_is_found_too() -> None:
    seconds, refused = played(bucket(2, 2), 0.2, 240)
    assert seconds < 240 / 2 * 1.25
    assert refused < 0.25


def test_the_number_in_flight_doubles_each_round_trip_until_trouble_cuts_it() -> None:
    flow = Flow(100)
    for round_trip in range(1, 3):
        limit = flow.limit
        for _ in range(limit):
            flow.answered(float(round_trip), round_trip - 1.0, flow.limit)
        assert flow.limit == 2 * limit
    flow.troubled(3.0, 2.5)
    assert flow.limit == int(4 * FIRST_IN_FLIGHT * CUT)
    flow.troubled(3.1, 2.9)
    assert flow.limit == int(4 * FIRST_IN_FLIGHT * CUT), "one cut a round trip"
    before = flow.limit
    for _ in range(before):
        flow.answered(4.0, 3.5, flow.limit)
    assert flow.limit <= before + 1, "after trouble, one more a round trip"


def test_a_limit_that_is_not_reached_does_not_grow() -> None:
    flow = Flow(100)
    for _ in range(50):
        flow.answered(1.0, 0.5, 1)
    assert flow.limit == FIRST_IN_FLIGHT


def test_an_engine_of_this_process_is_neither_ramped_nor_paced() -> None:
    flow = Flow(100, adaptive=False)
    flow.refused(1.0, 0.5)
    flow.troubled(1.0, 0.5)
    flow.restart()
    assert flow.limit == 100
    assert math.isinf(flow.pace(2.0))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["answered", "refused", "troubled", "restart"]), st.floats(0, 5)), max_size=60))
def test_whatever_happens_some_request_may_go_and_never_more_than_most(happens: list[tuple[str, float]]) -> None:
    flow, now = Flow(20), 0.0
    for what, later in happens:
        sent_at, now = now, now + later
        if what == "answered":
            flow.answered(now, sent_at, flow.limit)
        elif what == "restart":
            flow.restart()
        else:
            getattr(flow, what)(now, sent_at)
        assert 1 <= flow.limit <= 20
        assert flow.pace(now) > 0
