"""One student's training.

    store ──lessons──▶ examples ──▶ batches ──▶ update (U) ──reports, metrics──▶ store
                                                   │   ▲                           ▲
                                                   ▼   │ resume                    │ one transaction
                                               checkpoint ─────────────────────────┘ ──▶ final/

Consumes: lessons of one student, all of them at the start. Produces: reports, metrics, checkpoints, the adapter in
`final/`. Waits for: nothing. Unblocked by: nothing; it runs to its end, or to the update at which it is asked to stop.

Invariant: equal lessons, configuration and seed make equal losses on a CPU, however often the process was killed between;
nothing is recorded without the checkpoint that it led to. Loss: the mean over trajectories of each one's mean
cross-entropy over its response (methods.md, part 5, with all switches off).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from configs import schema
from store.store import Store, open_store
from store.types import Checkpoint, Lesson, Metrics, Report, content_id
from trainers import checkpoint
from trainers.checkpoint import Manifest
from trainers.data import Batch, Example, collate, epoch_batches, make_example, micro_batches
from trainers.losses import mean_by_row, token_cross_entropy
from trainers.spec import Spec
from trainers.student import StudentModel, load_chat, load_student

Tell = Callable[[dict[str, Any]], None]
Ending = Literal["done", "nothing", "stopped"]
T = TypeVar("T")

CPU_TOKENS = 512
"""Padded tokens of one forward pass on a CPU: more takes memory (1.1 MB a token in SmolLM2-135M) for a tenth of speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """What is learnt: the examples that fit, how many did not, and the identity of all."""

    examples: list[Example]
    left_out: int
    lessons_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one update measured."""

    loss: float
    cross_entropies: dict[str, float]
    learning_rate: float
    gradient_norm: float
    tokens: int
    response_tokens: int


@dataclass(slots=True)
class Unrecorded:
    """What was measured since the last checkpoint."""

    reports: list[Report] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)


class Training:
    """The student and its optimizer. All of it runs in one thread, which is not the event loop's."""

    def __init__(self, student: StudentModel, curriculum: Curriculum, config: schema.Student, seed: int) -> None:
        self.student = student
        self.curriculum = curriculum
        self.config = config
        self.seed = seed
        self.updates = config.epochs * math.ceil(len(curriculum.examples) / config.batch)
        self.optimizer = torch.optim.AdamW(student.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        student.learn(True)

    def batches(self, start: int) -> Iterator[list[Example]]:
        """The batch of every update from `start` on, counted from 0."""
        examples = self.curriculum.examples
        lengths = [len(example.tokens) for example in examples]
        per_epoch = self.updates // self.config.epochs
        for epoch in range(start // per_epoch, self.config.epochs):
            batches = epoch_batches(lengths, self.config.batch, self.seed, epoch)
            for batch in batches[max(0, start - epoch * per_epoch) :]:
                yield [examples[index] for index in batch]

    def update(self, number: int, examples: Sequence[Example]) -> Measured:
        """One update, the `number`th from 0."""
        rate = learning_rate(number, self.updates, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        cross_entropies: dict[str, float] = {}
        limit = CPU_TOKENS if self.student.device.type == "cpu" else None
        for micro in micro_batches(examples, self.config.micro_batch, limit):
            batch = collate(micro)
            losses_B = batch_losses(self.student, batch)
            (losses_B.sum() / len(examples)).backward()
            cross_entropies.update(zip(batch.trajectories, losses_B.tolist(), strict=True))
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters, self.config.clip).item()
        loss = sum(cross_entropies.values()) / len(cross_entropies)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ArithmeticError(f"update {number + 1}: loss {loss}, gradient norm {norm}: a smaller learning rate may help")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Measured(
            loss=loss,
            cross_entropies=cross_entropies,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(len(example.tokens) for example in examples),
            response_tokens=sum(len(example.tokens) - example.first for example in examples),
        )

    def resume(self, folder: Path) -> None:
        """Go on where a checkpoint was written."""
        self.student.load_adapter(folder)
        checkpoint.load_state(folder, self.optimizer)


def batch_losses(student: StudentModel, batch: Batch) -> torch.Tensor:
    """Each trajectory's mean cross-entropy over its response: B. Only response positions meet the vocabulary."""
    device = student.device
    with student.precision():
        states_BTD = student.states(batch.tokens_BT.to(device))
        states_ND = states_BTD.flatten(0, 1).index_select(0, batch.places_N.to(device))
        losses_N = token_cross_entropy(student.head, states_ND, batch.labels_N.to(device))
    return mean_by_row(losses_N, batch.rows_N.to(device), len(batch.trajectories))


def learning_rate(number: int, updates: int, config: schema.Student) -> float:
    """Of the `number`th update, from 0: a straight rise, then half a cosine down to zero."""
    rising = math.ceil(config.warmup * updates)
    if number < rising:
        return config.learning_rate * (number + 1) / rising
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (number - rising) / (updates - rising)))


def make_curriculum(spec: Spec, lessons: Sequence[Lesson]) -> Curriculum:
    """Tokenise the lessons; those over `max_tokens` are left out."""
    chat = load_chat(spec.model)
    every = [make_example(lesson, chat, spec.student.system) for lesson in lessons]
    examples = [example for example in every if len(example.tokens) <= spec.student.max_tokens]
    lessons_hash = content_id(*(lesson.trajectory.id for lesson in lessons))
    return Curriculum(examples=examples, left_out=len(every) - len(examples), lessons_hash=lessons_hash)


async def train(spec: Spec, tell: Tell, stopping: asyncio.Event) -> Ending:
    """Train one student to the end of its schedule, or to the next update after `stopping` is set.

    Raises `OtherTraining` if its directory belongs to another configuration, `StoreError`, `ValueError` for a model that
    cannot be a student.
    """
    finished = checkpoint.find_final(spec.directory, spec.config_hash)
    if finished is not None:
        tell({"kind": "done", "update": finished.update, "directory": str(spec.directory / checkpoint.FINAL), "already": True})
        return "done"
    async with open_store(spec.store, create=False) as store:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch") as torch_thread:
            return await _Trainer(spec, store, tell, stopping, torch_thread).run()


class _Trainer:
    """Between the training's thread and the store."""

    def __init__(self, spec: Spec, store: Store, tell: Tell, stopping: asyncio.Event, torch_thread: ThreadPoolExecutor) -> None:
        self.spec = spec
        self.store = store
        self.tell = tell
        self.stopping = stopping
        self.torch_thread = torch_thread
        self.unrecorded = Unrecorded()
        self.losses: list[float] = []

    async def run(self) -> Ending:
        config = self.spec.student
        lessons = await self.store.lessons(config.name, best_only=config.trajectories == "best")
        curriculum = await self._call(make_curriculum, self.spec, lessons) if lessons else None
        if curriculum is None or not curriculum.examples:
            why = f"all {len(lessons)} lessons are longer than {config.max_tokens} tokens" if lessons else "there are no lessons"
            self.tell({"kind": "nothing", "message": f"{config.name} has nothing to learn: {why}", "left_out": len(lessons)})
            return "nothing"
        return await self._learn(curriculum)

    async def _learn(self, curriculum: Curriculum) -> Ending:
        training = await self._open(curriculum)
        start = len(self.losses)
        for number, examples in enumerate(training.batches(start), start=start):
            if self.stopping.is_set():
                await self._stop(training)
                return "stopped"
            began = time.monotonic()
            measured = await self._call(training.update, number, examples)
            self._keep(training, measured, time.monotonic() - began)
            if len(self.losses) % self.spec.student.checkpoint_every == 0 and len(self.losses) < training.updates:
                await self._save(training)
        folder = await self._save(training, final=True)
        self.tell({"kind": "done", "update": training.updates, "directory": str(folder), "loss": self.losses[-1]})
        return "done"

    async def _open(self, curriculum: Curriculum) -> Training:
        """Load the student, and go on from the newest checkpoint."""
        spec = self.spec
        newest = checkpoint.find_newest(spec.directory, await self.store.checkpoints(spec.student.name), spec.config_hash)
        student = await self._call(load_student, spec.model, spec.student, spec.seed)
        training = await self._call(Training, student, curriculum, spec.student, spec.seed)
        if newest is not None:
            folder, manifest = newest
            if manifest.lessons_hash != curriculum.lessons_hash:
                raise checkpoint.OtherTraining(f"{folder} was made from other lessons: delete {spec.directory} to start again")
            await self._call(training.resume, folder)
            self.losses = list(manifest.losses)
        await self._call(checkpoint.clean, spec.directory)
        self.tell(
            {
                "kind": "loaded",
                "update": len(self.losses),
                "updates": training.updates,
                "examples": len(curriculum.examples),
                "left_out": curriculum.left_out,
                "device": str(student.device),
                "dtype": str(student.dtype).removeprefix("torch."),
                "parameters": sum(parameter.numel() for parameter in student.parameters),
            }
        )
        return training

    def _keep(self, training: Training, measured: Measured, seconds: float) -> None:
        self.losses.append(measured.loss)
        update, student = len(self.losses), self.spec.student.name
        self.unrecorded.reports += [
            Report(student=student, trajectory=trajectory, update=update, cross_entropy=value)
            for trajectory, value in measured.cross_entropies.items()
        ]
        values = {
            "loss": measured.loss,
            "learning_rate": measured.learning_rate,
            "gradient_norm": measured.gradient_norm,
            "tokens": float(measured.tokens),
            "response_tokens": float(measured.response_tokens),
            "epoch": update * self.spec.student.epochs / training.updates,
            "left_out": float(training.curriculum.left_out),
        }
        self.unrecorded.metrics.append(Metrics(student=student, update=update, values=values))
        told = ("loss", "learning_rate", "tokens")
        progress = {"kind": "update", "update": update, "updates": training.updates, "seconds": round(seconds, 3)}
        self.tell(progress | {name: values[name] for name in told})

    async def _stop(self, training: Training) -> None:
        if self.unrecorded.metrics:
            await self._save(training)

    async def _save(self, training: Training, *, final: bool = False) -> Path:
        """Write a checkpoint, record it with all that was measured on the way to it, give it its name."""
        update = len(self.losses)
        folder = self.spec.directory / (checkpoint.FINAL if final else checkpoint.name_of(update))
        draft = await self._call(self._write, training, folder.name, final)
        recorded = Checkpoint(
            student=self.spec.student.name,
            update=update,
            directory=str(folder),
            config_hash=self.spec.config_hash,
            final=final,
        )
        await self.store.record_training(self.unrecorded.reports, self.unrecorded.metrics, recorded)
        self.unrecorded = Unrecorded()
        await self._call(checkpoint.publish, draft)
        await self._call(checkpoint.clean, self.spec.directory)
        self.tell({"kind": "checkpoint", "update": update, "directory": str(folder)})
        return folder

    def _write(self, training: Training, name: str, final: bool) -> Path:
        draft = checkpoint.begin(self.spec.directory, name)
        training.student.save_adapter(draft)
        if not final:
            checkpoint.save_state(draft, training.optimizer)
        curriculum = training.curriculum
        manifest = Manifest(
            config_hash=self.spec.config_hash,
            lessons_hash=curriculum.lessons_hash,
            update=len(self.losses),
            updates=training.updates,
            examples=len(curriculum.examples),
            left_out=curriculum.left_out,
            losses=tuple(self.losses),
        )
        checkpoint.seal(draft, manifest)
        return draft

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.torch_thread, partial(function, *arguments))
