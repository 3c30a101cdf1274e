"""Replicas on servers that a run starts: where trees go when one dies, and how all servers of a run come and go at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_replicas import prompt, until
from tiny_student import make_tokenizer

from agents import servers
from agents.errors import Broken, ModelNotFound, Retryable
from agents.replicas import Replicas, ranked, tree_of
from agents.roster import open_model, open_roster
from configs.engines import ManagedServer, OpenAIEngine
from configs.schema import RunConfig

PROGRAM = Path(__file__).with_name("model_server.py")


class Case:
    """Servers of one test. Their processes leave their traces in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.model = folder / "model"
        make_tokenizer().save_pretrained(str(self.model))
        for name in ("config.json", "model.safetensors"):
            (self.model / name).write_text("{}")

    def engine(self, name: str, *, awaits: str = "", env: dict[str, str] | None = None, **keys: Any) -> OpenAIEngine:
        own = {"FOLDER": str(self.folder), "NAME": f"{name}-{{replica}}", "AWAITS": awaits}
        server = ManagedServer(
            kind="vllm", model=str(self.model), command=(sys.executable, str(PROGRAM)), env=own | (env or {}), start_s=20, **keys
        )
        return OpenAIEngine(kind="openai", model="tiny", server=server)

    def lines(self, name: str, what: str) -> list[str]:
        file = self.folder / f"{name}.{what}"
        return file.read_text().splitlines() if file.exists() else []

    def pid(self, name: str) -> int:
        """The process of its newest life."""
        return int(self.lines(name, "lives")[-1].split()[0])

    def living(self) -> list[str]:
        pids = [line.split()[0] for file in self.folder.glob("*.lives") for line in file.read_text().splitlines()]
        return [pid for pid in pids if Path("/proc", pid).exists()]

    def run(self, num_replicas: int, then: Callable[[Replicas], Awaitable[None]], **keys: Any) -> None:
        async def go() -> None:
            config = self.engine("many", replicas=num_replicas, **keys)
            async with open_model("many", config, outputs=self.folder, tell=self.told.append) as model:
                assert isinstance(model.engine, Replicas)
                await then(model.engine)

        asyncio.run(go())
        assert not self.living()


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(servers, "_FIRST_WAIT_S", 0.1)
    monkeypatch.setattr(servers, "AWAIT_S", 0.05)
    return Case(tmp_path)


def test_each_replica_has_its_number_its_output_and_its_port(case: Case) -> None:
    async def then(engine: Replicas) -> None:
        assert [each.name for each in engine.replicas] == ["many-0", "many-1", "many-2"]
        assert len({each.engine.capabilities.device for each in engine.replicas}) == 3

    case.run(3, then, args=("--gpu", "{replica}", "--note", "{0} {"))
    for number in range(3):
        (life,) = case.lines(f"many-{number}", "lives")
        assert life.endswith(f"--gpu {number} --note {{0}} {{")
        assert (case.folder / f"many-{number}.log").exists()


@pytest.mark.chaos
def test_the_trees_of_one_that_is_killed_go_to_others_and_come_home_when_it_is_back(case: Case) -> None:
    async def then(engine: Replicas) -> None:
        homes = {tree: ranked(tree_of(prompt(tree)), engine.replicas)[0].name for tree in range(20)}

        async def ask_all() -> dict[str, int]:
            before = {each.name: each.requests for each in engine.replicas}
            for tree in homes:
                await asyncio.wait_for(engine.generate(prompt(tree), max_tokens=5), 5)
            return {each.name: each.requests - before[each.name] for each in engine.replicas}

        at_home = dict(Counter(homes.values()))
        assert await ask_all() == at_home
        victim = homes[0]
        silent = case.folder / f"{victim}.silent"  # until this is taken away, its next life will not be ready
        silent.touch()
        os.kill(case.pid(victim), signal.SIGKILL)
        with pytest.raises(Retryable):
            await asyncio.wait_for(engine.generate(prompt(0), max_tokens=5), 5)
        meanwhile = await ask_all()
        assert meanwhile[victim] == 0
        assert all(meanwhile[name] >= at_home[name] for name in meanwhile if name != victim)
        assert engine.spilled == at_home[victim]
        silent.unlink()
        await until(lambda: len(case.lines(victim, "lives")) == 2 and all(each.up(0) for each in engine.replicas))
        assert await ask_all() == at_home

    case.run(3, then)


@pytest.mark.chaos
def test_one_that_is_gone_for_good_leaves_its_trees_to_the_others_until_none_is_left(case: Case) -> None:
    async def then(engine: Replicas) -> None:
        for number in (0, 1):
            (case.folder / f"many-{number}.refuses").touch()
            os.kill(case.pid(f"many-{number}"), signal.SIGKILL)
            await until(lambda number=number: any(line.startswith(f"server many-{number} died 2 times") for line in case.told))
            if number == 0:
                for tree in range(10):
                    await engine.generate(prompt(tree), max_tokens=5)
        with pytest.raises(Broken, match="died 2 times in a row: it refuses to start"):
            await engine.generate(prompt(1), max_tokens=5)

    case.run(2, then, restarts=1)


@pytest.mark.chaos
def test_when_all_are_down_a_call_waits(case: Case) -> None:
    async def then(engine: Replicas) -> None:
        silent = [case.folder / f"{each.name}.silent" for each in engine.replicas]
        for file, each in zip(silent, engine.replicas, strict=True):
            file.touch()
            os.kill(case.pid(each.name), signal.SIGKILL)
        await until(lambda: not any(each.up(0) for each in engine.replicas))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(engine.generate(prompt(1), max_tokens=5))
            await until(lambda: all(len(case.lines(each.name, "lives")) == 2 for each in engine.replicas))
            assert not waiting.done()
            for file in silent:
                file.unlink()

    case.run(2, then)


@pytest.mark.chaos
def test_a_call_that_waits_for_one_that_is_then_gone_for_good_is_answered_by_another(case: Case) -> None:
    async def then(engine: Replicas) -> None:
        home, other = (each.name for each in ranked(tree_of(prompt(1)), engine.replicas))
        (case.folder / f"{home}.refuses").touch()
        (case.folder / f"{other}.silent").touch()
        os.kill(case.pid(other), signal.SIGKILL)
        os.kill(case.pid(home), signal.SIGKILL)
        await until(lambda: not any(each.up(0) for each in engine.replicas))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(engine.generate(prompt(1), max_tokens=5))
            await until(lambda: any(line.startswith(f"server {home} died 2 times") for line in case.told))
            (case.folder / f"{other}.silent").unlink()
        assert waiting.result()[0].text == "five"

    case.run(2, then, restarts=1)


FRESH = """
import asyncio, json, sys
from agents.roster import open_model
from configs.engines import OpenAIEngine

async def main():
    async with open_model("many", OpenAIEngine(**json.loads(sys.argv[1]))) as model:
        print(model.engine.capabilities.found)

asyncio.run(main())
"""


def test_in_a_fresh_process_replicas_open_although_transformers_is_not_to_be_imported_twice_at_once(case: Case) -> None:
    config = case.engine("many", replicas=3).model_dump_json()
    done = subprocess.run(
        [sys.executable, "-c", FRESH, config],
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ", 3 replicas\n" in done.stdout, done.stderr


# All servers of a run


def run_of(engines: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "run",
            "questions": [{"kind": "word_problems", "count": 1}],
            "engines": {"scripted": {"kind": "scripted"}, **engines},
            "teachers": [{"name": name, "engine": name} for name in engines],
            "prover": {"engine": "scripted"},
        }
    )


def test_all_servers_of_a_run_start_and_end_at_the_same_time(case: Case) -> None:
    engines = {"one": case.engine("one", awaits="two-0 two-1"), "two": case.engine("two", awaits="one-0", replicas=2)}

    async def go() -> None:
        async with open_roster(run_of(engines), outputs=case.folder, tell=case.told.append) as roster:
            assert len(case.living()) == 3
            for model in roster.models.values():
                await model.engine.generate(prompt(3), max_tokens=5)

    asyncio.run(go())
    assert not case.living()
    assert len(list(case.folder.glob("*.ended"))) == 3
    ready = sorted(line.partition(" is ready at ")[0] for line in case.told if " is ready at " in line)
    assert ready == ["server one", "server two-0", "server two-1"]


@pytest.mark.parametrize("guilty", ["one", "two"])
def test_one_that_cannot_start_ends_the_others_at_once(case: Case, guilty: str) -> None:
    other = {"one": "two", "two": "one"}[guilty]
    (case.folder / f"{guilty}-0.refuses").touch()
    engines = {"one": case.engine("one", awaits="nobody"), "two": case.engine("two", awaits="nobody")}

    async def go() -> None:
        async with asyncio.timeout(10), open_roster(run_of(engines), outputs=case.folder):
            pass

    with pytest.raises(Broken, match=rf"^server {guilty} died: it refuses to start; see .*{guilty}\.log$"):
        asyncio.run(go())
    assert len(case.lines(f"{other}-0", "lives")) <= 1
    assert not case.living()


def test_one_whose_model_is_nowhere_ends_those_that_have_been_started(case: Case) -> None:
    lost = case.engine("two")
    assert lost.server
    lost = lost.model_copy(update={"server": lost.server.model_copy(update={"model": str(case.folder / "nowhere")})})

    async def go() -> None:
        async with open_roster(run_of({"one": case.engine("one"), "two": lost}), outputs=case.folder):
            pass

    with pytest.raises(ModelNotFound, match="nowhere"):
        asyncio.run(go())
    assert not case.living()
