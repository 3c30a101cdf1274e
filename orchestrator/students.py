"""The students' part of a run: each is taught in a child process.

Invariant: a student learns only from the store; this process holds no tensors of it.
Not covered: how it learns (`trainers`), what it then can do (`accuracies.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.models import resolve
from configs.load import identity
from configs.schema import RunConfig
from orchestrator.daemon import Draining
from orchestrator.folder import Folder, write_whole
from orchestrator.progress import Progress
from orchestrator.supervisor import run_child
from store.store import Store
from store.types import content_id
from trainers.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Students:
    """All students of a run."""

    config: RunConfig
    folder: Folder
    store: Store
    progress: Progress
    draining: Draining

    async def train(self) -> None:
        """Every student's schedule, each in a child process. Raises `ChildFailed`, `ModelNotFound`."""
        for student in self.config.students:
            directory = self.folder.student(student.name)
            if (directory / "final").is_dir():
                continue
            model = await asyncio.to_thread(resolve, student.model)
            spec = Spec(
                store=self.folder.database,
                student=student,
                model=model.path,
                directory=directory,
                seed=self.config.seed,
                config_hash=content_id("student", identity(self.config), student.name),
            )
            write_whole(directory / "spec.json", spec.model_dump_json(indent=1))
            await run_child(
                ["trainers", str(directory / "spec.json")],
                draining=self.draining,
                drain_s=self.config.limits.drain_s,
                told=self._tell,
                errors=directory / "stderr.log",
            )

    def _tell(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "update":
            self.progress.stage("train", message["update"], message["updates"])
        elif message["kind"] in {"nothing", "error"}:
            self.progress.note(f"student: {message.get('message', 'nothing to learn from')}")
