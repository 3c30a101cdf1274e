"""When losses have exploded, and when a lesson is only hard."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.measures import LASTING, USUAL, num_high

LEARNING = [2.0] * USUAL + [1.0] * USUAL


@pytest.mark.parametrize("num", range(LASTING + 1))
def test_high_ones_are_counted_against_what_was_usual_before_them(num: int):
    assert num_high([*LEARNING, *[10.1] * num], 10) == num


def test_more_of_them_are_not_counted():
    assert num_high([*LEARNING, *[10.1] * (LASTING + 2)], 10) == LASTING


def test_a_hard_lesson_is_one_and_an_ordinary_one_after_it_none():
    assert num_high([*LEARNING, 1e3], 10) == 1
    assert num_high([*LEARNING, 1e3, 1.0], 10) == 0
    assert num_high([*LEARNING, 1e3, 1.0, 1e3, 1e3], 10) == 2


def test_nothing_is_usual_before_there_are_enough():
    assert num_high([*LEARNING[: USUAL - 1], 1e9], 10) == 0
    assert num_high([*LEARNING[:USUAL], 1e9], 10) == 1
    assert num_high([], 10) == 0


@given(st.lists(st.floats(0.01, 100), max_size=3 * USUAL), st.floats(1.1, 10))
def test_it_is_the_longest_run_that_is_high_throughout(losses: list[float], factor: float):
    def is_high(num: int) -> bool:
        before = losses[len(losses) - num - USUAL : len(losses) - num]
        return all(loss > factor * median(before) for loss in losses[len(losses) - num :])

    known = [num for num in range(1, LASTING + 1) if len(losses) >= num + USUAL and is_high(num)]
    assert num_high(losses, factor) == max(known, default=0)
