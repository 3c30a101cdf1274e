"""Means with intervals: known cases by hand, and how often an interval holds the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.intervals import differences, estimate, interval, means
from store.types import Attempt, Usage


def attempt(question: str, sample: int, correct: bool) -> Attempt:
    return Attempt(
        id=f"{question}{sample}",
        model="m",
        question=question,
        sample=sample,
        text="",
        answer=None,
        correct=correct,
        usage=Usage(),
    )


def test_greedy_and_sampled_answers_are_told_apart_and_a_question_counts_once() -> None:
    attempts = [attempt("a", 0, True), *(attempt("a", k, k == 1) for k in (1, 2, 3, 4)), attempt("b", 0, False)]
    assert means(attempts, sampled=False) == ({"a": 1.0, "b": 0.0}, 1)
    assert means(attempts, sampled=True) == ({"a": 0.25}, 4)
    assert means([], sampled=True) == ({}, 0)


def test_a_difference_is_after_less_before_of_questions_that_have_both() -> None:
    assert differences({"a": 1.0, "b": 0.25, "new": 1.0}, {"a": 0.0, "b": 0.5, "old": 1.0}) == {"a": 1.0, "b": -0.25}


def exactly(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval from all resamples there are, runs and questions drawn alike."""
    runs, items = values.shape
    found = [
        values[np.ix_(r, q)].mean()
        for r in itertools.product(range(runs), repeat=runs)
        for q in itertools.product(range(items), repeat=items)
    ]
    return tuple(np.quantile(found, [0.025, 0.975]))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "values",
    [
        [[0.0, 1.0, 1.0, 0.5]],
        [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]],
        [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]],
    ],
)
def test_a_small_case_is_what_all_resamples_give(values: list[list[float]]) -> None:
    assert interval(np.array(values)) == pytest.approx(exactly(np.array(values)), abs=0.13)  # a step of the smallest case


def test_runs_that_differ_as_wholes_are_as_uncertain_as_runs_are_few() -> None:
    """By hand: two runs, all right and all wrong: a resample is (0, 0), (0, 1), (1, 0) or (1, 1)."""
    assert interval(np.array([[0.0] * 50, [1.0] * 50])) == (0.0, 1.0)
    assert interval(np.array([[0.5] * 50, [0.5] * 50])) == (0.5, 0.5)


def test_the_same_questions_in_every_run_are_no_more_questions() -> None:
    """Runs that agree in every question tell no more than one of them."""
    one = np.array([[1.0] * 12 + [0.0] * 20])
    low, high = interval(one)
    assert interval(np.repeat(one, 4, axis=0)) == pytest.approx((low, high), abs=0.04)
    assert high - low > 0.25


def test_pairing_takes_the_questions_own_difficulty_out() -> None:
    chance = np.random.default_rng(3)
    before = {str(key): float(chance.random() < 0.5) for key in range(60)}
    after = {key: max(value, float(chance.random() < 0.1)) for key, value in before.items()}
    paired = estimate([differences(after, before)], 1)
    alone = estimate([after], 1)
    assert paired
    assert alone
    assert paired.high - paired.low < 0.7 * (alone.high - alone.low)
    assert paired.low <= paired.mean <= paired.high


def test_only_questions_that_all_runs_have_count() -> None:
    found = estimate([{"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 0.0, "b": 0.0}], 4)
    assert found
    assert (found.mean, found.items, found.samples, found.runs) == (0.25, 2, 4, 2)
    assert estimate([{"a": 1.0}, {}], 1) is None
    assert estimate([{}], 1) is None


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(11)
    held = 0
    for _ in range(200):
        low, high = interval((chance.random(80) < 0.3).astype(float))
        held += low <= 0.3 <= high
    assert 0.89 <= held / 200 <= 0.99  # 95% nominal; the percentile bootstrap of 80 questions gives about 94


def test_over_several_runs_it_holds_the_truth_far_oftener_than_questions_alone_would() -> None:
    """Six runs whose true accuracies scatter: drawing questions only takes the scatter of runs for none."""
    chance = np.random.default_rng(12)
    both = questions = 0
    for _ in range(150):
        rates = np.clip(chance.normal(0.5, 0.12, size=(6, 1)), 0, 1)
        values = (chance.random((6, 100)) < rates).astype(float)
        low, high = interval(values)
        both += low <= 0.5 <= high
        low, high = interval(values.mean(axis=0))
        questions += low <= 0.5 <= high
    assert both / 150 > 0.85  # six runs are few: less than 95
    assert questions / 150 < 0.7


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=5, max_size=5), min_size=1, max_size=4))
def test_an_interval_is_within_the_values_and_always_the_same(values: list[list[float]]) -> None:
    low, high = interval(np.array(values))
    assert np.min(values) <= low <= high <= np.max(values)
    assert interval(np.array(values)) == (low, high)
