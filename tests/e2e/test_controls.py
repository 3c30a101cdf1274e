"""What people ask of a run while it lives: pause, resume, set, requeue; and what its next life makes of it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Kept, call, config, ended, fine, heard, kept, living

RUN = Path("runs/walk")
SLOW: dict[str, Any] = {"latency_s": 0.1}


def calls(folder: Path) -> int:
    return fine("status", str(RUN), "--json", cwd=folder).summary["calls"]


def steady(folder: Path) -> int:
    """The calls of a run once what was in flight is home."""
    before, now = -1, calls(folder)
    while before != now:
        time.sleep(0.6)
        before, now = now, calls(folder)
    return now


def until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def controls(run: Kept) -> list[tuple[str, str, str | None, str, str]]:
    return [(row["verb"], row["subject"], row["value"], row["by"], row["outcome"]) for row in run.dump["control"]]


@pytest.mark.long
def test_a_paused_run_asks_nobody_also_in_its_next_life_until_it_is_resumed(tmp_path: Path) -> None:
    name = config(tmp_path, count=12, engine=SLOW, limits={"questions": 3})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "  ")  # a question has come to its end
        assert fine("pause", str(RUN), "--by", "eve", cwd=tmp_path).out == "asked (1): pause\n"
        time.sleep(1.0)
        paused = steady(tmp_path)
        time.sleep(1.0)
        assert calls(tmp_path) == paused
        assert "the run is paused by eve" in fine("status", str(RUN), "--watch", cwd=tmp_path).out
        process.terminate()
        assert ended(process).code == 143
    assert kept(tmp_path / RUN).counts["questions.leased"] == 0
    with living("run", name, cwd=tmp_path) as process:
        assert "paused by eve, until `resume`" in heard(process, "the run is paused by")
        time.sleep(2.0)
        assert calls(tmp_path) == paused
        fine("resume", str(RUN), "--by", "ann", cwd=tmp_path)
        assert process.wait(60) == 0
    run = kept(tmp_path / RUN)
    run.balances()
    assert controls(run) == [("pause", "", None, "eve", "done"), ("resume", "", None, "ann", "done")]
    told = [event.kind for event in run.events if event.kind.startswith("control")]
    assert told == ["control", "controlled", "control", "controlled"]


@pytest.mark.long
def test_a_paused_teacher_is_not_asked_and_the_others_go_on_without_it(tmp_path: Path) -> None:
    name = config(tmp_path, count=20, engine=SLOW, limits={"questions": 2})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "  ")
        fine("pause", str(RUN), "--teacher", "bob", cwd=tmp_path)
        until(lambda: kept(tmp_path / RUN).dump["control"][0]["outcome"] == "done")
        time.sleep(0.5)
        before = kept(tmp_path / RUN).counts
        assert process.wait(60) == 0
    run = kept(tmp_path / RUN)
    run.balances()
    assert run.counts["spent.calls.bob"] == before["spent.calls.bob"] < run.counts["spent.calls.ann"]
    assert run.counts["questions.pending"] == run.counts["questions.leased"] == 0
    assert all(row["kind"] == "Parked" for row in run.dump["failure"])  # what stood in the queue when it was paused


@pytest.mark.long
def test_when_all_teachers_are_paused_the_run_waits_and_can_be_ended(tmp_path: Path) -> None:
    name = config(tmp_path, count=20, engine=SLOW, limits={"questions": 2})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "  ")
        for teacher in ("ann", "bob"):
            fine("pause", str(RUN), "--teacher", teacher, cwd=tmp_path)
        time.sleep(1.0)
        paused = steady(tmp_path)
        process.terminate()
        assert ended(process).code == 143
    for teacher in ("ann", "bob"):
        fine("resume", str(RUN), "--teacher", teacher, cwd=tmp_path)
    fine("run", name, cwd=tmp_path)
    run = kept(tmp_path / RUN)
    run.balances()
    assert run.counts["questions.pending"] == 0
    assert sum(row["purpose"] == "propose" for row in run.dump["call"]) > 0 < paused


def test_more_questions_at_once_are_taken_up_while_the_run_lives(tmp_path: Path) -> None:
    name = config(tmp_path, count=40, engine={"latency_s": 0.2}, limits={"questions": 1})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "  ")
        until(lambda: kept(tmp_path / RUN).counts["questions.leased"] == 1)
        fine("set", str(RUN), "limits.questions=6", cwd=tmp_path)
        until(lambda: kept(tmp_path / RUN).counts["questions.leased"] == 6)
        fine("set", str(RUN), "limits.questions=2", cwd=tmp_path)
        until(lambda: kept(tmp_path / RUN).counts["questions.leased"] == 2)
        process.kill()
        ended(process)
    with living("run", name, cwd=tmp_path) as process:
        until(lambda: kept(tmp_path / RUN).counts["questions.leased"] == 2)
        process.kill()
        ended(process)
    with living("run", name, "--set", "limits.questions=4", cwd=tmp_path) as process:
        assert "stands otherwise in the configuration now" in heard(process, "limits.questions")
        until(lambda: kept(tmp_path / RUN).counts["questions.leased"] == 4)


def test_a_budget_that_was_spent_can_be_raised(tmp_path: Path) -> None:
    name = config(tmp_path, count=10, budget={"tokens": 3000})
    call("run", name, cwd=tmp_path).complains(1, "budget", "tokens are spent")
    asked = fine("set", str(RUN), "budget.tokens=", "--by", "eve", cwd=tmp_path).out
    assert asked == "asked (1): set budget.tokens; nobody runs it now: it holds when the run goes on\n"
    fine("run", name, cwd=tmp_path)
    run = kept(tmp_path / RUN)
    run.balances()
    assert run.counts["questions.pending"] == 0
    assert sum(run.counts[f"tokens.{kind}"] for kind in ("prompt", "completion")) > 3000


def test_an_unsolved_question_is_requeued_and_only_what_failed_is_asked_again(tmp_path: Path) -> None:
    failing = {"skill": 0.9, "failure_rate": 0.97}
    name = config(tmp_path, count=6, engine=failing)
    fine("run", name, cwd=tmp_path)
    first = kept(tmp_path / RUN)
    lost = [row["id"] for row in first.dump["question"] if row["state"] == "unsolved"]
    assert lost
    assert fine("requeue", str(RUN), lost[0], "--by", "eve", cwd=tmp_path).out == f"asked (1): requeue {lost[0]}\n"
    between = kept(tmp_path / RUN)
    assert between.counts["questions.pending"] == 1
    assert [row["state"] for row in between.dump["run"]] == ["interrupted"]
    assert not [row for row in between.dump["node"] if row["question"] == lost[0]]
    fine("run", name, cwd=tmp_path)
    last = kept(tmp_path / RUN)
    last.balances()
    assert {row["id"] for row in first.dump["call"]} <= {row["id"] for row in last.dump["call"]}
    assert last.counts["questions.pending"] == 0
    assert controls(last) == [("requeue", lost[0], None, "eve", "done")]


@pytest.mark.long
def test_a_question_that_is_requeued_while_the_run_lives_is_solved_again(tmp_path: Path) -> None:
    name = config(tmp_path, count=30, engine={"latency_s": 0.1, "skill": 0.2}, limits={"questions": 2})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "  unsolved")
        lost = next(row["id"] for row in kept(tmp_path / RUN).dump["question"] if row["state"] == "unsolved")
        fine("requeue", str(RUN), lost, cwd=tmp_path)
        assert process.wait(60) == 0
    run = kept(tmp_path / RUN)
    run.balances()
    kinds = [event.kind for event in run.events if event.subject == lost]
    assert kinds.count("question_unsolved") == 2
    assert kinds.count("question_requeued") == 1


@pytest.mark.long
def test_a_run_with_a_question_that_is_requeued_after_its_search_is_not_finished(tmp_path: Path) -> None:
    held_out = {
        "questions": {"kind": "word_problems", "count": 100, "seed": 3, "split": "held_out"},
        "teachers": True,
        "samples": 0,
    }
    engine = {"latency_s": 0.1, "skill": 0.0}
    name = config(tmp_path, count=3, engine=engine, evaluation=held_out, limits={"evaluations": 2})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "accuracy ")
        lost = next(row["id"] for row in kept(tmp_path / RUN).dump["question"] if row["state"] == "unsolved")
        fine("requeue", str(RUN), lost, cwd=tmp_path)
        assert heard(process, "1 questions were requeued after the search")
        assert process.wait(60) == 0
    assert fine("status", str(RUN), "--json", cwd=tmp_path).summary["state"] == "interrupted"
    fine("run", name, cwd=tmp_path)
    run = kept(tmp_path / RUN)
    run.balances()
    assert [row["state"] for row in run.dump["run"]] == ["finished"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pause", "nowhere"), ("nowhere: no run there",)),
        (("pause", str(RUN), "--teacher", "zoe"), ("no teacher is called 'zoe'", "ann, bob")),
        (("set", str(RUN), "limits.questions"), ("'limits.questions' has no value", "KEY=VALUE")),
        (("set", str(RUN), "limits.questions=0"), ("set limits.questions=0", "greater than or equal to 1", "not 0")),
        (("set", str(RUN), "limits.questions=many"), ("set limits.questions", "'many' is no number")),
        (("set", str(RUN), "search.beam=8"), ("'search.beam' cannot be changed while a run lives", "limits.questions")),
        (("set", str(RUN), "teachers.zoe.budget.usd=1"), ("teachers.zoe", "teachers.ann.budget.usd")),
        (("status", str(RUN), "--watch", "--json"), ("--watch", "--json")),
        (("inspect", "nowhere"), ("nowhere: no run there",)),
    ],
)
def test_a_mistake_is_one_line(finished: Path, arguments: tuple[str, ...], told: tuple[str, ...]) -> None:
    call(*arguments, cwd=finished).complains(2, *told)


def test_a_token_that_is_not_there_is_said_before_the_run_begins(tmp_path: Path) -> None:
    name = config(tmp_path, count=2, http={"port": 0, "token": "NOT_SET_ANYWHERE"})
    call("run", name, cwd=tmp_path).complains(2, "http.token", "NOT_SET_ANYWHERE", "not set")
    assert not kept(tmp_path / RUN).dump["run"]


@pytest.mark.parametrize("content", [b"notes, not a database", None], ids=["text", "older"])
def test_a_store_that_cannot_be_looked_at_is_one_line(finished: Path, tmp_path: Path, content: bytes | None) -> None:
    shutil.copytree(finished / RUN, tmp_path / "copy")
    database = tmp_path / "copy" / "peripatos.db"
    if content is not None:
        database.write_bytes(content)
    else:
        with sqlite3.connect(database) as older:
            older.execute("UPDATE alembic_version SET version_num = '0001'")
        older.close()
    call("inspect", "copy", cwd=tmp_path).complains(1, "peripatos.db")


def test_a_solved_or_an_unknown_question_is_not_requeued(finished: Path) -> None:
    solved = next(row["id"] for row in kept(finished / RUN).dump["question"] if row["state"] == "solved")
    call("requeue", str(RUN), solved, cwd=finished).complains(1, solved, "only one that is unsolved")
    call("requeue", str(RUN), "nobody", cwd=finished).complains(1, "nobody")


def test_the_terminal_shows_the_run_and_its_latest_tree(finished: Path) -> None:
    shown = fine("status", str(RUN), "--watch", cwd=finished).out
    assert "walk: finished" in shown
    assert "ann" in shown
    assert "prover" in shown
    assert " kept: " in shown
    assert " finished: " in shown


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a finished run lies."""
    folder = tmp_path_factory.mktemp("finished")
    fine("run", config(folder, count=8, engine={"skill": 0.8}), cwd=folder)
    assert os.path.isdir(folder / RUN)
    return folder
