"""One condition of the papers' claims: students are taught by the actors that a run has, in this process, then asked.

    lessons ──▶ store, as if a search had settled every question ──▶ students, router, peers ──▶ final/ ──▶ greedy answers

Invariant: what is learnt depends on the condition, the lessons and the seed alone. Equal in all conditions: the questions, the
number of updates, and the trajectories in each (but for the single teacher, who solves fewer questions and goes over them more
often; and with a router each student learns what it is sent). Not covered: what is made of the marks (`distill_claims`).
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from claims_ground import RATIONALES, Data, Taught
from proving_ground.build import engine
from proving_ground.language import Problem
from proving_ground.measure import answered, question
from sampled_traces import trajectory

from agents.roster import open_model
from configs.engines import TransformersEngine
from configs.schema import Compatibility, Peers, Router, Student
from store.store import open_store
from store.types import Metrics, Outcome, QuestionState, Report, Route, Verdict, content_id
from trainers.actors import run_actors
from trainers.spec import AnySpec, RouterSpec, Shared, Spec

MOST_UPDATES = 1_000_000


_PEERS = Peers(staleness=0, wait_s=60)
"""Only what a peer says of the same update counts, as in the paper's joint training; or it would depend on who is faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all conditions share; chosen on seed 0, whose questions are not reported."""

    epochs: int = 4
    learning_rate: float = 1e-3
    router_rate: float = 3e-3
    """The default, 1e-4, moves no gate in two hundred updates."""
    batch: int = 4
    """Questions of an update, each with all of its rationales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One row: what is learnt, and by which parts. `misled`: the share of the rationales that is corrupted."""

    name: str
    data: Data = "accepted"
    compatibility: Compatibility | None = None
    router: Literal["none", "learns", "random"] = "none"
    """A random one never learns: its gates are noise."""
    peers: bool = False
    misled: float = 0.0
    own: bool = False
    """Whether a trajectory's own words are learnt behind the reasoning, or the right answer, which is what the filter knows."""


class Found(TypedDict):
    """What came of one condition with one seed."""

    marks: dict[str, dict[str, list[bool]]]
    """Right or wrong, by student and set."""
    told_apart: dict[str, dict[str, float]]
    """How well alpha and its scores tell sound from unsound rationales, `early` and `late`."""
    passes: float
    """Trajectories learnt, on average over the students."""
    updates: int
    seconds: float
    """Of CPU."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trajectory: whose question it answers, and whether every step of it is right."""

    question: str
    sound: bool


@dataclass(slots=True)
class Training:
    """The actors of one condition, and where they are."""

    condition: Condition
    settings: Settings
    seed: int
    bases: Mapping[str, Path]
    folder: Path
    traces: dict[str, Learnt] = field(default_factory=dict)

    async def teach(self, taught: Sequence[Taught], passes: int) -> tuple[list[Report], list[Metrics]]:
        """Every student learns `taught`, so often that about `passes` trajectories are learnt; what they measured."""
        await self._fill(taught)
        epochs = round(passes / sum(len(each.traces) for each in taught))
        endings = await run_actors(self._specs(epochs), lambda _: None, asyncio.Event())
        if set(endings) != {"done"}:
            raise RuntimeError(f"{self.condition.name}, seed {self.seed}: {endings}")
        async with open_store(self._store, create=False) as store:
            reports = await store.reports(0, MOST_UPDATES)
            return reports, [metrics for name in self.bases for metrics in await store.metrics(name)]

    def final(self, student: str) -> Path:
        """Where its weights are."""
        return self.folder / student / "final"

    @property
    def _store(self) -> Path:
        return self.folder / "store.db"

    async def _fill(self, taught: Sequence[Taught]) -> None:
        async with open_store(self._store, create=True) as store:
            await store.begin_run("claims", self.condition.name, "{}")
            for each in taught:
                asked = question(each.problem)
                trajectories = [
                    trajectory(content_id("claims", asked.id, trace.teacher, trace.draw), asked.id, trace)
                    for trace in each.traces
                ]
                ids = [trajectory.id for trajectory in trajectories]
                self.traces |= {key: Learnt(asked.id, trace.sound) for key, trace in zip(ids, each.traces, strict=True)}
                routes = [
                    Route(id=content_id("claims", key, name), trajectory=key, student=name) for key in ids for name in self.bases
                ]
                verdicts = [Verdict(trajectory=key, outcome=Outcome.ACCEPTED, reason="") for key in ids]
                await store.add_questions([asked], split="train")
                settled = routes if self.condition.router == "none" else []
                await store.settle_question(asked.id, QuestionState.SOLVED, "", trajectories, verdicts, settled)
            await store.end_search()

    def _specs(self, epochs: int) -> list[AnySpec]:
        rates = {"learns": self.settings.router_rate, "random": 1e-12}
        router = Router(learning_rate=rates[self.condition.router]) if self.condition.router in rates else None
        shared = Shared(
            store=self._store,
            seed=self.seed,
            config_hash=content_id("claims", self.condition.name, self.seed),
            names=tuple(self.bases),
            router=router,
            peers=_PEERS if self.condition.peers else None,
        )
        specs: list[AnySpec] = [
            Spec(shared=shared, student=self._student(name, model, epochs), model=model, directory=self.folder / name, threads=1)
            for name, model in self.bases.items()
        ]
        if router is not None:
            student = self._student(next(iter(self.bases)), Path(), epochs)
            specs.append(RouterSpec(shared=shared, student=student, directory=self.folder / "router"))
        return specs

    def _student(self, name: str, model: Path, epochs: int) -> Student:
        alone = self.condition.data == "single"  # some of whose questions have fewer rationales
        return Student(
            name=name,
            model=str(model),
            device="cpu",
            dtype="float32",
            tuning="full",
            conclusion="own" if self.condition.own else "common",
            compatibility=self.condition.compatibility,
            epochs=epochs,
            batch=self.settings.batch * (RATIONALES if alone else 1),
            batch_of="trajectories" if alone else "questions",
            learning_rate=self.settings.learning_rate,
            max_tokens=512,
            checkpoint_every=MOST_UPDATES,
        )


def marks(model: Path, sets: Mapping[str, Sequence[Problem]]) -> dict[str, list[bool]]:
    """Whether each greedy answer of a model is right."""

    async def ask() -> dict[str, list[bool]]:
        config = TransformersEngine.model_validate(engine(model) | {"max_batch": 256})
        async with open_model("student", config) as opened:
            return {name: await answered(opened.engine, problems) for name, problems in sets.items()}

    return asyncio.run(ask())


def distilled(
    condition: Condition,
    taught: Sequence[Taught],
    passes: int,
    *,
    settings: Settings,
    seed: int,
    bases: Mapping[str, Path],
    sets: Mapping[str, Sequence[Problem]],
    folder: Path,
) -> Found:
    """Teach every student, ask it, and clear `folder`."""
    began, training = time.process_time(), Training(condition, settings, seed, bases, folder)
    torch.manual_seed(seed)
    reports, metrics = asyncio.run(training.teach(taught, passes))
    found = {name: marks(training.final(name), sets) for name in bases}
    shutil.rmtree(folder)
    learnt = [report for report in reports if report.routed]
    updates = max(one.update for one in metrics)
    weighed = [(report, training.traces[report.trajectory]) for report in learnt if report.alpha is not None]
    return Found(
        marks=found,
        told_apart={
            "early": told_apart([each for each in weighed if each[0].update <= updates / 3]),
            "late": told_apart([each for each in weighed if each[0].update > 2 * updates / 3]),
        },
        passes=len(learnt) / len(bases),
        updates=updates,
        seconds=time.process_time() - began,
    )


def told_apart(weighed: Sequence[tuple[Report, Learnt]]) -> dict[str, float]:
    """How often a sound rationale has the better number of a sound and an unsound one of the same question, student and update,
    equal ones half (so .5 tells nothing); and `share`, the unsound ones' mean weight, 1 being as much as the others have."""
    groups: dict[tuple[str, int, str], list[tuple[Report, bool]]] = {}
    for report, trace in weighed:
        groups.setdefault((report.student, report.update, trace.question), []).append((report, trace.sound))
    mixed = [group for group in groups.values() if 0 < sum(sound for _, sound in group) < len(group)]
    found: dict[str, float] = {}
    for name, sign in (("alpha", 1), ("adaptability", 1), ("consensus", 1), ("difficulty", -1)):
        wins = [
            0.5 * (1 + np.sign(sign * (getattr(one, name) - getattr(other, name))))
            for group in mixed
            for one, sound in group
            for other, other_sound in group
            if sound and not other_sound and getattr(one, name) is not None
        ]
        if wins:
            found[name] = float(np.mean(wins))
    alphas = [(report.alpha or 0.0) * len(group) for group in mixed for report, sound in group if not sound]
    return found | ({"share": float(np.mean(alphas))} if alphas else {})
