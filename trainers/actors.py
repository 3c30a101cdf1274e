"""The actors of one process: students, the router, or all of a run.

Invariant: where an actor lives changes no number: it talks through the store, and with peers through a shelf, in memory or in
files. Not covered: what they do (`loop.py`, `router.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from configs.schema import ROUTER
from store.store import open_store
from store.types import Failure, content_id
from trainers.encoder import open_encoder
from trainers.exchange import FileShelf, MemoryShelf, Shelf
from trainers.loop import train
from trainers.ranks import Alone, Ranks
from trainers.router import route
from trainers.spec import AnySpec, RouterSpec, Spec
from trainers.student import check_student
from trainers.surroundings import Surroundings, Tell
from trainers.update import Diverged


async def run_actors(specs: Sequence[AnySpec], tell: Tell, stopping: asyncio.Event, ranks: Ranks | None = None) -> list[str]:
    """Run all of them at once, to their ends, or until `stopping` is set: how each ended. A student of several processes is
    the only one, and has its `ranks`.

    A student that diverges ends alone; what the others do then is told by their endings.
    """
    threads = [spec.threads for spec in specs if isinstance(spec, Spec) and spec.threads]
    if threads:
        torch.set_num_threads(threads[0])
    async with open_store(specs[0].shared.store, create=False) as store:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch") as torch_thread:
            around = Surroundings(
                store=store,
                shelf=_shelf(specs),
                tell=tell,
                stopping=stopping,
                torch_thread=torch_thread,
                ranks=ranks or Alone(),
            )
            async with asyncio.TaskGroup() as group:
                actors = [group.create_task(_run(spec, _named(around, spec))) for spec in specs]
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


def _name(spec: AnySpec) -> str:
    return ROUTER if isinstance(spec, RouterSpec) else spec.student.name


def _named(around: Surroundings, spec: AnySpec) -> Surroundings:
    return replace(around, tell=lambda message: around.tell(message | {"actor": _name(spec)}))


async def _run(spec: AnySpec, around: Surroundings) -> str:
    if isinstance(spec, RouterSpec):
        assert spec.shared.router is not None
        encoder = await asyncio.to_thread(open_encoder, spec.encoder, spec.shared.router.width, torch.device("cpu"))
        return await route(spec, around.store, encoder, around.tell, around.stopping)
    several = not isinstance(around.ranks, Alone)
    assert several or spec.student.processes == 1, "several processes are started by python -m trainers"
    try:
        ending = await train(spec, around)
    except Diverged as diverged:
        around.ranks.end()
        return await _tell_divergence(spec, around, diverged)
    around.ranks.end()
    return ending


async def _tell_divergence(spec: Spec, around: Surroundings, diverged: Diverged) -> str:
    name = spec.student.name
    kept = "its last good checkpoint is in" if any(spec.directory.glob("checkpoint-*")) else "no checkpoint is yet in"
    message = f"{diverged}; {kept} {spec.directory}"
    failure_id = content_id("failure", name, "diverged", str(diverged))
    await around.store.record_failure(
        Failure(id=failure_id, where=f"student {name}", kind="Diverged", message=message, tries=1, subject=name)
    )
    around.tell({"kind": "diverged", "message": f"student {name} stopped at {message}"})
    return "diverged"
