"""Accuracy of a model on held-out questions, through an engine: once greedy, and sampled (methods part 6).

Invariant: every answer is a row before it counts; a resumed evaluation asks only for the answers that are missing.
Not covered: which model is measured when (`students.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents import prompts
from agents.engines.base import Completion
from agents.errors import Broken, EngineError
from agents.ledger import Model
from configs.schema import Evaluation
from orchestrator.answers.answer import extract
from orchestrator.answers.checker import Checker
from store.store import Store
from store.types import Attempt, Failure, Question, Usage, content_id

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Mean accuracy over `items` questions, `samples` answers each, with a 95% interval (bootstrap over questions)."""

    mean: float
    low: float
    high: float
    items: int
    samples: int


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


async def measure(
    name: str,
    model: Model,
    questions: Sequence[Question],
    *,
    config: Evaluation,
    system: str | None,
    store: Store,
    checker: Checker,
    span_f1: float,
    seed: int,
    in_flight: int,
    draining: Callable[[], bool],
    tell: Callable[[int, int], None],
) -> None:
    """Ask `model`, recorded as `name`, for every answer that the store lacks. Stops early while draining."""
    have = {attempt.question for attempt in await store.attempts(name)}
    missing = iter([question for question in questions if question.id not in have])
    done = len(have)
    tell(done, len(questions))
    mark = Marking(name=name, checker=checker, span_f1=span_f1)

    async def work() -> None:
        nonlocal done
        for question in missing:
            if draining():
                return
            await store.record_attempts(await _attempts_or_failure(mark, model, question, config, system, seed, store))
            done += 1
            tell(done, len(questions))

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())


async def _attempts_or_failure(
    mark: Marking, model: Model, question: Question, config: Evaluation, system: str | None, seed: int, store: Store
) -> list[Attempt]:
    """The answers; a question that the engine cannot answer is a Failure row and counts as answered wrongly."""
    try:
        return await _attempts(mark, model, question, config, system, seed)
    except Broken:
        raise
    except EngineError as error:
        kind, message = type(error).__name__, str(error)
        failure_id = content_id("failure", mark.name, question.id, kind, message)
        await store.record_failure(
            Failure(id=failure_id, where=f"evaluate {mark.name}", kind=kind, message=message, tries=1, subject=question.id)
        )
        nothing = Completion(text="", finish="end", stop=None, usage=Usage())
        return [await mark.attempt(question, sample, nothing) for sample in range(1 + config.samples)]


async def _attempts(
    mark: Marking, model: Model, question: Question, config: Evaluation, system: str | None, seed: int
) -> list[Attempt]:
    """The greedy answer and the sampled ones, of one question."""
    prompt = prompts.answer(question, system)
    draw = int(content_id("evaluate", seed, question.id)[:15], 16)

    async def asked(n: int, temperature: float, top_p: float) -> list[Completion]:
        if n == 0:
            return []
        return await model.engine.generate(
            prompt, n=n, max_tokens=config.max_tokens, temperature=temperature, top_p=top_p, seed=draw
        )

    async with asyncio.TaskGroup() as group:
        greedy = group.create_task(asked(1, 0.0, 1.0))
        sampled = group.create_task(asked(config.samples, config.temperature, config.top_p))
    completions = [*greedy.result(), *sampled.result()]
    return [await mark.attempt(question, sample, completion) for sample, completion in enumerate(completions)]


def accuracy(attempts: Sequence[Attempt], *, sampled: bool) -> Accuracy | None:
    """Of the greedy answers, or of the sampled ones; None when there are none."""
    per_question: dict[str, list[bool]] = {}
    for attempt in attempts:
        if (attempt.sample > 0) == sampled:
            per_question.setdefault(attempt.question, []).append(attempt.correct)
    if not per_question:
        return None
    means = np.array([np.mean(per_question[question]) for question in sorted(per_question)])
    low, high = interval(means)
    samples = max(len(answers) for answers in per_question.values())
    return Accuracy(mean=float(means.mean()), low=low, high=high, items=len(means), samples=samples)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval of the mean of `values` [items]; its own draws are fixed."""
    draws = np.random.default_rng(0).integers(0, len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
