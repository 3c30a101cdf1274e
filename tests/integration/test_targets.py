"""How many accepted trajectories there are to be: of the run, and of each question."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sifting import Saying, configured, outcomes, question, settled, verdicts

from agents.engines.base import Prompt

SURE = {"good": {"kind": "scripted", "skill": 0.9}, "poor": {"kind": "scripted", "skill": 0.8, "seed": 1}}
SAMPLING = {"styles": ["plain", "recall"], "samples": 3}


@pytest.mark.parametrize("wanted", [1, 5, 8])
@pytest.mark.parametrize("at_once", [1, 8])
def test_a_run_has_exactly_as_many_as_it_wants(tmp_path: Path, wanted: int, at_once: int) -> None:
    config = configured(engines=SURE, sampling=SAMPLING, target={"accepted": wanted})
    dump = settled(tmp_path / "s.db", config, [question(number) for number in range(12)], at_once=at_once)
    assert outcomes(dump)["accepted"] == wanted
    states = Counter(row["state"] for row in dump["question"])
    assert states["solved"] + states["unsolved"] < 12
    surplus = [row["reason"] for row in dump["verdict"] if row["outcome"] == "surplus"]
    assert all("the run has what it wants" in reason for reason in surplus)


def test_more_can_be_wanted_later(tmp_path: Path) -> None:
    questions = [question(number) for number in range(12)]
    first = settled(tmp_path / "s.db", configured(engines=SURE, sampling=SAMPLING, target={"accepted": 3}), questions)
    second = settled(tmp_path / "s.db", configured(engines=SURE, sampling=SAMPLING, target={"accepted": 7}), questions)
    assert (outcomes(first)["accepted"], outcomes(second)["accepted"]) == (3, 7)
    kept = {row["trajectory"]: row for row in second["verdict"]}
    assert all(kept[row["trajectory"]] == row for row in first["verdict"])


def test_a_question_keeps_its_best_ones(tmp_path: Path) -> None:
    config = configured(engines=SURE, sampling=SAMPLING, search={"beam": 4}, target={"most": 1})
    dump = settled(tmp_path / "s.db", config, [question(number) for number in range(6)])
    rows = list(verdicts(dump).values())
    for id in {row["question"] for row in rows}:
        accepted = [row for row in rows if (row["question"], row["outcome"]) == (id, "accepted")]
        surplus = [row for row in rows if (row["question"], row["outcome"]) == (id, "surplus")]
        assert len(accepted) == 1
        assert all("the question has its 1" in row["reason"] for row in surplus)
        assert accepted[0]["best"] or all(accepted[0]["score"] >= row["score"] for row in surplus)


def test_what_is_over_is_kept_as_such(tmp_path: Path) -> None:
    def phrased(prompt: Prompt, number: int) -> str | None:
        return None if prompt.prefix.endswith("answer is ") else f" Take {number} breaths. Add 14: the total is 14.</think>"

    engine = Saying(phrased, skill=1.0)
    config = configured(sampling=SAMPLING, search={"strategy": "none"}, target={"most": 2})
    dump = settled(tmp_path / "s.db", config, [question(1)], engines={"good": engine, "poor": engine})
    found = outcomes(dump)
    assert (found["accepted"], found["wrong_answer"]) == (2, 0)
    assert found["surplus"] > 0
    assert found["surplus"] + found["duplicate"] + 2 == len(dump["trajectory"])


@pytest.mark.parametrize(("sampled", "rounds"), [(True, 4), (False, 3)])
def test_a_question_that_has_too_few_is_sampled_again_as_often_as_may_be(tmp_path: Path, sampled: bool, rounds: int) -> None:
    """The first attempt is the search, and a round of sampling if there is one; the others are rounds."""

    def wrong(prompt: Prompt, _: int) -> str | None:
        return "1000." if prompt.prefix.endswith("answer is ") else None

    engines = {"good": Saying(wrong, skill=0.9), "poor": Saying(wrong, skill=0.9)}
    sampling = {"styles": ["plain"], "samples": 2} if sampled else None
    config = configured(sampling=sampling, consensus={"samples": 2}, target={"attempts": 4})
    dump = settled(tmp_path / "s.db", config, [question(1)], engines=engines)
    origins = Counter(row["origin"] for row in dump["trajectory"])
    assert origins["style"] == rounds * 2 * 2
    assert origins["search"] > 0
    (row,) = dump["question"]
    assert row["state"] == "unsolved"
    assert row["reason"].startswith(f"no trajectory accepted: {len(dump['trajectory'])} wrong answer; 1000 is not")


def test_a_question_that_has_enough_is_not_sampled_again(tmp_path: Path) -> None:
    config = configured(engines=SURE | {"good": {"kind": "scripted", "skill": 1.0}}, sampling=SAMPLING, target={"attempts": 9})
    dump = settled(tmp_path / "s.db", config, [question(1)])
    assert sum(row["origin"] == "style" for row in dump["trajectory"]) == 2 * 2 * 3


def test_counts_of_why_questions_are_unsolved_add_up(tmp_path: Path) -> None:
    engines: dict[str, Any] = {"good": {"kind": "scripted", "skill": 0.4}, "poor": {"kind": "scripted", "skill": 0.3, "seed": 1}}
    config = configured(engines=engines, sampling={"styles": ["plain"]}, consensus={"min_support": 0.9})
    asked = [question(number, gold=number % 2 == 0) for number in range(10)]
    dump = settled(tmp_path / "s.db", config, asked)
    reasons = Counter(row["reason"].partition(":")[0] for row in dump["question"] if row["state"] == "unsolved")
    assert reasons["no answer has enough support"] > 0
    assert set(reasons) <= {"no answer has enough support", "no trajectory accepted"}
