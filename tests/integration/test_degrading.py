"""A run whose engines fail, wait or go for good: it goes on with what is left, and nothing that was asked for vanishes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from stub_server import Json, StubServer, says, serving
from three_teachers import (
    NAMES,
    PARK_S,
    Dump,
    Stage,
    Watching,
    authors,
    concludes,
    configured,
    down,
    dumped,
    fail_until_parked,
    kinds,
    nothing_vanished,
    question,
    settled,
    slow_by,
)

from agents.breaker import FALLS
from agents.engines.base import Message, Prompt, together
from agents.engines.scripted import ScriptedEngine
from agents.errors import Broken, Parked, Quarantined, Retryable, Terminal
from agents.limits import SAME, Gate
from configs.engines import EngineLimits
from configs.engines import ScriptedEngine as Scripted
from configs.schema import RunConfig, Search
from orchestrator.daemon import Draining
from orchestrator.folder import Folder
from orchestrator.run import run
from store.store import open_store


async def undisturbed(path: Path, config: RunConfig, count: int = 1, **stage: Any) -> Dump:
    """What a run comes to when nothing fails."""
    async with Stage(**stage).life(path, config, count) as life:
        await life.solve(at_once=count)
    return await dumped(path)


def test_with_one_of_three_teachers_parked_the_questions_go_on_with_two(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path, began = Stage(), tmp_path / "run.db", time.monotonic()
        stage.all_meet(down, "cy")
        async with stage.life(path, configured(), 8) as life:
            await life.solve(at_once=4)
        seconds = time.monotonic() - began
        dump = await dumped(path)
        assert settled(dump)
        assert authors(dump) == {"ann", "bob"}
        nothing_vanished(dump)
        assert set(kinds(dump, "teacher cy")) <= {"Parked", "Retryable"}
        assert len(dump["failure"]) == sum(kinds(dump, "teacher cy").values())
        assert stage.sent("cy") <= FALLS + 4 + seconds / PARK_S, "while it is parked, only looks are sent"
        assert [line for line in stage.watching.told if "far-cy is parked" in line and "connection refused" in line]

    asyncio.run(work())


def test_a_teacher_that_comes_back_is_looked_at_and_its_steps_are_in_later_trees(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path, gate = Stage(), tmp_path / "run.db", None
        stage.all_meet(down, "cy")
        async with stage.life(path, configured(), 3) as life:
            await life.solve(2, at_once=2)
            gate = stage.models["cy"].gate
            assert gate.parked
            stage.all_meet(None, "cy")
            await gate.available()
            assert gate.parked, "only a look can tell"
            await life.solve(1)
            assert not gate.parked
        dump = await dumped(path)
        later = [row for row in dump["node"] if row["question"] == question(2).id]
        assert {row["author"] for row in later} == set(NAMES)
        assert authors({"node": [row for row in dump["node"] if row not in later]}) == {"ann", "bob"}
        nothing_vanished(dump)
        assert [line for line in stage.watching.told if "far-cy answers again" in line]

    asyncio.run(work())


@pytest.mark.parametrize(
    "search",
    [
        {"strategy": "beam", "beam": 2},
        {"strategy": "beam", "beam": 2, "quorum": 2},
        {"strategy": "greedy"},
        {"strategy": "binary", "beam": 2},
        {"strategy": "mcts", "iterations": 12},
        {"strategy": "curation", "traces": 8, "max_question_tokens": 100_000},
    ],
    ids=lambda search: f"{search['strategy']}{' with a quorum' * ('quorum' in search)}",
)
def test_a_parked_teacher_that_comes_back_mid_tree_writes_in_that_tree(tmp_path: Path, search: dict[str, Any]) -> None:
    async def work() -> None:
        stage, path = Stage(steps=6), tmp_path / "run.db"
        stage.all_meet(down, "cy")

        async def meanwhile(_: Prompt) -> None:
            await asyncio.sleep(PARK_S / 2)
            if stage.sent("ann") >= 3:
                stage.all_meet(None, "cy")

        stage.engines["ann"].meanwhile = meanwhile
        config = configured().model_copy(update={"search": Search.model_validate(search)})
        await fail_until_parked(stage.models["cy"].gate)
        async with stage.life(path, config) as life:
            await life.solve()
        dump = await dumped(path)
        assert settled(dump)
        assert dump["trajectory"]
        assert [line for line in stage.watching.told if "far-cy answers again" in line]
        assert authors(dump) == set(NAMES)
        assert {"Parked", "Retryable"} >= set(kinds(dump, "teacher cy")) - {"Late"}
        assert kinds(dump, "teacher cy"), "what it missed is on record"
        if search["strategy"] in ("beam", "greedy", "binary"):
            assert not [row for row in dump["node"] if row["author"] == "cy" and row["parent"] is None]
            nothing_vanished(dump)

    asyncio.run(work())


async def through_an_outage(path: Path, config: RunConfig, at_once: int, *who: str) -> Dump:
    """What a run on three questions comes to that begins while `who` are down, and meets them back when all are parked."""
    stage = Stage()
    stage.all_meet(down, *who)
    async with stage.life(path, config, 3) as life, asyncio.TaskGroup() as group:
        working = group.create_task(life.solve(at_once=at_once))
        await stage.until_parked(*who)
        await asyncio.sleep(3 * PARK_S)
        assert not working.done()
        assert max(stage.sent(name) for name in who) <= 2 * FALLS + 3 + 3, "it is looked at, and not asked again and again"
        dump = await dumped(path)
        assert {row["state"] for row in dump["question"]} == {"leased", "pending"} - ({"pending"} if at_once == 3 else set())
        assert dump["failure"] == []
        stage.all_meet(None, *who)
    return await dumped(path)


@pytest.mark.parametrize("at_once", [1, 3])
def test_while_all_teachers_are_parked_the_run_waits_and_goes_on_with_those_that_are_back(tmp_path: Path, at_once: int) -> None:
    async def work() -> None:
        dump = await through_an_outage(tmp_path / "run.db", configured(), at_once, *NAMES)
        assert settled(dump)
        assert not [row for row in dump["question"] if "every call failed" in row["reason"]]
        assert {row["kind"] for row in dump["failure"]} <= {"Parked"}
        nothing_vanished(dump)

    asyncio.run(work())


@pytest.mark.parametrize("at_once", [1, 3])
def test_while_the_prover_is_parked_the_run_waits_and_goes_on_as_if_nothing_had_been(tmp_path: Path, at_once: int) -> None:
    async def work() -> None:
        dump = await through_an_outage(tmp_path / "run.db", configured(), at_once, "prover")
        assert dump == await undisturbed(tmp_path / "whole.db", configured(), 3)

    asyncio.run(work())


@pytest.mark.parametrize("who", [NAMES, ("prover",)], ids=["teachers", "prover"])
def test_when_patience_ends_the_run_ends_with_one_error_and_the_question_waits_for_the_next_life(
    tmp_path: Path, who: tuple[str, ...]
) -> None:
    async def work() -> None:
        stage, config, path = Stage(), configured(patience_s=1.0), tmp_path / "run.db"
        stage.all_meet(down, *who)
        began = time.monotonic()
        async with stage.life(path, config) as life:
            with pytest.raises(Broken) as raised:
                await life.solve()
        assert time.monotonic() - began < 6
        assert "connection refused" in str(raised.value)
        assert " 1 s" in str(raised.value)
        assert "\n" not in str(raised.value)
        async with open_store(path) as store:
            await store.release_leases()
        dump = await dumped(path)
        assert [row["state"] for row in dump["question"]] == ["pending"]
        assert dump["failure"] == []
        stage.all_meet(None, *who)
        stage.open_gates()
        async with stage.life(path, config) as life:
            await life.solve()
        assert await dumped(path) == await undisturbed(tmp_path / "whole.db", config)

    asyncio.run(work())


def test_patience_ends_although_there_is_always_somebody_to_look_at(tmp_path: Path) -> None:
    async def work() -> None:
        stage = Stage()
        stage.all_meet(down, *NAMES)
        for name, seconds in zip(NAMES, (0.05, PARK_S, 3 * PARK_S), strict=True):
            await fail_until_parked(stage.models[name].gate)
            slow_by(stage, name, seconds)
        async with stage.life(tmp_path / "run.db", configured(patience_s=2.0)) as life:
            with pytest.raises(Broken, match="no teacher could be asked for 2 s: engine far-ann: connection refused; "):
                await asyncio.wait_for(life.solve(), 10)

    asyncio.run(work())


def test_within_its_grace_a_teacher_that_is_down_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    async def work() -> None:
        stage, config = Stage(), configured(grace_s=30.0)
        stage.all_meet(down, "cy")
        async with stage.life(tmp_path / "run.db", config, 3) as life, asyncio.TaskGroup() as group:
            group.create_task(life.solve(at_once=3))
            await stage.until_parked("cy")
            stage.all_meet(None, "cy")
        assert await dumped(tmp_path / "run.db") == await undisturbed(tmp_path / "whole.db", config, 3)

    asyncio.run(work())


def test_while_one_is_parked_and_the_others_cannot_nobody_is_asked_again_and_again(tmp_path: Path) -> None:
    """Two teachers refuse this question for good; the third is down, and may know it."""

    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(lambda _: Terminal("too long for me"), "ann", "bob")
        stage.all_meet(down, "cy")
        await fail_until_parked(stage.models["cy"].gate)
        async with stage.life(path, configured()) as life, asyncio.TaskGroup() as group:
            group.create_task(life.solve())
            await asyncio.sleep(3 * PARK_S)
            stage.all_meet(None, "cy")
        dump = await dumped(path)
        assert settled(dump)
        assert authors(dump) == {"cy"}
        nothing_vanished(dump)
        assert stage.sent("ann") == sum(kinds(dump, "teacher ann").values())

    asyncio.run(work())


def test_who_queues_behind_a_look_learns_at_once_that_it_failed_and_the_gate_sleeps_meanwhile() -> None:
    num_looks_at_the_clock = num_sent = 0

    def clock() -> float:
        nonlocal num_looks_at_the_clock
        num_looks_at_the_clock += 1
        return time.monotonic()

    async def refused() -> None:
        nonlocal num_sent, num_looks_at_the_clock
        num_sent += 1
        num_looks_at_the_clock = 0
        await asyncio.sleep(0.5)
        raise Retryable("connection refused")

    async def asked(gate: Gate) -> float:
        with pytest.raises(Parked):
            await gate.ask(refused)
        return time.monotonic()

    async def work() -> None:
        gate = Gate(EngineLimits(park_s=0.05, tokens_per_minute=60_000), adaptive=True, clock=clock)
        await fail_until_parked(gate, tokens=500)  # the next one is due half a second after the last, and may be a look earlier
        await gate.available()
        before = num_sent
        first, second = await together([asked(gate), asked(gate)])
        assert num_sent == before + 1
        assert abs(first - second) < 0.2
        assert num_looks_at_the_clock < 30

    asyncio.run(work())


# Engines that are gone, answers, quarantine


def test_a_teacher_whose_engine_is_gone_for_good_is_left_behind(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(lambda _: Broken("the GPU fell off the bus"), "cy")
        async with stage.life(path, configured(), 3) as life:
            await life.solve()
        dump = await dumped(path)
        assert settled(dump)
        assert authors(dump) == {"ann", "bob"}
        assert set(kinds(dump, "teacher cy")) == {"Broken", "Parked"}
        nothing_vanished(dump)
        assert stage.sent("cy") == 1, "it is not looked at: it is gone"

    asyncio.run(work())


@pytest.mark.parametrize("who", [NAMES, ("prover",)], ids=["all teachers", "the prover"])
def test_when_nobody_can_ever_answer_the_run_ends_at_once_and_the_question_waits(tmp_path: Path, who: tuple[str, ...]) -> None:
    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(lambda _: Broken("the GPU fell off the bus"), *who)
        async with stage.life(path, configured(), 3) as life:
            with pytest.raises(Broken, match="the GPU fell off the bus"):
                await asyncio.wait_for(life.solve(at_once=2), 5)
        dump = await dumped(path)
        assert {row["state"] for row in dump["question"]} == {"leased", "pending"}

    asyncio.run(work())


def test_two_teachers_gone_and_the_third_that_cannot_end_a_question_without_an_end_of_the_run(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(lambda _: Broken("gone"), "ann", "bob")
        stage.all_meet(lambda _: Terminal("too long for me"), "cy")
        async with stage.life(path, configured()) as life:
            await asyncio.wait_for(life.solve(), 5)
        dump = await dumped(path)
        assert [row["state"] for row in dump["question"]] == ["unsolved"]
        nothing_vanished(dump)
        assert stage.sent("cy") == 1

    asyncio.run(work())


async def answered_by(stage: Stage, path: Path) -> Dump:
    """A question of one step, whose best is cy's, and its answer."""
    async with stage.life(path, configured(beam=1)) as life:
        await asyncio.wait_for(life.solve(), 10)
    dump = await dumped(path)
    assert [row["author"] for row in dump["node"] if row["state"] == "finished"] == ["cy"]
    assert [row["state"] for row in dump["question"]] == ["solved"]
    return dump


ONE_STEP: dict[str, Any] = {"steps": 1, "skills": {"ann": 0.0, "bob": 0.0, "cy": 1.0}}


def test_while_the_author_of_the_last_step_is_parked_another_teacher_writes_the_answer(tmp_path: Path) -> None:
    async def work() -> None:
        stage = Stage(**ONE_STEP)

        async def meanwhile(_: Prompt) -> None:  # cy's engine goes down while its step is scored
            if not stage.models["cy"].gate.parked:
                await fail_until_parked(stage.models["cy"].gate)

        stage.engines["prover"].meanwhile = meanwhile
        dump = await answered_by(stage, tmp_path / "run.db")
        assert [row["agent"] for row in dump["call"] if row["purpose"] == "answer"] == ["ann"]
        assert dump["failure"] == []

    asyncio.run(work())


def test_when_its_engine_goes_down_while_it_writes_the_answer_another_teacher_writes_it(tmp_path: Path) -> None:
    async def work() -> None:
        stage = Stage(**ONE_STEP)
        stage.all_meet(lambda prompt: down(prompt) if concludes(prompt) else None, "cy")
        dump = await answered_by(stage, tmp_path / "run.db")
        assert [row["agent"] for row in dump["call"] if row["purpose"] == "answer"] == ["ann"]

    asyncio.run(work())


def test_when_the_author_of_the_last_step_is_gone_another_teacher_writes_the_answer(tmp_path: Path) -> None:
    async def work() -> None:
        stage = Stage(**ONE_STEP)
        stage.all_meet(lambda prompt: Broken("gone") if concludes(prompt) else None, "cy")
        dump = await answered_by(stage, tmp_path / "run.db")
        assert [row["agent"] for row in dump["call"] if row["purpose"] == "answer"] == ["ann"]

    asyncio.run(work())


def test_a_request_that_alone_fails_in_the_same_way_is_quarantined_and_not_asked_again_in_another_life(tmp_path: Path) -> None:
    poison = question(0)

    def is_poison(prompt: Prompt) -> bool:
        return prompt.messages[-1].content == poison.text and not concludes(prompt)

    def fails(prompt: Prompt) -> Retryable | None:
        return Retryable("500: internal error") if is_poison(prompt) else None

    async def work() -> None:
        stage, path, config = Stage(tries=SAME), tmp_path / "run.db", configured()
        stage.all_meet(fails, "cy")
        stage.all_meet(lambda prompt: Broken("cut") if prompt.messages[-1].content == poison.text else None, "prover")
        async with stage.life(path, config, 3) as life:
            with pytest.raises(Broken, match="cut"):
                await life.solve(at_once=3)
        first = await dumped(path)
        assert sum(map(is_poison, stage.engines["cy"].prompts)) == SAME
        (row,) = [row for row in first["failure"] if row["subject"] == poison.id]
        assert (row["kind"], row["tries"], row["where"]) == (Quarantined.__name__, SAME, "teacher cy")
        assert "500: internal error" in row["message"]
        assert row["request"]

        again = Stage(tries=SAME)
        again.all_meet(fails, "cy")
        async with again.life(path, config, 3) as life:
            await life.solve(at_once=3)
        second = await dumped(path)
        assert settled(second)
        nothing_vanished(second)
        root = [prompt for prompt in again.engines["cy"].prompts if is_poison(prompt) and "Step 2" not in prompt.prefix]
        assert root == []
        assert row in second["failure"]

    asyncio.run(work())


# Whole runs, over HTTP


class Reasoner:
    """A server's behaviour: it reasons as the scripted engine does, after `pause_s`."""

    def __init__(self, seed: int) -> None:
        self.engine = ScriptedEngine(Scripted(kind="scripted", seed=seed))
        self.pause_s = 0.0

    async def __call__(self, server: StubServer, request: web.Request, body: Json) -> web.StreamResponse:
        await asyncio.sleep(self.pause_s)
        turns = [Message(role=turn["role"], content=turn["content"]) for turn in body["messages"]]
        prefix = turns.pop().content if turns[-1].role == "assistant" else ""
        sampling = {name: body[name] for name in ("max_tokens", "temperature", "seed")}
        (completion,) = await self.engine.generate(Prompt(messages=tuple(turns), prefix=prefix), **sampling)
        finish = "length" if completion.finish == "length" else "stop"
        if body.get("stream"):
            return await says(completion.text, finish=finish)(server, request, body)
        message = {"role": "assistant", "content": completion.text}
        usage = {"prompt_tokens": completion.usage.prompt, "completion_tokens": completion.usage.completion}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage})


def over_http(folder: Path, servers: Sequence[StubServer], count: int, **limits: Any) -> RunConfig:
    """A run of three teachers at these servers, with a prover of its own process."""
    far = {name: {"kind": "openai", "url": server.url, "model": "stub"} for name, server in zip(NAMES, servers, strict=True)}
    lines = [json.dumps({"question": question(number).text, "answer": question(number).answer}) for number in range(count)]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    return RunConfig.model_validate(
        {
            "name": "degrading",
            "questions": [{"kind": "file", "path": str(folder / "questions.jsonl")}],
            "engines": {
                **{name: {**engine, "limits": {"park_s": PARK_S}} for name, engine in far.items()},
                "near": {"kind": "scripted"},
            },
            "teachers": [{"name": name, "engine": name} for name in NAMES],
            "prover": {"engine": "near"},
            "search": {"beam": 2},
            "limits": {"questions": 4, "grace_s": 0.0, "patience_s": 60.0, **limits},
        }
    )


async def life_of(config: RunConfig, folder: Path) -> tuple[Dump, list[str]]:
    """What is in the store after `peripatos run`, and what it told."""
    watching = Watching()
    await run(config, Folder(folder), watching, Draining())
    return await dumped(Folder(folder).database), watching.told


def test_a_run_survives_one_of_three_servers_and_takes_it_back(tmp_path: Path) -> None:
    reasoners = [Reasoner(seed) for seed in range(3)]

    async def stop_and_start(ann: StubServer, cy: StubServer) -> None:
        for reasoner in reasoners:
            reasoner.pause_s = 0.02
        await met(cy, len(cy.bodies) + 20)
        await cy.stop()
        await met(ann, len(ann.bodies) + 40)
        await cy.start()
        reasoners[0].pause_s = 0.1  # the others take their time until it is back
        await met(cy, len(cy.bodies) + 20)
        reasoners[0].pause_s = 0.0

    async def work() -> None:
        async with serving(reasoners[0]) as ann, serving(reasoners[1]) as bob, serving(reasoners[2]) as cy:
            config = over_http(tmp_path, (ann, bob, cy), 60)
            async with asyncio.TaskGroup() as group:
                living = group.create_task(life_of(config, tmp_path / "run"))
                group.create_task(stop_and_start(ann, cy))
            dump, told = living.result()
        assert settled(dump)
        nothing_vanished(dump)
        assert [row["state"] for row in dump["run"]] == ["finished"]
        assert {row["where"] for row in dump["failure"]} == {"teacher cy"}
        assert set(kinds(dump, "teacher cy")) <= {"Parked", "Retryable"}
        assert [line for line in told if line.startswith("engine cy is parked")]
        assert [line for line in told if line.startswith("engine cy answers again")]

    asyncio.run(work())


async def met(server: StubServer, num: int) -> None:
    """Until the server has been asked so often."""
    async with asyncio.timeout(60):
        while len(server.bodies) < num:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def test_a_run_without_any_server_left_ends_with_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    reasoners = [Reasoner(seed) for seed in range(3)]

    async def stop(servers: Sequence[StubServer]) -> None:
        for reasoner in reasoners:
            reasoner.pause_s = 0.02
        await met(servers[0], len(servers[0].bodies) + 40)
        for server in servers:
            await server.stop()

    async def work() -> None:
        async with serving(reasoners[0]) as ann, serving(reasoners[1]) as bob, serving(reasoners[2]) as cy:
            config = over_http(tmp_path, servers := (ann, bob, cy), 30, patience_s=1.0)
            async with asyncio.TaskGroup() as group:
                group.create_task(stop(servers))
                with pytest.raises(ExceptionGroup) as raised:
                    await life_of(config, tmp_path / "run")
            lines = {str(leaf) for leaf in leaves(raised.value)}
            assert {type(leaf) for leaf in leaves(raised.value)} == {Broken}
            assert len(lines) == 1
            assert all(" 1 s" in line and "Cannot connect to host" in line and "\n" not in line for line in lines), lines
            dump = await dumped(tmp_path / "run" / "peripatos.db")
            assert {row["state"] for row in dump["question"]} >= {"pending"}
            assert not [row for row in dump["question"] if "every call failed" in row["reason"] or row["state"] == "leased"]
            assert [row["state"] for row in dump["run"]] == ["interrupted"]
            for server in servers:
                await server.start()
            dump, _ = await life_of(config, tmp_path / "run")
            assert settled(dump)
            nothing_vanished(dump)
            assert [row["state"] for row in dump["run"]] == ["finished"]

    asyncio.run(work())


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
