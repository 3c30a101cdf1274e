"""Every agent of a run: engines opened, teachers and prover built on them, all closed together.

Invariant: engines are opened once each and only if used; heavy imports happen here, when an engine needs them.
Not covered: students (`trainers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.engines.base import Engine
from agents.errors import Refused
from agents.ledger import Model
from agents.prover import Prover
from agents.teacher import Teacher
from configs.schema import EngineConfig, RunConfig, TransformersEngine
from store.types import content_id

_SPEED = {"max_batch", "prefix_cache_mb", "latency_s"}
"""Keys of an engine's config that change how fast it answers, not what it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who can be asked in this run."""

    models: dict[str, Model]
    teachers: tuple[Teacher, ...]
    prover: Prover


@asynccontextmanager
async def open_roster(config: RunConfig) -> AsyncIterator[Roster]:
    """Open what `config` uses. Raises `ModelNotFound`, and `Refused` when the prover's engine cannot score."""
    used = [name for name in config.engines if name == config.prover.engine or name in {t.engine for t in config.teachers}]
    async with AsyncExitStack() as stack:
        models = {name: await stack.enter_async_context(open_model(name, config.engines[name])) for name in used}
        if not models[config.prover.engine].engine.capabilities.scores:
            raise Refused(f"prover: engine {config.prover.engine!r} cannot give log-probs of a given answer")
        yield Roster(models=models, teachers=_teachers(config, models), prover=_prover(config, models))


@asynccontextmanager
async def open_model(name: str, config: EngineConfig, adapter: Path | None = None) -> AsyncIterator[Model]:
    """Open one engine; `adapter` is a LoRA directory that is merged into the model. Raises `ModelNotFound`."""
    identity = content_id(config.model_dump(mode="json", exclude=_SPEED), adapter.as_posix() if adapter else None)
    async with await _engine(config, adapter) as engine:
        yield Model(name=name, identity=identity, engine=engine)


async def _engine(config: EngineConfig, adapter: Path | None) -> Engine:
    if isinstance(config, TransformersEngine):
        from agents.models import resolve

        folder = await asyncio.to_thread(resolve, config.model)

        from agents.engines.transformers import TransformersEngine as Transformers

        return Transformers(config, folder, adapter)
    from agents.engines.scripted import ScriptedEngine

    return ScriptedEngine(config)


def _teachers(config: RunConfig, models: dict[str, Model]) -> tuple[Teacher, ...]:
    return tuple(
        Teacher(
            config=teacher,
            index=index,
            model=models[teacher.engine],
            asking=teacher.asking or config.asking,
            search=config.search,
            seed=config.seed,
        )
        for index, teacher in enumerate(config.teachers)
    )


def _prover(config: RunConfig, models: dict[str, Model]) -> Prover:
    return Prover(config=config.prover, model=models[config.prover.engine], asking=config.prover.asking or config.asking)
