"""Steps that are decided without waiting for all teachers: what comes late is used, or recorded; nothing vanishes."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from three_teachers import (
    Dump,
    Life,
    Stage,
    authors,
    concludes,
    configured,
    dumped,
    kinds,
    nothing_vanished,
    settled,
    slow_by,
)

from agents.engines.base import Prompt
from agents.errors import Broken, Terminal
from configs.schema import RunConfig
from orchestrator.solve import Drained


def always_late(stage: Stage, name: str) -> None:
    """It answers only when the prover scores what the others have proposed: when the step is decided."""

    async def meanwhile(prompt: Prompt) -> None:
        before = stage.sent("prover")
        while stage.sent("prover") == before and not concludes(prompt):  # noqa: ASYNC110 - nobody tells
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
        stage = Stage(skills={"cy": 0.0})  # so that it writes no answer
        slow_by(stage, "cy", 1.0)
        began = time.monotonic()
        async with stage.life(tmp_path / f"{quorum}.db", configured(quorum=quorum)) as life:
            await life.solve()
        assert settled(await dumped(tmp_path / f"{quorum}.db"))
        return time.monotonic() - began

    async def work() -> None:
        waiting = await seconds(None)
        assert waiting > 3 * 1.0
        assert await seconds(2) < waiting / 2

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


def test_a_proposal_that_comes_while_a_failure_is_recorded_does_not_vanish(tmp_path: Path) -> None:
    chance = random.Random(0)

    async def meanwhile(_: Prompt) -> None:
        await asyncio.sleep(chance.uniform(0, 0.01))

    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(lambda _: Terminal("no"), "ann")
        stage.engines["bob"].meanwhile = stage.engines["cy"].meanwhile = meanwhile
        async with stage.life(path, configured(quorum=1), 20) as life:
            await life.solve(at_once=4)
        nothing_vanished(await dumped(path))

    asyncio.run(work())


def test_a_drained_question_keeps_what_was_still_out(tmp_path: Path) -> None:
    async def work() -> None:
        stage, path, config = Stage(steps=5), tmp_path / "run.db", configured(quorum=2)
        slow_by(stage, "cy", 0.1)
        async with stage.life(path, config) as life, asyncio.TaskGroup() as group:
            working = group.create_task(drained(life))
            while stage.sent("prover") < 4:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
            stage.draining = True
            await working
        half = await dumped(path)
        assert not settled(half)
        assert "late" in {row["state"] for row in half["node"]}
        assert half["failure"] == []
        nothing_vanished(half)
        async with Stage(steps=5).life(path, config) as life:
            await life.solve()
        end = await dumped(path)
        assert settled(end)
        nothing_vanished(end)
        assert {row["id"] for row in half["node"]} <= {row["id"] for row in end["node"]}

    async def drained(life: Life) -> None:
        with pytest.raises(Drained):
            await life.solve()

    asyncio.run(work())


def test_a_beam_that_two_refuse_has_its_quorum_with_the_third(tmp_path: Path) -> None:
    """Of two beams, ann and bob refuse one, and cy never ends with the other."""
    refused: list[str] = []

    def refuse(prompt: Prompt) -> Terminal | None:
        if prompt.prefix.endswith("### Step 2.") and not refused:
            refused.append(prompt.prefix)
        return Terminal("no") if prompt.prefix in refused else None

    async def meanwhile(prompt: Prompt) -> None:
        if refused and prompt.prefix not in refused and not concludes(prompt):
            await asyncio.sleep(3600)

    async def work() -> None:
        stage, path = Stage(), tmp_path / "run.db"
        stage.all_meet(refuse, "ann", "bob")
        stage.engines["cy"].meanwhile = meanwhile
        async with stage.life(path, configured(quorum=2)) as life:
            await asyncio.wait_for(life.solve(), 10)
        dump = await dumped(path)
        nothing_vanished(dump)
        assert kinds(dump, "teacher ann") == kinds(dump, "teacher bob") == Counter({"Terminal": 1})

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
        assert cuts_with_late_nodes

    asyncio.run(work())
