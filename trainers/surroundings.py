"""What an actor of this process is given to work with.

Invariant: torch runs in one thread, which is not the event loop's. Not covered: who makes these things (`actors.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from store.store import Store
from trainers.exchange import Shelf
from trainers.ranks import Ranks

Tell = Callable[[dict[str, Any]], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Shared by the actors of a process, but for `tell`, which adds the actor's name."""

    store: Store
    shelf: Shelf
    tell: Tell
    stopping: asyncio.Event
    """Set when the process is asked to stop."""
    torch_thread: ThreadPoolExecutor
    ranks: Ranks

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """In the torch thread."""
        return await asyncio.get_running_loop().run_in_executor(self.torch_thread, partial(function, *arguments))

    async def together(self, function: Callable[..., T], *arguments: object) -> T:
        """In the torch thread, and in that of every rank that trains the same student."""
        return await self.call(self.ranks.together, function, *arguments)
