"""The actors of one process: students, the router, or all of a run.

Invariant: where an actor lives changes no number: it talks through the store, and with peers through a shelf, in memory or in
files. Not covered: what they do (`loop.py`, `router.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from store.store import Store, open_store
from store.types import Failure, content_id
from trainers.encoder import open_encoder
from trainers.exchange import FileShelf, MemoryShelf, Shelf
from trainers.loop import train
from trainers.ranks import Alone, Ranks
from trainers.router import route
from trainers.spec import AnySpec, RouterSpec, Spec
from trainers.student import check_student
from trainers.update import Diverged

Tell = Callable[[dict[str, Any]], None]


async def run_actors(specs: Sequence[AnySpec], tell: Tell, stopping: asyncio.Event, ranks: Ranks | None = None) -> list[str]:
    """Run all of them at once, to their ends, or until `stopping` is set: how each ended. A student of several processes is
    the only one, and has its `ranks`.

    A student that diverges ends alone; what the others do then is told by their endings.
    """
    shelf = _shelf(specs)
    threads = [spec.threads for spec in specs if isinstance(spec, Spec) and spec.threads]
    if threads:
        torch.set_num_threads(threads[0])
    async with open_store(specs[0].shared.store, create=False) as store:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch") as torch_thread:
            async with asyncio.TaskGroup() as group:
                actors = [group.create_task(_run(spec, store, shelf, tell, stopping, torch_thread, ranks)) for spec in specs]
    return [actor.result() for actor in actors]


def check(spec: AnySpec) -> None:
    """Whether an actor can run as configured, without loading weights. Raises `ValueError`."""
    if isinstance(spec, RouterSpec):
        open_encoder(spec.encoder, 8, torch.device("cpu"))
        return
    try:
        check_student(spec.model, spec.student)
    except ValueError as error:
        raise ValueError(f"student {spec.student.name}: {error}") from error


def _shelf(specs: Sequence[AnySpec]) -> Shelf:
    folder = specs[0].shared.exchange
    return MemoryShelf() if folder is None or len(specs) > 1 else FileShelf(folder)


async def _run(
    spec: AnySpec,
    store: Store,
    shelf: Shelf,
    tell: Tell,
    stopping: asyncio.Event,
    torch_thread: ThreadPoolExecutor,
    ranks: Ranks | None,
) -> str:
    name = "router" if isinstance(spec, RouterSpec) else spec.student.name

    def say(message: dict[str, Any]) -> None:
        tell(message | {"actor": name})

    if isinstance(spec, RouterSpec):
        assert spec.shared.router is not None
        encoder = await asyncio.to_thread(open_encoder, spec.encoder, spec.shared.router.width, torch.device("cpu"))
        return await route(spec, store, encoder, say, stopping)
    ranks = ranks or Alone()
    assert spec.student.processes == 1 or not isinstance(ranks, Alone), "several processes are started by python -m trainers"
    try:
        try:
            ending = await train(spec, store, shelf, say, stopping, torch_thread, ranks)
        except Diverged:
            ranks.end()
            raise
        ranks.end()
        return ending
    except Diverged as diverged:
        kept = "its last good checkpoint is in" if any(spec.directory.glob("checkpoint-*")) else "no checkpoint is yet in"
        message = f"{diverged}; {kept} {spec.directory}"
        failure_id = content_id("failure", name, "diverged", str(diverged))
        await store.record_failure(
            Failure(id=failure_id, where=f"student {name}", kind="Diverged", message=message, tries=1, subject=name)
        )
        say({"kind": "diverged", "message": f"student {name} stopped at {message}"})
        return "diverged"
