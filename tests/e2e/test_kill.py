"""SIGKILL and SIGTERM at random moments, then the same command again: nothing is lost, doubled or different."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from command import Kept, config, ended, fine, heard, kept, living, same_story

pytestmark = pytest.mark.chaos

RUN = Path("runs/walk")


def prepared(folder: Path) -> str:
    """A run of one to two seconds in which some calls fail."""
    return config(folder, count=60, engine={"latency_s": 0.015, "failure_rate": 0.05}, limits={"questions": 6})


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("unkilled")
    fine("run", prepared(folder), cwd=folder)
    run = kept(folder / RUN)
    run.balances()
    assert run.dump["failure"]
    return run


def struck(folder: Path, number: signal.Signals, chance: random.Random) -> int:
    """Start the command, and send it a signal at some moment of its life; the exit code."""
    with living("run", "run.yaml", cwd=folder) as process:
        if chance.random() < 0.75:
            heard(process, "search ")
            time.sleep(chance.uniform(0, 0.5))
        else:
            time.sleep(chance.uniform(0, 1.2))
        process.send_signal(number)
        return ended(process).code


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_the_same_command_ends_as_if_nothing_had_been(tmp_path: Path, unkilled: Kept, seed: int) -> None:
    chance = random.Random(seed)
    prepared(tmp_path)
    codes = [struck(tmp_path, signal.SIGKILL, chance) for _ in range(6)]
    assert set(codes) <= {-9, 0}
    assert codes.count(-9) >= 5
    fine("run", "run.yaml", cwd=tmp_path)
    survivor = kept(tmp_path / RUN)
    survivor.balances()
    same_story(survivor, unkilled)


def test_terminated_at_random_moments_the_same_command_ends_as_if_nothing_had_been(tmp_path: Path, unkilled: Kept) -> None:
    chance = random.Random(11)
    prepared(tmp_path)
    codes = [struck(tmp_path, signal.SIGTERM, chance) for _ in range(5)]
    assert set(codes) <= {143, 0, -15}  # -15: before the run had begun, when there is nothing to drain
    assert 143 in codes
    fine("run", "run.yaml", cwd=tmp_path)
    survivor = kept(tmp_path / RUN)
    survivor.balances()
    same_story(survivor, unkilled)
