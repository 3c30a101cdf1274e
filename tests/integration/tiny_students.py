"""Two tiny students and their router: a store of questions with several trajectories each, specs, and how they are run.

`together` runs them in this process; `apart` in a process each, forked from one that has torch loaded, so that it costs no
seconds. Both give what every actor said.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_student import make_lesson

from configs.schema import ROUTER, Lora, Peers, Router, Student
from store.store import Store, open_store
from store.types import Failure, Lesson, Metrics, Outcome, QuestionState, Report, Route, Verdict
from trainers.actors import run_actors
from trainers.spec import AnySpec, RouterSpec, Shared, Spec

NAMES = ("one", "two")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["trainers.actors"])

Said = list[dict[str, Any]]


def lessons_of(number: int, count: int) -> list[Lesson]:
    """Some trajectories of one question, of several lengths."""
    chance = random.Random(number)
    a, b = chance.randint(1, 9), chance.randint(1, 9)
    found = []
    for each in range(count):
        text = "\n".join(f"### Step {step}. {a} and {b} is {a + b}." for step in range(1, chance.randint(2, 4)))
        lesson = make_lesson(f"{number}", f"What is {a} and {b}?", f"{text} So said {each}.", f"The final answer is {a + b}.")
        question, trajectory = lesson.question, lesson.trajectory
        object.__setattr__(question, "answer", str(a + b))
        object.__setattr__(trajectory, "id", f"t{number}-{each}")
        found.append(lesson)
    return found


async def settle(store: Store, lessons: Sequence[Lesson]) -> None:
    """A question with accepted trajectories."""
    question = lessons[0].question
    await store.add_questions([question], split="train")
    trajectories = [lesson.trajectory for lesson in lessons]
    verdicts = [Verdict(trajectory=each.id, outcome=Outcome.ACCEPTED, reason="") for each in trajectories]
    routes = [
        Route(id=f"{each.id}-{name}", trajectory=each.id, student=name, round=-1) for each in trajectories for name in NAMES
    ]
    await store.settle_question(question.id, QuestionState.SOLVED, "", trajectories, verdicts, routes)


async def begin(path: Path, lessons: Sequence[Sequence[Lesson]], *, ends: bool = True) -> None:
    """A store with questions, whose search has ended."""
    async with open_store(path, create=True) as store:
        await store.begin_run("run", "run", "{}")
        for each in lessons:
            await settle(store, each)
        if ends:
            await store.end_search()


def make_shared(root: Path, *, router: Router | None = None, peers: Peers | None = None) -> Shared:
    """What the actors of one folder know."""
    return Shared(
        store=root / "store.db",
        seed=1,
        config_hash="configuration",
        names=NAMES,
        router=router,
        peers=peers,
        exchange=root / "exchange",
    )


def make_students(root: Path, shared: Shared, models: Sequence[Path], **settings: Any) -> list[AnySpec]:
    """A spec for each student, then the router's, if there is one."""
    keys: dict[str, Any] = {
        "lora": Lora(rank=4, alpha=8),
        "epochs": 3,
        "batch": 3,
        "micro_batch": 4,
        "learning_rate": 0.01,
        "checkpoint_every": 2,
        "dtype": "float32",
        "device": "cpu",
        **settings,
    }
    specs: list[AnySpec] = [
        Spec(
            shared=shared,
            student=Student(name=name, model=str(model), **keys),
            model=model,
            directory=root / name,
            threads=1,
        )
        for name, model in zip(shared.names, models, strict=True)
    ]
    if shared.router is not None:
        first = specs[0].student
        specs.append(RouterSpec(shared=shared, student=first, directory=root / ROUTER))
    return specs


def together(specs: Sequence[AnySpec], tell: Callable[[dict[str, Any]], None] | None = None) -> tuple[list[str], Said]:
    """All in this process: how each ended, and what they said."""
    said: Said = []

    def heard(message: dict[str, Any]) -> None:
        said.append(message)
        if tell:
            tell(message)

    async def run() -> list[str]:
        try:
            return await run_actors(specs, heard, asyncio.Event())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    return asyncio.run(run()), said


def apart(specs: Sequence[AnySpec]) -> tuple[list[str], Said]:
    """Each in a process of its own."""
    processes, places = [], []
    for spec in specs:
        places.append(spec.directory.with_suffix(".said"))
        process = FORKS.Process(target=alone, args=(spec, places[-1]))
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    results = [json.loads(place.read_text()) for place in places]
    return [ending for endings, _ in results for ending in endings], [each for _, said in results for each in said]


def alone(spec: AnySpec, place: Path) -> None:
    """What `apart` runs in each process."""
    torch.set_num_threads(1)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(together([spec])))


def metrics(shared: Shared, name: str) -> list[Metrics]:
    """What an actor recorded of its updates."""

    async def read() -> list[Metrics]:
        async with open_store(shared.store, create=False) as store:
            return await store.metrics(name)

    return asyncio.run(read())


def reports(shared: Shared) -> list[Report]:
    """What all students reported."""

    async def read() -> list[Report]:
        async with open_store(shared.store, create=False) as store:
            return await store.reports(0, 10_000)

    return asyncio.run(read())


def routes(shared: Shared, rounds: int = 1000) -> list[Route]:
    """The routes of the rounds that there are."""

    async def read() -> list[Route]:
        found: list[Route] = []
        async with open_store(shared.store, create=False) as store:
            for number in range(rounds):
                if not (some := await store.routes(number)):
                    break
                found += some
        return found

    return asyncio.run(read())


def failures(shared: Shared) -> list[Failure]:
    """What was recorded as failed."""

    async def read() -> list[Failure]:
        async with open_store(shared.store, create=False) as store:
            return await store.failures()

    return asyncio.run(read())
