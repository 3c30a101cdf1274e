"""What was asked of a run, as pure functions of its log."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from configs.load import load
from orchestrator.controls import configured, paused, settable
from store.control import Control, Verb


def asked(verb: Verb, subject: str = "", value: object = None, was: object = None, by: str = "eve") -> Control:
    kept = (json.dumps(value), json.dumps(was)) if verb == "set" else (None, None)
    return Control(id=1, verb=verb, subject=subject, value=kept[0], was=kept[1], by=by, asked_at=0.0, outcome="")


CONFIG = load("scripted")


def test_every_key_that_may_be_set_stands_in_the_configuration() -> None:
    values = CONFIG.model_dump(mode="json")
    for location in settable(CONFIG).values():
        at = values
        for part in location:
            at = at[part]


def test_the_last_of_several_holds_and_nothing_else_changes() -> None:
    log = [asked("set", "limits.questions", 3, 8), asked("set", "limits.questions", 5, 8), asked("set", "budget.usd", 2.5, None)]
    config, dropped = configured(CONFIG, log)
    assert (config.limits.questions, config.budget.usd, dropped) == (5, 2.5, [])
    assert config.model_copy(update={"limits": CONFIG.limits, "budget": CONFIG.budget}) == CONFIG


def test_what_has_been_changed_in_the_file_since_goes_before_what_was_set() -> None:
    later = load("scripted", ["limits.questions=9"])
    config, dropped = configured(later, [asked("set", "limits.questions", 3, 8), asked("set", "budget.tokens", 10, None)])
    assert (config.limits.questions, config.budget.tokens) == (9, 10)
    assert [each.subject for each in dropped] == ["limits.questions"]


def test_a_teacher_that_is_not_there_any_more_is_not_minded() -> None:
    assert configured(CONFIG, [asked("set", "teachers.zoe.budget.usd", 1, None)]) == (CONFIG, [])


@given(st.lists(st.tuples(st.sampled_from(["pause", "resume", "requeue"]), st.sampled_from(["", "ann", "bob"]))))
def test_paused_is_whoever_was_paused_last_and_not_resumed_since(log: list[tuple[Verb, str]]) -> None:
    found = paused([asked(verb, subject, by=str(place)) for place, (verb, subject) in enumerate(log)])
    for subject in ("", "ann", "bob"):
        last = [(place, verb) for place, (verb, about) in enumerate(log) if about == subject and verb != "requeue"][-1:]
        assert found.get(subject) == (str(last[0][0]) if last and last[0][1] == "pause" else None)
