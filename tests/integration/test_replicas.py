"""Several replicas of one model: where the requests of a tree go, and what happens when one is overloaded or fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Self

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from stub_server import Json, StubServer, says, serving

from agents import replicas
from agents.engines.base import Message, Prompt
from agents.engines.scripted import ScriptedEngine
from agents.errors import ModelNotFound, Retryable
from agents.replicas import SLACK, SPILL, Replica, Replicas, ranked, tree_of
from agents.roster import open_model
from configs.engines import OpenAIEngine
from configs.engines import ScriptedEngine as Scripted


def prompt(tree: int, steps: int = 0) -> Prompt:
    """A request of this tree, `steps` deep."""
    turns = (Message(role="system", content="Think."), Message(role="user", content=f"Question {tree}"))
    return Prompt(messages=turns, prefix="<think>" + "\n### Step. More." * steps)


# The hashing


def among(names: set[str]) -> list[Replica]:
    return [Replica(name=name, engine=ScriptedEngine(Scripted(kind="scripted"))) for name in sorted(names)]


@given(st.sets(st.text(max_size=8), min_size=1, max_size=8), st.text(max_size=8), st.lists(st.text(max_size=20), max_size=20))
def test_a_new_replica_takes_trees_and_moves_no_other(names: set[str], new: str, trees: list[str]) -> None:
    for tree in trees:
        before, after = ranked(tree, among(names)), ranked(tree, among(names | {new}))
        assert [each.name for each in after if each.name in names - {new}] == [each.name for each in before if each.name != new]


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 7])
def test_a_new_replica_takes_its_share(num_replicas: int) -> None:
    old = {f"engine-{number}" for number in range(num_replicas)}
    trees = [tree_of(prompt(tree)) for tree in range(2000)]
    moved = sum(ranked(tree, among(old | {"new"}))[0].name == "new" for tree in trees)
    assert moved / len(trees) == pytest.approx(1 / (num_replicas + 1), rel=0.2)


def test_a_tree_is_its_turns() -> None:
    assert tree_of(prompt(1)) == tree_of(prompt(1, steps=5)) != tree_of(prompt(2))


# At several addresses


class Held:
    """A behaviour that answers when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def __call__(self, server: StubServer, request: web.Request, body: Json) -> web.StreamResponse:
        await self.may.wait()
        return await says("five")(server, request, body)


def reached(num_servers: int, then: Callable[[list[StubServer], Replicas], Awaitable[None]], default: Any = None) -> None:
    async def go() -> None:
        async with AsyncExitStack() as stack:
            stubs = [await stack.enter_async_context(serving(default or says("five"))) for _ in range(num_servers)]
            config = OpenAIEngine(kind="openai", model="stub", url=tuple(stub.url for stub in stubs))
            model = await stack.enter_async_context(open_model("many", config))
            assert isinstance(model.engine, Replicas)
            await then(stubs, model.engine)

    asyncio.run(go())


def asked(stubs: list[StubServer]) -> list[Counter[str]]:
    """By server: how many requests of each tree it had."""
    return [Counter(body["messages"][1]["content"] for body in stub.bodies) for stub in stubs]


def home_of(stubs: list[StubServer], engine: Replicas, tree: int) -> StubServer:
    name = ranked(tree_of(prompt(tree)), engine.replicas)[0].name
    return next(stub for stub in stubs if stub.url == name)


async def until(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    async with asyncio.timeout(limit_s):
        while not holds():  # noqa: ASYNC110 - what other processes do sets no event here
            await asyncio.sleep(0.02)


def test_the_requests_of_a_tree_stay_at_home_and_trees_spread_evenly() -> None:
    async def then(stubs: list[StubServer], engine: Replicas) -> None:
        for tree in range(80):
            for steps in range(3):
                await engine.generate(prompt(tree, steps), max_tokens=5)
        by_server = asked(stubs)
        assert all(count == 3 for trees in by_server for count in trees.values())
        assert sum(map(len, by_server)) == 80
        assert all(
            5 <= len(trees) <= 38 for trees in by_server
        )  # ports, and so homes, differ from run to run: 4 standard deviations
        assert engine.spilled == 0
        assert [each.requests for each in engine.replicas] == [trees.total() for trees in by_server]
        assert engine.capabilities.found.endswith(", 4 replicas")

    reached(4, then)


def test_what_overloads_a_home_goes_to_the_least_loaded_and_comes_home_again() -> None:
    held = Held()

    async def then(stubs: list[StubServer], engine: Replicas) -> None:
        async with asyncio.TaskGroup() as group:
            for steps in range(60):
                group.create_task(engine.generate(prompt(1, steps), max_tokens=5))
            await until(lambda: sum(len(stub.bodies) for stub in stubs) == 60)
            (home, *others), mean = sorted((each.in_flight for each in engine.replicas), reverse=True), 60 / 4
            assert home == len(home_of(stubs, engine, 1).bodies)
            assert mean < home <= SPILL * mean + SLACK + 1
            assert max(others) - min(others) <= 1
            assert engine.spilled == sum(others)
            held.may.set()
        spilled = engine.spilled
        for stub in stubs:
            stub.bodies.clear()
        for _ in range(SLACK):
            await engine.generate(prompt(1), max_tokens=5)
        assert len(home_of(stubs, engine, 1).bodies) == SLACK
        assert engine.spilled == spilled

    reached(4, then, held)


def test_a_light_load_stays_at_home_however_uneven() -> None:
    held = Held()

    async def then(stubs: list[StubServer], engine: Replicas) -> None:
        async with asyncio.TaskGroup() as group:
            for steps in range(SLACK + 1):
                group.create_task(engine.generate(prompt(1, steps), max_tokens=5))
            await until(lambda: len(home_of(stubs, engine, 1).bodies) == SLACK + 1)
            held.may.set()
        assert engine.spilled == 0

    reached(4, then, held)


def test_at_an_address_that_fails_the_retry_goes_to_another_and_after_a_while_home_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "REST_S", 0.5)

    async def then(stubs: list[StubServer], engine: Replicas) -> None:
        home = home_of(stubs, engine, 1)
        await home.stop()
        with pytest.raises(Retryable):
            await engine.generate(prompt(1), max_tokens=5)
        for _ in range(3):
            await engine.generate(prompt(1), max_tokens=5)
        assert sorted(len(stub.bodies) for stub in stubs) == [0, 0, 3]  # one of the others is its home meanwhile
        await home.start()
        await asyncio.sleep(0.6)
        await engine.generate(prompt(1), max_tokens=5)
        assert len(home.bodies) == 1

    reached(3, then)


def test_one_address_in_a_list_is_that_server_and_one_that_lacks_the_model_closes_all() -> None:
    async def go() -> None:
        async with serving(says("five")) as stub, serving(says("five")) as other:
            async with open_model("one", OpenAIEngine(kind="openai", model="stub", url=(stub.url,))) as model:
                assert not isinstance(model.engine, Replicas)
            wrong = OpenAIEngine(kind="openai", model="wrong", url=(stub.url, other.url))
            with pytest.raises(ModelNotFound, match="has no model 'wrong'"):
                async with open_model("two", wrong):
                    pass

    asyncio.run(go())


class Opening(ScriptedEngine):
    """A scripted engine that tells whether it is open, and may fail to open when the others are."""

    def __init__(self, others: list[Opening], *, fails: bool) -> None:
        super().__init__(Scripted(kind="scripted"))
        self.others, self.fails, self.is_open = others, fails, False

    async def __aenter__(self) -> Self:
        if self.fails:
            await until(lambda: all(each.is_open for each in self.others))
            raise Retryable("it does not open")
        self.is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.is_open = False


def test_when_one_does_not_open_the_others_are_closed() -> None:
    good: list[Opening] = []
    good += [Opening(good, fails=False), Opening(good, fails=False)]
    engines = [*good, Opening(good, fails=True)]

    async def go() -> None:
        async with Replicas([Replica(name=str(number), engine=engine) for number, engine in enumerate(engines)]):
            pass

    with pytest.raises(Retryable, match="it does not open"):
        asyncio.run(go())
    assert not [each for each in good if each.is_open]
