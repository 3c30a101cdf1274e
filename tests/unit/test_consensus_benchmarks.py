"""What the benchmarks of consensus count: truth is read off a chain, and figures are what their names say."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # which are scripts, not a package that is installed

from consensus import (
    RULES,
    SUPPORTS,
    answered,
    best_on,
    compared,
    consensus_right,
    greedy_right,
    leaders,
    majority_right,
    targets,
)
from consensus_cost import measured
from misleading import Accepted, accepted, best, by_errors, counted, from_another, grid, injected, ratios, told
from proving_ground.language import VOICES, Problem, draw
from proving_ground.rows import steps
from sampled_traces import Sampled, Trace, corrupted, is_sound, trace_of, trajectories

CHANCE = random.Random(1)


def written(problem: Problem, told: list[int], voice: int = 0) -> str:
    """What a teacher writes after the first header."""
    text = "\n".join(steps(problem, told, [voice] * len(told))).removeprefix("### Step 1.")
    return f"{text}\n</think>\n\nThe final answer is {told[-1]}."


def asked(problem: Problem, *teachers: str, wrong: int = 0) -> Sampled:
    """Each teacher's greedy trace and four samples, sound but for `wrong` of each, whose answer is off by one."""
    traces = [
        trace_of(problem, teacher, draw, written(problem, [*problem.values[:-1], problem.answer + (draw > 4 - wrong)], at))
        for at, teacher in enumerate(teachers)
        for draw in range(5)
    ]
    return Sampled(problem=problem, traces=tuple(traces))


@pytest.fixture(scope="module")
def questions() -> list[Sampled]:
    problems = [draw(CHANCE, 4, reserved=False) for _ in range(6)]
    return [asked(problem, "ann", "bob", wrong=at % 4) for at, problem in enumerate(problems)]


def test_a_chain_is_sound_in_any_voice_and_in_no_other_way() -> None:
    for problem in (draw(CHANCE, length, reserved=False) for length in (1, 3, 5) * 10):
        for voice in range(VOICES):
            trace = trace_of(problem, "ann", 1, written(problem, problem.values, voice))
            assert (trace.right, trace.sound) == (True, True)
            assert not is_sound(problem, trace.text.rpartition("### Step")[0]), "the last step is missing"
            assert not is_sound(problem, trace.text + " Add 1 to 2 to get 3.")


def test_a_corrupted_chain_is_unsound_and_ends_rightly() -> None:
    for problem in (draw(CHANCE, length, reserved=False) for length in (2, 3, 5) * 10):
        before = trace_of(problem, "ann", 1, written(problem, problem.values, 2))
        after = corrupted(CHANCE, problem, before)
        assert not after.sound
        assert after.text.endswith(f" {problem.answer}.")
        assert len(after.text.splitlines()) == len(before.text.splitlines())


def test_merged_traces_have_all_their_teachers() -> None:
    problem = draw(CHANCE, 3, reserved=False)
    traces = [trace_of(problem, teacher, draw, written(problem, problem.values)) for teacher in ("bob", "ann") for draw in (1, 2)]
    assert len(trajectories(traces)) == 4
    ((trajectory, _),) = trajectories(traces, merged=True).values()
    assert trajectory.teachers == ("ann", "bob")


def test_answers_are_counted_as_their_names_say(questions: list[Sampled]) -> None:
    found = answered(questions, 4)
    assert [consensus_right(each) for each in found][:2] == [1.0, 1.0]
    assert consensus_right(found[3]) == 0.0, "three of four are wrong, alike"
    assert majority_right(found[2], questions[2].drawn(4)) == 0.5, "two of four"
    assert all(greedy_right(each, "ann") for each in found)
    assert best_on(found, ["ann", "bob"]) == ("ann", "ann")
    ways = compared(found, answered(questions, 4, merged=True), "ann", "bob")
    assert {len(values) for values in ways.values()} == {6}
    assert len(leaders({"one set": found})) == 1 + len(RULES)
    rows = targets(found)
    assert [row["least"] for row in rows] == list(SUPPORTS)
    assert rows[0]["share"] == 5 / 6, "a tie is no target"


def test_ratios_are_what_they_are_called() -> None:
    question = [Accepted(0.4, 0.1, False, True), Accepted(0.4, 0.1, False, False), Accepted(1.4, 0.9, False, True)]
    counts = counted([question], lambda each: each.nearest < 0.5)
    assert counts.tolist() == [[1, 2, 2, 3]]
    assert ratios(counts.sum(axis=0)) == pytest.approx([2 / 3, 1 / 2, 1 / 2, 1 / 2, 2 / 3])
    assert np.isnan(ratios(np.array([0.0, 0.0, 1.0, 3.0]))[1])
    assert best([[[Accepted(0.4, 0.1, False, True), Accepted(1.4, 0.9, False, False)]]]) == (0.5, 0.1)


def test_what_is_injected_is_misleading(questions: list[Sampled]) -> None:
    base = accepted(questions, 4)
    assert not any(each.misleading for question in base for each in question)
    for change in (from_another(questions), by_errors):
        found = accepted(injected(questions, 0.5, change), 4)
        assert [len(question) for question in found] == [len(question) for question in base]
        share = ratios(counted(found, lambda _: True).sum(axis=0))[0]
        assert 0.2 < share < 0.8
        line, figures = told("all", found, lambda _: True)
        assert figures["precision"] == share
        assert line.startswith("all ")
        assert len(grid(found, 1)) > 3


def test_a_cost_is_measured() -> None:
    row = measured(6, 20, 2, 1)
    assert 0 < row["last_s"] <= row["one_by_one_s"]
    assert min(row["once_s"], row["mib"], row["limit_s"]) > 0


def test_a_trace_that_never_closes_has_no_answer() -> None:
    trace: Trace = trace_of(draw(CHANCE, 3, reserved=False), "ann", 1, " Add 5 to 3")
    assert (trace.answer, trace.right, trace.sound) == (None, False, False)
