"""Every agent of a run: engines opened, teachers and prover built on them, all closed together.

Invariant: engines are opened once each and only if used; heavy imports happen here, when an engine needs them.
Not covered: students (`trainers`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.engines.base import Engine
from agents.errors import Refused
from agents.ledger import Model
from agents.models import ModelFolder, resolve
from agents.prover import Prover
from agents.teacher import Teacher
from configs.engines import EngineConfig, LitellmEngine, OpenAIEngine, TransformersEngine, lasting
from configs.schema import RunConfig
from store.types import content_id

Tell = Callable[[str], None]


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who can be asked in this run."""

    models: dict[str, Model]
    teachers: tuple[Teacher, ...]
    prover: Prover


@asynccontextmanager
async def open_roster(config: RunConfig, *, outputs: Path | None = None, tell: Tell = _silent) -> AsyncIterator[Roster]:
    """Open what `config` uses. Raises `ModelNotFound`, and `Refused` when the prover's engine cannot score.

    What managed servers print goes to the folder `outputs` (None: a temporary one); `tell` gets a line when one of them
    comes or goes.
    """
    used = [name for name in config.engines if name == config.prover.engine or name in {t.engine for t in config.teachers}]
    async with AsyncExitStack() as stack:
        opened = [open_model(name, config.engines[name], outputs=outputs, tell=tell) for name in used]
        models = {name: await stack.enter_async_context(model) for name, model in zip(used, opened, strict=True)}
        if not models[config.prover.engine].engine.capabilities.scores:
            raise Refused(f"prover: engine {config.prover.engine!r} cannot give log-probs of a given answer")
        yield Roster(models=models, teachers=_teachers(config, models), prover=_prover(config, models))


@asynccontextmanager
async def open_model(
    name: str, config: EngineConfig, adapter: Path | None = None, *, outputs: Path | None = None, tell: Tell = _silent
) -> AsyncIterator[Model]:
    """Open one engine; `adapter` is a LoRA directory that is merged into the model. Raises `ModelNotFound`."""
    identity = content_id(lasting(config), adapter.as_posix() if adapter else None)
    async with await _engine(name, config, adapter, outputs, tell) as engine:
        yield Model(name=name, identity=identity, engine=engine)


async def _engine(name: str, config: EngineConfig, adapter: Path | None, outputs: Path | None, tell: Tell) -> Engine:
    if isinstance(config, TransformersEngine):
        folder = await _resolved(config.model)

        from agents.engines.transformers import TransformersEngine as Transformers

        return Transformers(config, folder, adapter)
    if isinstance(config, OpenAIEngine):
        from agents.engines.openai import OpenAIEngine as OpenAI
        from agents.servers import ManagedServer, ServedEngine

        tokenizer = (await _resolved(config.tokenizer)).path if config.tokenizer else None
        if config.url:
            return OpenAI(config, config.url, tokenizer)
        assert config.server
        folder = await _resolved(config.server.model)
        output = (outputs or Path(tempfile.mkdtemp(prefix="peripatos-"))) / f"{name}.log"
        server = ManagedServer(config.server, name=name, folder=folder.path, served=config.model, output=output, tell=tell)
        return ServedEngine(server, OpenAI(config, server.url, tokenizer or folder.path))
    if isinstance(config, LitellmEngine):
        from agents.engines.litellm import LitellmEngine as Litellm

        return Litellm(config)
    from agents.engines.scripted import ScriptedEngine

    return ScriptedEngine(config)


async def _resolved(model: str) -> ModelFolder:
    return await asyncio.to_thread(resolve, model)


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
