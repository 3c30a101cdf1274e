"""The students' part of a run: measured, taught in a child process, measured again.

Invariant: a student learns only from the store, and is measured only through an engine; this process holds no tensors of it.
Not covered: how it learns (`trainers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.models import resolve
from agents.roster import open_model
from configs import schema
from configs.engines import TransformersEngine
from configs.load import identity
from configs.schema import Evaluation, RunConfig
from orchestrator.answers.checker import open_checker
from orchestrator.daemon import Draining
from orchestrator.evaluate import measure
from orchestrator.folder import Folder, write_whole
from orchestrator.progress import Progress
from orchestrator.questions.load import load_questions
from orchestrator.supervisor import run_child
from store.store import Store
from store.types import Question, content_id
from trainers.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Students:
    """All students of a run."""

    config: RunConfig
    folder: Folder
    store: Store
    progress: Progress
    draining: Draining

    async def measure_before(self) -> None:
        """Accuracy of every student as it is."""
        for student in self.config.students:
            await self._measure(student, "before", None)

    async def measure_after(self) -> None:
        """Accuracy of every student with its adapter; of one that learnt nothing, none."""
        for student in self.config.students:
            adapter = self.folder.student(student.name) / "final"
            if adapter.is_dir():
                await self._measure(student, "after", adapter)

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

    async def _measure(self, student: schema.Student, when: str, adapter: Path | None) -> None:
        evaluation = self.config.evaluation
        if evaluation is None:
            return
        name = f"{student.name}@{when}"
        questions = await self._unseen(await held_out(evaluation))
        have = {attempt.question for attempt in await self.store.attempts(name)}
        if have.issuperset(question.id for question in questions):
            return
        async with open_model(name, engine_of(self.config, student), adapter) as model, open_checker() as checker:
            await measure(
                name,
                model,
                questions,
                config=evaluation,
                system=student.system,
                store=self.store,
                checker=checker,
                span_f1=self.config.span_f1,
                seed=self.config.seed,
                in_flight=self.config.limits.evaluations,
                draining=self.draining,
                tell=lambda done, total: self.progress.stage(f"accuracy {when}", done, total),
            )

    async def _unseen(self, questions: list[Question]) -> list[Question]:
        """Those of the held-out questions that are not reasoned about in this run, into the store."""
        await self.store.add_questions(questions, split="held_out")
        held = {placed.question.id for placed in await self.store.questions("held_out", limit=len(questions))}
        if seen := len(questions) - len(held):
            self.progress.note(f"left out {seen} held-out questions: they are among the questions to learn from")
        return [question for question in questions if question.id in held]


async def held_out(evaluation: Evaluation) -> list[Question]:
    """The held-out questions that can be marked: those with a gold answer. Raises `QuestionsError`."""
    loaded = await asyncio.to_thread(load_questions, evaluation.questions, Path.cwd())
    return [question for question in loaded.questions if question.answer is not None]


def engine_of(config: RunConfig, student: schema.Student) -> TransformersEngine:
    """The engine that runs a student: as configured, or like the first transformers engine, or by default."""
    own = config.evaluation.engine if config.evaluation else None
    like = own or next((engine for engine in config.engines.values() if isinstance(engine, TransformersEngine)), None)
    return (
        like.model_copy(update={"model": student.model}) if like else TransformersEngine(kind="transformers", model=student.model)
    )
