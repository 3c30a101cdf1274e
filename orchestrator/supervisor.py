"""Runs a student's child process: starts it, listens to it, restarts it with back-off, and never outlives it.

Invariant: the child ends when this process ends, however that happens: it watches its standard input, which we hold open.
Not covered: what the child does (`trainers`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from orchestrator.daemon import Draining
from trainers.torchrun import DIVERGED, REFUSED

log = structlog.get_logger()

SILENT_S = 120.0
"""A child says every ten seconds that it is alive, once it has loaded its libraries: one that is silent so long is stuck."""

_RESTARTS = 2
_FIRST_WAIT_S = 1.0
_LAST_LINES = 15


class ChildFailed(Exception):
    """A child process died again and again; the message is one line with its last words."""


class ChildRefused(ChildFailed):
    """A child process said, by exit code 2, that what it was given is wrong: another start would end the same."""


async def run_child(
    arguments: list[str],
    *,
    draining: Draining,
    drain_s: float,
    told: Callable[[Mapping[str, Any]], None],
    errors: Path,
    silent_s: float = SILENT_S,
) -> None:
    """Run `python -m ARGUMENTS` to its end; each JSON line of its stdout goes to `told`, its stderr to the file `errors`.

    Draining sends it SIGTERM. Raises `ChildRefused`, and `ChildFailed` after `_RESTARTS` restarts without a new checkpoint.
    """
    restarts = 0

    def heard(message: Mapping[str, Any]) -> None:
        nonlocal restarts
        if message.get("kind") == "checkpoint":
            restarts = 0
        told(message)

    while True:
        code, last = await _once(arguments, draining, drain_s, heard, errors, silent_s)
        if code in {0, DIVERGED} or draining():
            return
        log.warning("child_died", arguments=arguments, code=code, restarts=restarts, last=last)
        if code == REFUSED:
            raise ChildRefused(f"{arguments[0]}: {last}; see {errors}")
        if restarts == _RESTARTS:
            raise ChildFailed(f"{arguments[0]}: exit code {code} after {restarts} restarts: {last}; see {errors}")
        with suppress(TimeoutError):
            await asyncio.wait_for(draining.asked.wait(), _FIRST_WAIT_S * 2**restarts)
        restarts += 1


async def _once(
    arguments: list[str],
    draining: Draining,
    drain_s: float,
    told: Callable[[Mapping[str, Any]], None],
    errors: Path,
    silent_s: float,
) -> tuple[int, str]:
    """One life of the child: its exit code and its last error."""
    errors.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=1)
    with errors.open("ab") as stderr:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            limit=1 << 20,
        )
        try:
            async with asyncio.TaskGroup() as group:
                ending = group.create_task(_end_when_draining(child, draining, drain_s))
                await _listen(child, told, last, silent_s)
                code = await child.wait()
                ending.cancel()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    return code, last[0] if last else _tail(errors)


async def _listen(
    child: asyncio.subprocess.Process, told: Callable[[Mapping[str, Any]], None], last: deque[str], silent_s: float
) -> None:
    assert child.stdout is not None
    while True:
        try:
            line = await asyncio.wait_for(child.stdout.readline(), silent_s)
        except TimeoutError:
            last.append(f"it was silent for {silent_s:g} s, so it was killed")
            child.kill()
            return
        if not line:
            return
        try:
            message = json.loads(line)
        except ValueError:
            log.warning("child_said", line=line.decode(errors="replace").rstrip())
            continue
        if message.get("kind") == "error" and not last:  # of several ranks the first to fail breaks the others
            last.append(str(message.get("message")))
        if message.get("kind") != "alive":
            told(message)


async def _end_when_draining(child: asyncio.subprocess.Process, draining: Draining, drain_s: float) -> None:
    await draining.asked.wait()
    with suppress(ProcessLookupError):
        child.terminate()
    await asyncio.sleep(drain_s)
    with suppress(ProcessLookupError):
        child.kill()


def _tail(errors: Path) -> str:
    lines = errors.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    return lines[-1].strip() if lines else "it said nothing"
