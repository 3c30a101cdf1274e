"""Looking at runs without changing them: status, the inspector's JSON, export, recipes, doctor, --help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, call, config, ended, environment, fine, heard, kept, living

RUN = Path("runs/walk")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a finished run lies."""
    folder = tmp_path_factory.mktemp("finished")
    fine("run", config(folder, count=20, engine={"skill": 0.8}), cwd=folder)
    return folder


def status(folder: Path) -> dict[str, Any]:
    return fine("status", str(RUN), "--json", cwd=folder).summary


def over_http(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.headers["Content-Type"].startswith("application/json")
        return json.load(response)


def test_a_living_run_says_so_over_the_command_and_over_http_and_a_killed_one_is_interrupted(tmp_path: Path) -> None:
    name = config(tmp_path, count=40, engine={"latency_s": 0.15}, limits={"questions": 2}, http={"port": 0})
    with living("run", name, cwd=tmp_path) as process:
        url = heard(process, "watch at ").split()[-1] + "status"
        heard(process, "  ")  # a question has come to its end
        first = status(tmp_path)
        second = over_http(url)
        deadline = time.monotonic() + 10
        while second["calls"] <= first["calls"] and time.monotonic() < deadline:
            second = over_http(url)
        assert first["state"] == second["state"] == "running"
        assert 0 < first["calls"] < second["calls"]
        assert first["questions"] == second["questions"] == 40
        assert second["questions_by_state"]["leased"] > 0
        exported = fine("export", str(RUN), "--to", "early.jsonl", cwd=tmp_path)
        assert exported.out.endswith(f"trajectories in {tmp_path / 'early.jsonl'}\n")
        assert len((tmp_path / "early.jsonl").read_text().splitlines()) == int(exported.out.split()[0])
        process.kill()
        assert ended(process).code == -9
    last = status(tmp_path)
    assert last["state"] == "interrupted"
    assert last["calls"] >= second["calls"]


def test_the_summary_is_the_last_line_and_status_tells_the_same_of_a_finished_run(home: Path) -> None:
    done = fine("run", "run.yaml", "--json", cwd=home)
    assert done.summary["state"] == "finished"
    assert "walk: finished" in done.out
    assert {**status(home), "seconds": 0, "seconds_by_stage": 0, "tokens_per_second": 0} == {
        **done.summary,
        "seconds": 0,
        "seconds_by_stage": 0,
        "tokens_per_second": 0,
    }
    before = kept(home / RUN)
    table = fine("status", str(RUN), cwd=home).out
    assert kept(home / RUN) == before  # looking changes nothing
    assert "walk: finished" in table
    assert f"{done.summary['accepted']}, mean score" in table


def test_teachers_are_measured_by_set_and_several_seeds_are_one_table(tmp_path: Path) -> None:
    held_out = {"kind": "word_problems", "count": 12, "seed": 3, "split": "held_out"}
    engines = {"good": {"kind": "scripted", "skill": 0.95}, "weak": {"kind": "scripted", "skill": 0.1, "seed": 7}}
    teachers = [{"name": "ann", "engine": "good"}, {"name": "bob", "engine": "weak"}]
    evaluation = {"questions": held_out, "others": {"long": {**held_out, "operations": [3]}}, "teachers": True}
    name = config(
        tmp_path, count=4, engines=engines, teachers=teachers, prover={"engine": "good"}, evaluation={**evaluation, "samples": 2}
    )
    done = fine("run", name, "--json", cwd=tmp_path)
    run = kept(tmp_path / RUN)
    run.balances()
    assert Counter(row["purpose"] for row in run.dump["call"])["evaluate"] == 2 * 2 * (run.counts["held_out.questions"] + 12)
    rows = {(row["model"], row["set"], row["answers"]): row for row in done.summary["accuracy"]}
    assert {(model, held) for model, held, _ in rows} == {(one, held) for one in ("ann", "bob") for held in ("held_out", "long")}
    assert all(row["role"] == "teacher" and row["after"] is None for row in rows.values())
    assert "teacher ann, best" in done.out
    assert status(tmp_path)["accuracy"] == done.summary["accuracy"]
    again = fine("run", name, "--json", cwd=tmp_path)
    assert kept(tmp_path / RUN).dump["call"] == run.dump["call"]
    assert again.summary["accuracy"] == done.summary["accuracy"]

    fine("run", name, "--set", "seed=2", "--set", "name=second", cwd=tmp_path)
    both = fine("evaluate", str(RUN), "runs/second", "--json", cwd=tmp_path)
    assert "runs" in both.out
    for row in both.summary["accuracy"]:
        assert row["before"]["runs"] == 2
        assert row["before"]["items"] == rows[row["model"], row["set"], row["answers"]]["before"]["items"]
    assert fine("evaluate", str(RUN), "--json", cwd=tmp_path).summary["accuracy"] == done.summary["accuracy"]


def test_an_export_holds_the_accepted_trajectories_and_best_only_one_for_each_question(home: Path) -> None:
    everything = (home / RUN / "export/messages.jsonl").read_text()
    lines = [json.loads(line) for line in everything.splitlines()]
    assert len(lines) == status(home)["accepted"] > 0
    for line in lines:
        assert line["verdict"] == "accepted"
        assert line["answer"] == line["gold"]
        assert [message["role"] for message in line["messages"]] == ["user", "assistant"]
    fine("export", str(RUN), "--best", "--to", "best.jsonl", cwd=home)
    best = [json.loads(line) for line in (home / "best.jsonl").read_text().splitlines()]
    assert best == [line for line in lines if line["best"]]
    assert len({line["question"] for line in best}) == len(best) > 0
    call("export", str(RUN), "--to", "run.yaml/out.jsonl", cwd=home).complains(1, "run.yaml/out.jsonl", "cannot be written")
    assert not list(home.glob("**/*.draft"))


def test_step_preferences_are_exported_as_pairs_that_share_all_but_their_last_step(home: Path) -> None:
    fine("run", "run.yaml", "--set", "name=narrow", "--set", "search.beam=1", cwd=home)
    told = fine("export", "runs/narrow", "--format", "preferences", cwd=home).out
    path = home / "runs/narrow/export/preferences.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert told == f"{len(lines)} preferences in {path}\n"
    assert lines
    for line in lines:
        assert line["margin"] == line["chosen_score"] - line["rejected_score"] > 0
        (chosen,), (rejected,) = line["chosen"], line["rejected"]
        shared = f"<think>\n{line['shared']}".rstrip() + f"\n### Step {line['step']}. "
        assert chosen["content"].startswith(shared)
        assert rejected["content"].startswith(shared)
        assert chosen["content"] != rejected["content"]
    call("export", "runs/narrow", "--format", "preferences", "--best", cwd=home).complains(2, "--best", "preferences", "messages")


def test_every_step_ever_proposed_is_listed_with_its_author_score_fate_and_cost(home: Path) -> None:
    prices = {"engines.scripted.price": "{prompt: 1, completion: 10}"}
    fine("run", "run.yaml", "--set", "name=told", "--set", "search.beam=1", *_set(prices), cwd=home)
    told = fine("export", "runs/told", "--format", "nodes", cwd=home).out
    path = home / "runs/told/export/nodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert told == f"{len(lines)} nodes in {path}\n"
    dump = kept(home / "runs/told").dump
    assert {line["id"] for line in lines} == {row["id"] for row in dump["node"]}
    for line in lines:
        assert bool(line["reason"]) == (line["state"] == "pruned")
        assert line["cost"] == (line["tokens"]["prompt"] + 10 * line["tokens"]["completion"]) / 1e6
        assert line["authors"]
        assert 0 <= line["score"] <= 1
    assert {line["reason"] for line in lines} >= {"", "place 2 of 2, 1 are kept"}


def _set(values: dict[str, str]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def test_the_recipes_are_listed_with_what_they_are_for(tmp_path: Path) -> None:
    lines = fine("recipes", cwd=tmp_path).out.splitlines()
    assert {"quickstart", "scripted"} <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 3 for line in lines)


def test_the_doctor_looks_at_the_machine_and_at_every_engine(tmp_path: Path) -> None:
    engines = {"scripted": {"kind": "scripted"}, "broken": {"kind": "scripted", "failure_rate": 1.0}}
    done = call("doctor", config(tmp_path, engines=engines), "--json", cwd=tmp_path)
    checks = {check["name"]: check for check in done.summary["checks"]}
    assert {"python", "torch", "memory", "disk", "names"} <= checks.keys()
    assert checks["names"]["good"]
    assert checks["scripted"]["good"]
    assert "scores Paris" in checks["scripted"]["text"]
    assert not checks["broken"]["good"]
    assert "scripted failure" in checks["broken"]["text"]
    assert (done.code, done.err) == (1, "")


def test_help_comes_within_half_a_second_and_loads_nothing_heavy(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert "usage: peripatos" in fine("--help", cwd=tmp_path).out
        took.append(time.monotonic() - began)
    assert min(took) < 0.5, took
    script = (
        "import sys\nfrom orchestrator.cli import entry\n"
        "try:\n    entry(['run', '--help'])\nfinally:\n    sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert "usage: peripatos run" in done.stdout
    heavy = {"torch", "transformers", "litellm", "sqlalchemy", "sqlmodel", "aiohttp", "numpy", "huggingface_hub"}
    assert not heavy & set(done.stderr.split())


def test_a_scripted_run_never_loads_what_models_need(tmp_path: Path) -> None:
    config(tmp_path, count=2)
    command = [COMMAND[0], "-X", "importtime", *COMMAND[1:], "run", "run.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "orchestrator.run" in loaded
    assert not {"torch", "transformers", "litellm", "huggingface_hub"} & loaded
