"""Every agent of a run: engines opened, teachers and prover built on them, all closed together.

    all servers start ──▶ each engine opens when its servers answer ──▶ teachers, prover ──▶ engines close ──▶ all servers end

Invariant: engines are opened once each and only if used; heavy imports happen here, when an engine needs them.
Not covered: students (`trainers`).
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agents.engines.base import Engine, together
from agents.engines.nobody import Nobody
from agents.errors import Broken, Refused
from agents.judge import Judge
from agents.ledger import Model
from agents.limits import Gate
from agents.models import ModelFolder, resolve
from agents.probe import probe
from agents.prover import Prover
from agents.replicas import Replica, Replicas
from agents.servers import ManagedServer, ServedEngine, Servers
from agents.teacher import Teacher
from configs.engines import EngineConfig, LitellmEngine, OpenAIEngine, ScriptedEngine, TransformersEngine, lasting
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
    prover: Prover | None
    judges: tuple[Judge, ...] = ()

    def set_limits(self, config: RunConfig) -> None:
        """From now on, so many requests may be out at each engine as `config` says."""
        for name, model in self.models.items():
            model.gate.set_most(most_in_flight(config.engines[name]))

    @property
    def gone(self) -> Broken | None:
        """Why no question can ever be solved: the prover's engine or a judge's is gone for good, or those of all teachers are."""
        for agent in (*((self.prover,) if self.prover else ()), *self.judges):
            if agent.model.gate.gone:
                return agent.model.gate.gone
        gone = [teacher.model.gate.gone for teacher in self.teachers]
        return gone[0] if all(gone) else None


@asynccontextmanager
async def open_roster(config: RunConfig, *, outputs: Path | None = None, tell: Tell = _silent) -> AsyncIterator[Roster]:
    """Open what `config` uses, and find out by asking what every server can really do.

    Raises `ModelNotFound`, and `Refused` when an engine cannot be used as it is to be, or has no price where money is capped.
    What managed servers print goes to the folder `outputs` (None: a temporary one); `tell` gets a line for each engine, and
    when one of them comes or goes.
    """
    agents = [*config.teachers, *config.judges, *((config.prover,) if config.prover else ())]
    asked = {agent.engine for agent in agents}
    used = [name for name in config.engines if name in asked]
    if config.replay:
        yield _roster(config, {name: _replayed(name, config.engines[name]) for name in used})
        return
    async with Servers() as servers, AsyncExitStack() as stack:
        models = {name: await _model(name, config.engines[name], None, servers, outputs, tell) for name in used}
        await _open(stack, models, servers)
        models = {name: _limited(model, config, tell) for name, model in models.items()}
        await together([_probed(model, config, tell) for model in models.values()])
        yield _roster(config, models)


@asynccontextmanager
async def open_model(
    name: str, config: EngineConfig, adapter: Path | None = None, *, outputs: Path | None = None, tell: Tell = _silent
) -> AsyncIterator[Model]:
    """Open one engine; `adapter` is a LoRA directory that is merged into the model. Raises `ModelNotFound`."""
    async with Servers() as servers, AsyncExitStack() as stack:
        model = await _model(name, config, adapter, servers, outputs, tell)
        await _open(stack, {name: model}, servers)
        yield model


async def _open(stack: AsyncExitStack, models: dict[str, Model], servers: Servers) -> None:
    """Open every engine when its servers are ready; the first error ends the others."""
    turn = asyncio.Lock()  # one at a time: transformers can be neither imported nor load a model in two threads at once

    async def one(model: Model) -> None:
        await servers.ready(model.name)
        async with turn:
            await stack.enter_async_context(model.engine)

    await together([one(model) for model in models.values()])


def _replayed(name: str, config: EngineConfig) -> Model:
    return Model(name=name, identity=content_id(lasting(config), None), engine=Nobody(), price=config.price)


def _limited(model: Model, config: RunConfig, tell: Tell) -> Model:
    """With its gate and its price. Raises `Refused` when money is capped and no price is known."""
    engine = config.engines[model.name]
    remote = isinstance(engine, OpenAIEngine | LitellmEngine)
    limits = engine.limits.model_copy(update={"in_flight": most_in_flight(engine)})
    gate = Gate(limits, name=model.name, adaptive=remote, tries=config.limits.tries, tell=tell)
    price = engine.price or model.engine.capabilities.price
    hosted = isinstance(engine, LitellmEngine) or (isinstance(engine, OpenAIEngine) and engine.server is None)
    capped = config.budget.usd is not None or any(t.budget.usd is not None for t in config.teachers if t.engine == model.name)
    if hosted and capped and price is None:
        raise Refused(f"engine {model.name}: no price of it is known, and US dollars are capped; give its `price`")
    return replace(model, gate=gate, price=price)


def most_in_flight(engine: EngineConfig) -> int:
    """How many requests may be out at once."""
    if isinstance(engine, TransformersEngine):  # its own queue is first come, first served: let what waits wait at the gate
        return min(engine.limits.in_flight, engine.max_batch + math.ceil(engine.max_batch / 4))
    return engine.limits.in_flight


async def _probed(model: Model, config: RunConfig, tell: Tell) -> None:
    """Tell what the engine is; raise `Refused` when it cannot do what it is for. Engines of this process promise only what
    they do, and are asked nothing."""
    able, engine = model.engine.capabilities, config.engines[model.name]
    proves = config.prover is not None and model.name == config.prover.engine
    if not isinstance(engine, OpenAIEngine | LitellmEngine):
        if proves and not able.scores and config.search.strategy != "binary":
            raise Refused(f"prover: engine {model.name!r} cannot give log-probs of a given answer: {able.why_not}")
        return tell(f"engine {model.name}: {able.model} on {able.device} in {able.dtype}, {able.found}")
    found = await probe(model.engine, tries=config.limits.tries)
    tell(f"engine {model.name}: {found.line()}")
    if proves and found.cannot_prove and config.search.strategy != "binary":
        raise Refused(f"prover: engine {model.name!r} cannot be the prover: {found.cannot_prove}")
    if found.faults and any(teacher.engine == model.name for teacher in config.teachers):
        raise Refused(f"engine {model.name}: {'; '.join(found.faults)}")
    whole = config.search.whole_traces or config.sampling is not None
    key = "max_think_tokens" if whole else "max_step_tokens"
    if 0 < able.context_tokens <= (most := getattr(config.search, key)):
        longest = f"search.{key} is {most}"
        raise Refused(f"engine {model.name}: its context is {able.context_tokens} tokens, and {longest}")


async def _model(
    name: str, config: EngineConfig, adapter: Path | None, servers: Servers, outputs: Path | None, tell: Tell
) -> Model:
    """A model whose engine is to be opened yet; its servers, if it has any, are starting."""
    identity = content_id(lasting(config), adapter.as_posix() if adapter else None)
    if isinstance(config, OpenAIEngine):
        engine = await _reached(name, config, servers, outputs, tell)
    else:
        engine = await _engine(config, adapter)
    return Model(name=name, identity=identity, engine=engine)


async def _engine(config: TransformersEngine | LitellmEngine | ScriptedEngine, adapter: Path | None) -> Engine:
    if isinstance(config, TransformersEngine):
        folder = await _resolved(config.model)

        from agents.engines.transformers import TransformersEngine as Transformers

        return Transformers(config, folder, adapter)
    if isinstance(config, LitellmEngine):
        from agents.engines.litellm import LitellmEngine as Litellm

        return Litellm(config)
    from agents.engines.scripted import ScriptedEngine as Scripted

    return Scripted(config)


async def _reached(name: str, config: OpenAIEngine, servers: Servers, outputs: Path | None, tell: Tell) -> Engine:
    """The engine over HTTP: at its addresses, or at servers that are started here."""
    from agents.engines.openai import OpenAIEngine as OpenAI

    tokenizer = (await _resolved(config.tokenizer, weights=False)).path if config.tokenizer else None
    if config.server is None:
        replicas = [Replica(name=url, engine=OpenAI(config, url, tokenizer)) for url in config.addresses]
        return _one_engine(replicas)
    folder = (await _resolved(config.server.model)).path
    outputs = outputs or Path(tempfile.mkdtemp(prefix="peripatos-"))
    alone = config.server.replicas == 1
    replicas = []
    for number in range(config.server.replicas):
        called = name if alone else f"{name}-{number}"
        output = outputs / f"{called}.log"
        server = ManagedServer(
            config.server, name=called, folder=folder, served=config.model, output=output, tell=tell, replica=number
        )
        await servers.start(name, server)
        engine = ServedEngine(server, OpenAI(config, server.url, tokenizer or folder), alone=alone)
        replicas.append(Replica(name=called, engine=engine, watched=engine.is_up))
    return _one_engine(replicas)


def _one_engine(replicas: list[Replica]) -> Engine:
    return replicas[0].engine if len(replicas) == 1 else Replicas(replicas)


async def _resolved(model: str, *, weights: bool = True) -> ModelFolder:
    return await asyncio.to_thread(resolve, model, weights=weights)


def _teachers(config: RunConfig, models: dict[str, Model]) -> tuple[Teacher, ...]:
    return tuple(
        Teacher(
            config=teacher,
            index=index,
            model=models[teacher.engine],
            asking=teacher.asking or config.asking,
            search=config.search,
            seed=config.seed,
            sampling=config.sampling,
        )
        for index, teacher in enumerate(config.teachers)
    )


def _roster(config: RunConfig, models: dict[str, Model]) -> Roster:
    judges = [Judge(config=judge, model=models[judge.engine], judging=config.judging) for judge in config.judges]
    return Roster(models=models, teachers=_teachers(config, models), prover=_prover(config, models), judges=tuple(judges))


def _prover(config: RunConfig, models: dict[str, Model]) -> Prover | None:
    if config.prover is None:
        return None
    return Prover(
        config=config.prover,
        model=models[config.prover.engine],
        asking=config.prover.asking or config.asking,
        segmentation=config.search.segmentation,
        seed=config.seed,
    )
