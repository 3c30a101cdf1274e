"""The papers' claims: every condition is a training that runs, corrupted rationales are as many as asked for, figures add up."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # which are scripts, not a package that is installed

from claims_ground import FAMILIES, KEPT, MOST, RATIONALES, Taught, asked, misled
from claims_plot import plot
from claims_students import STUDENTS, students
from claims_training import Condition, Found, Learnt, Settings, distilled, told_apart
from distill_claims import BASE, SHARED, corrupted_rows, means, rows, told, weights_told
from proving_ground.language import Problem
from proving_ground.rows import steps
from sampled_traces import trace_of

from configs.training import Compatibility
from store.types import Report

pytestmark = pytest.mark.usefixtures("one_thread")


def written(problem: Problem, voice: int, teacher: str) -> str:
    """What a teacher writes after the first header."""
    text = "\n".join(steps(problem, problem.values, [voice] * len(problem.values))).removeprefix("### Step 1.")
    return f"{text}\n</think>\n\nThe final answer is {problem.answer}."


def taught(count: int) -> list[Taught]:
    """Three sound rationales for each question."""
    return [
        Taught(problem=each, traces=tuple(trace_of(each, f"t{v}", 1, written(each, v, f"t{v}")) for v in range(3)))
        for each in asked(0, count)["test"]
    ]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    few = tuple(replace(each, recipe=replace(each.recipe, width=32, heads=2, updates=4, batch=4), chains=20) for each in STUDENTS)
    return students(few, tmp_path_factory.mktemp("students"), lambda _: None)


@pytest.mark.long
def test_recipes_find_the_students_by_name(bases: dict[str, Path]) -> None:
    for name, base in bases.items():
        named = base.parent / "seed-0" / name
        assert named.resolve() == base.resolve()
        assert base.name.startswith(f"student-{name}-")


def test_sets_are_apart_and_of_their_kinds() -> None:
    for seed in (0, 1):
        sets = asked(seed, MOST)
        keys = [problem.key for problems in sets.values() for problem in problems]
        assert len(set(keys)) == len(keys) == 5 * MOST
        kinds = [{each.kind for each in problem.operations} for problem in sets["test"] + sets["longer"] + sets["unseen"]]
        assert all(any(kind <= set(family) for family in FAMILIES) for kind in kinds)
        assert all({each.kind for each in problem.operations} <= set(KEPT) for problem in sets["kept"])
        assert not any(each.kind == "swap" for problem in sets["mixed"] for each in problem.operations)
    assert not {p.key for p in asked(0, MOST)["test"]} & {p.key for p in asked(1, MOST)["test"]}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_as_many_rationales_are_misled_as_asked_for(rate: float) -> None:
    before = taught(20)
    after = misled(before, rate, 1)
    changed = [
        old != new for one, other in zip(before, after, strict=True) for old, new in zip(one.traces, other.traces, strict=True)
    ]
    assert sum(changed) == round(rate * 60)
    assert sum(not trace.sound for each in after for trace in each.traces) == round(rate * 60)
    assert misled(before, rate, 1) == after


def test_a_number_that_is_better_for_sound_ones_tells_apart() -> None:
    def report(trajectory: str, alpha: float, loss: float) -> Report:
        return Report(
            student="ann", trajectory=trajectory, update=1, cross_entropy=1, alpha=alpha, difficulty=loss, adaptability=0
        )

    weighed = [(report("a", 0.7, 1.0), Learnt("q", True)), (report("b", 0.3, 2.0), Learnt("q", False))]
    found = told_apart([*weighed, (report("c", 1.0, 1.0), Learnt("r", True))])
    assert found == {"alpha": 1.0, "adaptability": 0.5, "difficulty": 1.0, "share": pytest.approx(0.6)}
    assert told_apart([]) == {}


@pytest.mark.slow
@pytest.mark.long
def test_conditions_are_taught_asked_told_and_drawn(bases: dict[str, Path], tmp_path: Path) -> None:
    sets = asked(0, 3)
    found: dict[str, list[Found]] = {}
    conditions = [
        Condition(name="uniform"),
        Condition(name="QR-Distill, no filter", data="unfiltered", own=True, router="learns", peers=True),
        Condition(name="full", compatibility=Compatibility(), router="learns", peers=True),
    ]
    for condition in conditions:
        made = distilled(
            condition,
            misled(taught(4), 0.5, 1),
            24,
            settings=Settings(),
            seed=1,
            bases=bases,
            sets=sets,
            folder=tmp_path / "run",
        )
        assert made["updates"] == 2
        assert made["passes"] == 24 or (condition.router != "none" and made["passes"] < 24)
        assert bool(made["told_apart"]["late"]) == (condition.compatibility is not None)
        found[condition.name] = [made, made]
    found[BASE] = found["uniform"]
    assert means(found["full"], ["test", "mixed"]).shape == (2, 6)
    assert "full" in told("full", "uniform", found)
    assert "full" in weights_told("full", found["full"])
    chance = np.random.default_rng(1)
    many = {name: chance.random((2, 9)) for name in ("uniform", "uniform, 10%", *found)}
    plot(many, SHARED, (0.1,), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_every_row_has_a_name_of_its_own_and_is_compared_with_one_that_there_is() -> None:
    every = [*rows(), *corrupted_rows()]
    names = [row.condition.name for row in every]
    assert len(set(names)) == len(names)
    assert all(row.less is None or row.less in names for row in every)
    assert set(SHARED) <= set(names)
    assert RATIONALES > 2
