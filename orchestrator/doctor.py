"""What this machine offers, what the engines of a configuration can do, and what their teachers will be asked first.

Invariant: changes nothing, and finds out rather than believes: engines are opened and asked (`agents.probe`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog

from agents import prompts
from agents.engines.base import Engine
from agents.errors import EngineError, ModelNotFound
from agents.probe import probe
from agents.roster import open_model
from configs.schema import RunConfig, Source
from orchestrator.names import PACKAGES, NameTaken, check_names
from orchestrator.questions.load import QuestionsError, load_questions
from store.types import Question

_GIB = 1 << 30
_LEAST_PYTHON = (3, 11)
_LEAST_DISK_GIB = 2
_LEAST_MEMORY_GIB = 4
_ROWS = 20
"""Rows that are read for a first question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; `good` is None when it is only told."""

    name: str
    good: bool
    text: str

    @property
    def mark(self) -> str:
        """A word for the eye."""
        return "ok" if self.good else "PROBLEM"

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks, and by the teacher's name the first prompt that it would be asked, as it is sent."""

    checks: tuple[Check, ...]
    prompts: dict[str, str]

    @property
    def good(self) -> bool:
        """Whether nothing is in the way."""
        return all(check.good for check in self.checks)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {"checks": [check.row() for check in self.checks], "prompts": self.prompts}

    def text(self) -> str:
        """For people."""
        lines = [f"{check.mark:8} {check.name:12} {check.text}" for check in self.checks]
        for prompt in dict.fromkeys(self.prompts.values()):
            teachers = ", ".join(name for name, shown in self.prompts.items() if shown == prompt)
            lines += [f"\nthe first prompt of {teachers}:", textwrap.indent(prompt, "    ")]
        return "\n".join(lines) + "\n"


def doctor(config: RunConfig | None) -> Report:
    """All checks; those of engines, and prompts, only with a configuration."""
    machine = (_python(), _torch(), _memory(), _disk(), _names(), *_optional())
    if config is None:
        return Report(checks=machine, prompts={})
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the report
    try:
        question, unread = _first_question(config.questions[0])
        engines = [asyncio.run(_engine(name, config, question)) for name in config.engines]
    finally:
        structlog.reset_defaults()
    checks = (*machine, *([unread] if unread else []), *(check for check, _ in engines))
    return Report(checks=checks, prompts={teacher: prompt for _, shown in engines for teacher, prompt in shown.items()})


def _python() -> Check:
    text = f"{platform.python_version()} at {sys.executable}"
    return Check(name="python", good=sys.version_info >= _LEAST_PYTHON, text=text)


def _torch() -> Check:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = f"torch {torch.__version__}, transformers {metadata.version('transformers')}"
    text = f"{versions}, {os.cpu_count()} cores, GPUs: {', '.join(gpus) or 'none'}"
    return Check(name="torch", good=True, text=text)


def _memory() -> Check:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) / (1 << 20)
    return Check(
        name="memory", good=free >= _LEAST_MEMORY_GIB, text=f"{free:.1f} GiB free; the quickstart needs {_LEAST_MEMORY_GIB}"
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    return Check(name="disk", good=free >= _LEAST_DISK_GIB, text=f"{free:.1f} GiB free here; a small run needs {_LEAST_DISK_GIB}")


def _names() -> Check:
    try:
        check_names()
    except NameTaken as error:
        return Check(name="names", good=False, text=str(error))
    return Check(name="names", good=True, text=f"{', '.join(PACKAGES)} are ours")


def _optional() -> Iterator[Check]:
    for module, purpose in (("pyarrow", "parquet files"), ("datasets", "data sets of the hub")):
        found = importlib.util.find_spec(module) is not None
        yield Check(name=module, good=True, text=f"{purpose}: {'yes' if found else 'no (install peripatos[data])'}")


def _first_question(source: Source) -> tuple[Question | None, Check | None]:
    """The question, or what is wrong with its source."""
    rows = min(source.count or _ROWS, _ROWS)
    try:
        return load_questions(source.model_copy(update={"count": rows}), Path.cwd()).questions[0], None
    except QuestionsError as error:
        return None, Check(name="questions", good=False, text=f"no first prompt can be shown: {error}")


async def _engine(name: str, config: RunConfig, question: Question | None) -> tuple[Check, dict[str, str]]:
    """What the engine is good for, and the first prompts of its teachers."""
    shown: dict[str, str] = {}
    try:
        async with open_model(name, config.engines[name]) as model:
            shown = _first_prompts(name, config, question, model.engine)
            found = await probe(model.engine, tries=config.limits.tries)
    except (EngineError, ModelNotFound) as error:
        return Check(name=name, good=False, text=str(error)), shown
    proves = config.prover is not None and name == config.prover.engine
    teaches = not proves or any(teacher.engine == name for teacher in config.teachers)
    good = not (teaches and found.faults) and not (proves and found.cannot_prove)
    return Check(name=name, good=good, text=found.line()), shown


def _first_prompts(name: str, config: RunConfig, question: Question | None, engine: Engine) -> dict[str, str]:
    found: dict[str, str] = {}
    for teacher in config.teachers:
        if teacher.engine == name and question:
            try:
                asking = teacher.asking or config.asking
                found[teacher.name] = engine.shown(prompts.propose(question, (), asking, config.search.segmentation))
            except EngineError as error:
                found[teacher.name] = f"none: {error}"
    return found
