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
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors.torch import load_file, save_file

from store.store import Store
from store.types import Checkpoint, Failure, Metrics, Report, content_id
from trainers import checkpoint
from trainers.checkpoint import Manifest
from trainers.course import Course, batch_at, begin_course
from trainers.data import Example, Examples, Writing
from trainers.exchange import Exchange, Shelf
from trainers.followers import open_learner
from trainers.measures import Measured
from trainers.plan import Item
from trainers.ranks import Ranks
from trainers.routing import Assignment, Everything, Routed, Routing
from trainers.spec import Spec
from trainers.student import Chat, StudentModel, load_chat
from trainers.teaching import make_teaching
from trainers.update import Learner

Tell = Callable[[dict[str, Any]], None]
Ending = Literal["done", "nothing", "stopped"]
T = TypeVar("T")

_PROJECTION = "peers.safetensors"


@dataclass(slots=True)
class Unrecorded:
    """What was measured since it was last recorded."""

    reports: list[Report] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)


async def train(
    spec: Spec, store: Store, shelf: Shelf, tell: Tell, stopping: asyncio.Event, torch_thread: ThreadPoolExecutor, ranks: Ranks
) -> Ending:
    """Train one student to the end of its schedule, or to the next update after `stopping` is set.

    Raises `OtherTraining` if its directory belongs to another configuration, `Diverged`, `StoreError`, `ValueError` for a model
    that cannot be a student.
    """
    finished = checkpoint.find_final(spec.directory, spec.shared.config_hash)
    if finished is not None:
        tell({"kind": "done", "update": finished.update, "directory": str(spec.directory / checkpoint.FINAL), "already": True})
        return "done"
    return await _Trainer(spec, store, shelf, tell, stopping, torch_thread, ranks).run()


class _Trainer:
    """Between the learner's thread and everybody else."""

    def __init__(
        self,
        spec: Spec,
        store: Store,
        shelf: Shelf,
        tell: Tell,
        stopping: asyncio.Event,
        torch_thread: ThreadPoolExecutor,
        ranks: Ranks,
    ) -> None:
        shared, config = spec.shared, spec.student
        self.spec = spec
        self.store = store
        self.shelf = shelf
        self.tell = tell
        self.stopping = stopping
        self.torch_thread = torch_thread
        self.ranks = ranks
        others = tuple(name for name in shared.names if name != config.name)
        self.routing: Routing = Everything(others)
        if shared.router is not None:
            self.routing = Routed(store, shared.router, config.name, shared.names, shared.seed, stopping)
        self.exchange: Exchange | None = None
        if shared.peers is not None:
            self.exchange = Exchange(shelf, config.name, shared.peers.staleness, shared.peers.wait_s)
        self.unrecorded = Unrecorded()
        self.losses: list[float | None] = []

    async def run(self) -> Ending:
        spec, config = self.spec, self.spec.student
        chat = await self._call(load_chat, spec.model)
        examples = self._examples(chat)
        course = begin_course(
            self.store, config, spec.shared.seed, self.stopping, None if spec.shared.router is not None else config.name
        )
        if not await course.reach(0, examples):
            return "stopped" if self.stopping.is_set() and course.walk.ended_with is None else await self._nothing(examples)
        learner = await self._open(course, examples, chat)
        return await self._learn(learner, course, examples)

    async def _learn(self, learner: Learner, course: Course, examples: Examples) -> Ending:
        epoch = 0
        while await course.reach(epoch, examples):
            await self._record_unfit(examples)
            for items in batch_at(course, epoch, len(self.losses)):
                stopped = self.stopping.is_set()
                assigned = None if stopped else await self.routing.assign(course.walk, epoch, len(self.losses), items)
                if assigned is None:
                    await self._stop(learner, course, examples)
                    return "stopped"
                await self._update(learner, course, examples, items, epoch, assigned)
                if self._is_due(course):
                    await self._save(learner, course, examples)
            epoch += 1
        await self._record_unfit(examples)
        if self.stopping.is_set() and course.walk.ended_with is None:
            await self._stop(learner, course, examples)
            return "stopped"
        last = next((loss for loss in reversed(self.losses) if loss is not None), None)
        if last is None:
            return await self._nothing(examples)
        folder = await self._save(learner, course, examples, final=True)
        self.tell({"kind": "done", "update": len(self.losses), "directory": str(folder), "loss": last})
        return "done"

    def _is_due(self, course: Course) -> bool:
        return len(self.losses) % self.spec.student.checkpoint_every == 0 and len(self.losses) != course.walk.updates

    async def _update(
        self, learner: Learner, course: Course, examples: Examples, items: Sequence[Item], epoch: int, assigned: Assignment
    ) -> None:
        number, config = len(self.losses), self.spec.student
        began = time.monotonic()
        known = [examples.by_trajectory[item.trajectory] for item in items if item.trajectory in examples.by_trajectory]
        learnt = [example for example in known if example.trajectory in assigned.learns]
        measured = [example for example in known if example.trajectory in assigned.measures]
        if self.exchange is not None:
            await self.exchange.decline(assigned.learns - examples.by_trajectory.keys(), number)
        fellows = {each.trajectory: fellows for each in learnt if (fellows := assigned.fellows.get(each.trajectory))}
        rate = course.walk.rate(number, config.learning_rate, config.warmup)
        await self._all(learner.begin, rate, learnt, len(fellows))
        if measured:
            await self._all(learner.measure, measured)
        if self.exchange is None:
            await self._all(learner.learn, learnt, number)
        else:
            for at, rows in enumerate(learner.passes(learnt)):
                await self._pass(learner, self.exchange, rows, number, at, fellows)
        tokens = sum(len(example.tokens) for example in learnt)
        response_tokens = sum(len(example.tokens) - example.first for example in learnt)
        found = await self._all(learner.finish, number, tokens, response_tokens)
        await self._all(learner.step)
        self._keep(found, course, examples, epoch, assigned, time.monotonic() - began)
        if self.spec.shared.router is not None:  # it waits for them
            await self.store.record_training(self.unrecorded.reports, self.unrecorded.metrics)
            self.unrecorded = Unrecorded()

    async def _pass(
        self,
        learner: Learner,
        exchange: Exchange,
        rows: Sequence[Example],
        number: int,
        at: int,
        fellows: dict[str, Sequence[str]],
    ) -> None:
        """One forward and backward pass; between them the peers have their say."""
        speaking = frozenset(example.trajectory for example in rows if example.trajectory in fellows)
        forward = await self._call(learner.forward, rows, number, at, speaking)
        heard = {}
        if forward.messages:
            wanted = {message.trajectory: fellows[message.trajectory] for message in forward.messages}
            heard = await exchange.swap(forward.messages, wanted, number)
            exchange.counts["sent_tokens"] += sum(len(each.labels_N) for each in forward.spoken)
        await self._call(learner.backward, forward, heard)

    async def _open(self, course: Course, examples: Examples, chat: Chat) -> Learner:
        """Load the student, and go on from the newest checkpoint."""
        spec, shared, config = self.spec, self.spec.shared, self.spec.student
        newest = checkpoint.find_newest(spec.directory, await self.store.checkpoints(config.name), shared.config_hash)
        learner = await self._all(self.open_learner)
        student = learner.student
        if shared.peers is not None:
            await self._introduce(learner, student, chat)
        if newest is not None:
            folder, manifest = newest
            await course.reach(manifest.epoch, examples)
            if manifest.lessons_hash != course.identity:
                raise checkpoint.OtherTraining(f"{folder} was made from other lessons: delete {spec.directory} to start again")
            await self._call(self._resume, learner, folder)
            self.losses = list(manifest.losses)
            learner.remember([loss for loss in self.losses if loss is not None])
        await self._call(checkpoint.clean, spec.directory)
        self.tell(
            {
                "kind": "loaded",
                "update": len(self.losses),
                "updates": course.walk.updates,
                "examples": len(examples.by_trajectory),
                "left_out": examples.too_long + len(examples.unfit),
                "device": str(student.device),
                "dtype": str(student.dtype).removeprefix("torch."),
                "parameters": sum(parameter.numel() for parameter in student.parameters),
            }
        )
        return learner

    def open_learner(self) -> Learner:
        """The first order."""
        return open_learner(self.spec, self.ranks)

    async def _introduce(self, learner: Learner, student: StudentModel, chat: Chat) -> None:
        shared, name = self.spec.shared, self.spec.student.name
        assert shared.peers is not None
        vocabulary = chat.vocabulary + [None] * (student.vocabulary_size - len(chat.vocabulary))
        await asyncio.to_thread(self.shelf.introduce, name, vocabulary)
        seed = int(content_id("projection", shared.seed, name)[:12], 16)
        teaching = make_teaching(
            shared.peers, student.width, student.head, vocabulary, chat.fingerprint, self.shelf.vocabulary, seed
        )
        await self._call(learner.teach_with, teaching)

    def _examples(self, chat: Chat) -> Examples:
        shared, config = self.spec.shared, self.spec.student
        writing = Writing(
            template=chat,
            system=config.system,
            common=shared.answer_prefix if config.conclusion == "common" else None,
            thinking_words=config.compatibility.thinking_words if config.compatibility else (),
        )
        return Examples(writing, config.max_tokens, alone=shared.router is None and shared.peers is None)

    def _keep(
        self, measured: Measured, course: Course, examples: Examples, epoch: int, assigned: Assignment, seconds: float
    ) -> None:
        self.losses.append(measured.loss)
        update, student = len(self.losses), self.spec.student.name
        self.unrecorded.reports += [
            Report(student=student, trajectory=trajectory, update=update, **asdict(told))
            for trajectory, told in measured.told.items()
        ]
        values = {
            "learning_rate": measured.learning_rate,
            "tokens": float(measured.tokens),
            "response_tokens": float(measured.response_tokens),
            "epoch": course.walk.epochs_done(epoch, update),
            "left_out": float(examples.too_long + len(examples.unfit)),
            **({} if measured.loss is None else {"loss": measured.loss}),
            **({} if measured.gradient_norm is None else {"gradient_norm": measured.gradient_norm}),
            **{f"loss {name}": value for name, value in measured.terms.items()},
            **{f"routes {name}": float(count) for name, count in self.routing.counts.items()},
            **({f"peers {name}": float(count) for name, count in self.exchange.counts.items()} if self.exchange else {}),
        }
        self.unrecorded.metrics.append(Metrics(student=student, update=update, values=values))
        progress = {"kind": "update", "update": update, "updates": course.walk.updates, "seconds": round(seconds, 3)}
        told = {"loss": measured.loss, "learning_rate": measured.learning_rate, "tokens": measured.tokens}
        self.tell(progress | told | {"learns": len(assigned.learns)})

    async def _record_unfit(self, examples: Examples) -> None:
        """A lesson that cannot be learnt is a failure of one item."""
        name = self.spec.student.name
        for trajectory, why in examples.unfit.items():
            failure_id = content_id("failure", name, trajectory, why)
            where = f"student {name}"
            await self.store.record_failure(
                Failure(id=failure_id, where=where, kind="Unfit", message=why, tries=1, subject=trajectory)
            )

    async def _nothing(self, examples: Examples) -> Ending:
        await self._record_unfit(examples)
        config, left_out = self.spec.student, examples.too_long + len(examples.unfit)
        why = f"all {left_out} lessons are longer than {config.max_tokens} tokens" if left_out else "there are no lessons"
        if examples.unfit:
            long = f"{examples.too_long} of {left_out} lessons are longer than {config.max_tokens} tokens"
            why = f"{long}, and of the first of the others {next(iter(examples.unfit.values()))}"
        message = f"{config.name} has nothing to learn: {why}"
        self.tell({"kind": "nothing", "message": message, "left_out": left_out})
        return "nothing"

    async def _stop(self, learner: Learner, course: Course, examples: Examples) -> None:
        if self.losses and self.losses != self._saved:
            await self._save(learner, course, examples)

    async def _save(self, learner: Learner, course: Course, examples: Examples, *, final: bool = False) -> Path:
        """Write a checkpoint, record it with all that was measured on the way to it, give it its name."""
        update = len(self.losses)
        folder = self.spec.directory / (checkpoint.FINAL if final else checkpoint.name_of(update))
        draft = await self._call(self._write, learner, course, examples, folder.name, final)
        recorded = Checkpoint(
            student=self.spec.student.name,
            update=update,
            directory=str(folder),
            config_hash=self.spec.shared.config_hash,
            final=final,
        )
        await self.store.record_training(self.unrecorded.reports, self.unrecorded.metrics, recorded)
        self.unrecorded = Unrecorded()
        await self._call(checkpoint.publish, draft)
        await self._call(checkpoint.clean, self.spec.directory)
        self._saved = list(self.losses)
        self.tell({"kind": "checkpoint", "update": update, "directory": str(folder)})
        return folder

    _saved: list[float | None] | None = None

    def _write(self, learner: Learner, course: Course, examples: Examples, name: str, final: bool) -> Path:
        draft = checkpoint.begin(self.spec.directory, name)
        self.ranks.together(learner.save, draft, final)
        if self.spec.student.tuning == "full":
            examples.writing.template.save(draft)  # pyright: ignore[reportAttributeAccessIssue]
        if learner.teaching is not None and learner.teaching.projection is not None:
            save_file(learner.teaching.projection.state_dict(), draft / _PROJECTION)
        manifest = Manifest(
            config_hash=self.spec.shared.config_hash,
            lessons_hash=course.identity,
            epoch=len(course.walk.arrivals) - 1,
            update=len(self.losses),
            updates=course.walk.updates,
            examples=len(examples.by_trajectory),
            left_out=examples.too_long + len(examples.unfit),
            losses=tuple(self.losses),
        )
        checkpoint.seal(draft, manifest)
        return draft

    def _resume(self, learner: Learner, folder: Path) -> None:
        """Go on where a checkpoint was written."""
        self.ranks.together(learner.load, folder)
        if learner.teaching is not None and learner.teaching.projection is not None:
            learner.teaching.projection.load_state_dict(load_file(folder / _PROJECTION))

    async def _all(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._call(self.ranks.together, function, *arguments)

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.torch_thread, partial(function, *arguments))
