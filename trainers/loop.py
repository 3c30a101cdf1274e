"""One student's training.

    store ──plans, lessons──▶ batches ──▶ routes ──▶ update (U) ──reports, metrics──▶ store
                                                      │  ▲  ▲ peers                   ▲
                                                      ▼  │ resume                     │ one transaction
                                                  checkpoint ─────────────────────────┘ ──▶ final/

Consumes: lessons of one student, as epochs begin. Produces: reports, metrics, checkpoints, the weights in `final/`. Waits
for: routes and peers, each for a bounded time; arrivals, while teachers still write. Unblocked by: the router, the other
students, the search.

Invariant: equal plans, routes, configuration and seed make equal losses on a CPU, however often the process was killed
between; without router and peers nothing is recorded without the checkpoint that it led to.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file, save_file

from store.types import Checkpoint, Failure, Metrics, Report, content_id
from trainers import checkpoint
from trainers.checkpoint import Manifest
from trainers.course import Course, batch_at, begin_course
from trainers.data import Example, Examples, Writing
from trainers.exchange import Exchange
from trainers.followers import open_learner
from trainers.measures import Measured
from trainers.plan import Item
from trainers.routing import Assignment, Everything, Routed, Routing
from trainers.spec import Spec
from trainers.student import Chat, load_chat
from trainers.surroundings import Surroundings
from trainers.teaching import make_teaching
from trainers.update import Learner

Ending = Literal["done", "nothing", "stopped"]

PAUSED_S = 1.0
"""Between two looks at whether a paused run goes on."""
_PROJECTION = "peers.safetensors"


@dataclass(slots=True)
class Unrecorded:
    """What was measured since it was last recorded."""

    reports: list[Report] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)


async def train(spec: Spec, around: Surroundings) -> Ending:
    """Train one student to the end of its schedule, or to the next update after it is asked to stop.

    Raises `OtherTraining` if its directory belongs to another configuration, `Diverged`, `StoreError`, `ValueError` for a model
    that cannot be a student.
    """
    shared, config = spec.shared, spec.student
    if (finished := checkpoint.find_final(spec.directory, shared.config_hash)) is not None:
        where = str(spec.directory / checkpoint.FINAL)
        around.tell({"kind": "done", "update": finished.update, "directory": where, "already": True})
        return "done"
    chat = await around.call(load_chat, spec.model)
    examples = _examples(spec, chat)
    only = None if shared.router is not None else config.name
    course = begin_course(around.store, config, shared.seed, around.stopping, only)
    if not await course.reach(0, examples):
        waiting = course.walk.ended_with is None
        return "stopped" if waiting else await _nothing(spec, around, examples)
    learner = await around.together(lambda: open_learner(spec, around.ranks))
    if shared.peers is not None:
        await _introduce(spec, around, learner, chat)
    trainer = _Trainer(spec, around, course, examples, chat, learner)
    await trainer.resume()
    return await trainer.learn()


class _Trainer:
    """Between the learner's thread and everybody else."""

    def __init__(
        self, spec: Spec, around: Surroundings, course: Course, examples: Examples, chat: Chat, learner: Learner
    ) -> None:
        shared, config = spec.shared, spec.student
        self.spec = spec
        self.around = around
        self.course = course
        self.examples = examples
        self.chat = chat
        self.learner = learner
        self.routing: Routing = Everything(tuple(name for name in shared.names if name != config.name))
        if shared.router is not None:
            self.routing = Routed(around.store, shared.router, config.name, shared.names, shared.seed, around.stopping)
        self.exchange: Exchange | None = None
        if shared.peers is not None:
            self.exchange = Exchange(around.shelf, config.name, shared.peers.staleness, shared.peers.wait_s)
        self.unrecorded = Unrecorded()
        self.losses: list[float | None] = []
        self.saved = 0
        """Updates at the last checkpoint."""

    async def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        spec, around = self.spec, self.around
        recorded = await around.store.checkpoints(spec.student.name)
        newest = checkpoint.find_newest(spec.directory, recorded, spec.shared.config_hash)
        if newest is not None:
            folder, manifest = newest
            await self.course.reach(manifest.epoch, self.examples)
            if manifest.lessons_hash != self.course.identity:
                raise checkpoint.OtherTraining(f"{folder} was made from other lessons: delete {spec.directory} to start again")
            await around.call(self._load, folder)
            self.losses = list(manifest.losses)
            self.saved = len(self.losses)
            self.learner.remember([loss for loss in self.losses if loss is not None])
        await around.call(checkpoint.clean, spec.directory)
        student = self.learner.student
        around.tell(
            {
                "kind": "loaded",
                "update": len(self.losses),
                "updates": self.course.walk.updates,
                "examples": len(self.examples.by_trajectory),
                "left_out": self.examples.left_out,
                "device": str(student.device),
                "dtype": str(student.dtype).removeprefix("torch."),
                "parameters": sum(parameter.numel() for parameter in student.parameters),
            }
        )

    async def learn(self) -> Ending:
        """Every update that is left."""
        epoch = 0
        while await self.course.reach(epoch, self.examples):
            await _record_unfit(self.spec, self.around, self.examples)
            for items in batch_at(self.course, epoch, len(self.losses)):
                assigned = await self._assigned(epoch, items)
                if assigned is None:
                    return await self._stop()
                await self._update(items, epoch, assigned)
                if self._is_due():
                    await self._save()
            epoch += 1
        await _record_unfit(self.spec, self.around, self.examples)
        if self.around.stopping.is_set() and self.course.walk.ended_with is None:
            return await self._stop()
        last = next((loss for loss in reversed(self.losses) if loss is not None), None)
        if last is None:
            return await _nothing(self.spec, self.around, self.examples)
        if self.learner.suspect is not None:
            self.around.tell(
                {"kind": "note", "message": f"{self.spec.student.name} ends on high losses, from {self.learner.suspect}"}
            )
        folder = await self._save(final=True)
        self.around.tell({"kind": "done", "update": len(self.losses), "directory": str(folder), "loss": last})
        return "done"

    async def _assigned(self, epoch: int, items: Sequence[Item]) -> Assignment | None:
        """What of a batch is this student's, once the run is not paused; None when it is asked to stop."""
        while await self.around.store.paused() and not self.around.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.around.stopping.wait(), PAUSED_S)
        if self.around.stopping.is_set():
            return None
        return await self.routing.assign(self.course.walk, epoch, len(self.losses), items)

    def _is_due(self) -> bool:
        done = len(self.losses)
        due = done % self.spec.student.checkpoint_every == 0 and done != self.course.walk.updates
        return due and self.learner.suspect is None

    async def _update(self, items: Sequence[Item], epoch: int, assigned: Assignment) -> None:
        number, config, learner, around = len(self.losses), self.spec.student, self.learner, self.around
        began, by_trajectory = time.monotonic(), self.examples.by_trajectory
        known = [by_trajectory[item.trajectory] for item in items if item.trajectory in by_trajectory]
        learnt = [example for example in known if example.trajectory in assigned.learns]
        measured = [example for example in known if example.trajectory in assigned.measures]
        if self.exchange is not None:
            await self.exchange.decline(assigned.learns - by_trajectory.keys(), number)
        fellows = {each.trajectory: fellows for each in learnt if (fellows := assigned.fellows.get(each.trajectory))}
        rate = self.course.walk.rate(number, config.learning_rate, config.warmup)
        await around.together(learner.begin, number, rate, learnt, len(fellows))
        if measured:
            await around.together(learner.measure, measured)
        if self.exchange is None:
            await around.together(learner.learn, learnt)
        else:
            for at, rows in enumerate(learner.passes(learnt)):
                await self._pass(self.exchange, rows, number, at, fellows)
        found = await around.together(learner.finish)
        await around.together(learner.step)
        self._keep(found, epoch, len(learnt), time.monotonic() - began)
        if self.spec.shared.router is not None:  # it waits for them
            await around.store.record_training(self.unrecorded.reports, self.unrecorded.metrics)
            self.unrecorded = Unrecorded()

    async def _pass(
        self, exchange: Exchange, rows: Sequence[Example], number: int, at: int, fellows: dict[str, Sequence[str]]
    ) -> None:
        """One forward and backward pass; between them the peers have their say."""
        speaking = frozenset(example.trajectory for example in rows if example.trajectory in fellows)
        forward = await self.around.call(self.learner.forward, rows, at, speaking)
        heard = {}
        if forward.messages:
            wanted = {message.trajectory: fellows[message.trajectory] for message in forward.messages}
            heard = await exchange.swap(forward.messages, wanted, number)
            exchange.counts["sent_tokens"] += sum(len(each.labels_N) for each in forward.spoken)
        await self.around.call(self.learner.backward, forward, heard)

    def _keep(self, measured: Measured, epoch: int, num_learnt: int, seconds: float) -> None:
        self.losses.append(measured.loss)
        update, student = len(self.losses), self.spec.student.name
        self.unrecorded.reports += measured.reports
        values = {
            "learning_rate": measured.learning_rate,
            "tokens": float(measured.tokens),
            "response_tokens": float(measured.response_tokens),
            "epoch": self.course.walk.epochs_done(epoch, update),
            "left_out": float(self.examples.left_out),
            **({} if measured.loss is None else {"loss": measured.loss}),
            **({} if measured.gradient_norm is None else {"gradient_norm": measured.gradient_norm}),
            **{f"loss {name}": value for name, value in measured.terms.items()},
            **{f"routes {name}": float(count) for name, count in self.routing.counts.items()},
            **({f"peers {name}": float(count) for name, count in self.exchange.counts.items()} if self.exchange else {}),
        }
        self.unrecorded.metrics.append(Metrics(student=student, update=update, values=values))
        progress = {"kind": "update", "update": update, "updates": self.course.walk.updates, "seconds": round(seconds, 3)}
        told = {"loss": measured.loss, "learning_rate": measured.learning_rate, "tokens": measured.tokens}
        self.around.tell(progress | told | {"learns": num_learnt})

    async def _stop(self) -> Ending:
        if len(self.losses) > self.saved and self.learner.suspect is None:
            await self._save()
        return "stopped"

    async def _save(self, *, final: bool = False) -> Path:
        """Write a checkpoint, record it with all that was measured on the way to it, give it its name."""
        update, around = len(self.losses), self.around
        folder = self.spec.directory / (checkpoint.FINAL if final else checkpoint.name_of(update))
        draft = await around.call(self._write, folder.name, final)
        recorded = Checkpoint(
            student=self.spec.student.name,
            update=update,
            directory=str(folder),
            config_hash=self.spec.shared.config_hash,
            final=final,
        )
        await around.store.record_training(self.unrecorded.reports, self.unrecorded.metrics, recorded)
        self.unrecorded = Unrecorded()
        await around.call(checkpoint.publish, draft)
        await around.call(checkpoint.clean, self.spec.directory)
        self.saved = update
        around.tell({"kind": "checkpoint", "update": update, "directory": str(folder)})
        return folder

    def _write(self, name: str, final: bool) -> Path:
        draft = checkpoint.begin(self.spec.directory, name)
        self.around.ranks.together(self.learner.save, draft, final)
        if self.spec.student.tuning == "full":
            self.chat.save(draft)
        if self.learner.teaching is not None and self.learner.teaching.projection is not None:
            save_file(self.learner.teaching.projection.state_dict(), draft / _PROJECTION)
        manifest = Manifest(
            config_hash=self.spec.shared.config_hash,
            lessons_hash=self.course.identity,
            epoch=len(self.course.walk.arrivals) - 1,
            update=len(self.losses),
            updates=self.course.walk.updates,
            examples=len(self.examples.by_trajectory),
            left_out=self.examples.left_out,
            losses=tuple(self.losses),
        )
        checkpoint.seal(draft, manifest)
        return draft

    def _load(self, folder: Path) -> None:
        self.around.ranks.together(self.learner.load, folder)
        if self.learner.teaching is not None and self.learner.teaching.projection is not None:
            self.learner.teaching.projection.load_state_dict(load_file(folder / _PROJECTION))


def _examples(spec: Spec, chat: Chat) -> Examples:
    shared, config = spec.shared, spec.student
    writing = Writing(
        template=chat,
        system=config.system,
        common=shared.answer_prefix if config.conclusion == "common" else None,
        thinking_words=config.compatibility.thinking_words if config.compatibility else (),
    )
    return Examples(writing, config.max_tokens, alone=shared.router is None and shared.peers is None)


async def _introduce(spec: Spec, around: Surroundings, learner: Learner, chat: Chat) -> None:
    """Leave the vocabulary for peers, and make ready to hear them."""
    shared, name, student = spec.shared, spec.student.name, learner.student
    assert shared.peers is not None
    vocabulary = chat.vocabulary + [None] * (student.vocabulary_size - len(chat.vocabulary))
    await asyncio.to_thread(around.shelf.introduce, name, vocabulary)
    seed = int(content_id("projection", shared.seed, name)[:12], 16)
    of = around.shelf.vocabulary
    teaching = make_teaching(shared.peers, student.width, student.head, vocabulary, chat.fingerprint, of, seed)
    await around.call(learner.teach_with, teaching)


async def _record_unfit(spec: Spec, around: Surroundings, examples: Examples) -> None:
    """A lesson that cannot be learnt is a failure of one item."""
    where = f"student {spec.student.name}"
    for trajectory, why in examples.unfit.items():
        failure_id = content_id("failure", spec.student.name, trajectory, why)
        await around.store.record_failure(
            Failure(id=failure_id, where=where, kind="Unfit", message=why, tries=1, subject=trajectory)
        )


async def _nothing(spec: Spec, around: Surroundings, examples: Examples) -> Ending:
    await _record_unfit(spec, around, examples)
    config, left_out = spec.student, examples.left_out
    why = f"all {left_out} lessons are longer than {config.max_tokens} tokens" if left_out else "there are no lessons"
    if examples.unfit:
        long = f"{examples.too_long} of {left_out} lessons are longer than {config.max_tokens} tokens"
        why = f"{long}, and of the first of the others {next(iter(examples.unfit.values()))}"
    around.tell({"kind": "nothing", "message": f"{config.name} has nothing to learn: {why}", "left_out": left_out})
    return "nothing"
