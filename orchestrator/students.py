"""The students' part of a run: each is taught in a child process, and so is the router; or all in one.

Invariant: a student learns only from the store and, with peers, from what they leave in the exchange; this process holds no
tensors. A student whose loss is no number any more ends alone. Not covered: how it learns (`trainers`), what it then can do
(`accuracies.py`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.models import resolve
from configs import schema
from configs.load import identity
from configs.schema import ROUTER, RunConfig
from orchestrator.daemon import Draining
from orchestrator.folder import Folder, write_whole
from orchestrator.progress import Progress
from orchestrator.supervisor import run_child
from store.store import Store
from store.types import content_id
from trainers.spec import AnySpec, RouterSpec, Shared, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Students:
    """All students of a run."""

    config: RunConfig
    folder: Folder
    store: Store
    progress: Progress
    draining: Draining

    async def check(self) -> None:
        """Find every model, and see that it can learn as configured, before anything is spent on data for it.

        Raises `ChildRefused`, `ModelNotFound`.
        """
        specs = [spec for spec in await self._specs() if not _place(spec).exists()]
        if specs and not self.draining():
            drafts = [_place(spec).with_suffix(".checked") for spec in specs]
            for spec, draft in zip(specs, drafts, strict=True):
                write_whole(draft, spec.model_dump_json(indent=1))
            arguments = [*map(str, drafts), "--check"]
            await self._child(arguments, specs[0].directory / "check.log", lambda _: None)  # what it says is raised
            for spec, draft in zip(specs, drafts, strict=True):
                draft.replace(_place(spec))

    async def train(self) -> None:
        """Every student's schedule, and the router's. Raises `ChildFailed`, `ModelNotFound`."""
        specs = [spec for spec in await self._specs() if not (spec.directory / "final").is_dir()]
        if not specs:
            return
        for spec in specs:
            write_whole(_place(spec), spec.model_dump_json(indent=1))
        together = self.config.placement == "together"
        async with asyncio.TaskGroup() as group:
            for some in [specs] if together else [[spec] for spec in specs]:
                arguments = [str(_place(spec)) for spec in some]
                group.create_task(self._child(arguments, some[0].directory / "stderr.log", self._tell))
        if not self.draining():
            await asyncio.to_thread(shutil.rmtree, self.folder.exchange, ignore_errors=True)

    async def _child(self, arguments: list[str], errors: Path, told: Any) -> None:
        await run_child(
            ["trainers", *arguments],
            draining=self.draining,
            drain_s=self.config.limits.drain_s,
            told=told,
            errors=errors,
        )

    async def _specs(self) -> list[AnySpec]:
        config, students = self.config, self.config.students
        shared = Shared(
            store=self.folder.database,
            seed=config.seed,
            config_hash=content_id("students", identity(config)),
            names=tuple(student.name for student in students),
            answer_prefix=config.asking.answer_prefix,
            router=config.router,
            peers=config.peers,
            exchange=self.folder.exchange,
        )
        specs: list[AnySpec] = []
        for student in students:
            model = await asyncio.to_thread(resolve, student.model)
            directory, threads = self.folder.student(student.name), _threads(config, student)
            specs.append(Spec(shared=shared, student=student, model=model.path, directory=directory, threads=threads))
        if config.router is not None:
            name = config.router.encoder
            encoder = (await asyncio.to_thread(resolve, name)).path if name else None
            directory = self.folder.student(ROUTER)
            specs.append(RouterSpec(shared=shared, student=students[0], encoder=encoder, directory=directory))
        return specs

    def _tell(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "update":
            name = "train" if len(self.config.students) == 1 else f"train {message['actor']}"
            self.progress.stage(name, message["update"], message["updates"] or message["update"] + 1)
        else:
            self._note(message)

    def _note(self, message: Mapping[str, Any]) -> None:
        if message["kind"] in {"nothing", "error", "diverged", "note"}:
            self.progress.note(f"student: {message.get('message', 'nothing to learn from')}")


def _place(spec: AnySpec) -> Path:
    return spec.directory / "spec.json"


def _threads(config: RunConfig, student: schema.Student) -> int | None:
    """Processes that compute on the CPU at the same time share its cores."""
    processes = sum(student.processes for student in config.students)
    if config.placement == "together" or processes == 1 or student.device not in ("cpu", "auto"):
        return None
    return max(1, (os.cpu_count() or 1) // processes)
