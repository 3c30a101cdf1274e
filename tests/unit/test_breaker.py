"""When an engine is parked and looked at again, with a clock that is passed in."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.breaker import FALLS, FIRST_S, PATIENT_S, Breaker
from agents.errors import Retryable, Throttled, TimedOut

LONGEST_S = 60.0
START = 100.0


def falls(breaker: Breaker, num: int, now: float, error: Retryable | None = None) -> list[bool]:
    """So many requests, one after the other, that are sent and fail at once; what each failure said."""
    said: list[bool] = []
    for _ in range(num):
        breaker.sent(now)
        said.append(breaker.failed(now, now, error or Retryable("down")))
    return said


def parked(at: float = START, error: Retryable | None = None, longest_s: float = LONGEST_S) -> Breaker:
    breaker = Breaker(longest_s)
    falls(breaker, FALLS, at, error)
    return breaker


def look(breaker: Breaker, error: Retryable | None = None) -> float:
    """Look at it as soon as one may; it fails. The time of the look."""
    now = breaker.looks_at
    assert breaker.lets(now)
    breaker.sent(now)
    assert not breaker.failed(now, now, error or Retryable("still down")), "only the first failure parks it"
    return now


@pytest.mark.parametrize("error", [Retryable("reset"), TimedOut("silent")], ids=["an error", "a time-out"])
def test_it_is_parked_after_so_many_failures_in_a_row_and_not_before(error: Retryable) -> None:
    breaker = Breaker(LONGEST_S)
    assert not any(falls(breaker, FALLS - 1, START, error))
    assert breaker.parked_by is None
    assert breaker.lets(START)
    assert falls(breaker, 1, START, error) == [True]
    assert breaker.parked_by is error
    assert not breaker.lets(START)


def test_an_answer_in_between_begins_the_count_anew() -> None:
    breaker = Breaker(LONGEST_S)
    for _ in range(3):
        falls(breaker, FALLS - 1, START)
        assert not breaker.answered(START), "it had not been parked"
    assert breaker.parked_by is None
    assert falls(breaker, FALLS, START)[-1]


def test_a_parked_engine_is_looked_at_after_a_while_by_one_request_only() -> None:
    breaker = parked()
    assert breaker.looks_at == START + FIRST_S
    assert not breaker.lets(START + FIRST_S - 0.01)
    assert breaker.lets(START + FIRST_S)
    breaker.sent(START + FIRST_S)
    assert not breaker.lets(START + 10 * FIRST_S)
    assert breaker.looks_at == math.inf


def test_a_look_that_is_answered_opens_it_for_all() -> None:
    breaker = parked()
    breaker.sent(START + FIRST_S)
    assert breaker.answered(START + FIRST_S + 0.1)
    assert breaker.parked_by is None
    assert breaker.lets(START + FIRST_S + 0.1)
    assert breaker.looks_at <= START, "whoever is open need not be waited for"
    assert not any(falls(breaker, FALLS - 1, START + 2)), "what fell before it was parked is forgotten"


def test_a_look_that_is_given_up_leaves_the_place_to_another() -> None:
    breaker = parked()
    breaker.sent(START + FIRST_S)
    breaker.left(START + FIRST_S)
    assert breaker.lets(START + FIRST_S)


def test_the_waits_between_looks_double_up_to_the_longest_and_stay_there() -> None:
    breaker = parked()
    looks = [START, *(look(breaker) for _ in range(9))]
    waits = [after - before for before, after in itertools.pairwise(looks)]
    assert waits == [min(LONGEST_S, FIRST_S * 2**index) for index in range(9)]
    for _ in range(2000):  # an engine that is down for a day
        now = look(breaker)
        assert breaker.looks_at == now + LONGEST_S


def test_after_an_answer_the_waits_begin_anew() -> None:
    breaker = parked()
    now = max(look(breaker) for _ in range(5))
    breaker.sent(now + LONGEST_S)
    breaker.answered(now + LONGEST_S)
    falls(breaker, FALLS, later := now + 2 * LONGEST_S)
    assert breaker.looks_at == later + FIRST_S


def test_a_longest_wait_below_the_first_one_holds_from_the_first_look_on() -> None:
    assert parked(longest_s=0.25).looks_at == START + 0.25


def test_it_is_not_looked_at_before_the_server_said() -> None:
    breaker = parked(error=Retryable("maintenance", after_s=300.0))
    assert breaker.looks_at == START + 300.0
    assert look(breaker, Retryable("nearly", after_s=0.5)) == START + 300.0
    assert breaker.looks_at == START + 300.0 + 2 * FIRST_S, "a wish for less than our own wait changes nothing"


def test_to_be_turned_away_parks_only_when_nothing_is_let_in_for_long() -> None:
    breaker = Breaker(LONGEST_S)
    assert not any(falls(breaker, 100, START, Throttled("too many")))
    assert not any(falls(breaker, 100, START + PATIENT_S - 0.01, Throttled("too many")))
    assert falls(breaker, FALLS, START + PATIENT_S, Throttled("too many")) == [False] * (FALLS - 1) + [True]


def test_a_server_that_lets_one_in_now_and_then_is_not_parked() -> None:
    breaker = Breaker(LONGEST_S)
    for now in range(0, 1000, int(PATIENT_S) - 1):
        assert not any(falls(breaker, 10, float(now), Throttled("too many")))
        breaker.sent(now)
        breaker.answered(now)


def test_nobody_waits_for_an_engine_that_nobody_asked() -> None:
    """After an hour without a request, one burst that is turned away proves nothing."""
    breaker = Breaker(LONGEST_S)
    breaker.sent(START)
    breaker.answered(START)
    assert not any(falls(breaker, 100, START + 3600.0, Throttled("too many")))
    assert falls(breaker, FALLS, START + 3600.0 + PATIENT_S, Throttled("too many"))[-1]


def test_a_clock_may_begin_at_zero() -> None:
    breaker = Breaker(LONGEST_S)
    falls(breaker, 1, 0.0, Throttled("too many"))
    assert falls(breaker, FALLS, PATIENT_S, Throttled("too many"))[-1]


@pytest.mark.parametrize("sent_at", [START - 5.0, START], ids=["before", "at the same time"])
def test_failures_of_requests_that_were_sent_before_it_was_parked_change_nothing(sent_at: float) -> None:
    breaker = parked()
    breaker.sent(look_at := START + FIRST_S)
    for _ in range(10):
        assert not breaker.failed(look_at + 0.5, sent_at, Retryable("down"))
        breaker.left(sent_at)
    assert not breaker.lets(look_at + 0.5), "the look is still out"
    breaker.failed(look_at + 1.0, look_at, Retryable("down"))
    assert breaker.looks_at == look_at + 1.0 + 2 * FIRST_S, "only the look counted"


def test_an_answer_to_a_request_that_was_sent_before_opens_it() -> None:
    breaker = parked()
    assert breaker.answered(START + 0.1)
    assert breaker.lets(START + 0.1)


happenings = st.lists(
    st.tuples(
        st.sampled_from(["sent", "sent", "answered", "failed", "failed", "failed", "throttled", "left"]),
        st.integers(0, 50),
        st.sampled_from([0.0, 0.0, 0.3, 1.0, 4.0, PATIENT_S]),
    ),
    max_size=150,
)


@given(happenings)
def test_while_it_is_parked_never_more_than_one_request_is_out(happens: list[tuple[str, int, float]]) -> None:
    """Those that were out when it was parked aside: nobody calls them back."""
    breaker = Breaker(4.0)
    now = 0.0
    out: list[tuple[float, bool]] = [(now, True)] * 3  # when it was sent, and whether it was out when the engine was parked
    falls(breaker, FALLS, now)
    for what, which, pause_s in happens:
        now += pause_s
        if what == "sent":
            if breaker.lets(now):
                breaker.sent(now)
                out.append((now, False))
        elif out:
            sent_at, _ = out.pop(which % len(out))
            if what == "answered":
                breaker.answered(now)
            elif what == "left":
                breaker.left(sent_at)
            elif breaker.failed(now, sent_at, Throttled("full") if what == "throttled" else Retryable("down")):
                out = [(earlier, True) for earlier, _ in out]
        looks = [sent_at for sent_at, before in out if not before]
        assert breaker.parked_by is None or len(looks) <= 1
        if breaker.parked_by and not looks:
            assert math.isfinite(breaker.looks_at), "somebody may look some day"
