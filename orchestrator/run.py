"""THE LOOP.

      questions ──▶ store ──lease──▶ solve x N ──▶ verdicts, routes ──▶ store ──▶ student ──▶ adapter
                                      │   ▲                                          │
                            proposals │   │ scores                                   ▼
                             teachers ▼   │ prover                 accuracy on held-out questions,
                              engines ────┘                          before and after, through engines

    search    N workers lease questions until none is left; each question moves on its own, there is no barrier
    before    the student as it is, on the held-out questions
    train     the student's child process learns what was accepted
    after     the student as it has become
    export    the accepted trajectories as a file

Stages meet only in the store: whatever is not terminal there is work, so the same command resumes. A stage that finds
nothing to do costs nothing. Invariant: a run is "finished" only when every question is in a terminal state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog

from agents.roster import open_roster
from configs.load import dump, identity
from configs.schema import RunConfig
from orchestrator.daemon import Draining, Interrupted, status_server
from orchestrator.export import export_messages
from orchestrator.folder import Folder
from orchestrator.gather import gather
from orchestrator.progress import Progress
from orchestrator.solve import Drained, Solver
from orchestrator.students import Students
from orchestrator.summary import STAGES, summarise
from store.store import Store, open_store
from store.types import content_id

log = structlog.get_logger()


async def run(config: RunConfig, folder: Folder, progress: Progress, draining: Draining) -> dict[str, Any]:
    """Take the run in `folder` to its end; its summary. Raises `Interrupted` when it was drained."""
    async with open_store(folder.database) as store:
        await store.release_leases()  # of a process that died: this one holds the folder
        await store.begin_run(content_id("run", identity(config)), config.name, dump(config))
        async with status_server(config.http.port, lambda: summarise(config, folder, store)) as port:
            if port is not None:
                progress.note(f"status at http://127.0.0.1:{port}/status")
            try:
                await _stages(config, folder, store, progress, draining)
            except BaseException:
                await store.release_leases()
                await store.end_run("interrupted")
                raise
            await store.end_run("finished")
            return await summarise(config, folder, store)


async def _stages(config: RunConfig, folder: Folder, store: Store, progress: Progress, draining: Draining) -> None:
    students = Students(config=config, folder=folder, store=store, progress=progress, draining=draining)
    stages: tuple[Callable[[], Awaitable[None]], ...] = (
        lambda: gather(config, store, progress),
        lambda: _search(config, folder, store, progress, draining),
        students.measure_before,
        students.train,
        students.measure_after,
        lambda: _export(config, folder, store, progress),
    )
    for name, stage in zip(STAGES, stages, strict=True):
        log.info("stage_started", stage=name)
        async with _timed(store, name):
            await stage()
        log.info("stage_ended", stage=name)
        if draining():
            raise Interrupted(draining.code)


@asynccontextmanager
async def _timed(store: Store, stage: str) -> AsyncIterator[None]:
    """Add what a stage took to its seconds, also when it is interrupted."""
    started = time.perf_counter()
    try:
        yield
    finally:
        await store.add_stage_seconds(stage, time.perf_counter() - started)


async def _search(config: RunConfig, folder: Folder, store: Store, progress: Progress, draining: Draining) -> None:
    """N workers solve leased questions until none is left."""
    counts = await store.counts()
    total = sum(counts.get(f"questions.{state}", 0) for state in ("pending", "leased", "solved", "unsolved"))
    done = counts.get("questions.solved", 0) + counts.get("questions.unsolved", 0)
    progress.stage("search", done, total)
    if done == total:
        return
    owner = "run"
    progress.note("opening engines; a model that is not on this machine is fetched once")
    async with open_roster(config, outputs=folder.servers, tell=progress.note) as roster:
        for model in roster.models.values():
            able = model.engine.capabilities
            progress.note(f"engine {model.name}: {able.model} on {able.device} in {able.dtype}, {able.found}")
        solver = Solver(
            run=content_id("run", identity(config)),
            config=config,
            roster=roster,
            store=store,
            draining=draining,
            progress=progress,
        )

        async def work() -> None:
            nonlocal done
            while not draining() and (question := await store.lease_question(owner, config.limits.lease_s)):
                try:
                    await solver.solve(question)
                except Drained:
                    return
                done += 1
                progress.stage("search", done, total)

        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(_keep_leases(store, owner, config.limits.lease_s))
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(config.limits.questions, total - done)):
                    workers.create_task(work())
            keeping.cancel()


async def _keep_leases(store: Store, owner: str, lease_s: float) -> None:
    while True:
        await asyncio.sleep(lease_s / 3)
        await store.renew_leases(owner, lease_s)


async def _export(config: RunConfig, folder: Folder, store: Store, progress: Progress) -> None:
    system = config.students[0].system if config.students else None
    written = await export_messages(store, folder.messages, system=system)
    progress.note(f"exported {written} trajectories to {folder.messages}")
