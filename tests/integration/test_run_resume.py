"""One question cut off after each single call: the second life asks exactly what the first has not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from counting_engine import CountingEngine, model

from agents.embedder import open_embedder
from agents.errors import Broken, Terminal
from agents.ledger import Terms
from agents.prover import Prover
from agents.roster import Roster
from agents.teacher import Teacher
from configs.engines import ScriptedEngine as Config
from configs.schema import RunConfig, WordProblems
from orchestrator.answers.checker import open_checker
from orchestrator.progress import Lines
from orchestrator.questions.load import load_questions
from orchestrator.quota import Quota
from orchestrator.solve import Drained, Solver
from store.store import Store, open_store
from store.types import Question

ENGINE = Config(kind="scripted", skill=0.3)
RUN = RunConfig.model_validate(
    {
        "name": "walk",
        "questions": [{"kind": "word_problems", "count": 1, "seed": 3}],
        "engines": {"scripted": {"kind": "scripted"}},
        "teachers": [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "scripted"}],
        "prover": {"engine": "scripted"},
        "search": {"beam": 3},
    }
)
Dump = dict[str, list[dict[str, Any]]]
SEARCHES: dict[str, dict[str, Any]] = {
    "beam": {"beam": 3},
    "greedy": {},
    "binary": {"beam": 2},
    "mcts": {"beam": 2, "iterations": 5},
    "curation": {"beam": 2, "traces": 5},
    "curation within tokens": {"strategy": "curation", "traces": 9, "traces_of": "all", "max_question_tokens": 150},
    "random": {"traces": 3},
    "longest": {"traces": 3},
    "integration": {"traces": 2, "integrator": "bob"},
    "cue": {"strategy": "beam", "segmentation": "cue"},
    "line_break": {"strategy": "mcts", "segmentation": "line_break", "iterations": 2},
}


def searching(name: str) -> RunConfig:
    """The run with another search."""
    search = {"strategy": name, **SEARCHES[name]}
    return RunConfig.model_validate(RUN.model_dump() | {"search": search})


def the_question() -> Question:
    (source,) = RUN.questions
    assert isinstance(source, WordProblems)
    return load_questions(source, Path()).questions[0]


@asynccontextmanager
async def solver(store: Store, engine: CountingEngine, draining: Callable[[], bool], run: RunConfig) -> AsyncIterator[Solver]:
    asked = model(engine)
    common = {"model": asked, "asking": run.asking}
    teachers = tuple(
        Teacher(config=teacher, index=index, search=run.search, seed=run.seed, **common)  # type: ignore[arg-type]
        for index, teacher in enumerate(run.teachers)
    )
    roster = Roster(models={asked.name: asked}, teachers=teachers, prover=Prover(config=run.prover, **common))  # type: ignore[arg-type]
    terms = Terms(keep=store)
    async with open_checker() as checker, open_embedder(run.consensus) as embedder:
        yield Solver(
            run="run",
            config=run,
            roster=roster,
            store=store,
            terms=terms,
            checker=checker,
            embedder=embedder,
            quota=Quota(None, 0),
            draining=draining,
            progress=Lines(),
        )


def life(path: Path, engine: CountingEngine, draining: Callable[[], bool] = lambda: False, run: RunConfig = RUN) -> Dump:
    """Work on the question until it is settled or the engine is gone; what is in the store then."""

    async def work() -> None:
        async with open_store(path) as store:
            await store.add_questions([the_question()], split="train")
            await store.release_leases()
            question = await store.lease_question("run", 60)
            assert question
            try:
                async with solver(store, engine, draining, run) as solving:
                    await solving.solve(question)
            except* (Broken, Drained):
                pass

    async def look() -> Dump:
        async with open_store(path, create=False, read_only=True) as store:
            return await store.dump()

    asyncio.run(work())
    return asyncio.run(look())


def cut_at(number: int) -> CountingEngine:
    """An engine that is gone for good at its call `number`, as everything is when the power is cut."""

    def before(kind: str, now: int) -> None:
        if now >= number:
            raise Broken("the power was cut")

    return CountingEngine(ENGINE, before)


def without_events(dump: Dump) -> Dump:
    return {name: rows for name, rows in dump.items() if name != "event"}


@pytest.mark.parametrize("search", SEARCHES)
def test_after_a_cut_at_any_call_only_what_was_not_kept_is_asked_again(tmp_path: Path, search: str) -> None:
    run = searching(search)
    whole = life(tmp_path / "whole.db", straight := CountingEngine(ENGINE), run=run)
    assert straight.answered == len(whole["call"]) >= 5
    assert not {row["state"] for row in whole["node"]} & {"open", "late"}
    for number in range(1, straight.answered + 1, 3):
        path = tmp_path / f"{number}.db"
        half = life(path, cut_at(number), run=run)
        assert len(half["call"]) < len(whole["call"])
        end = life(path, second := CountingEngine(ENGINE), run=run)
        assert second.answered == len(whole["call"]) - len(half["call"])
        assert without_events(end) == without_events(whole)


@pytest.mark.parametrize("search", ["beam", "mcts", "curation within tokens"])
def test_draining_ends_a_question_between_two_steps_and_nothing_is_asked_twice(tmp_path: Path, search: str) -> None:
    run = searching(search)
    whole = life(tmp_path / "whole.db", CountingEngine(ENGINE), run=run)
    engine = CountingEngine(ENGINE)
    half = life(tmp_path / "run.db", engine, lambda: len(engine.asked) > 5, run=run)
    assert engine.answered == len(half["call"])
    assert half["node"]
    assert not half["trajectory"]
    end = life(tmp_path / "run.db", second := CountingEngine(ENGINE), run=run)
    assert second.answered + engine.answered == len(whole["call"])
    assert without_events(end) == without_events(whole)


@pytest.mark.parametrize("kind", ["generate", "score"])
def test_every_call_that_failed_is_a_row_of_its_own(tmp_path: Path, kind: str) -> None:
    failed = 0

    def before(now: str, number: int) -> None:
        nonlocal failed
        if now == kind:
            failed += 1
            raise Terminal("this one fails")

    end = life(tmp_path / "run.db", CountingEngine(ENGINE, before))
    assert failed >= 2
    assert len(end["failure"]) == failed
    assert [row["state"] for row in end["question"]] == ["unsolved"]
