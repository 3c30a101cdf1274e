"""What a run may cost: caps that hold through kills and resumptions, an estimate beforehand, nothing paid for twice."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command import Done, Dump, Kept, call, config, ended, fine, heard, kept, living, recounted

RUN = Path("runs/walk")
PRICE = {"prompt": 3.0, "completion": 15.0, "cached": 0.3}
SEARCH = {"max_step_tokens": 30, "max_answer_tokens": 10}
"""Short answers, so that little is reserved for a call, and caps are met closely."""
COUNT = 12
MUCH = "budget.tokens=10000000"


def priced(folder: Path, *, engine: dict[str, Any] | None = None, **keys: Any) -> str:
    """Write run.yaml: a scripted run whose engine has a price."""
    return config(folder, count=COUNT, engine={"price": PRICE, **(engine or {})}, **{"search": SEARCH, **keys})


def teachers(**budget: Any) -> list[dict[str, Any]]:
    """Ann, and Bob with a budget of his own."""
    return [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "scripted", "budget": budget}]


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The run that nothing holds back."""
    folder = tmp_path_factory.mktemp("free")
    fine("run", priced(folder), cwd=folder)
    run = kept(folder / RUN)
    run.balances()
    return run


def spent(run: Kept, kind: str = "tokens", agent: str = "") -> int:
    """Tokens, or billionths of a US dollar, of one agent or of all."""
    return sum(value for name, value in run.counts.items() if name.startswith(f"spent.{kind}.{agent}"))


def left(run: Kept) -> int:
    """How many questions are still to be solved; the counts must be what the rows say."""
    assert +Counter(run.counts) == +recounted(run.dump)
    return Counter(run.states().values())["pending"]


def rows(run: Kept) -> Dump:
    """All rows that do not tell of the course of the run."""
    dump = {name: found for name, found in run.dump.items() if name != "event"}
    return {**dump, "run": [{**row, "config": ""} for row in dump["run"]]}


def stopped(done: Done, run: Kept, *words: str) -> None:
    """It ended at a cap, and its one line tells how it really stands."""
    done.complains(1, "budget", "are spent, and the next call may", f"; {left(run)} of {COUNT} questions are left", *words)
    assert run.dump["run"][0]["state"] == "interrupted"
    assert 0 < left(run) < COUNT


# Caps


@pytest.mark.parametrize("questions", [1, 8])
def test_a_cap_in_tokens_stops_the_run_and_with_a_higher_one_it_ends_as_if_there_had_been_none(
    tmp_path: Path, free: Kept, questions: int
) -> None:
    cap = spent(free) // 2
    name = priced(tmp_path, budget={"tokens": cap}, limits={"questions": questions})
    done = call("run", name, cwd=tmp_path)
    first = kept(tmp_path / RUN)
    stopped(done, first, f"budget: {spent(first)} of {cap} tokens are spent", "the same command goes on")
    assert cap - 200 < spent(first) <= cap

    done = call("run", name, cwd=tmp_path)
    again = kept(tmp_path / RUN)
    stopped(done, again, f"budget: {spent(again)} of {cap} tokens are spent")
    assert spent(first) <= spent(again) <= cap
    if questions == 1:  # of several in flight, one may ask for less than the one that met the cap
        assert rows(again) == rows(first)

    fine("run", name, "--set", MUCH, cwd=tmp_path)
    end = kept(tmp_path / RUN)
    end.balances()
    assert rows(end) == rows(free)


def test_a_cap_that_is_raised_again_and_again_is_kept_each_time_and_nothing_is_paid_for_twice(tmp_path: Path, free: Kept) -> None:
    name, total = priced(tmp_path, engine={"latency_s": 0.005}), spent(free)
    for cap in range(total // 5, total, total // 5):
        done = call("run", name, "--set", f"budget.tokens={cap}", cwd=tmp_path)
        assert done.code == 1, done.err
        run = kept(tmp_path / RUN)
        assert cap - 200 < spent(run) <= cap
        assert left(run)
    fine("run", name, "--set", f"budget.tokens={total + 200}", cwd=tmp_path)
    assert rows(kept(tmp_path / RUN)) == rows(free)


def test_a_cap_in_us_dollars_stops_the_run_and_counts_what_was_spent_before(tmp_path: Path, free: Kept) -> None:
    cap = spent(free, "billionths") / 1e9 / 3
    name = priced(tmp_path, budget={"usd": cap}, limits={"questions": 2})
    done = call("run", name, cwd=tmp_path)
    first = kept(tmp_path / RUN)
    stopped(done, first, f"budget: {spent(first, 'billionths') / 1e9:.6f} of {cap:g} US dollars are spent")
    assert 0.8 * cap < spent(first, "billionths") / 1e9 <= cap

    lower = call("run", name, "--set", f"budget.usd={cap / 2}", cwd=tmp_path)
    stopped(lower, kept(tmp_path / RUN), f"of {cap / 2:g} US dollars are spent")
    assert spent(kept(tmp_path / RUN)) == spent(first)

    summary = fine("run", name, "--set", "budget.usd=1000", "--json", cwd=tmp_path).summary
    assert rows(kept(tmp_path / RUN)) == rows(free)
    assert sum(row["usd"] for row in summary["spent"].values()) == pytest.approx(spent(free, "billionths") / 1e9)


def test_a_cap_that_no_call_fits_into_stops_the_run_before_anything_is_asked(tmp_path: Path) -> None:
    call("run", priced(tmp_path, budget={"tokens": 20}), cwd=tmp_path).complains(
        1, "budget: 0 of 20 tokens are spent", f"{COUNT} of {COUNT} questions are left"
    )
    assert kept(tmp_path / RUN).dump["call"] == []


def test_a_teachers_own_cap_stops_the_run_or_the_teacher_leaves_it(tmp_path: Path, free: Kept) -> None:
    cap = spent(free, "tokens", "bob") // 2
    name = priced(tmp_path, teachers=teachers(tokens=cap))
    done = call("run", name, cwd=tmp_path)
    first = kept(tmp_path / RUN)
    stopped(done, first, f"budget of bob: {spent(first, 'tokens', 'bob')} of {cap} tokens are spent")
    assert cap - 200 < spent(first, "tokens", "bob") <= cap
    assert first.dump["failure"] == []

    fine("run", name, "--set", "teachers.1.budget.when_spent=leave", cwd=tmp_path)
    end = kept(tmp_path / RUN)
    end.balances()
    assert spent(first, "tokens", "bob") <= spent(end, "tokens", "bob") <= cap
    assert spent(end, "tokens", "ann") > spent(first, "tokens", "ann")
    failures = {(row["where"], row["kind"]) for row in end.dump["failure"]}
    assert failures == {("teacher bob", "BudgetSpent")}
    assert all("budget of bob" in row["message"] for row in end.dump["failure"])


def test_a_teachers_own_cap_that_is_raised_is_as_if_there_had_been_none(tmp_path: Path, free: Kept) -> None:
    name = priced(tmp_path, teachers=teachers(usd=spent(free, "billionths", "bob") / 1e9 / 2))
    call("run", name, cwd=tmp_path).complains(1, "budget of bob", "US dollars are spent")
    fine("run", name, "--set", "teachers.1.budget.usd=1000", cwd=tmp_path)
    assert rows(kept(tmp_path / RUN)) == rows(free)


def test_a_teacher_that_may_leave_leaves_the_answers_too_to_the_others(tmp_path: Path) -> None:
    """What it may spend is enough for its steps, but not for an answer."""
    search = {"max_step_tokens": 30, "max_answer_tokens": 3000}
    fine("run", priced(tmp_path, search=search, teachers=teachers(tokens=2900, when_spent="leave")), cwd=tmp_path)
    run = kept(tmp_path / RUN)
    run.balances()
    assert "bob" in {row["author"] for row in run.dump["node"]}
    assert {row["agent"] for row in run.dump["call"] if row["purpose"] == "answer"} == {"ann"}
    assert len(run.dump["trajectory"]) == sum(row["state"] == "finished" for row in run.dump["node"])


def test_when_all_teachers_have_left_the_run_stops(tmp_path: Path) -> None:
    both = [{**each, "budget": {"tokens": 500, "when_spent": "leave"}} for each in teachers()]
    done = call("run", priced(tmp_path, teachers=both, limits={"questions": 1}), cwd=tmp_path)
    run = kept(tmp_path / RUN)
    stopped(done, run, "budget of ")
    assert all(spent(run, "tokens", each["name"]) <= 500 for each in both)


@pytest.mark.chaos
def test_a_capped_run_that_is_killed_spends_no_more_than_the_cap_over_all_its_lives(tmp_path: Path, free: Kept) -> None:
    chance, cap = random.Random(3), spent(free) // 2
    name = priced(tmp_path, engine={"latency_s": 0.15}, budget={"tokens": cap}, limits={"questions": 4})
    before = 0
    for _ in range(3):
        with living("run", name, cwd=tmp_path) as process:
            assert heard(process, "engine ")
            time.sleep(chance.uniform(0.3, 0.5))
            process.send_signal(signal.SIGKILL)
            assert ended(process).code == -9
        run = kept(tmp_path / RUN)
        assert before <= spent(run) <= cap
        before = spent(run)
    assert before > 0
    done = call("run", name, cwd=tmp_path)
    run = kept(tmp_path / RUN)
    stopped(done, run, f"{spent(run)} of {cap} tokens are spent")
    assert before <= spent(run) <= cap
    fine("run", name, "--set", MUCH, cwd=tmp_path)
    assert rows(kept(tmp_path / RUN)) == rows(free)


# The estimate


def test_a_dry_run_solves_its_sample_tells_what_all_will_take_and_is_the_beginning_of_the_run(tmp_path: Path, free: Kept) -> None:
    name = priced(tmp_path)
    done = fine("run", name, "--dry-run", "--sample", "2", "--json", cwd=tmp_path)
    run = kept(tmp_path / RUN)
    states = Counter(run.states().values())
    assert states["solved"] + states["unsolved"] == 2
    assert left(run) == COUNT - 2
    solved = {id for id, state in run.states().items() if state != "pending"}
    assert {row["subject"] for row in run.dump["call"]} == solved
    assert not (tmp_path / RUN / "export").exists()

    found = done.summary["estimate"]
    assert (found["sampled"], found["questions"]) == (2, COUNT)
    assert set(found["by_agent"]) == {"ann", "bob", "prover"}
    for agent, told in [*found["by_agent"].items(), ("", found["all"])]:
        for key, value in told.items():
            each = [taken(run, question, agent, key) for question in solved]
            assert value["mean"] == pytest.approx(sum(each) / 2 * COUNT)
            assert (value["low"], value["high"]) == (pytest.approx(min(each) * COUNT), pytest.approx(max(each) * COUNT))
    assert found["all"]["usd"]["mean"] > 0
    assert f"estimate for {COUNT} questions, from 2 solved ones" in done.out

    fine("run", name, cwd=tmp_path)
    end = kept(tmp_path / RUN)
    end.balances()
    assert rows(end) == rows(free)


def taken(run: Kept, question: str, agent: str, key: str) -> float:
    """What one question took, of one agent or of all, from the rows."""
    asked = [row for row in run.dump["call"] if row["subject"] == question and row["agent"].startswith(agent)]
    return len(asked) if key == "calls" else sum(row["cost" if key == "usd" else f"{key}_tokens"] for row in asked)


def test_a_dry_run_of_more_questions_than_there_are_solves_them_all(tmp_path: Path, free: Kept) -> None:
    name = priced(tmp_path)
    estimate = fine("run", name, "--dry-run", "--sample", "100", "--json", cwd=tmp_path).summary["estimate"]
    assert (estimate["sampled"], estimate["questions"]) == (COUNT, COUNT)
    assert estimate["all"]["usd"]["mean"] == pytest.approx(spent(free, "billionths") / 1e9)
    assert estimate["all"]["calls"]["mean"] == pytest.approx(len(free.dump["call"]))
    fine("run", name, cwd=tmp_path)
    assert rows(kept(tmp_path / RUN)) == rows(free)


def test_a_dry_run_keeps_to_the_cap(tmp_path: Path) -> None:
    name = priced(tmp_path, budget={"tokens": 600})
    call("run", name, "--dry-run", "--sample", "2", cwd=tmp_path).complains(1, "of 600 tokens are spent")
    assert spent(kept(tmp_path / RUN)) <= 600


# A replay, and runs that share a ledger


def replayed(folder: Path, database: Path, *, latency_s: float = 3600.0, **keys: Any) -> str:
    """The same run in another folder, from the calls in `database`; whoever asked an engine would wait for an hour."""
    more = {"run_dir": "runs/again", "ledger": str(database), "replay": True, **keys}
    return priced(folder, engine={"latency_s": latency_s}, **more)


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a finished run."""
    folder = tmp_path_factory.mktemp("paid")
    fine("run", priced(folder), cwd=folder)
    return folder / RUN / "peripatos.db"


def test_a_replay_comes_to_the_same_and_asks_nobody(tmp_path: Path, paid: Path, free: Kept) -> None:
    before = paid.read_bytes()
    done = fine("run", replayed(tmp_path, paid), "--json", cwd=tmp_path)
    run = kept(tmp_path / "runs/again")
    run.balances()
    for table in ("question", "node", "trajectory", "verdict", "route"):
        assert run.dump[table] == free.dump[table]
    assert [{**row, "reused": 0} for row in run.dump["call"]] == [{**row, "cost": 0.0} for row in free.dump["call"]]
    assert (done.summary["spent"], done.summary["calls_reused"]) == ({}, len(free.dump["call"]))
    assert paid.read_bytes() == before
    assert sorted(path.name for path in paid.parent.iterdir() if path.name.startswith("peripatos.db")) == ["peripatos.db"]


@pytest.mark.parametrize("purpose", ["propose", "score", "answer"])
def test_a_replay_that_lacks_a_call_names_it(tmp_path: Path, paid: Path, purpose: str) -> None:
    database = Path(shutil.copy(paid, tmp_path / "calls.db"))
    with closing(sqlite3.connect(database)) as connection, connection:
        (key, subject, agent) = connection.execute(
            "SELECT id, subject, agent FROM call WHERE purpose = ? ORDER BY id", (purpose,)
        ).fetchone()
        connection.execute("DELETE FROM call WHERE id = ?", (key,))
    name = replayed(tmp_path, database)
    call("run", name, cwd=tmp_path).complains(1, "replay", f"call of {agent} ({purpose})", f"question {subject}")
    shutil.copy(paid, database)
    fine("run", name, cwd=tmp_path)
    kept(tmp_path / "runs/again").balances()


def test_a_replay_opens_no_engine_and_one_of_nothing_is_told_in_one_line(tmp_path: Path, paid: Path) -> None:
    """A hosted model without a key could not be opened."""
    engines = {"scripted": {"kind": "scripted"}, "hosted": {"kind": "litellm", "model": "anthropic/claude-sonnet-4-5"}}
    by = [{**each, "engine": "hosted"} for each in teachers()]
    name = replayed(tmp_path, paid, engines=engines, teachers=by)
    call("run", name, cwd=tmp_path, ANTHROPIC_API_KEY="").complains(1, "replay: no call of", "(propose) about question")


def test_a_run_can_be_resumed_as_a_replay_and_the_replay_as_a_run(tmp_path: Path, free: Kept) -> None:
    name = priced(tmp_path, budget={"tokens": spent(free) // 2})
    assert call("run", name, cwd=tmp_path).code == 1
    half = kept(tmp_path / RUN)
    call("run", name, "--set", "replay=true", cwd=tmp_path).complains(1, "replay: no call of")
    assert kept(tmp_path / RUN).dump["call"] == half.dump["call"]
    fine("run", name, "--set", MUCH, cwd=tmp_path)
    assert rows(kept(tmp_path / RUN)) == rows(free)


def test_a_run_with_another_beam_uses_what_the_first_has_paid_for_and_comes_to_the_same_as_alone(
    tmp_path: Path, free: Kept
) -> None:
    narrow = priced(tmp_path / "one", ledger="../calls.db", search={**SEARCH, "beam": 2})
    first = fine("run", narrow, "--json", cwd=tmp_path / "one").summary
    second = fine("run", priced(tmp_path / "two", ledger="../calls.db"), "--json", cwd=tmp_path / "two").summary
    one, two = (kept(tmp_path / name / RUN) for name in ("one", "two"))
    for run in (one, two):
        run.balances()
    for table in ("question", "node", "trajectory", "verdict"):
        assert two.dump[table] == free.dump[table]
    assert (first["calls_reused"], second["calls"]) == (0, len(free.dump["call"]))
    assert second["calls_reused"] > len(one.dump["call"]) / 2
    for kind in ("tokens", "billionths"):
        assert 0 < spent(two, kind) < spent(free, kind) - spent(one, kind) / 2
    paid = [row["id"] for run in (one, two) for row in run.dump["call"] if not row["reused"]]
    assert len(paid) == len(set(paid)), "nothing is paid for twice"
    assert f"{second['calls_reused']} of them paid by earlier runs" in call("status", str(RUN), cwd=tmp_path / "two").out


def test_two_runs_at_the_same_time_pay_for_each_call_once(tmp_path: Path, free: Kept) -> None:
    for name in ("one", "two"):
        priced(tmp_path / name, ledger="../calls.db", engine={"latency_s": 0.01})
    with living("run", "run.yaml", cwd=tmp_path / "one") as one, living("run", "run.yaml", cwd=tmp_path / "two") as two:
        ends = [ended(one), ended(two)]
    assert [done.code for done in ends] == [0, 0], [done.err for done in ends]
    runs = [kept(tmp_path / name / RUN) for name in ("one", "two")]
    for run in runs:
        run.balances()
        assert run.dump["trajectory"] == free.dump["trajectory"]
    paid = [row["id"] for run in runs for row in run.dump["call"] if not row["reused"]]
    assert sorted(paid) == [row["id"] for row in free.dump["call"]]
    assert sum(spent(run) for run in runs) == spent(free)


# Mistakes


@pytest.mark.parametrize("sample", ["0", "-1", "two", "1.5", ""])
def test_a_sample_that_is_no_number_of_questions(tmp_path: Path, sample: str) -> None:
    done = call("run", priced(tmp_path), "--dry-run", f"--sample={sample}", cwd=tmp_path)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert not [word for word in ("peripatos", "--sample", repr(sample), "above 0") if word not in line], line
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("budget.tokens=-1", ("budget.tokens", "greater than or equal to 0", "not -1")),
        ("budget.tokens=1.5", ("budget.tokens", "integer", "not 1.5")),
        ("budget.usd=-0.5", ("budget.usd", "greater than or equal to 0", "not -0.5")),
        ("budget.usd=.nan", ("budget.usd", "not nan")),
        ("teachers.1.budget.usd=-1", ("teachers[1].budget.usd", "greater than or equal to 0")),
        ("teachers.1.budget.when_spent=wait", ("teachers[1].budget.when_spent", "'stop' or 'leave'", "'wait'")),
        ("engines.scripted.price.prompt=-3", ("engines.scripted.price.prompt", "greater than or equal to 0")),
        ("budget.dollars=5", ("budget.dollars", "unknown key", "accepted: tokens, usd")),
    ],
)
def test_a_cap_that_is_none(tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    call("run", priced(tmp_path, teachers=teachers(tokens=100)), "--set", override, cwd=tmp_path).complains(2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("replay", ["true", "false"])
@pytest.mark.parametrize("kind", ["text", "database", "folder"])
def test_a_ledger_that_is_none(tmp_path: Path, kind: str, replay: str) -> None:
    if (path := tmp_path / "calls.db") and kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("id,subject\n" * 100)
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE run (id INTEGER)")
            connection.execute("INSERT INTO run VALUES (1)")
    done = call("run", priced(tmp_path, ledger="calls.db"), "--set", f"replay={replay}", cwd=tmp_path)
    done.complains(1, str(path), {"text": "not a database", "database": "not a Peripatos store"}.get(kind, ""))


def test_a_replay_from_a_ledger_that_is_not_there(tmp_path: Path) -> None:
    name = priced(tmp_path, ledger="calls.db", replay=True)
    call("run", name, cwd=tmp_path).complains(1, str(tmp_path / "calls.db"), "there is no store here")
    assert not (tmp_path / "calls.db").exists()


def test_a_replay_fails_where_the_run_failed(tmp_path: Path) -> None:
    shaky = {"failure_rate": 0.2}
    fine("run", priced(tmp_path, engine=shaky), cwd=tmp_path)
    first = kept(tmp_path / RUN)
    assert first.dump["failure"]
    again = priced(tmp_path, engine=shaky, replay=True, ledger=f"{RUN}/peripatos.db", run_dir="runs/again")
    fine("run", again, cwd=tmp_path)
    second = kept(tmp_path / "runs/again")
    second.balances()
    for table in ("question", "node", "trajectory", "failure"):
        assert second.dump[table] == first.dump[table]
