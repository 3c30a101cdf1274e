"""Whole traces of the proving ground's teachers, sampled through the system's engine and marked step by step.

Invariant: which traces there are depends on the set, the questions, the seed and the teacher alone; nothing is selected, merged
or dropped: two draws of the same text are two trajectories, as two votes are. Not covered: what is measured on them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from proving_ground import Ground
from proving_ground.language import VOICES, Problem
from proving_ground.measure import ASKING, opened, question, right_answer

from agents import prompts
from agents.engines.base import Engine, together
from orchestrator.answers import extract
from store.types import Trajectory, Usage, content_id

TEMPERATURE = 0.6
MAX_TOKENS = 320
_HEADER = re.compile(r"### Step \d+\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One trace: `draw` 0 is greedy; `sound` when every step of the chain is there and right, in any voice."""

    teacher: str
    draw: int
    text: str
    conclusion: str
    answer: str | None
    right: bool
    sound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A question with all of its traces."""

    id: str
    gold: str
    traces: tuple[Trace, ...]


def bodies(text: str) -> list[str]:
    """The steps of a reasoning, without their headers; what stands before the first header is none."""
    return [" ".join(body.split()) for body in _HEADER.split(text)[1:]]


def is_sound(problem: Problem, text: str) -> bool:
    """Whether `text` is the chain of right steps and nothing else: the right operation on the right value, in any voice."""
    before = [problem.start, *problem.values[:-1]]
    each = zip(problem.operations, before, problem.values, strict=True)
    right = [{operation.told(x, y, voice) for voice in range(VOICES)} for operation, x, y in each]
    found = bodies(text)
    return len(found) == len(right) and all(body in told for body, told in zip(found, right, strict=True))


def trace_of(problem: Problem, teacher: str, draw: int, written: str) -> Trace:
    """What came after the first header, as a trace."""
    text, _, conclusion = written.partition("</think>")
    text = "### Step 1." + text.rstrip()
    answer = extract(conclusion, "math")
    return Trace(
        teacher=teacher,
        draw=draw,
        text=text,
        conclusion=conclusion.strip(),
        answer=answer,
        right=right_answer(problem, conclusion),
        sound=is_sound(problem, text),
    )


async def _of_one(model: Engine, teacher: str, problem: Problem, seed: int, num: int) -> list[Trace]:
    prompt = prompts.propose(question(problem), [], ASKING)
    draws = int(content_id("traces", seed, problem.key, teacher)[:15], 16)
    greedy = await model.generate(prompt, max_tokens=MAX_TOKENS, temperature=0.0)
    drawn = await model.generate(prompt, n=num, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, top_p=0.95, seed=draws)
    return [trace_of(problem, teacher, draw, each.text) for draw, each in enumerate([*greedy, *drawn])]


async def _sample(ground: Ground, problems: Sequence[Problem], seed: int, num: int) -> list[Sampled]:
    async with AsyncExitStack() as stack:
        models = await opened(stack, ground.teachers)
        asked = [_of_one(model, name, problem, seed, num) for name, model in models.items() for problem in problems]
        found = await together(asked)
    by_teacher = [found[at : at + len(problems)] for at in range(0, len(found), len(problems))]
    return [
        Sampled(id=problem.key, gold=str(problem.answer), traces=tuple(trace for traces in of_each for trace in traces))
        for problem, *of_each in zip(problems, *by_teacher, strict=True)
    ]


def sampled(ground: Ground, name: str, *, count: int, skip: int, seed: int, num: int, folder: Path) -> list[Sampled]:
    """`num` traces of each teacher and a greedy one, for `count` questions of the set `name`; kept in `folder`."""
    identity = content_id(name, count, skip, seed, num, TEMPERATURE, sorted(path.name for path in ground.teachers.values()))
    file = folder / f"traces-{identity[:16]}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = asyncio.run(_sample(ground, ground.problems(name)[skip : skip + count], seed, num))
        part = file.with_suffix(".part")
        part.write_text(json.dumps([asdict(each) for each in made]), encoding="utf-8")
        part.rename(file)
    return [
        Sampled(id=each["id"], gold=each["gold"], traces=tuple(Trace(**trace) for trace in each["traces"]))
        for each in json.loads(file.read_text(encoding="utf-8"))
    ]


def trajectory(question_id: str, trace: Trace) -> Trajectory:
    """The trace as the system keeps one."""
    return Trajectory(
        id=content_id("trace", question_id, trace.teacher, trace.draw),
        question=question_id,
        nodes=(),
        teachers=(trace.teacher,),
        text=trace.text,
        conclusion=trace.conclusion,
        answer=trace.answer,
        origin="style",
        score=None,
        best=False,
        usage=Usage(),
    )
