"""Questions without a gold answer: what is sampled agrees on one, or nobody can tell."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sifting import Dump, Saying, configured, question, settled, verdicts

from agents.engines.base import Prompt
from agents.errors import Terminal

SURE = {"good": {"kind": "scripted", "skill": 0.95}, "poor": {"kind": "scripted", "skill": 0.9, "seed": 1}}
TORN = {"good": {"kind": "scripted", "skill": 0.2}, "poor": {"kind": "scripted", "skill": 0.2, "seed": 1}}
UNKNOWN = question(1, gold=False)


def graph(dump: Dump) -> dict[str, Any]:
    (row,) = dump["consensus"]
    return row


def test_the_answer_of_most_samples_is_aimed_at_and_every_row_says_so(tmp_path: Path) -> None:
    dump = settled(tmp_path / "s.db", configured(engines=SURE), [UNKNOWN])
    assert graph(dump)["target"] == "14"
    sampled = [row for row in dump["trajectory"] if row["origin"] == "style"]
    assert len(sampled) == 2 * 4
    assert graph(dump)["target_support"] == sum(row["answer"] == "14" for row in sampled) / len(sampled)
    assert {row["target"] for row in dump["node"]} == {"consensus"}
    assert {row["target"] for row in dump["trajectory"]} == {"consensus"}
    assert {row["target"] for row in dump["verdict"]} == {"consensus"}
    accepted = [row["reason"] for row in dump["verdict"] if row["outcome"] == "accepted"]
    assert accepted
    assert all("14, the consensus of" in reason for reason in accepted)


def test_what_was_searched_for_an_answer_does_not_vote_for_it(tmp_path: Path) -> None:
    dump = settled(tmp_path / "s.db", configured(engines=SURE, search={"beam": 4}), [UNKNOWN])
    assert any(row["origin"] == "search" for row in dump["trajectory"])
    config = configured(engines=SURE, search={"strategy": "none"}, sampling={"styles": ["plain"], "samples": 4})
    assert graph(dump)["target_support"] == graph(settled(tmp_path / "a.db", config, [UNKNOWN]))["target_support"]


def test_without_enough_support_nobody_can_tell(tmp_path: Path) -> None:
    dump = settled(tmp_path / "s.db", configured(engines=TORN, consensus={"min_support": 0.9}), [UNKNOWN])
    assert graph(dump)["target"] is None
    assert {row["outcome"] for row in dump["verdict"]} == {"undecided"}
    assert {row["target"] for row in dump["verdict"]} == {None}
    assert not dump["node"]
    (row,) = dump["question"]
    assert row["state"] == "unsolved"
    assert row["reason"].startswith("no answer has enough support: ")
    assert row["reason"].endswith("of 90%")


def test_more_rounds_may_bring_the_support_and_then_it_is_searched(tmp_path: Path) -> None:
    def torn_at_first(own: int) -> Callable[[Prompt, int], str | None]:
        def say(prompt: Prompt, number: int) -> str:
            if prompt.prefix.endswith("answer is "):
                return f"{own if number <= 2 else 14}."
            return f" After {number} breaths: the total is 14."

        return say

    engines = {"good": Saying(torn_at_first(7)), "poor": Saying(torn_at_first(8))}
    config = configured(target={"attempts": 4}, consensus={"samples": 2, "min_support": 0.5})
    dump = settled(tmp_path / "s.db", config, [UNKNOWN], engines=engines)
    assert sum(row["origin"] == "style" for row in dump["trajectory"]) > 4
    assert graph(dump)["target"] == "14"
    assert any(row["origin"] == "search" for row in dump["trajectory"])
    (row,) = dump["question"]
    assert row["state"] == "solved"


def test_the_order_of_teachers_does_not_matter_to_the_target(tmp_path: Path) -> None:
    teachers = [{"name": "ann", "engine": "good"}, {"name": "bob", "engine": "poor"}]
    for number in range(4):
        found = []
        for name, order in (("one", teachers), ("other", teachers[::-1])):
            config = configured(teachers=order, search={"strategy": "none"}, sampling={"styles": ["plain"], "samples": 4})
            found.append(settled(tmp_path / f"{name}{number}.db", config, [question(number, gold=False)]))
        assert graph(found[0]) == graph(found[1])
        assert found[0]["standing"] == found[1]["standing"]


def test_a_gold_answer_needs_no_consensus(tmp_path: Path) -> None:
    dump = settled(tmp_path / "s.db", configured(engines=SURE), [question(1)])
    assert graph(dump)["target"] is None
    assert {row["target"] for row in dump["verdict"]} == {"gold"}
    assert {row["origin"] for row in dump["trajectory"]} == {"search"}


def test_a_wrong_consensus_is_told_as_one(tmp_path: Path) -> None:
    """Nobody knows better: but every row says whose answer it is."""

    def wrong(prompt: Prompt, _: int) -> str | None:
        return "99." if prompt.prefix.endswith("answer is ") else None

    engines = {"good": Saying(wrong, skill=1.0), "poor": Saying(wrong, skill=1.0)}
    dump = settled(tmp_path / "s.db", configured(), [UNKNOWN], engines=engines)
    assert (graph(dump)["target"], graph(dump)["target_support"]) == ("99", 1.0)
    assert all(row["target"] == "consensus" for row in verdicts(dump).values())


def test_what_was_aimed_at_once_is_aimed_at_in_every_life(tmp_path: Path) -> None:
    """Samples that failed may be there after a restart, and would agree on something else."""

    def fails_at_first(prompt: Prompt, _: int) -> str | None:
        if not prompt.prefix.endswith("answer is "):
            raise Terminal("not now")
        return None

    def dies_in_search(prompt: Prompt, _: int) -> str | None:
        if prompt.prefix.endswith("answer is "):
            return "7."
        if "### Step 2." in prompt.prefix:
            raise Killed
        return None

    config = configured(consensus={"samples": 3, "min_support": 0.5})
    with contextlib.suppress(BaseExceptionGroup, Killed):
        first = {"good": Saying(dies_in_search, skill=1.0), "poor": Saying(fails_at_first, skill=1.0, seed=1)}
        settled(tmp_path / "s.db", config, [UNKNOWN], engines=first)
    dump = settled(tmp_path / "s.db", config, [UNKNOWN], engines={name: Saying(lambda *_: None, skill=1.0) for name in first})
    scored = {json.loads(row["request"])["answer"] for row in dump["call"] if row["purpose"] == "score"}
    assert scored == {"7"}
    assert (graph(dump)["target"], graph(dump)["target_support"]) == ("7", 1.0)


class Killed(BaseException):
    """As a kill is: nobody catches it."""
