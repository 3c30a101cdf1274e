"""What this machine offers, and what the engines of a configuration can do.

Invariant: changes nothing, and finds out rather than believes: engines are opened and asked.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from agents.engines.base import Message, Prompt
from agents.errors import EngineError, ModelNotFound
from agents.ledger import Model
from agents.prover import predictive_perplexity
from agents.roster import open_model
from configs.engines import EngineConfig
from configs.schema import RunConfig
from orchestrator.names import PACKAGES, NameTaken, check_names

_GIB = 1 << 30
_LEAST_PYTHON = (3, 11)
_LEAST_DISK_GIB = 2
_LEAST_MEMORY_GIB = 4


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


def doctor(config: RunConfig | None) -> list[Check]:
    """All checks; those of engines only with a configuration."""
    checks = [_python(), _torch(), _memory(), _disk(), _names(), *_optional()]
    if config:
        checks += [asyncio.run(_engine(name, engine)) for name, engine in config.engines.items()]
    return checks


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


async def _engine(name: str, config: EngineConfig) -> Check:
    try:
        async with open_model(name, config) as model:
            return Check(name=name, good=True, text=await _asked(model))
    except (EngineError, ModelNotFound) as error:
        return Check(name=name, good=False, text=str(error))


async def _asked(model: Model) -> str:
    able = model.engine.capabilities
    prompt = Prompt(messages=(Message(role="user", content="Name the capital of France."),), prefix="The capital of France is")
    (completion,) = await model.engine.generate(prompt, max_tokens=8, temperature=0.0)
    told = f"{able.model} on {able.device} in {able.dtype}, {able.context_tokens} tokens, {able.found}; "
    told += f"continues with {completion.text!r}; "
    if not able.scores:
        return told + "cannot score, so it cannot be the prover"
    right = await model.engine.answer_logprobs(prompt, " Paris")
    wrong = await model.engine.answer_logprobs(prompt, " table")
    return told + f"scores Paris {predictive_perplexity(right.values):.3f}, table {predictive_perplexity(wrong.values):.3f}"
