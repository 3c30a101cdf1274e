"""Child processes that do algebra for us: started when they are needed, ended at a deadline, never outliving us.

    consumes     requests (`symbolic`)
    produces     replies, or `Undecided` with the reason in words
    waits for    a free child, and for its reply until the deadline
    unblocked by the reply, the deadline, the child's death

Invariant: at most `workers` children; each works on one request at a time, in a session of its own; one that missed a deadline,
died or was left in the middle of a request is killed and replaced. Not covered: what they compute (`symbolic`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.supervisor import ChildFailed

_START_S = 120.0
"""How long a child may take until it is ready, on a busy machine."""
_LONGEST_REPLY = 1 << 20


class Undecided(Exception):
    """A request got no reply; the message says why."""


class Late(Undecided):
    """A request missed its deadline."""


class AlgebraFailed(ChildFailed):
    """No child can be started."""


class _Child:
    """One child process, once it is needed."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The living process, if there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reply. A child that died while nobody asked it is replaced. Raises `Undecided`."""
        try:
            if self.pid is None or not await self._exchanged({"do": "nothing"}):
                await self._start()
            if reply := await self._exchanged(request):
                return reply
        except TimeoutError as error:
            raise Late(f"not decided in {self._deadline_s:g} s") from error
        raise Undecided("the process that was to decide died")

    async def _exchanged(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The reply; {} from a child that is dead or dies. Without a reply it is gone afterwards. Raises `TimeoutError`."""
        process, reply = self._process, {}
        assert process and process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            async with asyncio.timeout(self._deadline_s):
                await process.stdin.drain()
                reply = json.loads(await process.stdout.readline())
        except (ConnectionError, ValueError):  # half a line is no JSON
            pass
        finally:
            if not reply:
                await self.close()
        return reply

    async def _start(self) -> None:
        await self.close()
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator.answers.symbolic", str(2 * self._deadline_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            limit=_LONGEST_REPLY,
        )
        assert process.stdout
        ready = b""
        try:
            async with asyncio.timeout(_START_S):
                ready = await process.stdout.readline()
        except TimeoutError:
            pass
        finally:
            if not ready:
                await self.close()
        if not ready:
            raise AlgebraFailed(f"{sys.executable} -m orchestrator.answers.symbolic does not start; is math-verify installed?")

    async def close(self) -> None:
        """Kill it with all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin:
            process.stdin.close()
        await process.wait()


class Algebra:
    """Some children, one request each."""

    def __init__(self, children: list[_Child]) -> None:
        self._children = children
        self._idle: asyncio.LifoQueue[_Child] = asyncio.LifoQueue(len(children))  # the last one used is the one that runs
        for child in children:
            self._idle.put_nowait(child)

    @property
    def pids(self) -> list[int]:
        """The living processes."""
        return [child.pid for child in self._children if child.pid is not None]

    async def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reply of a child that is free. Raises `Undecided`, `AlgebraFailed`."""
        child = await self._idle.get()
        try:
            return await child.ask(request)
        finally:
            self._idle.put_nowait(child)


@asynccontextmanager
async def open_algebra(*, deadline_s: float, workers: int) -> AsyncIterator[Algebra]:
    """Give children that start when they are asked; afterwards none is left."""
    children = [_Child(deadline_s) for _ in range(workers)]
    try:
        yield Algebra(children)
    finally:
        for child in children:
            await child.close()
