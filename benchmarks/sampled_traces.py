"""Whole traces of the proving ground's teachers, sampled through the system's engine, marked step by step, and as a consensus.

Invariant: which traces there are depends on the set, the questions, the seed and the teacher alone; nothing is selected, merged
or dropped: two draws of the same text are two trajectories, as two votes are. Not covered: what is measured on them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from proving_ground import Ground
from proving_ground.language import VOICES, Problem, slip
from proving_ground.measure import ASKING, opened, question, right_answer
from proving_ground.rows import steps

from agents import prompts
from agents.embedder import open_embedder
from agents.engines.base import Engine, together
from configs.sift import Consensus as Config
from orchestrator.answers.answer import extract, same_answer
from orchestrator.consensus import ConsensusGraph
from store.types import Consensus, Trajectory, Usage, content_id

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

    problem: Problem
    traces: tuple[Trace, ...]

    def drawn(self, num: int) -> list[Trace]:
        """The first `num` samples of each teacher; the greedy ones are none."""
        return [trace for trace in self.traces if 0 < trace.draw <= num]


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


async def _of_one(model: Engine, teacher: str, problem: Problem, seed: int, num: int, temperature: float) -> list[Trace]:
    prompt = prompts.propose(question(problem), [], ASKING)
    draws = int(content_id("traces", seed, problem.key, teacher)[:15], 16)
    greedy = await model.generate(prompt, max_tokens=MAX_TOKENS, temperature=0.0)
    drawn = await model.generate(prompt, n=num, max_tokens=MAX_TOKENS, temperature=temperature, top_p=0.95, seed=draws)
    return [trace_of(problem, teacher, draw, each.text) for draw, each in enumerate([*greedy, *drawn])]


async def _sample(ground: Ground, problems: Sequence[Problem], seed: int, num: int, temperature: float) -> list[Sampled]:
    async with AsyncExitStack() as stack:
        models = await opened(stack, ground.teachers)
        asked = [_of_one(model, name, problem, seed, num, temperature) for name, model in models.items() for problem in problems]
        found = await together(asked)
    by_teacher = [found[at : at + len(problems)] for at in range(0, len(found), len(problems))]
    return [
        Sampled(problem=problem, traces=tuple(trace for traces in of_each for trace in traces))
        for problem, *of_each in zip(problems, *by_teacher, strict=True)
    ]


def sampled(ground: Ground, name: str, *, count: int, skip: int, seed: int, num: int, folder: Path) -> list[Sampled]:
    """`num` traces of each teacher and a greedy one, for `count` questions of the set `name`; kept in `folder`."""
    identity = content_id(name, count, skip, seed, num, TEMPERATURE, sorted(path.name for path in ground.teachers.values()))
    problems = ground.problems(name)[skip : skip + count]
    return _kept(ground, problems, seed, num, TEMPERATURE, folder / f"traces-{identity[:16]}.json")


def sampled_of(
    ground: Ground, problems: Sequence[Problem], *, seed: int, num: int, temperature: float, folder: Path
) -> list[Sampled]:
    """The same for any problems, at any temperature."""
    asked, teachers = [problem.text for problem in problems], sorted(path.name for path in ground.teachers.values())
    identity = content_id("problems", asked, seed, num, temperature, teachers)
    return _kept(ground, problems, seed, num, temperature, folder / f"traces-{identity[:16]}.json")


def _kept(ground: Ground, problems: Sequence[Problem], seed: int, num: int, temperature: float, file: Path) -> list[Sampled]:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = asyncio.run(_sample(ground, problems, seed, num, temperature))
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps([[asdict(trace) for trace in each.traces] for each in made]), encoding="utf-8")
        part.rename(file)
    kept = json.loads(file.read_text(encoding="utf-8"))
    return [
        Sampled(problem=problem, traces=tuple(Trace(**trace) for trace in traces))
        for problem, traces in zip(problems, kept, strict=True)
    ]


def corrupted(chance: random.Random, problem: Problem, trace: Trace) -> Trace:
    """The sound `trace`, wrong from some step on and right again in the last one, by a second error; its wording stays."""
    before = [problem.start, *problem.values[:-1]]
    each = zip(problem.operations, before, problem.values, bodies(trace.text), strict=True)
    voices = [next(v for v in range(VOICES) if operation.told(x, y, v) == body) for operation, x, y, body in each]
    wrong_at = chance.randrange(len(voices) - 1)
    told, x = [], problem.start
    for place, operation in enumerate(problem.operations):
        x = operation.apply(x)
        x = slip(chance, x) if place == wrong_at else x
        told.append(x)
    text = "\n".join(steps(problem, [*told[:-1], problem.answer], voices))
    return replace(trace, text=text, sound=is_sound(problem, text))


def trajectories(traces: Iterable[Trace], *, merged: bool = False) -> dict[str, tuple[Trajectory, Trace]]:
    """The traces of one question as the system keeps them, by id; `merged`: equal ones are one, of all their teachers."""
    found: dict[str, tuple[Trajectory, Trace]] = {}
    for trace in traces:
        key = content_id(trace.text, trace.conclusion, *(() if merged else (trace.teacher, trace.draw)))
        teachers = {trace.teacher, *(found[key][0].teachers if key in found else ())}
        found[key] = (trajectory(key, "q", trace, teachers), trace)
    return found


def trajectory(key: str, asked: str, trace: Trace, teachers: Collection[str] = ()) -> Trajectory:
    """A trace as the store has it: of the question `asked`, by `teachers` or by its own alone."""
    return Trajectory(
        id=key,
        question=asked,
        nodes=(),
        teachers=tuple(sorted(teachers or {trace.teacher})),
        text=trace.text,
        conclusion=trace.conclusion,
        answer=trace.answer,
        origin="style",
        score=None,
        best=False,
        usage=Usage(),
    )


async def _groups(answers: Sequence[str]) -> list[int]:
    return [
        next(i for i, first in enumerate(answers) if answer == first or same_answer(answer, first, "math")) for answer in answers
    ]


def consensuses(questions: Sequence[Mapping[str, tuple[Trajectory, Trace]]]) -> list[Consensus]:
    """That of each question, gold hidden: nothing is accepted."""

    async def drawn() -> list[Consensus]:
        found: list[Consensus] = []
        async with open_embedder(Config()) as embedder:
            for each in questions:
                graph = ConsensusGraph("q", Config(), embedder, _groups)
                await graph.add(one for one, _ in each.values())
                found.append(graph.consensus())
        return found

    return asyncio.run(drawn())
