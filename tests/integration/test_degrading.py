"""A run whose engines fail, wait or go for good: it goes on with what is left, and nothing that was asked for vanishes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from three_teachers import (
    NAMES,
    PARK_S,
    Dump,
    Stage,
    authors,
    configured,
    down,
    dumped,
    fail_until_parked,
    kinds,
    nothing_vanished,
    question,
    settled,
)

from agents.breaker import FALLS
from agents.engines.base import Prompt
from agents.errors import Broken, Quarantined, Retryable, Terminal
from agents.limits import SAME
from configs.schema import RunConfig
from store.reasoning import THINK_CLOSE
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


def test_while_one_is_parked_and_the_others_cannot_nobody_is_asked_again_and_again(tmp_path: Path) -> None:
    """Two teachers refuse this question for good; the third is down, and may know it."""

    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(lambda _: Terminal("too long for me"), "ann", "bob")
        stage.all_meet(down, "cy")
        await fail_until_parked(stage.models["cy"])
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


# Quorum, deadlines


def slow_by(stage: Stage, name: str, seconds: float) -> None:
    async def meanwhile() -> None:
        await asyncio.sleep(seconds)

    stage.engines[name].meanwhile = meanwhile


def always_late(stage: Stage, name: str) -> None:
    """It answers only when the prover scores what the others have proposed: when the step is decided."""

    async def meanwhile() -> None:
        before = stage.sent("prover")
        while stage.sent("prover") == before:
            await asyncio.sleep(0.001)

    stage.engines[name].meanwhile = meanwhile


@pytest.mark.parametrize("good", [True, False], ids=["the best", "the worst"])
def test_a_late_proposal_enters_the_next_prune_and_nothing_vanishes(tmp_path: Path, good: bool) -> None:
    async def work() -> None:
        skills = {"ann": 1.0 - good, "bob": 1.0 - good, "cy": float(good)}
        stage, path = Stage(steps=5, skills=skills), tmp_path / "run.db"
        always_late(stage, "cy")
        async with stage.life(path, configured(beam=1, quorum=2), 3) as life:
            await life.solve()
        dump = await dumped(path)
        assert settled(dump)
        nothing_vanished(dump)
        states = {row["id"]: row["state"] for row in dump["node"]}
        late = stage.watching.late
        assert len(late) == len(set(late)) >= 3 * 2
        assert {row["author"] for row in dump["node"] if row["id"] in late} == {"cy"}
        ended = {states[id] for id in late}
        assert (ended & {"kept", "finished"}) if good else ({"pruned"} <= ended <= {"pruned", "late"})
        assert set(kinds(dump, "teacher cy")) <= {"Late"}

    asyncio.run(work())


def test_what_is_still_out_when_its_question_ends_is_a_failure_of_its_own_kind_and_is_not_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        slow_by(stage, "cy", 3600)
        began = time.monotonic()
        async with stage.life(path, configured(quorum=2), 2) as life:
            await life.solve()
        assert time.monotonic() - began < 10
        dump = await dumped(path)
        assert settled(dump)
        assert authors(dump) == {"ann", "bob"}
        assert set(kinds(dump, "teacher cy")) == {"Late"}
        nothing_vanished(dump)
        assert {row["agent"] for row in dump["call"]} == {"ann", "bob", "prover"}

    asyncio.run(work())


def test_with_a_quorum_a_slow_teacher_costs_no_time(tmp_path: Path) -> None:
    async def seconds(quorum: int | None) -> float:
        stage = Stage()
        slow_by(stage, "cy", 0.5)
        began = time.monotonic()
        async with stage.life(tmp_path / f"{quorum}.db", configured(quorum=quorum)) as life:
            await life.solve()
        assert settled(await dumped(tmp_path / f"{quorum}.db"))
        return time.monotonic() - began

    async def work() -> None:
        waiting = await seconds(None)
        assert waiting > 3 * 0.5
        assert await seconds(2) < waiting / 3

    asyncio.run(work())


def test_a_quorum_is_of_those_who_answer_a_failure_is_not_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(lambda _: Terminal("no"), "ann")
        slow_by(stage, "cy", 0.1)
        async with stage.life(path, configured(quorum=2)) as life:
            await life.solve()
        dump = await dumped(path)
        nothing_vanished(dump)
        assert authors(dump) == {"bob", "cy"}
        assert kinds(dump, "teacher cy") == Counter(), "bob alone is no quorum"

    asyncio.run(work())


def test_a_deadline_decides_a_step_with_what_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        slow_by(stage, "cy", 3600)
        began = time.monotonic()
        async with stage.life(path, configured(step_deadline_s=0.2)) as life:
            await life.solve()
        assert 3 * 0.2 < time.monotonic() - began < 10
        dump = await dumped(path)
        assert authors(dump) == {"ann", "bob"}
        assert set(kinds(dump, "teacher cy")) == {"Late"}
        nothing_vanished(dump)

    asyncio.run(work())


def test_a_deadline_waits_for_the_first_proposal_however_long_it_takes(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        for name, seconds in (("ann", 0.3), ("bob", 3600), ("cy", 3600)):
            slow_by(stage, name, seconds)
        async with stage.life(path, configured(step_deadline_s=0.05)) as life:
            await life.solve()
        dump = await dumped(path)
        assert authors(dump) == {"ann"}
        assert dump["trajectory"]
        nothing_vanished(dump)

    asyncio.run(work())


def test_after_a_cut_with_late_nodes_in_the_tree_the_second_life_ends_well_and_no_node_is_doubled(tmp_path: Path) -> None:
    """The power is cut at each scoring in turn: between late nodes and the prune that they wait for, too."""

    async def half(number: int, path: Path, config: RunConfig) -> Dump | None:
        """What is there after the cut; None when the question came to its end before it."""
        stage = Stage(steps=4)
        always_late(stage, "cy")

        def cut(_: Prompt) -> Broken | None:
            return Broken("the power was cut") if stage.sent("prover") >= number else None

        stage.all_meet(cut, "prover")
        async with stage.life(path, config) as life:
            try:
                await life.solve()
            except Broken:
                return await dumped(path)
        return None

    async def work() -> None:
        config, cuts_with_late_nodes = configured(quorum=2), 0
        for number in itertools.count(1):
            path = tmp_path / f"{number}.db"
            if not (before := await half(number, path, config)):
                break
            late = {row["id"] for row in before["node"] if row["state"] == "late"}
            cuts_with_late_nodes += bool(late)
            async with Stage(steps=4).life(path, config) as life:
                await life.solve()
            after = await dumped(path)
            assert settled(after)
            assert {row["id"] for row in before["node"]} <= {row["id"] for row in after["node"]}
            steps = [(row["parent"], row["author"], row["text"]) for row in after["node"]]
            assert len(steps) == len(set(steps))
            assert not late & {row["id"] for row in after["node"] if row["state"] in {"late", "open"}}, "they were in a prune"
            ranked = [row["id"] for row in after["trajectory"]]
            assert len(ranked) == len(set(ranked)) > 0
        assert cuts_with_late_nodes >= 5

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


def concludes(prompt: Prompt) -> bool:
    return THINK_CLOSE in prompt.prefix


async def answered_by(stage: Stage, path: Path) -> Dump:
    """A question of one step, whose best is cy's, and its answer."""
    async with stage.life(path, configured(beam=1)) as life:
        await asyncio.wait_for(life.solve(), 20)
    dump = await dumped(path)
    assert [row["author"] for row in dump["node"] if row["state"] == "finished"] == ["cy"]
    assert [row["state"] for row in dump["question"]] == ["solved"]
    return dump


ONE_STEP: dict[str, Any] = {"steps": 1, "skills": {"ann": 0.0, "bob": 0.0, "cy": 1.0}}


def test_while_the_author_of_the_last_step_is_parked_another_teacher_writes_the_answer(tmp_path: Path) -> None:
    async def work() -> None:
        stage = Stage(**ONE_STEP)

        async def meanwhile() -> None:  # cy's engine goes down while its step is scored
            if not stage.models["cy"].gate.parked:
                await fail_until_parked(stage.models["cy"])

        stage.engines["prover"].meanwhile = meanwhile
        dump = await answered_by(stage, tmp_path / "run.db")
        assert [row["agent"] for row in dump["call"] if row["purpose"] == "answer"] == ["ann"]
        assert dump["failure"] == []

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
