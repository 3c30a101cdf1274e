"""What the commands do, once their arguments are read (`cli.py`).

Invariant: results go to stdout, everything else to stderr. Not covered: errors (raised, told by `cli.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from configs import schema
from configs.load import ConfigError, load
from configs.schema import RunConfig
from orchestrator.daemon import drained
from orchestrator.estimate import show_estimate
from orchestrator.evaluate import accuracy, measure
from orchestrator.exports.columns import Format
from orchestrator.exports.export import check_format, place
from orchestrator.exports.export import export as export_as
from orchestrator.folder import Folder, held
from orchestrator.logs import logging_to
from orchestrator.progress import showing
from orchestrator.summary import show, summarise
from store.store import open_store


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
    return 0


def status(run_dir: str, *, as_json: bool) -> int:
    """Tell how a run stands."""
    folder, config = _existing(run_dir)

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


def export(run_dir: str, to: str | None, *, form: Format, best_only: bool) -> int:
    """Write the data of a run, living or finished, in one of the formats."""
    check_format(form, best_only=best_only)
    folder, config = _existing(run_dir)
    path = place(folder, form, to)

    async def write() -> str:
        async with open_store(folder.database, create=False, read_only=True) as store:
            return await export_as(store, config, form, path, best_only=best_only)

    sys.stdout.write(f"{asyncio.run(write())} in {path}\n")
    return 0


def evaluate(config: RunConfig, *, model: str | None, adapter: str | None, as_json: bool) -> int:
    """Measure a model on the held-out questions, keeping nothing."""

    if config.evaluation is None or not config.students:
        raise ConfigError("evaluate: the configuration has no `evaluation` and `students` parts; both are needed")
    if adapter and not (Path(adapter) / "adapter_config.json").is_file():
        raise ConfigError(f"--adapter {adapter}: no LoRA adapter there (a folder with adapter_config.json)")
    student = config.students[0].model_copy(update={"model": model} if model else {})
    result = asyncio.run(_measured(config, student, Path(adapter).absolute() if adapter else None))
    for kind, value in result.items():
        sys.stdout.write(f"{kind}: {value['mean']:.1%} [{value['low']:.1%}, {value['high']:.1%}] of {value['items']}\n")
    if as_json:
        sys.stdout.write(json.dumps({"model": student.model, "adapter": adapter, **result}) + "\n")
    return 0


async def _measured(config: RunConfig, student: schema.Student, adapter: Path | None) -> dict[str, Any]:
    from agents.roster import open_model
    from orchestrator.answers.checker import open_checker
    from orchestrator.students import engine_of, held_out

    assert config.evaluation is not None
    questions = await held_out(config.evaluation)
    with tempfile.TemporaryDirectory() as scratch, showing() as progress:
        async with (
            open_store(Path(scratch) / "evaluate.db") as store,
            open_model("evaluate", engine_of(config, student), adapter) as model,
            open_checker() as checker,
        ):
            await store.add_questions(questions, split="held_out")
            await measure(
                "evaluate",
                model,
                questions,
                config=config.evaluation,
                system=student.system,
                store=store,
                checker=checker,
                span_f1=config.span_f1,
                seed=config.seed,
                in_flight=config.limits.evaluations,
                draining=lambda: False,
                tell=lambda done, total: progress.stage("evaluate", done, total),
            )
            attempts = await store.attempts("evaluate")
    both = {"greedy": accuracy(attempts, sampled=False), "sampled": accuracy(attempts, sampled=True)}
    return {kind: asdict(value) for kind, value in both.items() if value}


def _existing(run_dir: str) -> tuple[Folder, RunConfig]:
    folder = Folder(Path(run_dir).absolute())
    if not folder.config.is_file():
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
