"""What a user does, as functions: write a configuration, start the command, wait for it, look into the store it leaves.

Invariant: the command is always a real process in a folder of its own, and nothing that was started outlives its `with`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from recount import Dump, recounted

from store.store import Store, open_store
from store.types import Event

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "orchestrator")
LIMIT_S = 60.0

NOTE = re.compile(
    r"(run folder /|opening engines|teacher \w+ is asked /|search \d+/\d+$|engine \w+: )"
    r"|(exported \d+ |left out[ :]|watch at http)"
    r"|  (un)?solved +[0-9a-f]{8} "
)
"""The lines of progress that may stand on stderr beside a complaint."""


def environment(**more: str) -> dict[str, str]:
    """Ours, offline, with the repository as the only addition to the import path unless the package is installed."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "FORCE_COLOR", "COLUMNS"}}
    try:
        metadata.distribution("peripatos")
    except metadata.PackageNotFoundError:
        kept["PYTHONPATH"] = str(ROOT)
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def config(folder: Path, *, count: int = 10, engine: Mapping[str, Any] | None = None, **keys: Any) -> str:
    """Write run.yaml: a scripted run of `count` questions, with other `keys` over it; its file name."""
    values = {
        "name": "walk",
        "questions": [{"kind": "word_problems", "count": count, "seed": 1, "operations": [1, 2]}],
        "engines": {"scripted": {"kind": "scripted", "skill": 0.7, **(engine or {})}},
        "teachers": [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "scripted"}],
        "prover": {"engine": "scripted"},
        **keys,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return "run.yaml"


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON object in the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def told(self) -> list[str]:
        """The lines of stderr that are no progress."""
        return [line for line in self.err.splitlines() if not NOTE.match(line)]

    def complains(self, code: int, *words: str) -> None:
        """It ended with `code` and one clear line that holds all `words`."""
        assert "Traceback" not in self.err, self.err
        assert len(self.told) == 1, self.err
        (line,) = self.told
        assert line.startswith("peripatos: "), line
        assert not [word for word in words if word not in line], line
        assert self.code == code, self.err


def call(*arguments: str, cwd: Path, limit_s: float = LIMIT_S, **more: str) -> Done:
    """Run the command to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=limit_s, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def fine(*arguments: str, cwd: Path, limit_s: float = LIMIT_S, **more: str) -> Done:
    """Run the command to its end, which must be a good one."""
    done = call(*arguments, cwd=cwd, limit_s=limit_s, **more)
    assert done.code == 0, done.err
    return done


@contextmanager
def living(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs; killed at the end if it has not ended."""
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def heard(process: subprocess.Popen[str], start: str) -> str:
    """Read stderr up to the first line that begins with `start`; that line, or "" if the process ended without it."""
    assert process.stderr
    return next((line for line in process.stderr if line.startswith(start)), "")


def ended(process: subprocess.Popen[str]) -> Done:
    """Wait for the end; what was not read yet."""
    out, err = process.communicate(timeout=LIMIT_S)
    return Done(process.returncode, out, err)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run left: its rows without times, its counts, its events in order."""

    dump: Dump
    counts: Mapping[str, int]
    events: list[Event]

    def states(self) -> dict[str, str]:
        """The state of every question that is reasoned about."""
        return {row["id"]: row["state"] for row in self.dump["question"] if row["split"] == "train"}

    def balances(self) -> None:
        """The counts are what the rows say, every question is at its end, and each has one whole story."""
        assert +Counter(self.counts) == +recounted(self.dump)
        assert set(self.states().values()) <= {"solved", "unsolved"}
        assert {row["state"] for row in self.dump["node"]} <= {"kept", "pruned", "finished"}
        assert len(self.dump["verdict"]) == len(self.dump["trajectory"])
        accepted = {row["trajectory"] for row in self.dump["verdict"] if row["outcome"] == "accepted"}
        solved = {row["question"] for row in self.dump["trajectory"] if row["id"] in accepted}
        assert solved == {id for id, state in self.states().items() if state == "solved"}
        kinds = Counter(event.kind for event in self.events)
        for kind in ("question", "call", "failure"):
            assert kinds[kind] == len(self.dump[kind])
        for kind in ("trajectory", "verdict"):  # those of a requeued question were told of, and are not there any more
            assert kinds[kind] >= len(self.dump[kind])
            assert kinds[kind] == len(self.dump[kind]) or kinds["question_requeued"]


def kept(folder: Path) -> Kept:
    """Read the store of the run in `folder`."""

    async def read() -> Kept:
        async with open_store(folder / "peripatos.db", create=False, read_only=True) as store:
            return Kept(await store.dump(), await store.counts(), await _events(store))

    return asyncio.run(read())


async def _events(store: Store) -> list[Event]:
    events: list[Event] = []
    while page := await store.events(after=events[-1].seq if events else 0):
        events += page
    return events


def same_story(one: Kept, other: Kept) -> None:
    """Both runs came to the same: all rows are equal, and so are all events but those that every life of a run has."""
    assert one.dump.keys() == other.dump.keys()
    for table in one.dump.keys() - {"event"}:
        assert one.dump[table] == other.dump[table], table
    assert one.events[-1].kind == other.events[-1].kind == "run_finished"
    assert _lasting(one.events) == _lasting(other.events)


def _lasting(events: list[Event]) -> Counter[tuple[str, str]]:
    passing = {"question_leased", "question_released", "run_running", "run_interrupted", "run_finished"}
    return Counter((event.kind, event.subject) for event in events if event.kind not in passing)
