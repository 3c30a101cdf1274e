"""Styled sampling: who is asked for what, beside search or instead of it, and in every life of a run the same."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from sifting import Dump, Saying, configured, outcomes, question, settled

from agents import prompts
from agents.engines.base import Prompt
from configs.schema import Style

STYLES = get_args(Style)
TEACHERS = ("ann", "bob")


def scripted(_: Prompt, __: int) -> None:
    return None


def shapes(dump: Dump) -> Counter[tuple[str, str | None, str]]:
    return Counter((row["origin"], row["style"], row["teachers"]) for row in dump["trajectory"])


def test_every_teacher_is_asked_in_every_style_beside_the_search(tmp_path: Path) -> None:
    dump = settled(tmp_path / "s.db", configured(sampling={"samples": 2}), [question(1)])
    assert all(shapes(dump)["style", style, f'["{name}"]'] == 2 for style in STYLES for name in TEACHERS)
    assert any(origin == "search" for origin, _, _ in shapes(dump))
    styled = [row for row in dump["trajectory"] if row["origin"] == "style"]
    assert {row["nodes"] for row in styled} == {"[]"}
    assert all(row["score"] is not None and row["target"] == "gold" for row in dump["trajectory"])
    assert sum(row["best"] for row in dump["trajectory"]) == 1


def test_each_style_is_asked_for_in_its_own_words(tmp_path: Path) -> None:
    engine = Saying(scripted, skill=0.9)
    config = configured(sampling={}, search={"strategy": "none"}, prover=None, teachers=[{"name": "ann", "engine": "good"}])
    dump = settled(tmp_path / "s.db", config, [question(1)], engines={"good": engine})
    assert len(dump["trajectory"]) == len(STYLES)
    assert all(row["score"] is None for row in dump["trajectory"])
    asked = [prompt.messages[-1].content for prompt in engine.prompts if not prompt.prefix.endswith("answer is ")]
    text = question(1).text
    assert sorted(asked) == sorted("\n\n".join(filter(None, (text, prompts.STYLES[style]))) for style in STYLES)
    concluding = {prompt.messages[-1].content for prompt in engine.prompts if prompt.prefix.endswith("answer is ")}
    assert concluding == {text}


def test_samples_of_one_style_differ_and_so_do_rounds(tmp_path: Path) -> None:
    config = configured(
        sampling={"styles": ["plain"], "samples": 4},
        search={"strategy": "none"},
        target={"attempts": 3, "least": 100},
        engines={"good": {"kind": "scripted", "skill": 0.3}, "poor": {"kind": "scripted", "skill": 0.3, "seed": 1}},
    )
    dump = settled(tmp_path / "s.db", config, [question(1)])
    assert len(dump["trajectory"]) == 3 * 2 * 4
    assert len({row["text"] for row in dump["trajectory"] if row["teachers"] == '["ann"]'}) > 6


def test_without_a_search_the_best_accepted_one_is_marked(tmp_path: Path) -> None:
    config = configured(sampling={"styles": ["plain"], "samples": 6}, search={"strategy": "none"})
    dump = settled(tmp_path / "s.db", config, [question(1)])
    (best,) = [row for row in dump["trajectory"] if row["best"]]
    accepted = {row["trajectory"] for row in dump["verdict"] if row["outcome"] == "accepted"}
    assert best["id"] in accepted
    assert best["score"] == max(row["score"] for row in dump["trajectory"] if row["id"] in accepted)


@pytest.mark.parametrize("strategy", ["beam", "greedy", "binary", "mcts", "curation", "longest", "integration"])
def test_every_search_has_samples_beside_it(tmp_path: Path, strategy: str) -> None:
    config = configured(sampling={"styles": ["plain", "recall"]}, search={"strategy": strategy})
    dump = settled(tmp_path / "s.db", config, [question(1)])
    assert {row["origin"] for row in dump["trajectory"]} == {"search", "style"}


class Killed(BaseException):
    """As a kill is: nobody catches it."""


def dies_after(last: int) -> Callable[[Prompt, int], None]:
    def say(_: Prompt, number: int) -> None:
        if number > last:
            raise Killed

    return say


def test_a_life_that_was_cut_short_asks_again_for_nothing_that_it_has(tmp_path: Path) -> None:
    config = configured(
        sampling={"styles": ["plain", "backward", "recall"], "samples": 2},
        judges=[{"name": "jo", "engine": "judge"}],
        target={"attempts": 2, "least": 50},
    )
    whole = settled(tmp_path / "whole.db", config, [question(1)])
    asked, dump = 0, {}
    for last in (3, 9, 1000):
        engines = {name: Saying(dies_after(last), **skill(name)) for name in ("good", "poor", "judge")}
        with contextlib.suppress(BaseExceptionGroup, Killed):
            dump = settled(tmp_path / "cut.db", config, [question(1)], engines=engines)
        asked += sum(engine.answered for engine in engines.values())
    assert {name: rows for name, rows in dump.items() if name != "event"} == {
        name: rows for name, rows in whole.items() if name != "event"
    }
    assert asked == len(dump["call"])


def skill(name: str) -> dict[str, Any]:
    return configured().engines[name].model_dump(include={"skill", "seed"})


def test_a_teacher_that_fails_leaves_the_others_samples(tmp_path: Path) -> None:
    config = configured(
        sampling={"styles": ["plain"], "samples": 2},
        search={"strategy": "none"},
        engines={"good": {"kind": "scripted", "skill": 0.9}, "poor": {"kind": "scripted", "failure_rate": 1.0}},
    )
    dump = settled(tmp_path / "s.db", config, [question(1)])
    assert {row["teachers"] for row in dump["trajectory"]} == {'["ann"]'}
    assert {row["where"] for row in dump["failure"]} == {"teacher bob"}


def test_when_nobody_writes_anything_the_question_says_so(tmp_path: Path) -> None:
    config = configured(
        sampling={"styles": ["plain"]},
        search={"strategy": "none"},
        engines={"good": {"kind": "scripted", "failure_rate": 1.0}, "poor": {"kind": "scripted", "failure_rate": 1.0}},
    )
    dump = settled(tmp_path / "s.db", config, [question(1)])
    assert not dump["trajectory"]
    told = [(row["state"], row["reason"]) for row in dump["question"]]
    assert told == [("unsolved", "every call failed, or every step was empty")]
    assert not outcomes(dump)
