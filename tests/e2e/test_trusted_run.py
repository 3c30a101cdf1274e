"""From trajectories to trusted data, with the real command: styles, search, judges, consensus, targets; killed, and gone on."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Kept, call, config, ended, fine, heard, kept, living, recounted, same_story
from sklearn.metrics import cohen_kappa_score

RUN = Path("runs/walk")
AUDIT = 0.4
STYLES = ["plain", "step_by_step", "backward"]
JUDGES = [{"name": "strict", "engine": "strict"}, {"name": "lax", "engine": "lax"}]
ENGINES = {
    "scripted": {"kind": "scripted", "skill": 0.8},
    "brief": {"kind": "scripted", "skill": 0.8, "seed": 1, "steps": 2},
    "strict": {"kind": "scripted", "skill": 0.7, "seed": 2},
    "lax": {"kind": "scripted", "skill": 0.5, "seed": 3},
}


def prepared(folder: Path, *, known: int = 24, unknown: int = 12, latency_s: float = 0.0, **keys: Any) -> str:
    """A run of `known` questions with gold answers and `unknown` without, with all that sifts."""
    folder.mkdir(parents=True, exist_ok=True)
    asked(folder / "known.jsonl", range(known), gold=True)
    asked(folder / "unknown.jsonl", range(known, known + unknown), gold=False)
    sources = [{"kind": "file", "path": "known.jsonl"}, {"kind": "file", "path": "unknown.jsonl", "fields": {"answer": None}}]
    values = {
        "questions": sources[: 2 if unknown else 1],
        "engines": {name: {**engine, "latency_s": latency_s} for name, engine in ENGINES.items()},
        "teachers": [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "brief"}],
        "sampling": {"styles": STYLES, "samples": 1},
        "judges": JUDGES,
        "judging": {"audit": AUDIT},
        "consensus": {"min_support": 0.4, "min_similarity": 0.6, "drop_misleading": True},
        "target": {"least": 1, "attempts": 3, "most": 1},
    }
    return config(folder, **(values | keys))


def asked(path: Path, numbers: range, *, gold: bool) -> None:
    """Write a file of questions; those with gold answers have them."""
    rows = []
    for i in numbers:
        found = (3 + i, 4 + i % 7, 5 + i % 3)
        text = "Ann finds {}, then {}, then {} pens. How many?".format(*found)
        rows.append({"question": text, **({"answer": str(sum(found))} if gold else {})})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def told(folder: Path) -> dict[str, Any]:
    return json.loads(fine("status", str(RUN), "--json", cwd=folder).out)


# One run, looked at from all sides


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trusted")
    fine("run", prepared(folder), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def made(home: Path) -> Kept:
    return kept(home / RUN)


def by_question(run: Kept) -> dict[str, list[dict[str, Any]]]:
    """The verdicts of each question, each with its trajectory's keys."""
    trajectories = {row["id"]: row for row in run.dump["trajectory"]}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in run.dump["verdict"]:
        found.setdefault(trajectories[row["trajectory"]]["question"], []).append({**trajectories[row["trajectory"]], **row})
    return found


def test_its_counts_balance_and_all_parts_took_part(made: Kept) -> None:
    made.balances()
    origins = Counter(row["origin"] for row in made.dump["trajectory"])
    assert set(origins) == {"search", "style"}
    assert {row["style"] for row in made.dump["trajectory"] if row["origin"] == "style"} == set(STYLES)
    outcomes = {row["outcome"] for row in made.dump["verdict"]}
    assert outcomes >= {"accepted", "wrong_answer", "unsound", "undecided", "misleading", "surplus", "duplicate"}


def test_every_trajectory_has_one_verdict_with_a_reason(made: Kept) -> None:
    assert Counter(row["trajectory"] for row in made.dump["verdict"]) == Counter(row["id"] for row in made.dump["trajectory"])
    assert all(row["reason"].strip() for row in made.dump["verdict"])


def test_the_best_of_a_question_is_kept_and_it_is_sampled_again_until_it_has_one(made: Kept) -> None:
    rounds = _rounds(made)
    assert set(rounds.values()) == {1, 2, 3}
    for question, verdicts in by_question(made).items():
        outcomes = Counter(verdict["outcome"] for verdict in verdicts)
        assert outcomes["accepted"] <= 1
        assert outcomes["accepted"] or not outcomes["surplus"]
        assert outcomes["accepted"] or rounds[question] == 3
        assert len([verdict for verdict in verdicts if verdict["best"]]) == 1 or not outcomes["accepted"]


def _rounds(run: Kept) -> dict[str, float]:
    """How often each question was sampled: a round asks each teacher in each style, and no call fails here."""
    assert not run.dump["failure"]
    samples = Counter(row["question"] for row in run.dump["trajectory"] if row["origin"] == "style")
    return {id: number / (2 * len(STYLES)) for id, number in samples.items()}


def test_status_tells_what_the_rows_say(home: Path, made: Kept) -> None:
    status, dump = told(home), made.dump
    assert status["state"] == "finished"
    assert status["target"] is None
    unsolved = [row for row in dump["question"] if row["state"] == "unsolved"]
    assert sum(status["unsolved_by_reason"].values()) == len(unsolved) == status["questions_by_state"]["unsolved"] > 0
    assert set(status["unsolved_by_reason"]) >= {"no answer has enough support"}
    assert status["trajectories_by_verdict"] == Counter(row["outcome"] for row in dump["verdict"])
    assert status["consensus_targets"] == sum(row["target"] is not None for row in dump["consensus"])
    assert 0 < status["consensus_targets"] < 12
    assert status["misleading"] == sum(row["misleading"] for row in dump["standing"]) > 0
    assert status["rulings"] == {
        judge: Counter(row["ruled"] for row in dump["ruling"] if row["judge"] == judge) for judge in ("strict", "lax")
    }


def test_status_tells_how_the_judges_agree(home: Path, made: Kept) -> None:
    votes: dict[str, dict[str, str]] = {}
    for row in made.dump["ruling"]:
        votes.setdefault(row["trajectory"], {})[row["judge"]] = row["ruled"]
    assert all(set(each) == {"strict", "lax"} for each in votes.values())
    outcomes = {row["trajectory"]: row["outcome"] for row in made.dump["verdict"]}
    assert {"wrong_answer", "unsound"} <= {outcomes[id] for id in votes}  # some of the wrong ones are judged: the audit
    found = {frozenset((each["one"], each["other"])): each for each in told(home)["agreement"]}
    assert set(found) == {frozenset(pair) for pair in (("strict", "lax"), ("strict", "answer check"), ("lax", "answer check"))}
    assert {each["items"] for each in found.values()} == {len(votes)}
    strict, lax = ([each[judge] for each in votes.values()] for judge in ("strict", "lax"))
    assert found[frozenset(("strict", "lax"))]["kappa"] == pytest.approx(cohen_kappa_score(strict, lax))
    check = ["invalid" if outcomes[id] == "wrong_answer" else "valid" for id in votes]
    weights = [1 / AUDIT if each == "invalid" else 1 for each in check]
    for judge, ruled in (("strict", strict), ("lax", lax)):
        kappa = cohen_kappa_score(ruled, check, sample_weight=weights)
        assert found[frozenset((judge, "answer check"))]["kappa"] == pytest.approx(kappa)


def test_the_exported_trajectories_are_all_and_say_where_their_target_is_from(home: Path, made: Kept) -> None:
    fine("export", str(RUN), "--format", "trajectories", cwd=home)
    rows = [json.loads(line) for line in (home / RUN / "export/trajectories.jsonl").read_text().splitlines()]
    assert Counter(row["id"] for row in rows) == Counter(row["id"] for row in made.dump["trajectory"])
    targets = {row["question"]: (row["target"], row["target_support"]) for row in made.dump["consensus"] if row["target"]}
    golden = {row["id"] for row in made.dump["question"] if row["answer"] is not None}
    for row in rows:
        if row["question"] in golden:
            assert row["target"] == "gold"
        elif row["question"] in targets:
            assert (row["target"], row["target_answer"], row["target_support"]) == ("consensus", *targets[row["question"]])
            assert row["target_support"] >= 0.4
            assert row["gold"] is None
        else:
            assert (row["target"], row["verdict"]) == (None, "undecided")
    assert {"gold", "consensus", None} == {row["target"] for row in rows}
    assert all("consensus" in row["reason"] for row in rows if (row["target"], row["verdict"]) == ("consensus", "accepted"))
    accepted = (home / RUN / "export/messages.jsonl").read_text().splitlines()
    assert [json.loads(line)["verdict"] for line in accepted] == ["accepted"] * told(home)["accepted"]


# Killed and drained


def slow(folder: Path) -> str:
    """The same with one question at a time, so slowly that every moment of it can be hit."""
    return prepared(folder, known=5, unknown=3, latency_s=0.02, limits={"questions": 1})


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("unkilled")
    fine("run", slow(folder), cwd=folder)
    run = kept(folder / RUN)
    run.balances()
    assert run.dump["ruling"]
    return run


def struck(folder: Path, number: signal.Signals, after_s: float) -> int:
    """Start the command, and send it a signal so long after its search has begun; the exit code."""
    with living("run", "run.yaml", cwd=folder) as process:
        heard(process, "search ")
        time.sleep(after_s)
        process.send_signal(number)
        return ended(process).code


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_the_same_command_ends_as_if_nothing_had_been(tmp_path: Path, unkilled: Kept, seed: int) -> None:
    chance = random.Random(seed)
    slow(tmp_path)
    assert [struck(tmp_path, signal.SIGKILL, chance.uniform(0.1, 0.9)) for _ in range(3)] == [-9, -9, -9]
    interrupted = kept(tmp_path / RUN)
    assert interrupted.dump["call"]
    assert set(interrupted.states().values()) & {"pending", "leased"}
    fine("run", "run.yaml", cwd=tmp_path)
    survivor = kept(tmp_path / RUN)
    survivor.balances()
    same_story(survivor, unkilled)


@pytest.mark.chaos
def test_terminated_it_drains_and_the_same_command_goes_on(tmp_path: Path, unkilled: Kept) -> None:
    slow(tmp_path)
    assert [struck(tmp_path, signal.SIGTERM, after_s) for after_s in (0.5, 0.3)] == [143, 143]
    interrupted = kept(tmp_path / RUN)
    assert interrupted.events[-1].kind == "run_interrupted"
    assert set(interrupted.states().values()) <= {"pending", "solved", "unsolved"}
    assert "pending" in interrupted.states().values()
    fine("run", "run.yaml", cwd=tmp_path)
    survivor = kept(tmp_path / RUN)
    survivor.balances()
    same_story(survivor, unkilled)


# A target


@pytest.mark.parametrize("wanted", [1, 7, 16])
def test_with_many_questions_in_flight_a_target_is_met_exactly_and_a_higher_one_goes_on(tmp_path: Path, wanted: int) -> None:
    keys = {"judges": [], "consensus": {}, "target": {"attempts": 2}, "limits": {"questions": 8}}
    name = prepared(tmp_path, known=60, unknown=0, latency_s=0.003, **keys)
    for target in (wanted, wanted + 10):
        done = fine("run", name, "--set", f"target.accepted={target}", "--json", cwd=tmp_path)
        run = kept(tmp_path / RUN)
        assert +Counter(run.counts) == +recounted(run.dump)
        assert Counter(row["outcome"] for row in run.dump["verdict"])["accepted"] == target
        assert (done.summary["state"], done.summary["accepted"], done.summary["target"]) == ("finished", target, target)
        assert told(tmp_path) == done.summary
        assert "pending" in run.states().values()
        assert "leased" not in run.states().values()
        assert len((tmp_path / RUN / "export/messages.jsonl").read_text().splitlines()) == target
        assert f"the target of {target} accepted trajectories is met" in done.err
    again = fine("run", name, "--set", f"target.accepted={target}", cwd=tmp_path)
    assert f"the target of {target} accepted trajectories is met" in again.err
    same_story(kept(tmp_path / RUN), run)


def test_a_target_that_all_questions_together_cannot_meet_ends_with_all_settled(tmp_path: Path) -> None:
    done = fine("run", prepared(tmp_path, known=4, unknown=2, target={"accepted": 500}), "--json", cwd=tmp_path)
    assert done.summary["state"] == "finished"
    assert done.summary["accepted"] < 500
    kept(tmp_path / RUN).balances()


# Mistakes

RULING = {"enum": ["VALID", "INVALID"]}
STUDENT = {"name": "pupil", "model": "org/small"}


def schema(**more: Any) -> dict[str, Any]:
    """The configuration of a ruling's schema with more properties, or others."""
    properties = {"ruling": RULING, "reason": {"type": "string"}, **more}
    return {"judging": {"ruling_schema": {"type": "object", "properties": properties, "required": ["ruling", "reason"]}}}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"judges": [{"name": "kim", "engine": "gpt"}]},
            ("judges[0].engine", "no engine is called 'gpt'", "brief, strict, lax"),
        ),
        (
            {
                "engines": {**ENGINES, "own": {"kind": "transformers", "model": "./org/small/"}},
                "judges": [{"name": "kim", "engine": "own"}],
                "students": [STUDENT],
            },
            ("judges[0].engine", "org/small", "'pupil'", "no student is its own judge"),
        ),
        ({"judges": [{"name": "ann", "engine": "lax"}]}, ("judges[0].name", "'ann'", "must differ")),
        ({"judges": [*JUDGES, JUDGES[0]]}, ("judges[2].name", "'strict'", "must differ")),
        ({"sampling": {"styles": ["plian"]}}, ("sampling.styles[0]", "'plian'", "'plain'", "'tree_of_thought'", "'recall'")),
        ({"sampling": {"styles": ["plain", "recall", "plain"]}}, ("sampling.styles", "'plain' is named twice")),
        ({"sampling": {"styles": []}}, ("sampling.styles", "at least 1")),
        ({"search": {"strategy": "none"}, "sampling": None}, ("search.strategy", '"none"', "`sampling`")),
        ({"judging": {"ruling_schema": {"type": "object"}}}, ("judging.ruling_schema", "must require `ruling`")),
        ({"judging": {"ruling_schema": {"type": "thing"}}}, ("judging.ruling_schema", "no JSON schema", "'thing'")),
        ({"judging": {"ruling_schema": "VALID"}}, ("judging.ruling_schema", "dictionary")),
        (
            schema(reason={"$ref": "https://example.org/text.json"}),
            ("judging.ruling_schema", "https://example.org/text.json"),
        ),
        (
            schema(notes={"$ref": "https://example.org/notes.json"}),
            ("judging.ruling_schema", "https://example.org/notes.json"),
        ),
        (
            schema(notes={"$ref": "#/$defs/none"}),
            ("judging.ruling_schema", "not in it: /$defs/none"),
        ),
        (schema(notes={"pattern": "("}), ("judging.ruling_schema", "no JSON schema", "'('")),
        (
            schema(ruling={"enum": ["VALID", {"a": 1}]}),
            ("judging.ruling_schema", "VALID and INVALID"),
        ),
        ({"judging": {"ruling_schema": {"$ref": "#"}}}, ("judging.ruling_schema", "without an end")),
        ({"target": {"least": 3, "most": 2}}, ("target.most", "2 is less than target.least, 3")),
        (schema(reason={"const": date(2020, 1, 1)}), ("judging.ruling_schema", "is no JSON", "date")),
        (schema(notes={"maximum": float("inf")}), ("judging.ruling_schema", "is no JSON", "ut of range float")),
        ({"consensus": {"min_centrality": float("inf")}}, ("consensus.min_centrality", "finite", "not inf")),
        ({"target": {"accepted": 0}}, ("target.accepted", "greater than or equal to 1", "not 0")),
        (
            {"questions": [{"kind": "file", "path": "known.jsonl", "answers": "open"}], "judges": []},
            ("questions[0].answers", "`judges`"),
        ),
        ({"judging": {"rubrik": "Be kind."}}, ("judging.rubrik", "unknown key", "did you mean 'rubric'", "ruling_schema")),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, keys: dict[str, Any], words: tuple[str, ...]) -> None:
    name = prepared(tmp_path, **keys)
    done = call("run", name, cwd=tmp_path)
    done.complains(2, "run.yaml:", *words)
    (line,) = done.told
    number = line.partition("run.yaml:")[2].partition(":")[0]
    place = (tmp_path / name).read_text().splitlines()[int(number) - 1]
    assert not (tmp_path / "runs").exists()
    assert any(part in place for part in words[0].replace("[", ".").split(".")) or place.lstrip().startswith("- "), place


def test_a_missing_prover_is_told(tmp_path: Path) -> None:
    values = yaml.safe_load((tmp_path / prepared(tmp_path)).read_text())
    del values["prover"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    call("run", "run.yaml", cwd=tmp_path).complains(2, "run.yaml", "prover: missing, must be given", '"none"')
    assert not (tmp_path / "runs").exists()


def test_a_configuration_that_holds_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: walk\nasking: &self {examples: [*self]}\n")
    call("run", "run.yaml", cwd=tmp_path).complains(2, "run.yaml", "cannot be read", "holds itself")
    call("run", "scripted", "--set", "asking.examples=&self [*self]", cwd=tmp_path).complains(2, "scripted", "holds itself")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ('asking:\n  system: "\\ud800"\n', "asking.system", 2),
        ('consensus: {}\njudging:\n  rubric: "half \\udfff a pair"\n', "judging.rubric", 3),
        ('teachers:\n- {name: ann, engine: scripted, asking: {system: "\\ud800"}}\n', "teachers[0].asking.system", 2),
        ('engines:\n  "\\ud800": {kind: scripted}\n', "engines", 2),
    ],
)
def test_half_a_surrogate_pair_is_refused(tmp_path: Path, text: str, key: str, line: int) -> None:
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    call("run", "run.yaml", cwd=tmp_path).complains(2, f"run.yaml:{line}: {key}", "half a character", "\\ud")
    assert not (tmp_path / "runs").exists()


def test_half_a_surrogate_pair_in_an_override_is_refused(tmp_path: Path) -> None:
    done = call("run", prepared(tmp_path), "--set", r'asking.system="\ud800"', cwd=tmp_path)
    done.complains(2, "--set", "asking.system", "half a character")
    assert not (tmp_path / "runs").exists()
