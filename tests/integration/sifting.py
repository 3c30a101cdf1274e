"""A run of scripted engines whose questions are sampled, searched, judged and settled, in this process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from counting_engine import CountingEngine

from agents.embedder import open_embedder
from agents.engines.base import Completion, Engine, Prompt, together
from agents.ledger import Terms
from agents.roster import Roster, open_roster
from configs.engines import ScriptedEngine
from configs.schema import RunConfig
from orchestrator.answers.checker import open_checker
from orchestrator.progress import Lines
from orchestrator.quota import Quota
from orchestrator.solve import Drained, Solver
from store.store import Store, open_store
from store.types import Kind, Question, Usage, content_id

Dump = dict[str, list[dict[str, Any]]]


class Saying(CountingEngine):
    """Answers what `say` says, if it says anything; else as the scripted engine does."""

    def __init__(self, say: Callable[[Prompt, int], str | None], **config: Any) -> None:
        super().__init__(ScriptedEngine(kind="scripted", **config))
        self.prompts: list[Prompt] = []
        self._say = say

    async def generate(self, prompt: Prompt, **sampling: Any) -> list[Completion]:
        self.prompts.append(prompt)
        said = self._say(prompt, len(self.prompts))
        if said is None:
            return await super().generate(prompt, **sampling)
        usage = Usage(prompt=10, completion=len(said.split()))
        return [Completion(text=said, finish="end", stop=None, usage=usage)] * sampling.get("n", 1)


def configured(**keys: Any) -> RunConfig:
    """Two teachers, a prover; a beam of 2; `keys` over it."""
    values = {
        "name": "sifting",
        "questions": [{"kind": "word_problems", "count": 1}],
        "engines": {
            "good": {"kind": "scripted", "skill": 0.9},
            "poor": {"kind": "scripted", "skill": 0.5, "seed": 1},
            "judge": {"kind": "scripted", "skill": 1.0, "seed": 2},
            "other": {"kind": "scripted", "skill": 0.7, "seed": 3},
        },
        "teachers": [{"name": "ann", "engine": "good"}, {"name": "bob", "engine": "poor"}],
        "prover": {"engine": "good"},
        "search": {"beam": 2},
    }
    return RunConfig.model_validate(values | keys)


def question(number: int, *, gold: bool = True, kind: Kind = "math", text: str = "") -> Question:
    """One that a scripted teacher can solve."""
    amounts = [number + 3, number + 4, 5]
    asked = text or f"Ann finds {', then '.join(map(str, amounts))} pens. How many?"
    answer = str(sum(amounts)) if gold else None
    return Question(id=content_id("question", number, gold, kind), text=asked, answer=answer, kind=kind)


def settled(
    path: Path,
    config: RunConfig,
    questions: Sequence[Question],
    *,
    at_once: int = 1,
    most: int | None = None,
    engines: dict[str, Engine] | None = None,
    then: Callable[[Store], Awaitable[Any]] | None = None,
    run: str = "run",
) -> Dump:
    """What is in the store when all, or the first `most`, are settled; `engines` stand in for those of the configuration."""

    async def work() -> Dump:
        async with (
            open_store(path) as store,
            open_roster(config) as roster,
            open_checker() as checker,
            open_embedder(config.consensus) as embedder,
        ):
            await store.add_questions(questions, split="train")
            await store.release_leases()
            counts = await store.counts()
            solver = Solver(
                run=run,
                config=config,
                roster=_with(roster, engines or {}),
                store=store,
                terms=Terms(keep=store),
                checker=checker,
                embedder=embedder,
                quota=Quota(config.target.accepted, counts.get("trajectories.accepted", 0)),
                draining=lambda: False,
                progress=Quiet(),
            )
            await _all(solver, store, at_once, most)
            if then:
                await then(store)
            dump = await store.dump()
            balanced(dump, await store.counts())
            return dump

    return asyncio.run(work())


class Quiet(Lines):
    def note(self, text: str) -> None:
        pass


async def _all(solver: Solver, store: Store, at_once: int, most: int | None) -> None:
    """Settle questions until there is none, or enough, or nothing more is wanted."""
    left = [None] * (10**6 if most is None else most)

    async def work() -> None:
        while left and left.pop() is None and not solver.quota.met and (asked := await store.lease_question("run", 60)):
            try:
                await solver.solve(asked)
            except Drained:
                return

    await together([work() for _ in range(at_once)])


def _with(roster: Roster, engines: dict[str, Engine]) -> Roster:
    for agent in (*roster.teachers, *roster.judges, *([roster.prover] if roster.prover else [])):
        if agent.model.name in engines:
            agent.model = replace(agent.model, engine=engines[agent.model.name])
    return roster


def balanced(dump: Dump, counts: dict[str, int]) -> None:
    """Exactly one verdict for each trajectory, with a reason; the counts are what the rows say."""
    assert sorted(row["id"] for row in dump["trajectory"]) == [row["trajectory"] for row in dump["verdict"]]
    assert all(row["reason"] for row in dump["verdict"])
    outcomes = Counter(row["outcome"] for row in dump["verdict"])
    told = {name.partition(".")[2]: value for name, value in counts.items() if name.startswith("trajectories.")}
    assert +Counter(told) == outcomes
    assert sum(told.values()) == len(dump["trajectory"])
    unsolved = [row for row in dump["question"] if row["state"] == "unsolved"]
    assert sum(value for name, value in counts.items() if name.startswith("unsolved.")) == len(unsolved)
    assert all(row["reason"] for row in unsolved)
    routed = {row["trajectory"] for row in dump["route"]}
    assert routed <= {row["trajectory"] for row in dump["verdict"] if row["outcome"] == "accepted"}


def outcomes(dump: Dump) -> Counter[str]:
    return Counter(row["outcome"] for row in dump["verdict"])


def verdicts(dump: Dump) -> dict[str, dict[str, Any]]:
    """Every trajectory's row with its verdict's, by id."""
    told = {row["trajectory"]: row for row in dump["verdict"]}
    return {
        row["id"]: row | {"outcome": told[row["id"]]["outcome"], "reason": told[row["id"]]["reason"]}
        for row in dump["trajectory"]
    }


def ruling(valid: bool, reason: str = "so it is") -> str:
    return json.dumps({"reason": reason, "ruling": "VALID" if valid else "INVALID"})
