"""The process around a run: signals that drain it.

    SIGTERM, SIGINT  -> draining: questions stop between two steps, a student writes a checkpoint
    a second signal, or drain_s later -> what is still in flight is cancelled; the store has everything else

Invariant: an interrupted run says so with its exit code (143 or 130), and the same command resumes it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The run was asked to end. `code` is the exit code: 128 plus the signal's number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"interrupted, exit code {code}")
        self.code = code


class Draining:
    """Whether, and since which signal, the run is to end."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        """Whether the run is to end soon."""
        return self.asked.is_set()

    def ask(self, received: signal.Signals) -> None:
        """Begin to drain."""
        self.signal = self.signal or received
        self.asked.set()

    @property
    def code(self) -> int:
        """The exit code of a run that was asked to end."""
        return 128 + (self.signal or signal.SIGTERM)


async def drained(work: Callable[[Draining], Coroutine[Any, Any, T]], drain_s: float) -> T:
    """Run `work` under SIGTERM and SIGINT. Raises `Interrupted` when one came before the end."""
    draining = Draining()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work(draining))

        def on_signal(received: signal.Signals) -> None:
            if draining():
                task.cancel()
            else:
                draining.ask(received)
                loop.call_later(drain_s, task.cancel)

        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, on_signal, each)
        try:
            result = await _finished(task)
        finally:
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(each)
    if result is None and draining():
        raise Interrupted(draining.code)
    assert result is not None
    return result


async def _finished(task: asyncio.Task[T]) -> T | None:
    """The task's value; None when it was cancelled (by a signal)."""
    await asyncio.wait([task])
    return None if task.cancelled() else task.result()
