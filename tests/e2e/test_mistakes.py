"""Every mistake of a user is one clear line and exit code 2; nothing of a run is begun for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import call, config, ended, fine, heard, kept, living
from tiny_student import make_model

GOOD = {"question": "Ann has 3 pens, buys 4 and finds 5. How many pens does she have?", "answer": "12"}


def rows(*lines: object) -> str:
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("serach.beam=8", ("--set", "serach", "unknown key", "did you mean 'search'", "accepted:")),
        ("search.beam=wide", ("search.beam", "integer", "'wide'")),
        ("prover.engine=gpt", ("prover.engine", "no engine is called 'gpt'", "engines: scripted")),
    ],
)
def test_a_wrong_override(tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    call("run", config(tmp_path), "--set", override, cwd=tmp_path).complains(2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: walk\nqestions: []\n", ("run.yaml:2", "qestions", "did you mean 'questions'")),
        ("name: walk\nsearch: {beam: 0}\n", ("run.yaml:2", "search.beam", "greater than or equal to 1", "not 0")),
        ("name: [\n", ("run.yaml:", "not YAML")),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "run.yaml").write_text(text)
    done = call("run", "run.yaml", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert all(line.startswith("peripatos: run.yaml") for line in done.told[:1])
    assert not [word for word in words if word not in done.err], done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "quickstrat"), ("quickstrat", "neither a file nor a recipe", "quickstart, scripted")),
        (("status", "runs/none"), ("runs/none", "no run there")),
        (("evaluate", "scripted"), ("evaluation", "students")),
        (("evaluate", "quickstart", "--student", "amy"), ("--student amy", "students: student")),
        (("evaluate", "quickstart", "--adapter", "none"), ("--adapter none", "adapter_config.json")),
        (("evaluate", "runs/a", "runs/b"), ("runs/a", "no run there")),
        (("evaluate", "quickstart", "runs/b"), ("quickstart", "no run there")),
    ],
)
def test_something_that_is_not_there(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    call(*arguments, cwd=tmp_path).complains(2, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [(), ("walk",), ("run", "scripted", "--fast")])
def test_a_wrong_command_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = call(*arguments, cwd=tmp_path)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("peripatos")
    assert "--help" in done.err


def test_rows_that_are_no_questions_are_named_and_counted_and_the_others_are_solved(tmp_path: Path) -> None:
    other = {**GOOD, "question": "Bob has 2 cups and 2 more. How many cups does he have?", "answer": "4"}
    (tmp_path / "q.jsonl").write_text(rows(GOOD, "{broken", {"question": "No answer column"}, {"answer": "1"}, GOOD, other))
    done = fine("run", config(tmp_path, questions=[{"kind": "file", "path": "q.jsonl"}]), "--json", cwd=tmp_path)
    for line in (2, 4, 5):
        assert f"left out: q.jsonl:{line}: " in done.err
    assert not done.told, done.err
    taken = done.summary["questions"]
    assert f"left out {6 - taken} rows, took {taken}" in done.err
    assert taken >= 2
    kept(tmp_path / "runs/walk").balances()


def test_a_file_without_a_question_is_told_and_once_it_is_put_right_the_run_goes_on(tmp_path: Path) -> None:
    name = config(tmp_path, questions=[{"kind": "file", "path": "q.jsonl"}])
    call("run", name, cwd=tmp_path).complains(2, "q.jsonl", "no such file")
    (tmp_path / "q.jsonl").write_text(rows("{broken", "[1]"))
    call("run", name, cwd=tmp_path).complains(2, "q.jsonl", "none of 2 rows", "q.jsonl:1")
    (tmp_path / "q.jsonl").write_text(rows(GOOD))
    assert fine("run", name, "--json", cwd=tmp_path).summary["questions"] == 1


def test_misspelt_paths_and_models_are_told_and_can_be_put_right_in_the_configuration(tmp_path: Path) -> None:
    """A run that never asked anything holds nobody to its mistakes."""
    (tmp_path / "q.jsonl").write_text(rows(GOOD))
    path = config(tmp_path, questions=[{"kind": "file", "path": "p.jsonl"}])
    call("run", path, cwd=tmp_path).complains(2, "p.jsonl")
    engine = {"kind": "transformers", "model": "nobody/nothing"}
    questions = [{"kind": "file", "path": "q.jsonl"}]
    model = config(tmp_path, engines={"scripted": engine}, questions=questions)
    call("run", model, cwd=tmp_path).complains(1, "nobody/nothing", "was not found", "hub cache", "HF_HUB_OFFLINE")
    right = config(tmp_path, questions=questions)
    assert fine("run", right, "--json", cwd=tmp_path).summary["questions"] == 1
    kept(tmp_path / "runs/walk").balances()


def test_a_changed_configuration_is_refused_with_the_difference_and_a_harmless_change_is_not(tmp_path: Path) -> None:
    fine("run", config(tmp_path, count=3), cwd=tmp_path)
    before = (tmp_path / "runs/walk/config.yaml").read_bytes(), kept(tmp_path / "runs/walk")
    changed = config(tmp_path, count=3, search={"beam": 2}, seed=5)
    call("run", changed, cwd=tmp_path).complains(2, "another configuration", "search.beam: 4 -> 2", "seed: 0 -> 5", "run_dir")
    assert ((tmp_path / "runs/walk/config.yaml").read_bytes(), kept(tmp_path / "runs/walk")) == before
    harmless = ("limits.questions=2", "limits.drain_s=1", "logging.level=debug", "http.port=0", "run_dir=runs/walk")
    done = fine("run", config(tmp_path, count=3), *(part for each in harmless for part in ("--set", each)), cwd=tmp_path)
    assert "search 3/3" in done.err


def test_a_folder_that_a_living_run_uses_is_refused_and_the_living_run_is_left_alone(tmp_path: Path) -> None:
    name = config(tmp_path, count=1, engine={"latency_s": 1.5})
    with living("run", name, "--json", cwd=tmp_path) as first:
        assert heard(first, "engine ")
        call("run", name, cwd=tmp_path).complains(2, "runs/walk", "in use", f"pid {first.pid}")
        assert ended(first).summary["state"] == "finished"
    kept(tmp_path / "runs/walk").balances()


HELD_OUT = {"kind": "word_problems", "count": 5, "split": "held_out"}


def test_runs_that_cannot_be_put_together(tmp_path: Path) -> None:
    fine("run", config(tmp_path, count=1), cwd=tmp_path)
    call("evaluate", "runs/walk", cwd=tmp_path).complains(2, "runs/walk: measured nothing", "`evaluation`")
    for name, samples in (("one", 1), ("other", 2)):
        keys = {"name": name, "evaluation": {"questions": HELD_OUT, "teachers": True, "samples": samples}}
        fine("run", config(tmp_path, count=1, **keys), cwd=tmp_path)
    call("evaluate", "runs/one", "runs/other", cwd=tmp_path).complains(
        2, "runs/other: measures something else than runs/one does: evaluation.samples: 1 -> 2"
    )
    call("evaluate", "runs/one", "runs/../runs/one", cwd=tmp_path).complains(2, "the same run is given twice")
    call("evaluate", "runs/one", "--model", "x", cwd=tmp_path).complains(2, "--model", "configuration")
    call("evaluate", "runs", cwd=tmp_path).complains(2, "runs: no run there")
    only = config(tmp_path, count=1, name="asleep", evaluation={"questions": HELD_OUT, "samples": 1})
    fine("run", only, cwd=tmp_path)
    call("evaluate", "runs/one", "runs/asleep", cwd=tmp_path).complains(2, "runs/asleep: measured nothing yet")


def test_a_held_out_file_that_is_not_there_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    others = {"far": {"kind": "file", "path": "far.jsonl"}}
    name = config(tmp_path, evaluation={"questions": HELD_OUT, "others": others})
    call("run", name, cwd=tmp_path).complains(2, "far.jsonl", "no such file")
    assert not kept(tmp_path / "runs/walk").dump["call"]


def test_a_sample_without_a_dry_run(tmp_path: Path) -> None:
    call("run", config(tmp_path), "--sample", "2", cwd=tmp_path).complains(2, "--sample", "--dry-run")


def test_a_dry_run_of_a_finished_run_leaves_it_finished(tmp_path: Path) -> None:
    name = config(tmp_path)
    fine("run", name, cwd=tmp_path)
    before = kept(tmp_path / "runs/walk")
    done = fine("run", name, "--dry-run", "--json", cwd=tmp_path)
    assert done.summary["estimate"]["sampled"] == 10
    assert done.summary["state"] == "finished"
    assert kept(tmp_path / "runs/walk").dump["call"] == before.dump["call"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lora": {"targets": ["no_such_layer"]}}, ("student amy", "no_such_layer")),
        ({"max_tokens": 4096}, ("student amy", "max_tokens: 4096", "2048")),
    ],
)
def test_a_student_that_cannot_learn_is_told_of_before_anything_is_asked(
    tmp_path: Path, model: Path, keys: dict[str, object], words: tuple[str, ...]
) -> None:
    amy = {"name": "amy", "model": str(model), "device": "cpu", **keys}
    call("run", config(tmp_path, students=[amy]), cwd=tmp_path, limit_s=180).complains(2, *words)
    assert not kept(tmp_path / "runs/walk").dump["call"]
