"""Several students, their router and what they tell each other, when things go wrong or come late."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pytest
from tiny_student import make_model, make_other_tokenizer
from tiny_students import (
    FORKS,
    NAMES,
    Said,
    alone,
    begin,
    failures,
    lessons_of,
    make_shared,
    make_students,
    metrics,
    reports,
    routes,
    settle,
    together,
)

from configs.schema import Peers, Router
from store.store import open_store
from store.types import Lesson
from trainers.actors import run_actors
from trainers.data import Writing
from trainers.exchange import FileShelf
from trainers.spec import AnySpec, Shared, Spec
from trainers.student import load_chat

pytestmark = pytest.mark.usefixtures("one_thread")

PEERS = Peers(width=8, top=16, wait_s=0.2, learning_rate=0.01)
WAIT_S = 60.0
"""Longer than anything here takes."""
ROUTED = Router(width=16, staleness=0, learning_rate=0.01)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer of another kind, which has nothing to pad with."""
    return make_model(tmp_path_factory.mktemp("other"), tokenizer=make_other_tokenizer())


LESSONS = [lessons_of(number, 2) for number in range(6)]


def prepared(root: Path, lessons: Sequence[Sequence[Lesson]] = LESSONS, *, ends: bool = True, **parts: Any) -> Shared:
    shared = make_shared(root, **parts)
    asyncio.run(begin(shared.store, lessons, ends=ends))
    return shared


def of(said: Said, name: str, kind: str) -> list[dict[str, Any]]:
    return [message for message in said if message["actor"] == name and message["kind"] == kind]


# Other vocabularies


@pytest.mark.parametrize("kind", ["hidden", "logits"])
def test_students_of_other_vocabularies_teach_each_other(
    tmp_path: Path, model: Path, other: Path, kind: Literal["hidden", "logits"]
):
    shared = prepared(tmp_path, peers=PEERS.model_copy(update={"kind": kind, "staleness": 0, "wait_s": WAIT_S}))
    endings, _ = together(make_students(tmp_path, shared, (model, other)))
    assert endings == ["done", "done"]
    for name in NAMES:
        values = [each.values for each in metrics(shared, name)]
        assert all(each["loss peers"] > 0 for each in values)
        assert values[-1]["peers heard"] == 3 * 12
        assert values[-1]["peers missed"] == 0
    assert all(report.peer for report in reports(shared))


# Bad input


@pytest.mark.timeout(50)
def test_what_cannot_be_learnt_is_left_out_and_the_others_go_on(tmp_path: Path, model: Path):
    """An answer that is empty, no reasoning, and, for one of the students, all that is long."""
    bad = [(lessons_of(10, 1)[0], {"conclusion": " "}), (lessons_of(11, 1)[0], {"text": ""})]
    spoilt = [[replace(lesson, trajectory=replace(lesson.trajectory, **keys))] for lesson, keys in bad]
    shared = prepared(
        tmp_path,
        [*LESSONS, *spoilt],
        router=ROUTED.model_copy(update={"explore": 1.0}),
        peers=PEERS.model_copy(update={"wait_s": WAIT_S}),
    )
    one, two, router = make_students(tmp_path, shared, (model, model))
    assert isinstance(two, Spec)
    writing = Writing(template=load_chat(model))
    lengths = [len(writing.example(lesson).tokens) for lessons in LESSONS for lesson in lessons]
    short = two.model_copy(update={"student": two.student.model_copy(update={"max_tokens": int(median(lengths))})})
    started = time.monotonic()
    endings, said = together([one, short, router])
    assert endings == ["done"] * 3
    assert time.monotonic() - started < WAIT_S  # nobody waits for what a peer says of a trajectory that it left out
    assert of(said, "one", "loaded")[0]["left_out"] == 2
    left_out = of(said, "two", "loaded")[0]["left_out"]
    assert 2 < left_out < 14
    assert metrics(shared, "two")[-1].values["left_out"] == left_out
    assert Counter((each.where, each.kind, each.message) for each in failures(shared)) == {
        (f"student {name}", "Unfit", why): 1 for name in NAMES for why in ("its answer is empty", "it has no reasoning")
    }
    told = {name: {report.trajectory for report in reports(shared) if report.student == name} for name in NAMES}
    assert {name: len(ids) for name, ids in told.items()} == {"one": 12, "two": 14 - left_out}


# One that stops


def diverging(root: Path, shared: Shared, model: Path) -> list[AnySpec]:
    one, two, *router = make_students(root, shared, (model, model), checkpoint_every=1)
    assert isinstance(two, Spec)
    wild = two.student.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    return [one, two.model_copy(update={"student": wild}), *router]


def test_a_student_that_diverges_stops_alone_and_stays_stopped(tmp_path: Path, model: Path):
    shared = prepared(tmp_path, router=ROUTED.model_copy(update={"wait_s": 1.0}), peers=PEERS.model_copy(update={"staleness": 0}))
    specs = diverging(tmp_path, shared, model)
    endings, said = together(specs)
    assert endings == ["done", "diverged", "done"]
    (failure,) = failures(shared)
    assert failure.kind == "Diverged"
    assert failure.subject == "two"
    (told,) = of(said, "two", "diverged")
    last = len(metrics(shared, "two"))
    assert f"update {last + 1}: loss nan" in told["message"]
    batch = {route.trajectory for route in routes(shared) if route.round == last and route.student == "two" and route.gate}
    assert batch
    assert all(trajectory in failure.message for trajectory in batch)
    assert (tmp_path / "two" / f"checkpoint-{last:06d}").is_dir()
    assert not (tmp_path / "two" / "final").exists()
    assert len(metrics(shared, "one")) == 12
    assert metrics(shared, "one")[-1].values["peers missed"] > 0

    before = metrics(shared, "one"), reports(shared), routes(shared)
    endings, said = together(specs)
    assert endings == ["done", "diverged", "done"]
    assert [message["kind"] for message in said if message["actor"] != "two"] == ["done"]
    assert (metrics(shared, "one"), reports(shared), routes(shared)) == before
    assert len(failures(shared)) == 1


@pytest.mark.parametrize("kind", ["hidden", "logits"])
def test_diverging_is_not_infectious(tmp_path: Path, model: Path, kind: Literal["hidden", "logits"]):
    """What a student says just before it stops is no number, and heard in the same update."""
    shared = prepared(tmp_path, peers=PEERS.model_copy(update={"staleness": 0, "wait_s": 1.0, "kind": kind}))
    endings, _ = together(diverging(tmp_path, shared, model))
    assert endings == ["done", "diverged"]
    assert len(metrics(shared, "one")) == 12


def test_a_peer_that_never_comes_costs_its_term(tmp_path: Path, model: Path):
    shared = prepared(tmp_path, peers=PEERS)
    endings, _ = together(make_students(tmp_path, shared, (model, model))[:1])
    assert endings == ["done"]
    values = [each.values for each in metrics(shared, "one")]
    assert values[-1]["peers missed"] == 36
    assert values[-1]["peers heard"] == 0
    assert all("loss peers" not in each for each in values)


@pytest.mark.chaos
def test_a_peer_that_falls_silent_is_done_without_and_ends_later(tmp_path: Path, model: Path):
    shared = prepared(tmp_path, peers=PEERS.model_copy(update={"staleness": 0, "wait_s": 2.0}))
    one, two = make_students(tmp_path, shared, (model, model), epochs=10)
    assert shared.exchange
    shelf = FileShelf(shared.exchange)
    with living(one) as first, living(two) as second:
        wait_until(lambda: shelf.last_update("two") >= 3)
        assert second.pid
        os.kill(second.pid, signal.SIGSTOP)
        first.join(120)
        os.kill(second.pid, signal.SIGCONT)
        second.join(120)
        assert (first.exitcode, second.exitcode) == (0, 0)
    values = metrics(shared, "one")[-1].values
    assert values["peers heard"] > 0
    assert values["peers missed"] > 0
    assert len(metrics(shared, "two")) == 40


def test_the_router_does_without_a_diverged_student_at_once_and_never_goes_on_alone(tmp_path: Path, model: Path):
    shared = prepared(tmp_path, router=ROUTED.model_copy(update={"wait_s": WAIT_S}))
    one, two, router = diverging(tmp_path, shared, model)

    async def run() -> list[list[str]]:
        """The router first: its patience ends before there is anybody."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            routing = group.create_task(run_actors([impatient(router)], lambda _: None, stopping))
            async with open_store(shared.store) as store:
                await asyncio.sleep(1.0)
                assert not await store.routes(1)
            learning = group.create_task(run_actors([one, two], lambda _: None, stopping))
        return [routing.result(), learning.result()]

    assert asyncio.run(run()) == [["done"], ["done", "diverged"]]
    assert len(metrics(shared, "one")) == 12


def impatient(router: AnySpec) -> AnySpec:
    shared = router.shared
    assert shared.router
    return router.model_copy(
        update={"shared": shared.model_copy(update={"router": shared.router.model_copy(update={"wait_s": 0.1})})}
    )


# Stopped and begun again


def test_stopped_anywhere_one_student_and_its_router_end_as_if_never_stopped(tmp_path: Path, model: Path):
    whole = routed_alone(tmp_path / "whole", model)
    stopped = routed_alone(tmp_path / "stopped", model, stops=(("one", 1), ("router", 4), ("one", 5), ("one", 9)))
    assert routes(stopped) == routes(whole)
    assert {route.gate for route in routes(whole)} == {0, 1}
    assert reports(stopped) == reports(whole)
    for name in ("one", "router"):
        assert metrics(stopped, name) == metrics(whole, name)
    for place in ("one/final/adapter_model.safetensors", "router/final/gates.safetensors"):
        assert (tmp_path / "stopped" / place).read_bytes() == (tmp_path / "whole" / place).read_bytes()


def routed_alone(root: Path, model: Path, stops: Sequence[tuple[str, int]] = ()) -> Shared:
    shared = prepared(root, router=ROUTED.model_copy(update={"student_state": True, "utility": "progress"}))
    shared = shared.model_copy(update={"names": ("one",)})
    specs = make_students(root, shared, (model,))
    for name, at in stops:
        assert stopped_at(specs, name, at)
    assert together(specs)[0] == ["done", "done"]
    return shared


def stopped_at(specs: Sequence[AnySpec], name: str, at: int) -> bool:
    """Run until `name` tells of its update or round `at`, then ask all to stop; whether all that had not ended did."""

    async def run() -> bool:
        stopping = asyncio.Event()

        def tell(message: dict[str, Any]) -> None:
            if message["actor"] == name and at in (message.get("round"), message.get("update")):
                stopping.set()

        return set(await run_actors(specs, tell, stopping)) == {"stopped"}

    return asyncio.run(run())


@pytest.mark.timeout(50)
def test_asked_to_stop_nobody_waits_for_routes_that_will_not_come(tmp_path: Path, model: Path):
    """The router waits for a student that is not there, and the other one for the router."""
    shared = prepared(tmp_path, router=ROUTED.model_copy(update={"wait_s": WAIT_S}))
    one, _, router = make_students(tmp_path, shared, (model, model))

    async def run() -> list[str]:
        stopping = asyncio.Event()

        def tell(message: dict[str, Any]) -> None:
            if message["kind"] == "update":
                asyncio.get_running_loop().call_later(0.3, stopping.set)

        return await run_actors([one, router], tell, stopping)

    assert asyncio.run(run()) == ["stopped", "stopped"]
    assert (tmp_path / "one" / "checkpoint-000001").is_dir()


# Trajectories that arrive later


@pytest.mark.parametrize("routed", [False, True], ids=["all", "routed"])
def test_what_arrives_while_students_learn_is_learnt_as_often(tmp_path: Path, model: Path, routed: bool):
    """Teachers write on while students learn; in between all are stopped and begun again."""
    waves = [LESSONS[:2], LESSONS[2:3], LESSONS[3:5], LESSONS[5:]]
    shared = prepared(tmp_path, waves[0], ends=False, router=ROUTED.model_copy(update={"explore": 1.0}) if routed else None)
    specs = make_students(tmp_path, shared, (model, model))
    assert asyncio.run(written(specs, waves[1:2], stop=True)) == {"stopped"}
    assert asyncio.run(written(specs, waves[2:], stop=False)) == {"done"}
    told = Counter((report.student, report.trajectory) for report in reports(shared))
    assert told == {(name, lesson.trajectory.id): 3 for name in NAMES for wave in waves for some in wave for lesson in some}
    plans = asyncio.run(planned(shared))
    assert sum(plans) == 12
    assert len([arrivals for arrivals in plans if arrivals]) > 1
    if routed:
        counted = Counter((route.student, route.trajectory) for route in routes(shared))
        assert set(counted.values()) == {3}
        assert len(counted) == 24


async def written(specs: Sequence[AnySpec], waves: Sequence[Sequence[Sequence[Lesson]]], *, stop: bool) -> set[str]:
    """Train while a teacher settles a wave after every update of the first student; then it stops, or the search ends."""
    stopping, updates = asyncio.Event(), asyncio.Queue[None]()

    def tell(message: dict[str, Any]) -> None:
        if message["actor"] == "one" and message["kind"] == "update":
            updates.put_nowait(None)

    async with asyncio.TaskGroup() as group:
        learning = group.create_task(run_actors(specs, tell, stopping))
        async with open_store(specs[0].shared.store) as store:
            for wave in waves:
                await updates.get()
                for lessons in wave:
                    await settle(store, lessons)
            await updates.get()
            if stop:
                stopping.set()
            else:
                await store.end_search()
    return set(learning.result())


async def planned(shared: Shared) -> list[int]:
    """How much arrived with each epoch."""
    found: list[int] = []
    async with open_store(shared.store) as store:
        while (plan := await store.plan_epoch(len(found))) and len(found) < 20:
            found.append(plan.arrivals)
            if plan.ended:
                break
    return found


# Processes


def wait_until(holds: Any, limit_s: float = 120.0) -> None:
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def living(spec: AnySpec) -> Iterator[Any]:
    """A process of one actor; killed at the end if it has not ended."""
    process = FORKS.Process(target=alone, args=(spec, spec.directory.with_suffix(".said")))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
