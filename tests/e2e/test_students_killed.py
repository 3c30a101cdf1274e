"""Students, router and the command itself are killed at random moments while students learn; the same command ends it.

Tiny students, scripted teachers. Where one student learns from its router in step (staleness 0) everything comes out equal to
the bit; where students teach each other, what must hold whatever was heard: each trajectory is learnt as often as was said.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from command import call, config, ended, fine, heard, kept, living
from tiny_student import make_model

from store.store import open_store

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(600)]

RUN = Path("runs/walk")
LIMIT_S = 240.0
TRAINED = ("plan", "route", "report", "metrics")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def student(model: Path, name: str, **keys: Any) -> dict[str, Any]:
    """It learns in some tens of short updates."""
    common = {"device": "cpu", "dtype": "float32", "lora": {"rank": 4}, "epochs": 3, "batch": 2, "learning_rate": 0.01}
    return {"name": name, "model": str(model), **common, "checkpoint_every": 2, **keys}


def updates(folder: Path, name: str) -> int:
    """What an actor has recorded so far."""

    if not (folder / RUN / "students" / name / "spec.json").exists():  # it has not begun, and perhaps there is no store yet
        return 0

    async def read() -> int:
        async with open_store(folder / RUN / "peripatos.db", create=False, read_only=True) as store:
            return (await store.last_updates()).get(name, 0)

    return asyncio.run(read())


def wait_for(process: Popen[str], folder: Path, name: str, update: int) -> int:
    """Until an actor has recorded an update; which it has by then."""
    until = time.monotonic() + LIMIT_S
    while (found := updates(folder, name)) < update:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def pid(folder: Path, name: str) -> int:
    """The process of an actor, once it is there."""
    spec, until = f"{folder / RUN}/students/{name}/spec.json", time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = place.read_text().split("\0")
            except OSError:
                continue
            if spec in words and "--check" not in words:
                return int(place.parent.name)
    raise AssertionError(f"there is no process of {name}")


def kill(folder: Path, name: str) -> int:
    """SIGKILL an actor; the process that it was."""
    number = pid(folder, name)
    os.kill(number, signal.SIGKILL)
    return number


# One student and its router, step by step


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("unkilled")
    fine("run", stepping(folder, model), cwd=folder, limit_s=LIMIT_S)
    kept(folder / RUN).balances()
    return folder


def stepping(folder: Path, model: Path) -> str:
    return config(folder, count=20, students=[student(model, "one", epochs=15)], router={"width": 16, "staleness": 0})


def test_killed_anywhere_one_student_and_its_router_come_to_the_same_to_the_bit(
    tmp_path: Path, model: Path, unkilled: Path
) -> None:
    chance = random.Random(5)
    with living("run", stepping(tmp_path, model), cwd=tmp_path) as process:
        done = wait_for(process, tmp_path, "one", chance.randint(1, 5))
        kill(tmp_path, "one")
        done = wait_for(process, tmp_path, "one", done + chance.randint(1, 5))
        kill(tmp_path, "router")
        wait_for(process, tmp_path, "one", done + chance.randint(2, 6))
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        assert ended(process).code == -9
    fine("run", "run.yaml", cwd=tmp_path, limit_s=LIMIT_S)
    survivor, whole = kept(tmp_path / RUN), kept(unkilled / RUN)
    survivor.balances()
    assert len(whole.dump["metrics"]) > 40
    for table in TRAINED:
        assert survivor.dump[table] == whole.dump[table], table
    for place in ("one/final/adapter_model.safetensors", "router/final/gates.safetensors"):
        weights = [(folder / RUN / "students" / place).read_bytes() for folder in (tmp_path, unkilled)]
        assert weights[0] == weights[1], place


# Students that teach each other, while teachers still write


def test_killed_while_teachers_write_every_trajectory_is_learnt_as_often(tmp_path: Path, model: Path) -> None:
    two = [student(model, name) for name in ("one", "two")]
    parts = {"router": {"width": 16, "explore": 1.0}, "peers": {"width": 8}, "learn": "at_once", "placement": "together"}
    config(tmp_path, count=100, engine={"skill": 0.6, "latency_s": 0.5}, limits={"questions": 4}, students=two, **parts)
    with living("run", "run.yaml", cwd=tmp_path) as process:
        learnt = wait_for(process, tmp_path, "two", 2)
        killed = kill(tmp_path, "one")
        wait_until(lambda: pid(tmp_path, "one") != killed)
        wait_for(process, tmp_path, "two", learnt + 1)
        process.kill()
        assert ended(process).code == -9
    assert "pending" in set(kept(tmp_path / RUN).states().values())  # what these teachers then wrote came later
    done = fine("run", "run.yaml", "--set", "engines.scripted.latency_s=0", "--json", cwd=tmp_path, limit_s=LIMIT_S)
    run = kept(tmp_path / RUN)
    run.balances()
    assert len([row for row in run.dump["plan"] if row["arrivals"]]) > 1
    accepted = {row["trajectory"] for row in run.dump["verdict"] if row["outcome"] == "accepted"}
    told = Counter((row["student"], row["trajectory"]) for row in run.dump["report"])
    assert told == {(name, trajectory): 3 for name in ("one", "two") for trajectory in accepted}
    assert all(row["final"] for row in done.summary["students"].values())
    assert not (tmp_path / RUN / "exchange").exists()


# A student that stops


def test_a_diverged_student_is_told_of_the_other_one_survives_a_kill_and_the_command_ends_again(
    tmp_path: Path, model: Path
) -> None:
    common = {"checkpoint_every": 1, "epochs": 20}
    two = [student(model, "good", **common), student(model, "wild", learning_rate=1e30, warmup=0, **common)]
    config(tmp_path, count=20, students=two, peers={"width": 8, "wait_s": 1.0})
    with living("run", "run.yaml", "--json", cwd=tmp_path) as process:
        told = heard(process, "student: student wild stopped at update ")
        assert "loss nan" in told
        wait_for(process, tmp_path, "good", 1)
        kill(tmp_path, "good")
        first = ended(process)
    assert first.code == 1
    stopped = first.summary["students"]["wild"]
    assert "its last good checkpoint is in" in stopped["stopped"]
    assert stopped["final"] is None
    assert (tmp_path / RUN / "students" / "wild" / f"checkpoint-{stopped['updates']:06d}").is_dir()
    assert Path(first.summary["students"]["good"]["final"]).is_dir()
    assert first.summary["state"] == "finished"
    before = kept(tmp_path / RUN)
    again = call("run", "run.yaml", "--json", cwd=tmp_path, limit_s=LIMIT_S)
    assert again.code == 1, again.err
    assert "train good" not in again.err
    for table in (*TRAINED, "failure", "call", "trajectory"):
        assert kept(tmp_path / RUN).dump[table] == before.dump[table], table


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)
