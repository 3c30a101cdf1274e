"""Equal configurations make equal databases, bit by bit, apart from times."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Kept, config, fine, kept, same_story

RUN = Path("runs/walk")


def made(folder: Path, **keys: object) -> Kept:
    fine("run", config(folder, count=12, engine={"failure_rate": 0.05}, **keys), cwd=folder)
    return kept(folder / RUN)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run lies that the others are compared with: one question at a time."""
    folder = tmp_path_factory.mktemp("alone")
    made(folder, limits={"questions": 1}).balances()
    return folder


def test_with_one_question_in_flight_rows_and_events_are_equal_in_their_order(home: Path, tmp_path: Path) -> None:
    one, other = kept(home / RUN), made(tmp_path, limits={"questions": 1})
    assert one.dump == other.dump
    assert [(event.seq, event.kind, event.subject) for event in one.events] == [
        (event.seq, event.kind, event.subject) for event in other.events
    ]


def test_with_many_questions_in_flight_only_the_order_of_events_differs(home: Path, tmp_path: Path) -> None:
    one, other = kept(home / RUN), made(tmp_path, limits={"questions": 8})
    configs = [run.dump.pop("run")[0].pop("config") for run in (one, other)]
    assert configs[0] != configs[1]  # it says how many questions may be in flight
    same_story(one, other)


def test_another_seed_makes_another_run_of_the_same_questions(home: Path, tmp_path: Path) -> None:
    one, other = kept(home / RUN), made(tmp_path, seed=2)
    assert one.states().keys() == other.states().keys()
    assert {row["id"] for row in one.dump["node"]}.isdisjoint(row["id"] for row in other.dump["node"])


def test_running_a_finished_run_again_changes_no_row(home: Path) -> None:
    one, exported = kept(home / RUN), (home / RUN / "export/messages.jsonl").read_bytes()
    other = made(home, limits={"questions": 1})
    for table in one.dump.keys() - {"event"}:
        assert one.dump[table] == other.dump[table], table
    assert [event.kind for event in other.events[len(one.events) :]] == ["run_running", "run_finished"]
    assert (home / RUN / "export/messages.jsonl").read_bytes() == exported
