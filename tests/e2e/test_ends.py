"""How questions end when teachers cannot finish or calls fail: a state, a reason, the tree kept, counts that balance."""

from __future__ import annotations

from pathlib import Path

from command import Done, Kept, config, fine, kept


def run(folder: Path, **keys: object) -> tuple[Done, Kept]:
    done = fine("run", config(folder, **keys), "--json", cwd=folder)  # type: ignore[arg-type]
    run = kept(folder / "runs/walk")
    run.balances()
    agrees(done, run)
    return done, run


def agrees(done: Done, run: Kept) -> None:
    """What the summary says is what the rows say."""
    summary = done.summary
    states = summary["questions_by_state"]
    assert summary["state"] == "finished"
    assert summary["questions"] == len(run.dump["question"]) == states["solved"] + states["unsolved"]
    assert summary["nodes"] == len(run.dump["node"])
    assert summary["trajectories"] == len(run.dump["trajectory"]) == sum(summary["trajectories_by_verdict"].values())
    assert summary["calls"] == len(run.dump["call"])
    assert summary["failures"] == len(run.dump["failure"])
    assert summary["tokens"] == sum(row["completion_tokens"] for row in run.dump["call"])


def test_a_question_that_nobody_can_finish_is_unsolved_and_keeps_its_tree(tmp_path: Path) -> None:
    done, run_ = run(tmp_path, engine={"steps": 3}, search={"max_steps": 1})
    assert done.summary["questions_by_state"]["unsolved"] == 10
    assert {row["reason"] for row in run_.dump["question"]} == {"no reasoning was closed within the budgets"}
    assert {row["question"] for row in run_.dump["node"]} == set(run_.states())
    assert {row["state"] for row in run_.dump["node"]} == {"pruned"}
    assert not run_.dump["trajectory"]


def test_a_spent_token_budget_ends_a_question_with_its_tree(tmp_path: Path) -> None:
    _, run_ = run(tmp_path, search={"max_question_tokens": 1})
    assert {row["depth"] for row in run_.dump["node"]} == {1}
    assert set(run_.states().values()) == {"unsolved"}


def test_some_calls_fail_and_the_run_ends_with_rows_that_say_so(tmp_path: Path) -> None:
    done, run_ = run(tmp_path, count=60, engine={"failure_rate": 0.15})
    assert {(row["kind"], row["message"]) for row in run_.dump["failure"]} == {("Terminal", "scripted failure")}
    assert {row["subject"] for row in run_.dump["failure"]} <= set(run_.states())
    assert {row["where"] for row in run_.dump["failure"]} == {"teacher ann", "teacher bob", "prover"}
    assert done.summary["questions_by_state"]["solved"] > 0
    failed = done.summary["failures"]
    assert 0.1 < failed / (done.summary["calls"] + failed) < 0.2


def test_when_every_call_fails_every_question_is_unsolved(tmp_path: Path) -> None:
    done, run_ = run(tmp_path, engine={"failure_rate": 1.0})
    assert set(run_.states().values()) == {"unsolved"}
    assert {row["reason"] for row in run_.dump["question"]} == {"every call failed, or every step was empty"}
    assert (done.summary["nodes"], done.summary["calls"]) == (0, 0)
    assert len(run_.dump["failure"]) == 2 * 10
    assert (tmp_path / "runs/walk/export/messages.jsonl").read_text() == ""


def test_a_teacher_that_has_left_does_not_end_the_run_when_the_others_fail_at_a_step(tmp_path: Path) -> None:
    engines = {"scripted": {"kind": "scripted", "skill": 0.7}, "shaky": {"kind": "scripted", "failure_rate": 0.3}}
    teachers = [
        {"name": "ann", "engine": "shaky"},
        {"name": "bob", "engine": "scripted", "budget": {"tokens": 0, "when_spent": "leave"}},
    ]
    done, run_ = run(tmp_path, engines=engines, teachers=teachers)
    assert done.summary["failures_by_kind"]["BudgetSpent"] > 0
    assert done.summary["failures_by_kind"]["Terminal"] > 0
    assert set(run_.states().values()) <= {"solved", "unsolved"}
