"""The supervisor with real child processes: what they say, how they die, how they are ended."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.daemon import Draining
from orchestrator.supervisor import ChildFailed, ChildRefused, run_child


class Child:
    """A module that `python -m` runs, and what was heard of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.heard: list[Mapping[str, Any]] = []
        self.errors = folder / "errors.log"
        monkeypatch.setenv("PYTHONPATH", str(folder))

    def run(self, program: str, *, draining: bool = False, silent_s: float = 60.0) -> None:
        """Run `program` to its end, or, if `draining`, ask for it once the child has said something."""
        (self._folder / "program.py").write_text(f"import json, pathlib, signal, sys, time\n{program}")
        asyncio.run(self._run(Draining(), draining, silent_s))

    async def _run(self, draining: Draining, ask: bool, silent_s: float) -> None:
        def told(message: Mapping[str, Any]) -> None:
            self.heard.append(message)
            if ask:
                draining.ask(signal.SIGTERM)

        await run_child(["program"], draining=draining, drain_s=0.5, told=told, errors=self.errors, silent_s=silent_s)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    return Child(tmp_path, monkeypatch)


def test_what_a_child_says_is_told_and_what_is_no_json_is_passed_over(child: Child) -> None:
    child.run("print(json.dumps({'kind': 'one'})); print('a stray line'); print(json.dumps({'kind': 'two'}))")
    assert [message["kind"] for message in child.heard] == ["one", "two"]


def test_a_child_that_dies_is_started_again(child: Child) -> None:
    child.run(
        "seen = pathlib.Path(sys.argv[0]).with_name('seen')\n"
        "if not seen.exists():\n    seen.touch(); sys.exit('out of luck')\n"
        "print(json.dumps({'kind': 'done'}))"
    )
    assert [message["kind"] for message in child.heard] == ["done"]
    assert "out of luck" in child.errors.read_text()


def test_a_child_that_dies_each_time_fails_in_one_line_with_its_last_words(child: Child) -> None:
    with pytest.raises(ChildFailed, match=r"^program: exit code 1 after 2 restarts: out of luck; see .*errors\.log$"):
        child.run("print(json.dumps({'kind': 'begun'}), flush=True); sys.exit('out of luck')")
    assert len(child.heard) == 3


def test_restarts_count_anew_after_a_checkpoint(child: Child) -> None:
    child.run(
        "seen = pathlib.Path(sys.argv[0]).with_name('seen')\n"
        "lives = len(seen.read_text()) if seen.exists() else 0\n"
        "seen.write_text('x' * (lives + 1))\n"
        "if lives == 2: print(json.dumps({'kind': 'checkpoint'}), flush=True)\n"
        "if lives < 4: sys.exit('out of luck')"
    )
    assert len(child.heard) == 1


def test_a_child_that_is_stuck_is_killed_and_started_again(child: Child) -> None:
    child.run(
        "mark = pathlib.Path(sys.argv[0]).with_name('seen')\n"
        "print(json.dumps({'kind': 'alive'}), flush=True)\n"
        "if not mark.exists():\n"
        "    mark.touch()\n"
        "    import os; os.kill(os.getpid(), signal.SIGSTOP)\n"
        "print(json.dumps({'kind': 'done'}))",
        silent_s=3.0,
    )
    assert [message["kind"] for message in child.heard] == ["done"]


def test_a_child_that_refuses_what_it_was_given_is_not_started_again(child: Child) -> None:
    with pytest.raises(ChildRefused, match=r"^program: no such layer; see "):
        child.run("print(json.dumps({'kind': 'error', 'message': 'no such layer'})); sys.exit(2)")
    assert len(child.heard) == 1


@pytest.mark.parametrize("deaf", [False, True])
def test_draining_ends_a_child_also_one_that_does_not_hear(child: Child, deaf: bool) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else ""
    started = time.monotonic()
    child.run(f"{ignore}print(json.dumps({{'kind': 'begun'}}), flush=True)\ntime.sleep(60)", draining=True)
    assert time.monotonic() - started < 30
