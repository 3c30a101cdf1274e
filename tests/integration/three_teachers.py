"""Three teachers on three engines and a prover on a fourth, each of which fails, waits or is repaired as a test wants it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from counting_engine import CountingEngine

from agents.embedder import open_embedder
from agents.engines.base import AnswerLogprobs, Completion, Prompt, together
from agents.errors import EngineError, Retryable
from agents.ledger import Model, Terms
from agents.limits import Gate
from agents.prover import Prover
from agents.roster import Roster
from agents.teacher import Teacher
from configs.engines import EngineLimits
from configs.engines import ScriptedEngine as Config
from configs.schema import RunConfig
from orchestrator.answers.checker import open_checker
from orchestrator.progress import Lines
from orchestrator.quota import Quota
from orchestrator.solve import Solver
from store.reasoning import THINK_CLOSE
from store.store import Store, open_store
from store.types import Advance, Question, content_id

NAMES = ("ann", "bob", "cy")
PARK_S = 0.3
Dump = dict[str, list[dict[str, Any]]]
Trouble = Callable[[Prompt], EngineError | None]


def down(_: Prompt) -> EngineError:
    return Retryable("connection refused")


def concludes(prompt: Prompt) -> bool:
    """Whether it asks for the final answer, or for its score."""
    return THINK_CLOSE in prompt.prefix


class TroubledEngine(CountingEngine):
    """`trouble` says what a prompt meets, None: nothing; `meanwhile` is awaited before a call is looked at."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.trouble: Trouble | None = None
        self.meanwhile: Callable[[Prompt], Awaitable[None]] | None = None
        self.prompts: list[Prompt] = []

    async def generate(self, prompt: Prompt, **sampling: Any) -> list[Completion]:
        await self._meet(prompt)
        return await super().generate(prompt, **sampling)

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        await self._meet(context)
        return await super().answer_logprobs(context, answer)

    async def _meet(self, prompt: Prompt) -> None:
        self.prompts.append(prompt)
        if self.meanwhile:
            await self.meanwhile(prompt)
        if self.trouble and (error := self.trouble(prompt)):
            raise error


class Watching(Lines):
    """What happened to the trees, and what people were told."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[str] = []
        self.told: list[str] = []

    def stepped(self, question: Question, advance: Advance) -> None:
        self.late += [node.id for node in advance.late]

    def note(self, text: str) -> None:
        self.told.append(text)


class Stage:
    """Four engines, `ann`, `bob`, `cy` and `prover`, which live as long as the stage does: through several lives of a run."""

    def __init__(self, *, steps: int = 3, skills: dict[str, float] | None = None, tries: int = 3) -> None:
        self.engines = {
            name: TroubledEngine(Config(kind="scripted", seed=seed, steps=steps, skill=(skills or {}).get(name, 0.5)))
            for seed, name in enumerate((*NAMES, "prover"))
        }
        self.tries = tries
        self.draining = False
        self.open_gates()

    def open_gates(self) -> None:
        """As a new process does: it knows nothing of what was down."""
        self.watching = Watching()
        self.models = {
            name: Model(
                name=f"far-{name}",
                identity=name,
                engine=engine,
                gate=Gate(
                    EngineLimits(park_s=PARK_S), name=f"far-{name}", adaptive=True, tries=self.tries, tell=self.watching.note
                ),
            )
            for name, engine in self.engines.items()
        }

    def all_meet(self, trouble: Trouble | None, *names: str) -> None:
        for name in names:
            self.engines[name].trouble = trouble

    def sent(self, name: str) -> int:
        """How many requests that engine was sent."""
        return len(self.engines[name].prompts)

    async def until_parked(self, *names: str) -> None:
        async with asyncio.timeout(10):
            while not all(self.models[name].gate.parked for name in names):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def solver(self, store: Store, config: RunConfig) -> AsyncIterator[Solver]:
        teachers = tuple(
            Teacher(
                config=teacher,
                index=index,
                model=self.models[teacher.name],
                asking=config.asking,
                search=config.search,
                seed=config.seed,
            )
            for index, teacher in enumerate(config.teachers)
        )
        prover = Prover(config=config.prover, model=self.models["prover"], asking=config.asking)
        roster = Roster(models={model.name: model for model in self.models.values()}, teachers=teachers, prover=prover)
        terms = Terms(keep=store, patience_s=config.limits.patience_s, grace_s=config.limits.grace_s)
        async with open_checker() as checker, open_embedder(config.consensus) as embedder:
            yield Solver(
                run="run",
                config=config,
                roster=roster,
                store=store,
                terms=terms,
                checker=checker,
                embedder=embedder,
                quota=Quota(config.target.accepted, 0),
                draining=lambda: self.draining,
                progress=self.watching,
            )

    @asynccontextmanager
    async def life(self, path: Path, config: RunConfig, count: int = 1) -> AsyncIterator[Life]:
        """One life of a run on `count` questions: the store is open, and what was leased by the last life is free."""
        async with open_store(path) as store:
            await store.add_questions([question(number) for number in range(count)], split="train")
            await store.release_leases()
            async with self.solver(store, config) as solver:
                yield Life(store, solver)


class Life:
    """A store, and who works on its questions."""

    def __init__(self, store: Store, solver: Solver) -> None:
        self.store = store
        self.solver = solver

    async def solve(self, most: int | None = None, *, at_once: int = 1) -> None:
        """Settle pending questions, at most `most` of them."""
        left = [None] * (10**6 if most is None else most)

        async def work() -> None:
            while left and left.pop() is None and (question := await self.store.lease_question("run", 60)):
                await self.solver.solve(question)

        await together([work() for _ in range(at_once)])


def configured(*, beam: int = 2, patience_s: float = 60.0, grace_s: float = 0.0, **search: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "degrading",
            "questions": [{"kind": "word_problems", "count": 1}],
            "engines": {"scripted": {"kind": "scripted"}},
            "teachers": [{"name": name, "engine": "scripted"} for name in NAMES],
            "prover": {"engine": "scripted"},
            "search": {"beam": beam, **search},
            "limits": {"patience_s": patience_s, "grace_s": grace_s},
        }
    )


def question(number: int) -> Question:
    """One that a scripted teacher can solve."""
    amounts = [number + 3, number + 4, 5, 6, 7, 8]
    text = f"Ann finds {', then '.join(map(str, amounts))} pens. How many?"
    return Question(id=content_id("question", number), text=text, answer=str(sum(amounts)), kind="math")


async def dumped(path: Path) -> Dump:
    """What is in the store, without events; its counts are what its rows say."""
    async with open_store(path, create=False, read_only=True) as store:
        dump = await store.dump()
    told = Counter(f"questions.{row['state']}" for row in dump["question"])
    told.update(f"nodes.{row['state']}" for row in dump["node"])
    told.update(f"failures.{row['where']}" for row in dump["failure"])
    told.update(f"calls.{row['purpose']}" for row in dump["call"])
    told.update(f"trajectories.{row['outcome']}" for row in dump["verdict"])
    counted = ("questions.", "nodes.", "failures.", "trajectories.", "calls.")
    counts = {row["name"]: row["value"] for row in dump["count"] if row["name"].startswith(counted)}
    assert told == +Counter(counts)
    return {name: rows for name, rows in dump.items() if name not in {"event", "count"}}


def settled(dump: Dump) -> bool:
    return {row["state"] for row in dump["question"]} <= {"solved", "unsolved"}


def kinds(dump: Dump, where: str) -> Counter[str]:
    """How often which kind of failure is recorded there."""
    return Counter(row["kind"] for row in dump["failure"] if row["where"] == where)


def authors(dump: Dump) -> set[str]:
    return {author for row in dump["node"] for author in json.loads(row["authors"])}


def slow_by(stage: Stage, name: str, seconds: float) -> None:
    async def meanwhile(_: Prompt) -> None:
        await asyncio.sleep(seconds)

    stage.engines[name].meanwhile = meanwhile


def nothing_vanished(dump: Dump) -> None:
    """Every teacher was asked about every beam that was expanded, and what came of it is a node or a failure, once."""
    for question in dump["question"]:
        nodes = [row for row in dump["node"] if row["question"] == question["id"]]
        expanded: list[str | None] = [None, *(row["id"] for row in nodes if row["state"] == "kept")]
        ended = Counter((row["parent"], author) for row in nodes for author in json.loads(row["authors"]))
        for row in dump["failure"]:
            for beam in expanded:
                if row["id"] == content_id("failure", row["where"], question["id"], beam, None, row["kind"], row["message"]):
                    ended[beam, row["where"].removeprefix("teacher ")] += 1
        assert ended == Counter((beam, teacher) for beam in expanded for teacher in NAMES)


async def fail_until_parked(gate: Gate, tokens: int = 0) -> None:
    """Requests of somebody else, all of which fail."""

    async def refused() -> None:
        raise Retryable("connection refused")

    async def asked() -> None:
        try:
            await gate.ask(refused, tokens=tokens)
        except EngineError:
            return

    await together([asked() for _ in range(8)])
    assert gate.parked
