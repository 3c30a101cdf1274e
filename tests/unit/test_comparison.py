"""Rows and tables of accuracies: by model and set, of one run or of several, and which runs cannot be put together."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from configs.load import ConfigError
from configs.schema import RunConfig
from orchestrator.comparison import Measured, Row, check_comparable, row_of, rows, table
from orchestrator.intervals import Estimate
from store.types import Attempt, Usage

SOURCE = {"kind": "word_problems", "count": 4}


def config(students: tuple[str, ...] = ("amy",), **evaluation: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "walk",
            "questions": [SOURCE],
            "engines": {"one": {"kind": "scripted"}},
            "teachers": [{"name": "ann", "engine": "one"}, {"name": "bob", "engine": "one"}],
            "prover": {"engine": "one"},
            "students": [{"name": name, "model": "tiny"} for name in students],
            "evaluation": {"questions": SOURCE, "others": {"far": SOURCE}, "samples": 2, **evaluation},
        }
    )


def attempts(model: str, marks: dict[str, str]) -> list[Attempt]:
    """`marks`: by question, a character for each answer, the greedy one first; `+` is right."""
    return [
        Attempt(
            id=f"{model}{key}{k}", model=model, question=key, sample=k, text="", answer=None, correct=mark == "+", usage=Usage()
        )
        for key, line in marks.items()
        for k, mark in enumerate(line)
    ]


def measured(**marks: dict[str, str]) -> Measured:
    names = {"before": "amy@before", "after": "amy@after", "ann": "teacher:ann", "bob": "teacher:bob"}
    found = {name: attempts(name, marks.get(key, {})) for key, name in names.items()}
    return Measured(sets={"q1": "held_out", "q2": "held_out", "f1": "far"}, attempts=found)


ONE = measured(
    before={"q1": "-+-", "q2": "---", "f1": "+++"},
    after={"q1": "+++", "q2": "-+-", "f1": "-+-"},
    ann={"q1": "+++", "q2": "+++", "f1": "---"},
    bob={"q1": "+++", "q2": "-++", "f1": "---"},
)
OTHER = measured(before={"q1": "---", "q2": "+--", "f1": "+++"}, after={"q1": "+++", "q2": "+++", "f1": "+-+"})


def by(found: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row.model, row.set, row.answers): row for row in found}


def mean(value: Estimate | None) -> float | None:
    return value and value.mean


def test_a_run_has_a_row_for_each_model_set_and_kind_of_answer() -> None:
    found = by(rows(config(), [ONE]))
    assert list(found) == [
        (model, held_out, kind)
        for model in ("amy", "ann", "bob")
        for held_out in ("held_out", "far")
        for kind in ("greedy", "sampled")
    ]
    learnt = found["amy", "held_out", "sampled"]
    assert (mean(learnt.before), mean(learnt.after), mean(learnt.difference)) == (0.25, 0.75, 0.5)
    assert learnt.difference
    assert (learnt.difference.items, learnt.difference.samples, learnt.difference.runs) == (2, 2, 1)
    forgotten = found["amy", "far", "greedy"]
    assert (mean(forgotten.before), mean(forgotten.after), mean(forgotten.difference)) == (1.0, 0.0, -1.0)
    reference = found["ann", "held_out", "greedy"]
    assert (mean(reference.before), reference.after, reference.difference) == (1.0, None, None)


def test_the_best_teacher_of_a_set_is_told_and_equals_share_it() -> None:
    best = {key for key, row in by(rows(config(), [ONE])).items() if row.best}
    assert {key for key in best if key[1] == "held_out"} == {
        ("ann", "held_out", "greedy"),
        ("ann", "held_out", "sampled"),
        ("bob", "held_out", "sampled"),
    }
    assert ("amy", "held_out", "greedy") not in best


def test_several_runs_have_means_over_runs_and_leave_out_what_one_has_not_measured() -> None:
    found = by(rows(config(), [ONE, OTHER]))
    assert {model for model, _, _ in found} == {"amy"}
    row = found["amy", "held_out", "greedy"]
    assert (mean(row.before), mean(row.after), mean(row.difference)) == (0.25, 0.75, 0.5)
    assert row.after
    assert (row.after.runs, row.after.items) == (2, 2)


def test_a_row_is_whole_again_after_json() -> None:
    found = rows(config(), [ONE])
    assert [row_of(asdict(row)) for row in found] == found


def test_a_run_without_evaluation_or_answers_has_no_rows() -> None:
    assert rows(config().model_copy(update={"evaluation": None}), [ONE]) == []
    assert rows(config(), [measured()]) == []


def shown(found: list[Row]) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(found))
    return captured.get()


def test_the_table_leaves_out_columns_that_say_nothing() -> None:
    whole = shown(rows(config(), [ONE]))
    for part in ("set", "after", "difference", "+50.0", "teacher ann, best", "sampled (n=2)"):
        assert part in whole
    assert "runs" not in whole
    assert "runs" in shown(rows(config(), [ONE, OTHER]))
    assert "│ far" not in shown([row for row in rows(config(), [ONE]) if row.set == "held_out"])
    teachers = shown([row for row in rows(config(), [ONE]) if row.role == "teacher"])
    assert "accuracy " in teachers
    assert "difference" not in teachers


@pytest.mark.parametrize(
    ("other", "has", "words"),
    [
        (config(temperature=0.9), ONE, "b: measures something else than a does: evaluation.temperature: 0.6 -> 0.9"),
        (config(others={}), ONE, "b: measures something else than a does: evaluation.others"),
        (config(students=("amy", "joe")), ONE, "b: its students are called amy, joe, and those of a amy; they must be the same"),
        (config(), measured(), "b: measured nothing yet"),
        (config().model_copy(update={"evaluation": None}), ONE, "b: measured nothing: its configuration has no `evaluation`"),
        (config(), measured(before={"q1": "+++"}), "b: has no answers of amy@after, and a has"),
    ],
)
def test_runs_that_cannot_be_put_together_are_told_in_one_line(other: RunConfig, has: Measured, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_comparable({"a": (config(), ONE), "b": (other, has)})
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_runs_that_differ_in_what_does_not_count_can_be_put_together() -> None:
    check_comparable({"a": (config(teachers=True), ONE), "b": (config(), OTHER)})
