"""The trainings that `trainer_throughput.py` times: ours with its parts on or off, the whole loop on a store, and TRL's.

    lessons ──▶ order of each lap (`plan.order`, an epoch of it) ──▶ updates ──▶ gate, after each

Invariant: every contender of a group sees the same batches of the same lessons in the same order, starts from the same
weights, has the same rank, rate and clipping, and no dropout. Ours go through the same calls as `loop.py`: `begin`,
`measure`, then for each pass `forward`, the real `Exchange`, `backward`, then `step`, in one torch thread. Not covered:
clocks and processes.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from lessons import examples_of, word_lessons

from configs import schema
from store.store import open_store
from store.types import Lesson, Outcome, QuestionState, Report, Route, Verdict
from trainers.actors import run_actors
from trainers.data import Example
from trainers.encoder import HashedText
from trainers.exchange import Exchange, MemoryShelf
from trainers.plan import Item, item_of, order
from trainers.router import Gatekeeper
from trainers.routing import explores
from trainers.spec import RouterSpec, Shared, Spec
from trainers.student import load_chat, load_student
from trainers.teaching import make_teaching
from trainers.update import Learner, Measured

T = TypeVar("T")
SEED = 1
TRAJECTORIES = 4
"""Of a question."""
ROWS = 8
"""Trajectories of an update: two questions."""
RANK = 32
RATE = 1e-4
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
PREFIX = "The final answer is "
EQUAL = schema.Compatibility(adaptability=0, consensus=0, difficulty=0, consistency=0)
"""No score and no term of COMPACT, but its forward passes, which hold whole questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """What is switched on. `group` has its own batches; only contenders of one group are compared."""

    name: str
    group: str
    by: str = "learner"
    """learner, loop or trl."""
    students: int = 1
    alpha: bool = False
    router: bool = False
    peers: str = ""
    rows: int = ROWS
    """Of a forward pass, of TRL."""

    @property
    def questions(self) -> bool:
        """Whether its batches are whole questions."""
        return self.group != "plain"

    @property
    def compatibility(self) -> schema.Compatibility | None:
        """In a group of whole questions all have the same passes, whether they weigh or not."""
        if self.alpha:
            return schema.Compatibility()
        return EQUAL if self.questions else None


CONTENDERS = (
    Contender(name="plain", group="plain"),
    Contender(name="trl, 8 rows", group="plain", by="trl"),
    Contender(name="trl, 4 rows", group="plain", by="trl", rows=4),
    Contender(name="trl, 2 rows", group="plain", by="trl", rows=2),
    Contender(name="whole loop", group="plain", by="loop"),
    Contender(name="equal weights", group="questions"),
    Contender(name="alpha", group="questions", alpha=True),
    Contender(name="two students", group="students", students=2),
    Contender(name="router", group="students", students=2, router=True),
    Contender(name="hidden peers", group="students", students=2, peers="hidden"),
    Contender(name="logit peers", group="students", students=2, peers="logits"),
    Contender(name="all, hidden", group="students", students=2, alpha=True, router=True, peers="hidden"),
    Contender(name="all, logits", group="students", students=2, alpha=True, router=True, peers="logits"),
)


@dataclass(slots=True)
class Gate:
    """Is told of every update: `update(tokens)` at its end, `first(loss)` once, the mean cross-entropy over tokens."""

    update: Callable[[int], None]
    first: Callable[[float], None]
    ready: Callable[[], None]
    """All is loaded; the first update begins when this returns."""


def race(contender: Contender, folder: Path, options: argparse.Namespace, gate: Gate) -> None:
    """Train for all laps, one of which warms up."""
    {"learner": _learn, "loop": _loop, "trl": _trl}[contender.by](contender, folder, options, gate)


def _lessons(options: argparse.Namespace) -> list[Lesson]:
    return word_lessons(options.updates * ROWS // TRAJECTORIES, TRAJECTORIES)


def _batches(contender: Contender, lessons: Sequence[Lesson], laps: int) -> list[list[Item]]:
    items, found = [item_of(lesson) for lesson in lessons], []
    for lap in range(laps):
        if contender.questions:
            found += order(items, ROWS // TRAJECTORIES, "questions", SEED, lap)
        else:
            found += order(items, ROWS, "trajectories", SEED, lap)
    return found


def _config(contender: Contender, folder: Path, options: argparse.Namespace, name: str, laps: int) -> schema.Student:
    return schema.Student(
        name=name,
        model=str(folder),
        device=options.device,
        dtype=options.dtype,
        lora=schema.Lora(rank=RANK, alpha=RANK, dropout=0.0, targets=TARGETS),
        conclusion="common",
        compatibility=contender.compatibility,
        batch=ROWS // TRAJECTORIES if contender.questions else ROWS,
        batch_of="questions" if contender.questions else "trajectories",
        epochs=laps,
        learning_rate=RATE,
        gradient_checkpointing=options.gradient_checkpointing,
    )


# ------------------------------------------------------------------------------------------------------- ours, step by step


@dataclass(slots=True)
class _Student:
    """One of the students of a process, as `loop._Trainer` drives it."""

    name: str
    learner: Learner
    examples: dict[str, Example]
    exchange: Exchange | None
    torch_thread: ThreadPoolExecutor
    reports: list[Report] = field(default_factory=list)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.torch_thread, function, *arguments)

    async def update(
        self, number: int, learnt: list[Example], measured: list[Example], fellows: dict[str, list[str]]
    ) -> Measured:
        await self.call(self.learner.begin, number, RATE, learnt, len(fellows))
        if measured:
            await self.call(self.learner.measure, measured)
        if self.exchange is None:
            await self.call(self.learner.learn, learnt)
        else:
            for at, rows in enumerate(self.learner.passes(learnt)):
                await self._pass(self.exchange, rows, number, at, fellows)
        found = await self.call(self.learner.finish)
        await self.call(self.learner.step)
        self.reports = list(found.reports)
        return found

    async def _pass(
        self, exchange: Exchange, rows: Sequence[Example], number: int, at: int, fellows: dict[str, list[str]]
    ) -> None:
        speaking = frozenset(row.trajectory for row in rows if row.trajectory in fellows)
        forward = await self.call(self.learner.forward, rows, at, speaking)
        heard = {}
        if forward.messages:
            wanted = {message.trajectory: fellows[message.trajectory] for message in forward.messages}
            heard = await exchange.swap(forward.messages, wanted, number)
        await self.call(self.learner.backward, forward, heard)


def counted(examples: Sequence[Example]) -> tuple[int, int]:
    """Tokens, and those of responses."""
    return sum(len(each.tokens) for each in examples), sum(len(each.tokens) - each.first for each in examples)


def _learn(contender: Contender, folder: Path, options: argparse.Namespace, gate: Gate) -> None:
    asyncio.run(_learn_together(contender, folder, options, gate))


async def _learn_together(contender: Contender, folder: Path, options: argparse.Namespace, gate: Gate) -> None:
    lessons, laps = _lessons(options), options.laps + 1
    names = tuple(f"student{number}" for number in range(contender.students))
    with ThreadPoolExecutor(max_workers=1) as torch_thread:
        loop = asyncio.get_running_loop()
        # there, as `loop.py` does: beside a second thread that has computed OpenMP sleeps at every barrier: a tenth slower
        students = await loop.run_in_executor(torch_thread, _students, contender, folder, options, names, lessons, torch_thread)
        keeper = _keeper(contender, folder, options, names, lessons)
        gate.ready()
        for number, batch in enumerate(_batches(contender, lessons, laps)):
            routes = await asyncio.to_thread(keeper.routes, batch, number) if keeper else []
            gates = {(route.trajectory, route.student): route.gate for route in routes}
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_update(one, names, number, batch, gates, keeper)) for one in students]
            tokens = [task.result() for task in tasks]
            if keeper:
                reports = [report for one in students for report in one.reports]
                await asyncio.to_thread(keeper.learn, batch, number, routes, reports)
            if number == 0:
                gate.first(_mean_over_tokens(students[0]))
            gate.update(sum(tokens))


async def _update(
    one: _Student,
    names: Sequence[str],
    number: int,
    batch: Sequence[Item],
    gates: dict[tuple[str, str], int],
    keeper: Gatekeeper | None,
) -> int:
    """One student's part of one update: how many tokens it learnt."""
    ids = [item.trajectory for item in batch]
    learns = [each for each in ids if gates.get((each, one.name), 1)]
    measures = [each for each in ids if keeper and each not in learns and explores(keeper.config, SEED, one.name, each, number)]
    others = [name for name in names if name != one.name]
    found = {each: [name for name in others if gates.get((each, name), 1)] for each in learns}
    fellows = {each: near for each, near in found.items() if near}
    learnt = [one.examples[each] for each in learns]
    return (await one.update(number, learnt, [one.examples[each] for each in measures], fellows)).tokens


def _students(
    contender: Contender,
    folder: Path,
    options: argparse.Namespace,
    names: Sequence[str],
    lessons: Sequence[Lesson],
    torch_thread: ThreadPoolExecutor,
) -> list[_Student]:
    chat, shelf = load_chat(folder), MemoryShelf()
    peers = _peers(contender)
    found = []
    for number, name in enumerate(names):
        config = _config(contender, folder, options, name, options.laps + 1)
        student = load_student(folder, config, number)
        learner, exchange = Learner(student, config, SEED, peers), None
        if peers is not None:
            vocabulary = chat.vocabulary + [None] * (student.vocabulary_size - len(chat.vocabulary))
            shelf.introduce(name, vocabulary)
            teaching = make_teaching(peers, student.width, student.head, vocabulary, chat.fingerprint, shelf.vocabulary, number)
            learner.teach_with(teaching)
            exchange = Exchange(shelf, name, peers.staleness, peers.wait_s)
        found.append(_Student(name, learner, examples_of(lessons, chat), exchange, torch_thread))
    return found


def _peers(contender: Contender) -> schema.Peers | None:
    match contender.peers:
        case "":
            return None
        case "hidden":
            return schema.Peers(kind="hidden")
        case _:
            return schema.Peers(kind="logits")


def _keeper(
    contender: Contender, folder: Path, options: argparse.Namespace, names: tuple[str, ...], lessons: Sequence[Lesson]
) -> Gatekeeper | None:
    """The router, which has read all trajectories: that is done once in a training, and not timed."""
    if not contender.router:
        return None
    router = schema.Router()
    shared = Shared(store=folder, seed=SEED, config_hash="", names=names, router=router)
    config = _config(contender, folder, options, names[0], options.laps + 1)
    keeper = Gatekeeper(RouterSpec(shared=shared, student=config, directory=folder), HashedText(router.width))
    keeper.read(lessons)
    return keeper


def _mean_over_tokens(one: _Student) -> float:
    """TRL's mean, of our trajectories' means."""
    weights = [counted([one.examples[report.trajectory]])[1] for report in one.reports]
    return sum(weight * report.cross_entropy for weight, report in zip(weights, one.reports, strict=True)) / sum(weights)


# ---------------------------------------------------------------------------------------------------------- the whole loop


def _loop(contender: Contender, folder: Path, options: argparse.Namespace, gate: Gate) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(_loop_in(Path(scratch), contender, folder, options, gate))


async def _loop_in(scratch: Path, contender: Contender, folder: Path, options: argparse.Namespace, gate: Gate) -> None:
    """`run_actors` on a store of its own: records, checkpoints and all."""
    lessons, store = _lessons(options), scratch / "store.db"
    await _store(store, lessons)
    config = _config(contender, folder, options, "student", options.laps + 1)
    shared = Shared(store=store, seed=SEED, config_hash="benchmark", names=("student",), answer_prefix=PREFIX)
    spec = Spec(shared=shared, student=config, model=folder, directory=scratch / "student")

    def tell(message: dict[str, Any]) -> None:
        if message["kind"] == "loaded":
            gate.ready()
        elif message["kind"] == "update":
            gate.update(message["tokens"])

    (how,) = await run_actors([spec], tell, asyncio.Event())
    assert how == "done", how


async def _store(path: Path, lessons: Sequence[Lesson]) -> None:
    async with open_store(path, create=True) as store:
        await store.begin_run("run", "run", "{}")
        for question in {lesson.question.id: lesson.question for lesson in lessons}.values():
            own = [lesson.trajectory for lesson in lessons if lesson.question.id == question.id]
            verdicts = [Verdict(trajectory=each.id, outcome=Outcome.ACCEPTED, reason="") for each in own]
            routes = [Route(id=f"r{each.id}", trajectory=each.id, student="student") for each in own]
            await store.add_questions([question], split="train")
            await store.settle_question(question.id, QuestionState.SOLVED, "", own, verdicts, routes)
        await store.end_search()


# -------------------------------------------------------------------------------------------------------------------- TRL


def _trl(contender: Contender, folder: Path, options: argparse.Namespace, gate: Gate) -> None:
    """SFTTrainer on the same batches: sequential, padded, no packing, no logging, fused AdamW, responses only."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from trainers.student import find_device, find_dtype

    trl: Any = importlib.import_module("trl")
    device = find_device(options.device)
    dtype = find_dtype(options.dtype, device)
    lessons = _lessons(options)
    examples = examples_of(lessons, load_chat(folder))
    batches = [[examples[item.trajectory] for item in batch] for batch in _batches(contender, lessons, options.laps + 1)]
    rows = [
        {"input_ids": list(each.tokens), "labels": [-100] * each.first + list(each.tokens[each.first :])}
        for batch in batches
        for each in batch
    ]

    class Laps(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            gate.ready()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if state.global_step == 1 and logs and "loss" in logs:
                gate.first(float(logs["loss"]))

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            gate.update(counted(batches[state.global_step - 1])[0])

    with tempfile.TemporaryDirectory() as scratch:
        settings = trl.SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=contender.rows,
            gradient_accumulation_steps=ROWS // contender.rows,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=dtype == torch.bfloat16,
            use_cpu=device.type == "cpu",
            gradient_checkpointing=options.gradient_checkpointing,
            packing=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_first_step=True,
            logging_steps=10**9,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        lora = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=list(TARGETS))
        trainer = trl.SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(str(folder)),
            peft_config=lora,
            callbacks=[Laps()],
        )
        trainer.train()
