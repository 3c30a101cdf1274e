"""What the models of the proving ground can do, asked through the system's own engine and prompts.

Invariant: every figure comes from text that an engine generated or from log-probs that it gave, and answers are read as a run
reads them. Not covered: printing (`__main__`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agents import prompts
from agents.engines.base import Completion, Engine
from agents.engines.transformers import TransformersEngine
from agents.models import resolve
from agents.prover import predictive_perplexity
from agents.steps import STOPS
from configs.engines import TransformersEngine as Config
from configs.schema import Asking
from orchestrator.answers.answer import extract, same_answer
from store.reasoning import header
from store.types import Question

from .build import engine
from .language import VOICES, Problem, last_number
from .rows import steps, values

ASKING = Asking()
STEP_TOKENS, ANSWER_TOKENS = 40, 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step, asked for after a right beginning: which kind of operation, and whether it was right and ended rightly."""

    kind: str
    right: bool


def question(problem: Problem) -> Question:
    """As a run has it."""
    return Question(id=problem.key, text=problem.text, answer=str(problem.answer), kind="math")


def right_answer(problem: Problem, text: str) -> bool:
    """Whether a run would accept what `text` answers."""
    answer = extract(text, "math")
    return answer is not None and same_answer(answer, str(problem.answer), "math")


async def opened(stack: AsyncExitStack, folders: Mapping[str, Path]) -> dict[str, Engine]:
    """An engine for each folder, closed with `stack`."""
    configs = {name: Config(**engine(folder)) for name, folder in folders.items()}
    return {name: await stack.enter_async_context(TransformersEngine(c, resolve(c.model))) for name, c in configs.items()}


async def answered(model: Engine, problems: Sequence[Problem]) -> list[bool]:
    """Whether each whole greedy trace gives the right answer."""

    async def one(problem: Problem) -> bool:
        prompt = prompts.propose(question(problem), [], ASKING)
        tokens = STEP_TOKENS * (len(problem.operations) + 1)
        (completion,) = await model.generate(prompt, max_tokens=tokens, temperature=0.0)
        return right_answer(problem, completion.text)

    return await _all([one(problem) for problem in problems])


async def stepped(model: Engine, problems: Sequence[Problem]) -> list[Stepped]:
    """Every step of every problem, greedily, after the right steps before it."""

    async def one(problem: Problem, index: int, before: list[str]) -> Stepped:
        completion = await _propose(model, problem, before)
        ends = STOPS["header"][1] if index == len(problem.operations) - 1 else STOPS["header"][0]
        right = last_number(completion.text) == problem.values[index] and completion.stop == ends
        return Stepped(problem.operations[index].kind, right)

    chance = random.Random(0)
    written = [steps(p, p.values, [chance.randrange(VOICES) for _ in p.values]) for p in problems]
    asked = [one(p, at, told[:at]) for p, told in zip(problems, written, strict=True) for at in range(len(told))]
    return await _all(asked)


async def mixed(models: Mapping[str, Engine], best_at: Mapping[str, str], problems: Sequence[Problem]) -> list[bool]:
    """Whether each problem is solved when the teacher that is best at its kind writes each step, greedily, whatever stands
    before it; the last one answers. The ceiling of a search that always chooses well."""

    async def one(problem: Problem) -> bool:
        told: list[str] = []
        writers = [models[best_at[operation.kind]] for operation in problem.operations]
        for model in writers:
            completion = await _propose(model, problem, told)
            told.append(f"{header(len(told) + 1)} {completion.text.strip()}")
            if completion.stop == STOPS["header"][1]:
                break
        prompt = prompts.conclude(question(problem), "\n".join(told), ASKING)
        (completion,) = await writers[len(told) - 1].generate(prompt, max_tokens=ANSWER_TOKENS, stop=("\n",), temperature=0.0)
        return right_answer(problem, ASKING.answer_prefix + completion.text)

    return await _all([one(problem) for problem in problems])


async def told_apart(prover: Engine, problems: Sequence[Problem], missing: int) -> list[bool]:
    """Whether the right chain without its last `missing` steps scores above one with a slip in it, alike in all else."""
    chance = random.Random(missing)

    async def score(problem: Problem, told: Sequence[int], voices: Sequence[int]) -> float:
        context = prompts.conclude(question(problem), "\n".join(steps(problem, told, voices)), ASKING)
        return predictive_perplexity((await prover.answer_logprobs(context, str(problem.answer))).values)

    async def one(problem: Problem, wrong_at: int, voices: Sequence[int]) -> bool:
        shown = len(problem.operations) - missing
        wrong = values(chance, problem, [index == wrong_at for index in range(len(problem.operations))])
        return await score(problem, problem.values[:shown], voices) > await score(problem, wrong[:shown], voices)

    asked = [
        (p, chance.randrange(len(p.operations) - missing), [chance.randrange(VOICES) for _ in p.operations]) for p in problems
    ]
    return await _all([one(*each) for each in asked])


async def _propose(model: Engine, problem: Problem, before: Sequence[str]) -> Completion:
    prompt = prompts.propose(question(problem), before, ASKING)
    (completion,) = await model.generate(prompt, max_tokens=STEP_TOKENS, stop=STOPS["header"], temperature=0.0)
    return completion


async def _all(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in asked]
    return [task.result() for task in tasks]
