"""The router: learns from what students report which of them gains from which trajectory (QR-Distill, Eq. 1-2).

    plans ──▶ batches ──▶ round of `every` batches ──▶ gates ──▶ routes ──▶ store ──▶ students
                              ▲                                                       │
                              └────────────── learn, a batch at a time ◀── reports ◀──┘

Consumes: plans and reports. Produces: routes of every round, metrics, checkpoints. Waits for: the students' reports of the
round `staleness` + 1 before, at most `wait_s`. Unblocked by: students that finish a round.

Invariant: one step of the gates for each batch that students learnt, with the gates that were the routes; so with `every` 1
and `staleness` 0 it makes the paper's joint update, and a resumed router makes the routes that it would have made.
Not covered: gates and their objective (`gates.py`), features (`encoder.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.schema import ROUTER
from store.reasoning import user_text
from store.store import Store
from store.types import Checkpoint, Lesson, Metrics, Report, Route, content_id
from trainers import checkpoint, gates
from trainers.checkpoint import Manifest
from trainers.course import begin_course
from trainers.encoder import HashedText, TextEncoder
from trainers.plan import Item
from trainers.routing import LOOK_S
from trainers.spec import RouterSpec

Tell = Callable[[dict[str, Any]], None]
_WEIGHTS = "gates.safetensors"
_STATE = "state.pt"


class Gatekeeper:
    """The gates, their optimizer, and what they know of every trajectory."""

    def __init__(self, spec: RouterSpec, encoder: HashedText | TextEncoder) -> None:
        assert spec.shared.router is not None
        self.config = spec.shared.router
        self.names = spec.shared.names
        self.seed = spec.shared.seed
        self.encoder = encoder
        num = len(self.names)
        self.gates = gates.Gates(encoder.width, num, self.seed, student_state=self.config.student_state)
        self.optimizer = torch.optim.AdamW(self.gates.parameters(), lr=self.config.learning_rate, weight_decay=0.0)
        self.seen: dict[str, Tensor] = {}
        """The last losses of each trajectory, by student, NaN where unknown: S."""
        self._features: dict[str, Tensor] = {}

    def read(self, lessons: Sequence[Lesson]) -> None:
        """Encode trajectories."""
        texts = [f"{user_text(lesson.question)}\n\n{lesson.trajectory.text}" for lesson in lessons]
        if texts:
            ids = [lesson.trajectory.id for lesson in lessons]
            self._features |= dict(zip(ids, self.encoder.encode(texts), strict=True))

    def routes(self, batch: Sequence[Item], number: int) -> list[Route]:
        """The routes of a batch in a round: gates as drawn, probabilities without noise."""
        ids = [item.trajectory for item in batch]
        with torch.no_grad():
            logits_JS2 = self._logits(ids)
            drawn_JS = self._drawn(logits_JS2, ids, number)
            probabilities_JS = gates.probabilities(logits_JS2, self.config.gate)
        return [
            Route(
                id=content_id("route", trajectory, student, number),
                trajectory=trajectory,
                student=student,
                round=number,
                gate=int(drawn_JS[row, column]),
                probability=float(probabilities_JS[row, column]),
            )
            for row, trajectory in enumerate(ids)
            for column, student in enumerate(self.names)
        ]

    def learn(self, batch: Sequence[Item], number: int, routes: Sequence[Route], reports: Sequence[Report]) -> dict[str, float]:
        """One step of the gates, from what students reported of one batch; what it came to."""
        ids = [item.trajectory for item in batch]
        rows, columns = {each: row for row, each in enumerate(ids)}, {name: column for column, name in enumerate(self.names)}
        losses_JS, routed_JS = torch.full((len(ids), len(columns)), torch.nan), torch.ones(len(ids), len(columns))
        for route in routes:
            routed_JS[rows[route.trajectory], columns[route.student]] = route.gate
        for report in reports:
            losses_JS[rows[report.trajectory], columns[report.student]] = report.cross_entropy
        logits_JS2 = self._logits(ids)
        drawn_JS = self._drawn(logits_JS2, ids, number)
        gates_JS = routed_JS + drawn_JS - drawn_JS.detach()  # what was routed, whatever would be drawn by now
        previous_JS = torch.stack([self._last(each) for each in ids])
        useful_JS = gates.utility(losses_JS, previous_JS, self.config.utility)
        weights_JS = gates.weights(routed_JS, ~losses_JS.isnan(), self.config.explore)
        objective = gates.objective(gates_JS, useful_JS, weights_JS, self.config.entropy, self.config.baseline)
        self.optimizer.zero_grad()
        objective.loss.backward()
        self.optimizer.step()
        for row, each in enumerate(ids):
            self.seen[each] = torch.where(losses_JS[row].isnan(), self._last(each), losses_JS[row])
        decided_JS = gates.decided(logits_JS2.detach(), self.config.gate).double()
        shares = {f"share {name}": float(decided_JS[:, column].mean()) for name, column in columns.items()}
        return {"loss": objective.loss.item(), "entropy": objective.entropy.item(), **shares}

    def state(self) -> dict[str, Any]:
        """What only a continued training needs."""
        return {"optimizer": self.optimizer.state_dict(), "seen": dict(self.seen)}

    def resume(self, folder: Path) -> None:
        """Go on where a checkpoint was written."""
        self.gates.load_state_dict(load_file(folder / _WEIGHTS))
        state = torch.load(folder / _STATE, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.seen = state["seen"]

    def _logits(self, ids: Sequence[str]) -> Tensor:
        state_JS = torch.stack([self._last(each) for each in ids]) if self.config.student_state else None
        return self.gates.logits(torch.stack([self._features[each] for each in ids]), state_JS)

    def _drawn(self, logits_JS2: Tensor, ids: Sequence[str], number: int) -> Tensor:
        noise_JS2 = gates.noise(self.seed, ids, number, len(self.names))
        return gates.sample(logits_JS2, noise_JS2, self.config.gate, self.config.temperature)

    def _last(self, trajectory: str) -> Tensor:
        return self.seen.get(trajectory, torch.full((len(self.names),), torch.nan))


async def route(
    spec: RouterSpec, store: Store, encoder: HashedText | TextEncoder, tell: Tell, stopping: asyncio.Event
) -> Literal["done", "stopped"]:
    """Write every round's routes and learn from every round's reports, to the end or until `stopping` is set.

    Raises `OtherTraining` if its directory belongs to another configuration, and `StoreError`.
    """
    if checkpoint.find_final(spec.directory, spec.shared.config_hash) is not None:
        return "done"
    return await _Router(spec, store, encoder, tell, stopping).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Some batches of one epoch, the first of which is the update `first`, from 0."""

    number: int
    epoch: int
    first: int
    batches: list[list[Item]]


class _Router:
    """Between the gates and the store."""

    def __init__(
        self, spec: RouterSpec, store: Store, encoder: HashedText | TextEncoder, tell: Tell, stopping: asyncio.Event
    ) -> None:
        self.spec = spec
        self.store = store
        self.tell = tell
        self.stopping = stopping
        self.keeper = Gatekeeper(spec, encoder)
        self.course = begin_course(store, spec.student, spec.shared.seed, stopping, None)
        self.learnt = 0
        """Rounds."""
        self.routed: deque[_Round] = deque()
        """Rounds that students are at, and that are not learnt from yet."""
        self.metrics: list[Metrics] = []
        self.silent: dict[str, int] = {}
        """Students that are not waited for, with the update that they had last told of."""
        self._unread: list[Lesson] = []

    async def run(self) -> Literal["done", "stopped"]:
        await self._resume()
        async for each in self._rounds():
            if each.number < self.learnt:
                continue
            while len(self.routed) > self.keeper.config.staleness:
                if not await self._learn(self.routed.popleft()):
                    return "stopped"
            routes = [route for batch in each.batches for route in self.keeper.routes(batch, each.number)]
            await self.store.record_routes(routes)  # those of a round that was routed before a kill stand as they are
            self.routed.append(each)
        while self.routed:
            if not await self._learn(self.routed.popleft()):
                return "stopped"
        if self.course.walk.ended_with is None:
            return "stopped"
        await self._save(final=True)
        self.tell({"kind": "done", "update": self.learnt, "directory": str(self.spec.directory / checkpoint.FINAL)})
        return "done"

    async def _rounds(self) -> AsyncIterator[_Round]:
        """All rounds, as their epochs are planned."""
        epoch, every = 0, self.keeper.config.every
        while await self.course.reach(epoch, self._read):
            await asyncio.to_thread(self.keeper.read, self._unread)
            self._unread = []
            walk = self.course.walk
            batches, first = walk.batches(epoch), walk.first_update(epoch)
            for at in range(0, len(batches), every):
                number = walk.round_of(epoch, first + at, every)
                yield _Round(number=number, epoch=epoch, first=first + at, batches=batches[at : at + every])
            epoch += 1

    def _read(self, lesson: Lesson) -> bool:
        self._unread.append(lesson)
        return True

    async def _learn(self, each: _Round) -> bool:
        """Learn from a round when its reports are there; False when asked to stop before."""
        last = each.first + len(each.batches)
        if not await self._reported(last):
            return False
        routes, reports = await self.store.routes(each.number), await self.store.reports(each.first, last)
        for offset, batch in enumerate(each.batches):
            ids = {item.trajectory for item in batch}
            told = [report for report in reports if report.update == each.first + offset + 1]
            of_batch = [route for route in routes if route.trajectory in ids]
            values = await asyncio.to_thread(self.keeper.learn, batch, each.number, of_batch, told)
            self.metrics.append(Metrics(student=ROUTER, update=each.first + offset + 1, values=values))
        self.learnt = each.number + 1
        if self.learnt % self.spec.student.checkpoint_every == 0:
            await self._save()
        self.tell({"kind": "round", "round": self.learnt})
        return True

    async def _reported(self, update: int) -> bool:
        """Wait until every student that is not silent, nor stopped for good, has told of an update; False when asked to stop.

        Without all of them nobody is there to go on for: then it waits on, while models are still loaded, say.
        """
        until = time.monotonic() + self.keeper.config.wait_s
        while not self.stopping.is_set():
            last = await self.store.last_updates()
            self.silent = {name: told for name, told in self.silent.items() if last.get(name, 0) == told}
            behind = [name for name in self.keeper.names if last.get(name, 0) < update]
            late = [name for name in behind if name not in self.silent and not await self._has_diverged(name)]
            if not late:
                return True
            if time.monotonic() > until and len(behind) < len(self.keeper.names):
                self.silent |= {name: last.get(name, 0) for name in late}
                self.tell({"kind": "note", "message": f"router: goes on without {', '.join(late)}"})
            await asyncio.sleep(LOOK_S)
        return False

    async def _has_diverged(self, student: str) -> bool:
        return any(failure.kind == "Diverged" for failure in await self.store.failures_about(student))

    async def _resume(self) -> None:
        spec = self.spec
        recorded = await self.store.checkpoints(ROUTER)
        newest = checkpoint.find_newest(spec.directory, recorded, spec.shared.config_hash)
        if newest is not None:
            folder, manifest = newest
            self.keeper.resume(folder)
            self.learnt = manifest.update
        await asyncio.to_thread(checkpoint.clean, spec.directory)

    async def _save(self, *, final: bool = False) -> None:
        folder = self.spec.directory / (checkpoint.FINAL if final else checkpoint.name_of(self.learnt))
        draft = await asyncio.to_thread(self._write, folder.name)
        config_hash = self.spec.shared.config_hash
        recorded = Checkpoint(student=ROUTER, update=self.learnt, directory=str(folder), config_hash=config_hash, final=final)
        await self.store.record_training([], self.metrics, recorded)
        self.metrics = []
        await asyncio.to_thread(checkpoint.publish, draft)
        await asyncio.to_thread(checkpoint.clean, self.spec.directory)

    def _write(self, name: str) -> Path:
        draft = checkpoint.begin(self.spec.directory, name)
        save_file(self.keeper.gates.state_dict(), draft / _WEIGHTS)
        torch.save(self.keeper.state(), draft / _STATE)
        manifest = Manifest(
            config_hash=self.spec.shared.config_hash,
            lessons_hash=self.course.identity,
            epoch=len(self.course.walk.arrivals) - 1,
            update=self.learnt,
            updates=None,
            examples=sum(map(len, self.course.walk.arrivals)),
            left_out=0,
            losses=(),
        )
        checkpoint.seal(draft, manifest)
        return draft
