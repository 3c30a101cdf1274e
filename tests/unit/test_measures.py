"""When a loss has exploded, and when a lesson is only hard."""

import pytest

from trainers.measures import FEW, has_exploded

LEARNING = [2.0] * FEW + [1.0] * FEW
ALL_KNOWN = [2.0] * FEW + [0.019] * FEW


@pytest.mark.parametrize("loss", [10.1, 1e9])
def test_far_above_the_usual_and_the_first_has_exploded(loss: float):
    assert has_exploded(loss, LEARNING, 10)


@pytest.mark.parametrize("loss", [0.0, 1.0, 9.9])
def test_a_few_times_the_usual_has_not(loss: float):
    assert not has_exploded(loss, LEARNING, 10)


def test_a_hard_lesson_of_a_student_that_knows_all_others_is_no_explosion():
    assert not has_exploded(0.192, ALL_KNOWN, 10)
    assert has_exploded(2.1, ALL_KNOWN, 10)


def test_nothing_is_usual_before_there_are_enough():
    assert not has_exploded(1e9, LEARNING[: FEW - 1], 10)
    assert has_exploded(1e9, LEARNING[:FEW], 10)


def test_one_odd_loss_changes_little_of_what_is_usual():
    assert has_exploded(10.1, [*LEARNING[:-1], 1e6], 10)
