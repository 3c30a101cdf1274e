"""SIGTERM and SIGINT: draining, the second signal, the deadline, and the same command afterwards."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from command import Done, config, ended, fine, heard, kept, living, same_story

RUN = Path("runs/walk")


def stopped(folder: Path, *numbers: signal.Signals) -> tuple[Done, float]:
    """Start the run, and send it signals 0.3 s apart once it searches; how it ended, and how long after the first signal."""
    with living("run", "run.yaml", cwd=folder) as process:
        assert heard(process, "teacher bob is asked")  # the last line before it searches
        time.sleep(0.3)
        began = time.monotonic()
        for each in numbers:
            process.send_signal(each)
            time.sleep(0.3)
        return ended(process), time.monotonic() - began


def test_a_signal_drains_and_the_same_command_finishes(tmp_path: Path) -> None:
    interrupted, straight = tmp_path / "interrupted", tmp_path / "straight"
    for folder in (interrupted, straight):
        config(folder, count=12, engine={"latency_s": 0.08}, limits={"questions": 6})
    done, _ = stopped(interrupted, signal.SIGTERM)
    assert done.code == 143
    assert done.told == ["interrupted; the same command resumes"]
    assert done.out == ""
    half = fine("status", str(RUN), "--json", cwd=interrupted).summary
    assert half["state"] == "interrupted"
    assert half["questions_by_state"]["leased"] == 0
    assert half["questions_by_state"]["pending"] > 0
    assert half["calls"] > 0
    assert fine("run", "run.yaml", "--json", cwd=interrupted).summary["state"] == "finished"
    fine("run", "run.yaml", cwd=straight)
    kept(interrupted / RUN).balances()
    same_story(kept(interrupted / RUN), kept(straight / RUN))


def test_an_interrupt_from_the_keyboard_drains_too_and_lets_calls_in_flight_end(tmp_path: Path) -> None:
    config(tmp_path, count=4, engine={"latency_s": 0.8})
    done, took = stopped(tmp_path, signal.SIGINT)
    assert done.code == 130
    assert done.told == ["interrupted; the same command resumes"]
    assert took > 0.4
    assert kept(tmp_path / RUN).dump["node"]


def test_a_second_signal_ends_at_once_whatever_the_engine_does(tmp_path: Path) -> None:
    config(tmp_path, engine={"latency_s": 20})
    done, took = stopped(tmp_path, signal.SIGTERM, signal.SIGTERM)
    assert done.code == 143
    assert took < 4
    assert set(kept(tmp_path / RUN).states().values()) == {"pending"}


def test_the_deadline_of_draining_is_kept(tmp_path: Path) -> None:
    config(tmp_path, engine={"latency_s": 20}, limits={"drain_s": 1.0})
    done, took = stopped(tmp_path, signal.SIGTERM)
    assert done.code == 143
    assert 0.9 < took < 5
