"""Who is measured on the held-out questions, and when: every student before and after it has learnt, every teacher once.

    consumes     the held-out questions of the store, the students' `final` folders
    produces     attempts, under the names that `before`, `after` and `of_teacher` give
    waits for    one engine at a time; the teachers' calls go through their ledger, budget and limits
    unblocked by the last answer, a drain, a spent budget

Invariant: a model that has answered everything is not opened again. Not covered: asking and marking (`evaluate.py`), which
questions there are (`questions/gather.py`), what it all comes to (`comparison.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import prompts
from agents.engines.base import Completion
from agents.errors import BudgetSpent
from agents.ledger import Model, Terms
from agents.pauses import Pauses
from agents.roster import open_model, open_roster
from agents.teacher import Teacher
from configs import schema
from configs.engines import TransformersEngine
from configs.schema import HELD_OUT, Evaluation, RunConfig
from orchestrator.answers.checker import open_checker
from orchestrator.daemon import Draining
from orchestrator.evaluate import Ask, Examiner
from orchestrator.folder import Folder
from orchestrator.progress import Progress
from orchestrator.terms import ledger_of, open_terms
from store.splits import split_of
from store.store import Store
from store.types import Question


def before(student: str) -> str:
    """The name under which a student's attempts are kept: as it was."""
    return f"{student}@before"


def after(student: str) -> str:
    """As it has become."""
    return f"{student}@after"


def of_teacher(teacher: str) -> str:
    """The name under which a teacher's attempts are kept; a student cannot have it."""
    return f"teacher:{teacher}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """All measuring of a run."""

    config: RunConfig
    folder: Folder
    store: Store
    progress: Progress
    draining: Draining
    pauses: Pauses | None = None

    async def measure_before(self) -> None:
        """Every student as it is. Raises `ModelNotFound`."""
        for student in self.config.students:
            await self.measure(before(student.name), student, student.model, None)

    async def measure_after(self) -> None:
        """Every student as it has become; one that learnt nothing has no `final`, and is not measured."""
        for student in self.config.students:
            final = self.folder.student(student.name) / "final"
            if final.is_dir():
                await self.measure(after(student.name), student, *trained(final, student.model))

    async def measure(self, name: str, student: schema.Student, model: str, adapter: Path | None) -> None:
        """Let `model` with `adapter`, asked as this student, answer what is missing under `name`. Raises `ModelNotFound`."""
        evaluation = self.config.evaluation
        if evaluation is None or self.draining():
            return
        questions = await held_out(evaluation, self.store)
        if await self._lacks(name, questions):
            async with open_model(name, engine_of(self.config, model), adapter) as opened:
                await self._examine(name, asking(opened, student.system), questions)

    async def measure_teachers(self) -> None:
        """Every teacher, if they are wanted. Raises `BudgetSpent`, which says what is left, and `MissingCall`."""
        evaluation = self.config.evaluation
        if evaluation is None or not evaluation.teachers:
            return
        questions = await held_out(evaluation, self.store)
        missing = [each for each in self.config.teachers if await self._lacks(of_teacher(each.name), questions)]
        if not missing or self.draining():
            return
        asked = self.config.model_copy(update={"teachers": tuple(missing), "prover": None, "judges": ()})
        async with (
            open_roster(asked, outputs=self.folder.servers, tell=self.progress.note) as roster,
            open_terms(self.config, self.store, self.pauses) as terms,
        ):
            for teacher in roster.teachers:
                await self._measure_teacher(teacher, questions, terms)

    async def _measure_teacher(self, teacher: Teacher, questions: list[Question], terms: Terms) -> None:
        name, segmentation = of_teacher(teacher.name), self.config.search.segmentation

        async def ask(question: Question, **sampling: Any) -> list[Completion]:
            ledger = await ledger_of(question, self.store, terms)
            prompt = prompts.propose(question, (), teacher.asking, segmentation)
            return await ledger.generate(teacher.model, "evaluate", prompt, agent=teacher.name, **sampling)

        try:
            await self._examine(name, ask, questions)
        except BudgetSpent as spent:
            if not terms.budget:
                raise
            answered = len({attempt.question for attempt in await self.store.attempts(name)})
            left = f"{len(questions) - answered} of {len(questions)} held-out questions are left for teacher {teacher.name}"
            told = f"{terms.budget.told(spent.agent)}; {left}: with more, the same command goes on"
            if spent.agent != teacher.name or not teacher.leaves_when_spent:
                raise BudgetSpent(told, spent.agent) from spent
            self.progress.note(told)

    async def _lacks(self, name: str, questions: list[Question]) -> bool:
        have = {attempt.question for attempt in await self.store.attempts(name)}
        return not have.issuperset(question.id for question in questions)

    async def _examine(self, name: str, ask: Ask, questions: list[Question]) -> None:
        assert self.config.evaluation
        async with open_checker() as checker:
            examiner = Examiner(
                config=self.config.evaluation,
                span_f1=self.config.span_f1,
                seed=self.config.seed,
                in_flight=self.config.limits.evaluations,
                store=self.store,
                checker=checker,
                draining=self.draining,
            )
            label = f"accuracy {name}"
            await examiner.measure(name, ask, questions, lambda done, total: self.progress.stage(label, done, total))


def asking(model: Model, system: str | None) -> Ask:
    """Asks a student as it was trained."""

    def ask(question: Question, **sampling: Any) -> Awaitable[list[Completion]]:
        return model.engine.generate(prompts.answer(question, system), **sampling)

    return ask


async def held_out(evaluation: Evaluation, store: Store) -> list[Question]:
    """The questions of all sets, set by set."""
    counts = await store.counts()
    found: list[Question] = []
    for name in (HELD_OUT, *evaluation.others):
        split = split_of(name)
        found += [placed.question for placed in await store.questions(split, limit=counts.get(f"{split}.questions", 0))]
    return found


def trained(final: Path, base: str) -> tuple[str, Path | None]:
    """What to open for a student's `final`: an adapter and the model that it belongs to, or the whole model that lies there."""
    return (base, final) if (final / "adapter_config.json").is_file() else (str(final), None)


def engine_of(config: RunConfig, model: str) -> TransformersEngine:
    """The engine that runs a student's model: as configured, or like the first transformers engine, or by default."""
    own = config.evaluation.engine if config.evaluation else None
    like = own or next((engine for engine in config.engines.values() if isinstance(engine, TransformersEngine)), None)
    return like.model_copy(update={"model": model}) if like else TransformersEngine(kind="transformers", model=model)
