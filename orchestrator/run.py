"""THE LOOP.

      questions ──▶ store ──lease──▶ solve x N ──▶ verdicts ──▶ store ──plans, routes──▶ student x S ──▶ adapters
                                      │   ▲                       │ ▲                     │  ▲ peers      │
                   proposals, samples │   │ scores, rulings       ▼ │ routes      reports ▼  │            ▼
                             teachers ▼   │ prover, judges       router ◀───────────────── store       accuracy on held-out
                              engines ────┘                                                            questions, by engines

    search    N workers lease questions until none is left, or the target is met; each question moves on its own
    before    the students as they are, on the held-out questions
    train     students learn what was accepted, each in a child process, from the router's choice and from each other
    after     the students as they have become
    export    the accepted trajectories as a file
    teachers  the teachers on the held-out questions, if wanted: last, since they may spend what is left of the budget

Stages meet only in the store: whatever is not terminal there is work, so the same command resumes. A stage that finds
nothing to do costs nothing. Invariant: a run is "finished" only when every question is in a terminal state, or its target is met.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from agents.pauses import Pauses
from configs.load import dump, identity
from configs.schema import RunConfig
from orchestrator.accuracies import Accuracies
from orchestrator.controls import Controls
from orchestrator.daemon import Draining, Interrupted
from orchestrator.estimate import estimate
from orchestrator.exports.export import export_messages
from orchestrator.folder import Folder
from orchestrator.inspector.process import inspector
from orchestrator.progress import Progress
from orchestrator.pulse import Pulse
from orchestrator.questions.gather import gather, gather_held_out
from orchestrator.quota import Quota
from orchestrator.students import Students
from orchestrator.summary import STAGES, Stage, summarise
from orchestrator.workers import Search
from store.store import RunState, Store, open_store
from store.types import content_id

log = structlog.get_logger()


async def run(
    config: RunConfig, folder: Folder, progress: Progress, draining: Draining, *, sample: int | None = None
) -> dict[str, Any]:
    """Take the run in `folder` to its end; its summary. Raises `Interrupted` when it was drained.

    With a `sample`, a dry run: so many questions are solved, and the summary says what all of them will take.
    """
    async with open_store(folder.database) as store, inspector(config.http, folder, progress.note):
        await store.release_leases()  # of a process that died: this one holds the folder
        before = await store.run()
        was_finished = before is not None and before.state == "finished"
        await store.begin_run(content_id("run", identity(config)), config.name, dump(config))
        controls = Controls(file=config, store=store, tell=progress.note, pauses=Pauses(draining))
        pulse = Pulse(shown=progress, store=store, controls=controls)
        async with controls.watched(), pulse.beating():
            try:
                await _stages(config, folder, store, pulse, draining, controls, sample)
            except BaseException:
                await store.release_leases()
                await store.end_run("interrupted")
                raise
            await store.end_run(await _end(config, store, progress) if not sample or was_finished else "interrupted")
            if sample and config.evaluation and config.evaluation.teachers:
                progress.note("the teachers' answers to held-out questions (evaluation.teachers) are not in the estimate")
            return await summarise(config, folder, store) | ({"estimate": await estimate(store)} if sample else {})


async def _end(config: RunConfig, store: Store, progress: Progress) -> RunState:
    """How a run ends whose stages are done: with work that was given back to it after the search, it goes on another time."""
    counts = await store.counts()
    left, accepted = counts.get("questions.pending", 0), counts.get("trajectories.accepted", 0)
    if not left or Quota(config.target.accepted, accepted).met:
        return "finished"
    progress.note(f"{left} questions were requeued after the search, and are pending: the same command goes on")
    return "interrupted"


async def _stages(
    config: RunConfig,
    folder: Folder,
    store: Store,
    pulse: Pulse,
    draining: Draining,
    controls: Controls,
    sample: int | None,
) -> None:
    here: dict[str, Any] = {"config": config, "folder": folder, "store": store, "progress": pulse, "draining": draining}
    students = Students(**here)
    accuracies = Accuracies(**here, pauses=controls.pauses)
    search = Search(**here, controls=controls, most=sample)
    stages: dict[Stage, Callable[[], Awaitable[None]]] = {
        "questions": lambda: _prepare(config, store, pulse, students),
        "search": lambda: _search(search, store, ends=sample is None),
        "before": accuracies.measure_before,
        "train": students.train,
        "after": accuracies.measure_after,
        "export": lambda: _export(config, folder, store, pulse),
        "teachers": accuracies.measure_teachers,
    }

    async def do(name: Stage) -> None:
        log.info("stage_started", stage=name)
        async with pulse.working(name):
            await stages[name]()
        log.info("stage_ended", stage=name)

    for names in _order(config, dry=sample is not None):
        async with asyncio.TaskGroup() as group:
            for name in names[1:]:
                group.create_task(do(name))
            await do(names[0])
        if draining():
            raise Interrupted(draining.code)


def _order(config: RunConfig, *, dry: bool) -> Sequence[tuple[Stage, ...]]:
    """The stages in order; those of one tuple at the same time."""
    if dry:
        return ("questions",), ("search",)
    if config.students and config.learn == "at_once":
        return ("questions",), ("before",), ("search", "train"), ("after",), ("export",), ("teachers",)
    return tuple((name,) for name in STAGES)


async def _prepare(config: RunConfig, store: Store, progress: Progress, students: Students) -> None:
    """All questions, also those to measure with, and all students, so that a mistake is told before anything is spent."""
    await gather(config, store, progress)
    if config.evaluation:
        await gather_held_out(config.evaluation, store, progress)
    await students.check()


async def _search(search: Search, store: Store, *, ends: bool) -> None:
    """To its end, which students wait for."""
    await search.run()
    if ends and not search.draining():
        await store.end_search()


async def _export(config: RunConfig, folder: Folder, store: Store, progress: Progress) -> None:
    system = config.students[0].system if config.students else None
    written = await export_messages(store, folder.messages, system=system)
    progress.note(f"exported {written} trajectories to {folder.messages}")
