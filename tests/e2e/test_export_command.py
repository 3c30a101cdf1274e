"""`export`: every format by the real command, what it refuses, and what others make of the files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import call, config, environment, fine, kept

RUN = "runs/walk"
LINES = ("messages", "sharegpt", "alpaca", "preferences", "pairs", "nodes", "trajectories")
PARTS = ("sft", "preferences", "pairs")
MISSING = "pip install 'peripatos[data]'"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a finished run lies, a narrow one, so that steps were pruned."""
    folder = tmp_path_factory.mktemp("exports")
    fine("run", config(folder, count=30, engine={"skill": 0.8}, search={"beam": 2}), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def rows(home: Path) -> dict[str, list[dict[str, Any]]]:
    """What the lines of every format say."""
    return {form: exported(home, form) for form in LINES}


def exported(home: Path, form: str) -> list[dict[str, Any]]:
    told = fine("export", RUN, "--format", form, cwd=home)
    path = home / RUN / f"export/{form}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert told.out.split(maxsplit=2)[0] == str(len(rows)) != "0"
    assert told.out.endswith(f" in {path}\n")
    return rows


def test_every_format_tells_what_the_store_holds(home: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    dump = kept(home / RUN).dump
    verdicts = {row["trajectory"]: row["outcome"] for row in dump["verdict"]}
    accepted = {id for id, outcome in verdicts.items() if outcome == "accepted"}
    assert {row["id"]: row["verdict"] for row in rows["trajectories"]} == verdicts
    assert len(rows["trajectories"]) == len(verdicts)
    for form in ("messages", "sharegpt", "alpaca"):
        assert {row["id"] for row in rows[form]} == accepted
    assert {row["id"] for row in rows["nodes"]} == {row["id"] for row in dump["node"]}
    assert {row["chosen_id"] for row in rows["pairs"]} <= accepted
    assert {row["rejected_id"] for row in rows["pairs"]} <= verdicts.keys() - accepted
    first = (home / RUN / "export/messages.jsonl").read_bytes()
    fine("run", "run.yaml", cwd=home)  # its last stage writes them too
    assert (home / RUN / "export/messages.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--format", "csv"), 2, ("--format", "'csv'", "messages", "dataset")),
        (("--format", "pairs", "--best"), 2, ("--best", "pairs", "messages, sharegpt, alpaca, parquet, dataset")),
        (("--to", "folder"), 2, ("folder", "messages writes a file")),
        (("--format", "parquet", "--to", "folder"), 2, ("folder", "parquet writes a file")),
        (("--format", "dataset", "--to", "run.yaml"), 2, ("run.yaml", "dataset writes a folder")),
        (("--format", "dataset", "--to", "folder"), 2, ("folder", "something else (mine.txt)")),
        (("--format", "dataset", "--to", "reading"), 2, ("reading", "something else (README.md)")),
        (("--format", "dataset", "--to", "/"), 2, ("--to /:", "something else")),
        (("--to", "/dev/null"), 2, ("/dev/null", "no plain file")),
        (("--format", "dataset", "--to", RUN), 2, (RUN, "something else")),
        (("--to", f"{RUN}/peripatos.db"), 2, ("peripatos.db", "choose another")),
        (("--to", ""), 2, ("a folder",)),
        (("--format", "nodes", "--to", "run.yaml/x"), 1, ("run.yaml/x", "cannot be written")),
        (("--format", "parquet", "--to", "run.yaml/x"), 1, ("run.yaml/x", "cannot be written")),
        (("--format", "dataset", "--to", "run.yaml/x"), 1, ("run.yaml/x", "cannot be")),
        (("--format", "dataset", "--to", "x" * 300), 1, ("x" * 300, "too long")),
        (("--to", "x" * 300), 1, ("x" * 300, "too long")),
    ],
)
def test_what_cannot_be_written_is_one_line_and_changes_nothing(
    home: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    for name in ("folder", "reading"):
        (home / name).mkdir(exist_ok=True)
    (home / "reading/README.md").write_text("# Mine")
    (home / "folder/mine.txt").write_text("mine")
    before = {path: path.stat().st_size for path in home.rglob("*") if path.is_file() and "-" not in path.name}
    done = call("export", RUN, *arguments, cwd=home)
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert not [word for word in words if word not in done.err], done.err
    assert {path: path.stat().st_size for path in home.rglob("*") if path.is_file() and "-" not in path.name} == before


def test_a_data_set_replaces_an_earlier_one_whole(home: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    (home / "empty").mkdir()
    for to in ("empty", "new/deep", "empty"):
        told = fine("export", RUN, "--format", "dataset", "--to", to, cwd=home).out
        assert told.endswith(f" in {home / to}\n")
        found = sorted(str(path.relative_to(home / to)) for path in (home / to).rglob("*"))
        assert found == ["README.md", "data", *(f"data/{name}.parquet" for name in sorted(PARTS))]
    assert not [path for path in home.rglob("*") if path.suffix in (".draft", ".old")]
    best = fine("export", RUN, "--format", "dataset", "--to", "empty", "--best", cwd=home).out
    assert int(best.split()[0]) == sum(row["best"] for row in rows["messages"])
    assert "only the best trajectory" in (home / "empty/README.md").read_text()


@pytest.mark.parametrize("form", ["parquet", "dataset"])
def test_a_missing_extra_is_named(home: Path, form: str) -> None:
    command = ["export", RUN, "--format", form]
    code = f"import sys; sys.modules['pyarrow'] = None; from orchestrator.cli import entry; sys.exit(entry({command}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=home, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.endswith(f"--format {form}: needs the extra `data`: {MISSING}\n")


@pytest.fixture(scope="module")
def data(home: Path) -> Path:
    """The data set of the run."""
    fine("export", RUN, "--format", "dataset", "--to", "set", cwd=home)
    return home / "set"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model made from a seed, with a chat template."""
    from tiny_student import make_model  # loads torch

    return make_model(tmp_path_factory.mktemp("model"))


def test_the_hubs_library_loads_it_offline(data: Path, home: Path, rows: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason=f"datasets is not installed: {MISSING}")
    for name, form in zip(PARTS, ("messages", "preferences", "pairs"), strict=True):
        loaded = datasets.load_dataset(str(data), name, split="train", cache_dir=str(tmp_path))
        assert list(loaded) == rows[form]
    for form in LINES:
        found = datasets.load_dataset("json", data_files=str(home / RUN / f"export/{form}.jsonl"), cache_dir=str(tmp_path))
        assert len(found["train"]) == len(rows[form])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")  # TRL 1.16 with transformers 5.23
@pytest.mark.parametrize("part", PARTS)
def test_trl_trains_on_it(data: Path, model: Path, tmp_path: Path, part: str) -> None:
    datasets = pytest.importorskip("datasets", reason=f"datasets is not installed: {MISSING}")
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install 'peripatos[dev]'")
    trainer, settings = (trl.SFTTrainer, trl.SFTConfig) if part == "sft" else (trl.DPOTrainer, trl.DPOConfig)
    arguments = settings(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = datasets.load_dataset(str(data), part, split="train", cache_dir=str(tmp_path / "cache"))
    training = trainer(model=str(model), args=arguments, train_dataset=rows)
    assert len(training.train_dataset) == len(rows)  # none was left out
    assert training.train().training_loss > 0
