"""What the commands do, once their arguments are read (`cli.py`).

Invariant: results go to stdout, everything else to stderr. Not covered: errors (raised, told by `cli.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import getpass
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from configs import schema
from configs.load import ConfigError, load
from configs.schema import RunConfig
from orchestrator import controls
from orchestrator.accuracies import Accuracies, before
from orchestrator.comparison import Measured, check_comparable, measured, percent, rows, table
from orchestrator.daemon import Draining, drained
from orchestrator.estimate import show_estimate
from orchestrator.exports.columns import Format
from orchestrator.exports.export import check_format, place
from orchestrator.exports.export import export as export_as
from orchestrator.folder import Folder, held
from orchestrator.intervals import Estimate
from orchestrator.logs import logging_to
from orchestrator.progress import showing
from orchestrator.questions.gather import gather_held_out
from orchestrator.summary import show, summarise
from store.store import Verb, open_store


def run(config: RunConfig, *, sample: int | None, as_json: bool) -> int:
    """Run or resume; print the table, and the JSON object if asked. With a `sample`, a dry run."""
    from orchestrator.run import run as run_stages

    with held(config) as folder, logging_to(folder.log, config.logging.level), showing() as progress:
        progress.note(f"run folder {folder.root}")
        summary = asyncio.run(
            drained(lambda draining: run_stages(config, folder, progress, draining, sample=sample), config.limits.drain_s)
        )
    show(summary, Console(width=120))
    if sample:
        show_estimate(summary["estimate"], Console(width=120))
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if any(student["stopped"] and not student["final"] for student in summary["students"].values()) else 0


def status(run_dir: str, *, as_json: bool) -> int:
    """Tell how a run stands."""
    folder, config = existing(run_dir)

    async def read() -> dict[str, Any]:
        async with open_store(folder.database, create=False, read_only=True) as store:
            return await summarise(config, folder, store)

    summary = asyncio.run(read())
    summary["state"] = "running" if _is_held(folder) else "interrupted" if summary["state"] == "running" else summary["state"]
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        show(summary, Console(width=120))
    return 0


def ask(run_dir: str, verb: Verb, subject: str, value: str | None, *, by: str | None) -> int:
    """Ask something of a run: the living process does it, or the next one."""
    folder, _ = existing(run_dir)

    async def put() -> int:
        async with open_store(folder.database, create=False) as store:
            return await controls.ask(store, folder, verb, subject, value, by=by or getpass.getuser())

    number = asyncio.run(put())
    alive = "" if verb == "requeue" or _is_held(folder) else "; nobody runs it now: it holds when the run goes on"
    sys.stdout.write(f"asked ({number}): {' '.join(each for each in (verb, subject, value) if each)}{alive}\n")
    return 0


def export(run_dir: str, to: str | None, *, form: Format, best_only: bool) -> int:
    """Write the data of a run, living or finished, in one of the formats."""
    check_format(form, best_only=best_only)
    folder, config = existing(run_dir)
    path = place(folder, form, to)

    async def write() -> str:
        async with open_store(folder.database, create=False, read_only=True) as store:
            return await export_as(store, config, form, path, best_only=best_only)

    sys.stdout.write(f"{asyncio.run(write())} in {path}\n")
    return 0


def evaluate(config: RunConfig, *, student: str | None, model: str | None, adapter: str | None, as_json: bool) -> int:
    """Measure a model, asked as one of the students, on the held-out questions, keeping nothing."""
    if config.evaluation is None or not config.students:
        raise ConfigError("evaluate: the configuration has no `evaluation` and `students` parts; both are needed")
    names = [each.name for each in config.students]
    if student and student not in names:
        raise ConfigError(f"--student {student}: no student is called so; students: {', '.join(names)}")
    if adapter and not (Path(adapter) / "adapter_config.json").is_file():
        raise ConfigError(
            f"--adapter {adapter}: no LoRA adapter there (a folder with adapter_config.json); --model takes whole models"
        )
    chosen = config.students[names.index(student) if student else 0]
    chosen = chosen.model_copy(update={"model": model} if model else {})
    found = asyncio.run(_measured(config, chosen, Path(adapter).absolute() if adapter else None))
    for row in found:
        told = Estimate(**row["accuracy"])
        sys.stdout.write(f"{row['set']} {row['answers']}: {percent(told)} of {told.items}\n")
    if as_json:
        result = {"student": chosen.name, "model": chosen.model, "adapter": adapter, "accuracy": found}
        sys.stdout.write(json.dumps(result) + "\n")
    return 0


async def _measured(config: RunConfig, student: schema.Student, adapter: Path | None) -> list[dict[str, Any]]:
    """The accuracy by set and kind of answer. The store lasts as long as this does."""
    evaluation = config.evaluation
    assert evaluation
    with tempfile.TemporaryDirectory() as scratch, showing() as progress:
        folder = Folder(Path(scratch))
        async with open_store(folder.database) as store:
            await gather_held_out(evaluation, store, progress)
            alone = config.model_copy(update={"students": (student,), "teachers": ()})
            accuracies = Accuracies(config=alone, folder=folder, store=store, progress=progress, draining=Draining())
            await accuracies.measure(before(student.name), student, student.model, adapter)
            found = rows(alone, [await measured(alone, store)])
    return [{"set": row.set, "answers": row.answers, "accuracy": asdict(row.before)} for row in found if row.before]


def compare(run_dirs: Sequence[str], *, as_json: bool) -> int:
    """What several runs of one recipe have measured, as one table: means over them. Their stores are only read."""
    folders = {run_dir: existing(run_dir) for run_dir in run_dirs}
    places = [folder.root.resolve() for folder, _ in folders.values()]
    if len(run_dirs) > len(set(places)):
        raise ConfigError("evaluate: the same run is given twice; accepted: several runs, each once")

    async def read() -> dict[str, tuple[RunConfig, Measured]]:
        found: dict[str, tuple[RunConfig, Measured]] = {}
        for run_dir, (folder, config) in folders.items():
            async with open_store(folder.database, create=False, read_only=True) as store:
                found[run_dir] = config, await measured(config, store)
        return found

    runs = asyncio.run(read())
    check_comparable(runs)
    config = next(iter(runs.values()))[0]
    found = rows(config, [each for _, each in runs.values()])
    if not found:
        raise ConfigError("evaluate: these runs have no held-out question in common: their sources have changed between them")
    Console(width=120).print(table(found))
    if as_json:
        sys.stdout.write(json.dumps({"runs": list(run_dirs), "accuracy": [asdict(row) for row in found]}) + "\n")
    return 0


def existing(run_dir: str) -> tuple[Folder, RunConfig]:
    """The folder and the configuration of a run that is there. Raises `ConfigError`."""
    folder = Folder(Path(run_dir).absolute())
    if not (folder.config.is_file() and folder.database.is_file()):
        raise ConfigError(f"{run_dir}: no run there (a folder with config.yaml and peripatos.db)")
    return folder, load(str(folder.config))


def _is_held(folder: Folder) -> bool:
    """Whether a living process holds the folder's lock."""
    try:
        with (folder.root / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # a copy of a run
        return False
    except BlockingIOError:
        return True
    return False
