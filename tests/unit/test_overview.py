"""The run at a glance: what a person is told of a state of the store."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.load import load
from configs.schema import RunConfig
from orchestrator.inspector.overview import LOST_S, NO_SUCCESS_S, gates, latency_s, overview
from orchestrator.inspector.shapes import RunView
from store.control import Pulse
from store.lines import Activity
from store.writes import LATENCIES_S, latency_bucket

NOW = 1_000_000.0
OPEN_ENGINE = {"in_flight": 3, "limit": 8, "waiting": 2, "parked": None, "gone": None}


def seen(
    *,
    state: str = "running",
    alive: dict[str, Any] | None = None,
    beat_at: float = NOW - 1,
    config: RunConfig | None = None,
    **more: Any,
) -> RunView:
    told = {
        "pid": 7,
        "paused": {},
        "stages": {"search": {"seconds": 1000.0}},
        "engines": {"scripted": OPEN_ENGINE},
        "questions": 8,
    }
    pulses = [] if alive is None else [Pulse(owner="run", beat_at=beat_at, state=told | alive)]
    usual: dict[str, Any] = {
        "seq": 9,
        "state": state,
        "searched": False,
        "started_at": NOW - 9000,
        "finished_at": None,
        "counts": {"questions.pending": 6, "questions.leased": 2, "questions.solved": 2, "questions.unsolved": 0},
        "seconds": {},
        "updates": {},
        "finals": {},
        "stopped": {},
        "pulses": pulses,
        "recent": {},
        "latencies": {},
        "recent_s": 600.0,
        "solved_at": NOW - 10,
        "answered_at": NOW - 2,
        "accepted_at": NOW - 10,
    }
    return overview(config or load("scripted"), Activity(**(usual | more)), "run", NOW, controls=False)


def alerts(view: RunView) -> list[tuple[str, str]]:
    return [(alert.kind, alert.text) for alert in view.alerts]


@pytest.mark.parametrize(
    ("state", "alive", "beat_at", "shown"),
    [
        ("running", {}, NOW - 1, "running"),
        ("running", {"paused": {"": "eve"}}, NOW - 1, "paused"),
        ("running", {"paused": {"ann": "eve"}}, NOW - 1, "running"),
        ("running", {}, NOW - LOST_S - 1, "lost"),
        ("running", None, 0.0, "lost"),
        ("interrupted", None, 0.0, "interrupted"),
        ("finished", None, 0.0, "finished"),
    ],
)
def test_the_state_is_what_the_store_and_the_process_say_together(
    state: str, alive: dict[str, Any] | None, beat_at: float, shown: str
) -> None:
    view = seen(state=state, alive=alive, beat_at=beat_at)
    assert view.state == shown
    assert (view.pid == 7) == (shown in ("running", "paused"))
    assert any(kind == "lost" for kind, _ in alerts(view)) == (shown == "lost")


def test_no_success_for_minutes_is_said_with_when_the_last_answer_came() -> None:
    quiet = {"solved_at": NOW - 2520, "answered_at": NOW - 420}
    search = {"stages": {"search": {"seconds": 9000.0}}}
    assert alerts(seen(alive=search, **quiet)) == [
        ("no_success", "no question was solved for 42 minutes; the last answer came 7 minutes ago")
    ]
    assert alerts(seen(alive=search, solved_at=None, answered_at=None)) == [
        ("no_success", "no question was solved for 150 minutes")
    ]
    assert not alerts(seen(alive=search, solved_at=NOW - NO_SUCCESS_S + 1))
    assert not alerts(seen(alive={"stages": {"search": {"seconds": 20.0}}}, **quiet))  # it has only just begun again
    assert not alerts(seen(alive={"stages": {"train": {"seconds": 9000.0}}}, **quiet))  # nobody searches now
    done = {"questions.solved": 10}
    assert not alerts(seen(alive=search, counts=done, **quiet))


def test_who_is_parked_paused_or_gone_is_said_with_the_reason() -> None:
    parked = seen(alive={"engines": {"scripted": OPEN_ENGINE | {"parked": "connection refused"}}, "paused": {"bob": "eve"}})
    states = {agent.name: (agent.state, agent.why) for agent in parked.agents}
    assert states == {
        "ann": ("parked", "connection refused"),
        "bob": ("paused", "by eve"),
        "cy": ("parked", "connection refused"),
        "prover": ("parked", "connection refused"),
    }
    assert ("paused", "teacher bob is paused by eve") in alerts(parked)
    assert ("parked", "prover prover is parked: connection refused") in alerts(parked)
    gone = seen(alive={"engines": {"scripted": OPEN_ENGINE | {"gone": "it died"}}})
    assert {agent.state for agent in gone.agents} == {"gone"}
    assert {agent.state for agent in seen(state="finished").agents} == {"idle"}


def test_failures_budgets_and_students_that_stopped_are_said() -> None:
    failing = seen(alive={}, recent={"failed.TimedOut": 30, "spent.calls.ann": 70})
    assert alerts(failing) == [("failures", "30 failures beside 70 answers in 10 minutes")]
    assert not alerts(seen(alive={}, recent={"failed.TimedOut": 10, "spent.calls.ann": 90}))
    counts = {"questions.solved": 1, "spent.billionths.ann": 1_900_000_000, "spent.tokens.ann": 950}
    capped = load("scripted", ["budget.usd=2", "budget.tokens=1000"])
    assert [text for kind, text in alerts(seen(alive={}, config=capped, counts=counts)) if kind == "budget"] == [
        "1.9000 of 2 US dollars are spent",
        "950 of 1000 tokens are spent",
    ]
    taught = load("scripted", ["students=[{name: small, model: somewhere}]"])
    view = seen(alive={}, config=taught, stopped={"small": "update 7: loss nan"}, updates={"small": 6})
    assert ("stopped", "student small: update 7: loss nan") in alerts(view)
    assert (view.students[0].updates, view.students[0].stopped) == (6, "update 7: loss nan")


def test_the_time_that_is_left_follows_the_recent_pace_and_what_is_wanted() -> None:
    recent = {"questions.solved": 30, "questions.unsolved": 30, "trajectories.accepted": 60}
    assert seen(alive={}, recent=recent).eta_s == pytest.approx(8 / (60 / 600))
    wanted = load("scripted", ["target.accepted=3"])
    counts = {"questions.pending": 600, "trajectories.accepted": 1}
    assert seen(alive={}, config=wanted, recent=recent, counts=counts).eta_s == pytest.approx(2 / (60 / 600))
    assert seen(alive={}).eta_s is None
    assert seen(alive={"paused": {"": "eve"}}, recent=recent).eta_s is None


def test_shares_of_chosen_steps_are_of_each_third_and_none_where_nothing_was_chosen() -> None:
    view = seen(alive={}, counts={"won.early.ann": 3, "won.early.bob": 1, "won.late.bob": 2})
    won = {agent.name: agent.won for agent in view.agents}
    assert won == {
        "ann": {"early": 0.75, "late": 0.0},
        "bob": {"early": 0.25, "late": 1.0},
        "cy": {"early": 0.0, "late": 0.0},
        "prover": None,
    }
    assert all(agent.won is None for agent in seen(alive={}).agents)


@given(st.lists(st.floats(0, 2000), min_size=1), st.floats(0.01, 1))
def test_a_share_of_the_latencies_lies_at_or_below_what_is_told(latencies: list[float], share: float) -> None:
    buckets: dict[int, int] = {}
    for latency in latencies:
        buckets[latency_bucket(latency)] = buckets.get(latency_bucket(latency), 0) + 1
    told = latency_s(buckets, share)
    assert told in LATENCIES_S
    within = sum(latency <= told or told == LATENCIES_S[-1] for latency in latencies)
    assert within >= share * len(latencies) - 1e-9


def test_latencies_are_of_the_last_minutes_where_there_were_calls_and_else_of_all() -> None:
    ever = {"latency.10.ann": 5, "latency.ms.ann": 3000, "latency.3.bob": 1}
    view = {agent.name: agent.latency_p50_s for agent in seen(alive={}, latencies=ever, recent={"latency.5.ann": 2}).agents}
    assert view == {"ann": LATENCIES_S[5], "bob": LATENCIES_S[3], "cy": None, "prover": None}


def test_gates_are_told_by_student_round_and_style() -> None:
    counts = {"gates.0.1.search.a.b": 3, "gates.0.0.search.a.b": 1, "gates.2.1.plain.c": 4, "routes.a.b": 3}
    assert [(g.student, g.round, g.style, g.open, g.shut) for g in gates(counts)] == [
        ("a.b", 0, "search", 3, 1),
        ("c", 2, "plain", 4, 0),
    ]


def test_counts_that_do_not_add_up_are_said_not_to() -> None:
    assert seen(alive={}).balance
    assert not seen(alive={}, counts={"questions.unsolved": 2, "unsolved.why": 1}).balance
    assert not seen(alive={}, counts={"nodes.kept": -1}).balance
