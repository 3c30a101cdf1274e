"""Answers of a model to held-out questions: one greedy answer and some sampled ones of each (methods part 6).

Invariant: every answer is a row before it counts; a resumed evaluation asks only for the answers that are missing.
Not covered: which model is measured when (`accuracies.py`), and what the answers come to (`comparison.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agents.engines.base import Completion
from agents.errors import Broken, EngineError, Withheld
from configs.schema import Evaluation
from orchestrator.answers.answer import extract
from orchestrator.answers.checker import Checker
from orchestrator.failures import Failures
from orchestrator.scoring import all_of
from store.store import Store
from store.types import Attempt, Question, Usage, content_id


class Ask(Protocol):
    """Who is measured: so many answers of it to a question. Raises `EngineError`."""

    def __call__(
        self, question: Question, *, n: int, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Awaitable[list[Completion]]:
        """Ask."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """By which rule the answers of `name` are marked."""

    name: str
    checker: Checker
    span_f1: float

    async def attempt(self, question: Question, sample: int, completion: Completion) -> Attempt:
        """What a completion comes to."""
        answer = extract(completion.text.rpartition("</think>")[2], question.kind, question.choices)
        correct = False
        if answer is not None and question.answer is not None:
            correct = (await self.checker.check(question, answer, question.answer, span_f1=self.span_f1)).right
        return Attempt(
            id=content_id("attempt", self.name, question.id, sample),
            model=self.name,
            question=question.id,
            sample=sample,
            text=completion.text,
            answer=answer,
            correct=correct,
            usage=completion.usage,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Examiner:
    """Asks for the answers that `store` lacks, and keeps them marked."""

    config: Evaluation
    span_f1: float
    seed: int
    in_flight: int
    store: Store
    checker: Checker
    draining: Callable[[], bool]

    async def measure(self, name: str, ask: Ask, questions: Sequence[Question], tell: Callable[[int, int], None]) -> None:
        """Ask whoever is recorded as `name`. Stops early while draining.

        Raises `Broken`, and `Withheld` when the answers that were under way are there.
        """
        have = {attempt.question for attempt in await self.store.attempts(name)}
        todo = [question for question in questions if question.id not in have]
        missing = iter(todo)
        done = len(questions) - len(todo)
        tell(done, len(questions))
        mark = Marking(name=name, checker=self.checker, span_f1=self.span_f1)
        withheld: Withheld | None = None

        async def work() -> None:
            nonlocal done, withheld
            for question in missing:
                if self.draining() or withheld:
                    return
                try:
                    attempts = await self._attempts(mark, ask, question)
                except Withheld as error:
                    withheld = error
                    return
                await self.store.record_attempts(attempts)
                done += 1
                tell(done, len(questions))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.in_flight, len(todo))):
                group.create_task(work())
        if withheld:
            raise withheld

    async def _attempts(self, mark: Marking, ask: Ask, question: Question) -> list[Attempt]:
        """The answers; a question that the engine cannot answer is a Failure row and counts as answered wrongly."""
        try:
            completions = await self._completions(ask, question)
        except (Broken, Withheld):
            raise
        except EngineError as error:
            await Failures(store=self.store, question=question).record(f"evaluate {mark.name}", None, error)
            nothing = Completion(text="", finish="end", stop=None, usage=Usage())
            completions = [nothing] * (1 + self.config.samples)
        return [await mark.attempt(question, sample, completion) for sample, completion in enumerate(completions)]

    async def _completions(self, ask: Ask, question: Question) -> list[Completion]:
        """The greedy answer and the sampled ones, of one question. Raises the first error, when both are over."""
        config, draw = self.config, int(content_id("evaluate", self.seed, question.id)[:15], 16)

        def asked(n: int, temperature: float, top_p: float) -> Awaitable[list[Completion]]:
            return ask(question, n=n, max_tokens=config.max_tokens, temperature=temperature, top_p=top_p, seed=draw)

        both = [asked(1, 0.0, 1.0), *([asked(config.samples, config.temperature, config.top_p)] if config.samples else [])]
        return [completion for completions in await all_of(both) for completion in completions]
