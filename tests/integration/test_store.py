"""The store through its door: what comes back, twice is once, leases, counts, and what equal runs leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from store.store import Store, StoreError, open_store
from store.types import (
    Advance,
    Attempt,
    Call,
    Checkpoint,
    Failure,
    Metrics,
    Node,
    NodeState,
    Outcome,
    Plan,
    Question,
    QuestionState,
    Report,
    Route,
    Score,
    Step,
    Trajectory,
    Usage,
    Verdict,
)

Work = Callable[[Store], Awaitable[Any]]


def question(key: int | str) -> Question:
    return Question(id=f"q{key}", text=f"What is {key}?", answer="1", kind="choice", choices=("1", "2"), meta={"level": [3]})


def node(key: str, state: NodeState = NodeState.OPEN, *, parent: str | None = None, rank: int = 0, of: str = "q0") -> Node:
    step = Step(index=1, title="Think", text=f"### Step 1. Think\n{key}", author="ann", finish="step")
    score = Score(value=0.5, logprobs=(-0.5, float("-inf")), prover="p")
    return Node(
        id=key,
        question=of,
        parent=parent,
        depth=2 if parent else 1,
        rank=rank,
        step=step,
        authors=("ann", "bob"),
        usage=Usage(prompt=3, completion=2, cached=1),
        score=score,
        state=state,
    )


def call(key: str, subject: str = "q0") -> Call:
    usage = Usage(prompt=3, completion=2, cached=1)
    response = {"text": "é 思考"}
    return Call(
        agent="ann",
        id=key,
        subject=subject,
        engine="e",
        purpose="score",
        request={"n": 1},
        response=response,
        usage=usage,
        latency_s=0.5,
    )


def trajectory(key: str, score: float | None = 0.5, *, of: str = "q0", best: bool = False) -> Trajectory:
    return Trajectory(
        id=key,
        question=of,
        nodes=("n1", "n2"),
        teachers=("ann",),
        text="think",
        conclusion="So 1.",
        answer="1",
        origin="search",
        score=score,
        best=best,
        usage=Usage(prompt=1, completion=2),
    )


def verdict(key: str, outcome: Outcome = Outcome.ACCEPTED) -> Verdict:
    return Verdict(trajectory=key, outcome=outcome, reason="it holds")


def route(key: str, student: str = "s", *, round: int = 0, gate: int = 1) -> Route:
    return Route(id=f"{key}-{student}-{round}", trajectory=key, student=student, round=round, gate=gate, probability=0.25)


def attempt(key: str) -> Attempt:
    return Attempt(id=key, model="s@before", question="qh", sample=0, text="1", answer="1", correct=True, usage=Usage(prompt=1))


FAILURE = Failure(id="f", where="search", kind="Overlong", message="too long", tries=3, subject="q0")
REPORT = Report(student="s", trajectory="t1", update=4, cross_entropy=1.25)
METRICS = Metrics(student="s", update=4, values={"loss": 0.5})
CHECKPOINT = Checkpoint(student="s", update=4, directory="s/4", config_hash="c", final=False)
TREE = Advance(question="q0", kept=(node("n1"),), pruned=(node("n0", NodeState.PRUNED, rank=1),))


def stored(path: Path, work: Work, **options: Any) -> Any:
    async def main() -> Any:
        async with open_store(path / "run.db", **options) as store:
            return await work(store)

    return asyncio.run(main())


async def everything(store: Store) -> None:
    """Every write there is."""
    await store.begin_run("r", "a run", "beam: 4")
    await store.add_questions([question(0), question(1), question(2)], split="train")
    await store.add_questions([question(0), question(1), question("h")], split="held_out")
    await store.lease_question("me", 60)
    await store.renew_leases("me", 60)
    await store.record_calls([call("c1"), call("c2")])
    await store.record_advance(TREE)
    await store.record_advance(
        Advance(
            question="q0",
            expanded=("n1",),
            finished=(node("n2", NodeState.FINISHED, parent="n1"),),
            late=(node("n3", NodeState.LATE, rank=2),),
        )
    )
    await store.settle_question(
        "q0",
        QuestionState.SOLVED,
        "one is right",
        [trajectory("t1", best=True), trajectory("t2", 0.25)],
        [verdict("t1"), verdict("t2", Outcome.WRONG_ANSWER)],
        [route("t1")],
        Advance(question="q0", pruned=(node("n3", NodeState.PRUNED, rank=2),)),
    )
    await store.record_failure(FAILURE)
    await store.record_attempts([attempt("a1")])
    await store.record_training([REPORT], [METRICS], CHECKPOINT)
    await store.add_stage_seconds("search", 1.5)
    await store.release_leases()
    await store.end_run("finished")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await everything(store)
        run = await store.run()
        assert run is not None
        assert (run.id, run.name, run.config, run.state) == ("r", "a run", "beam: 4", "finished")
        assert run.started_at <= (run.finished_at or 0)
        placed = await store.questions("train")
        assert [(each.position, each.question.id, each.state, each.reason) for each in placed] == [
            (0, "q0", QuestionState.SOLVED, "one is right"),
            (1, "q1", QuestionState.PENDING, ""),
            (2, "q2", QuestionState.PENDING, ""),
        ]
        assert await store.questions("train", after=0, limit=1) == [placed[1]]
        assert [each.question.id for each in await store.questions("held_out")] == ["qh"]
        assert await store.question("q0") == (question(0), QuestionState.SOLVED, "one is right")
        assert await store.question("nobody") is None
        pruned = node("n3", NodeState.PRUNED, rank=2)
        tree = [node("n1", NodeState.KEPT), TREE.pruned[0], pruned, node("n2", NodeState.FINISHED, parent="n1")]
        assert await store.tree("q0") == tree
        assert await store.calls("q0") == {"c1": call("c1"), "c2": call("c2")}
        t1 = trajectory("t1", best=True)
        assert await store.trajectories("q0") == [
            (t1, verdict("t1")),
            (trajectory("t2", 0.25), verdict("t2", Outcome.WRONG_ANSWER)),
        ]
        (accepted,) = await store.judged(accepted_only=True)
        assert tuple(accepted) == (question(0), t1, verdict("t1"), [tree[0], tree[3]], [], None, None, None, 0)
        assert await store.judged(after=accepted.cursor, accepted_only=True) == []
        assert await store.plan_epoch(0) == Plan(epoch=0, arrivals=1, ended=False)
        (lesson,) = await store.lessons(0, "s")
        assert (lesson.question, lesson.trajectory, lesson.target) == (question(0), t1, question(0).answer)
        assert await store.failures() == [FAILURE]
        assert await store.attempts("s@before") == [attempt("a1")]
        assert await store.checkpoints("s") == [CHECKPOINT]
        assert await store.metrics("s") == [METRICS]
        assert await store.stage_seconds() == {"search": 1.5}
        assert await store.mean_score() == 0.5

    stored(tmp_path, work)


def test_the_counts_and_events_of_a_run(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await everything(store)
        assert {name: value for name, value in (await store.counts()).items() if value} == {
            "attempts.s@before": 1,
            "gates.0.1.search.s": 1,
            "won.early.ann": 1,
            "won.middle.ann": 1,
            "calls.score": 2,
            "failed.Overlong": 1,
            "failures.search": 1,
            "held_out.questions": 1,
            "nodes.finished": 1,
            "nodes.kept": 1,
            "nodes.pruned": 2,
            "questions.pending": 2,
            "questions.solved": 1,
            "reports.s": 1,
            "routes.s": 1,
            "score.billionths": 500_000_000,
            "score.count": 1,
            "spent.calls.ann": 2,
            "spent.tokens.ann": 10,
            "tokens.cached": 2,
            "tokens.completion": 4,
            "tokens.prompt": 6,
            "trajectories.accepted": 1,
            "trajectories.wrong_answer": 1,
        }
        events = await store.events()
        assert [(event.kind, event.subject) for event in events] == [
            ("run_running", "r"),
            *(("question", key) for key in ("q0", "q1", "q2", "qh")),
            ("question_leased", "q0"),
            ("call", "q0"),
            ("call", "q0"),
            ("advance", "q0"),
            ("advance", "q0"),
            ("advance", "q0"),
            *(("trajectory", "t1"), ("trajectory", "t2"), ("verdict", "t1"), ("verdict", "t2"), ("route", "t1")),
            ("question_solved", "q0"),
            ("failure", "q0"),
            ("attempt", "qh"),
            *(("report", "s"), ("metrics", "s"), ("checkpoint", "s")),
            ("run_finished", "r"),
        ]
        assert await store.events(after=events[3].seq, limit=2) == events[4:6]

    stored(tmp_path, work)


def test_the_same_run_again_changes_nothing(tmp_path: Path) -> None:
    async def again(store: Store) -> tuple[Any, Any]:
        await store.record_calls([call("c1"), replace(call("c2"), response={"text": "another"})])
        await store.add_questions([question(2), question(0)], split="train")
        await store.record_advance(TREE)
        await store.settle_question("q0", QuestionState.UNSOLVED, "", [trajectory("t9")], [verdict("t9")], [route("t9")])
        await store.record_failure(FAILURE)
        await store.record_attempts([attempt("a1")])
        await store.record_training([REPORT], [METRICS], CHECKPOINT)
        await store.release_leases()
        await store.end_run("finished")
        return await store.dump(), await store.events()

    stored(tmp_path, everything)
    before = stored(tmp_path, lambda store: both(store))
    assert stored(tmp_path, again) == before


async def both(store: Store) -> tuple[Any, Any]:
    return await store.dump(), await store.events()


def test_equal_runs_leave_equal_databases(tmp_path: Path) -> None:
    dumps = []
    for name in ("one", "two"):
        stored(tmp_path / name, everything)
        dumps.append(stored(tmp_path / name, Store.dump))
    assert dumps[0] == dumps[1]
    assert dumps[0]["question"][0].keys() >= {"state", "lease_owner"}
    names = {column for rows in dumps[0].values() for row in rows for column in row}
    assert not names & {"seq", "time", "latency_s", "seconds", "lease_expires_at", "started_at", "finished_at"}


def test_a_run_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(StoreError, match="no run"):
            await store.end_run("finished")
        await store.begin_run("r", "n", "c")
        await store.end_run("interrupted")
        await store.begin_run("r", "n", "c")
        run = await store.run()
        assert run is not None
        assert (run.state, run.finished_at) == ("running", None)
        with pytest.raises(StoreError, match="belongs to run r, not to other"):
            await store.begin_run("other", "n", "c")
        assert [event.kind for event in await store.events()] == ["run_running", "run_interrupted", "run_running"]

    stored(tmp_path, work)


def test_leases(tmp_path: Path) -> None:
    now = [0.0]

    async def leased(store: Store, owner: str) -> str | None:
        found = await store.lease_question(owner, 10)
        return found and found.id

    async def work(store: Store) -> None:
        await store.add_questions([question(0), question(1), question(2)], split="train")
        await store.add_questions([question("h")], split="held_out")
        assert [await leased(store, owner) for owner in ("a", "b", "a", "a")] == ["q0", "q1", "q2", None]
        now[0] = 9.0
        assert await store.renew_leases("a", 10) == 2
        now[0] = 10.0
        assert [await leased(store, "c"), await leased(store, "c")] == ["q1", None]
        assert await store.release_leases("a") == 2
        assert await leased(store, "d") == "q0"
        now[0] = 30.0
        assert await leased(store, "e") == "q0"
        assert await store.release_leases() == 2
        await store.settle_question("q0", QuestionState.UNSOLVED, "no answer", [], [], [])
        assert await leased(store, "f") == "q1"
        counts = await store.counts()
        assert [counts[f"questions.{state}"] for state in ("pending", "leased", "unsolved")] == [1, 1, 1]

    stored(tmp_path, work, clock=lambda: now[0])


def test_an_epoch_is_planned_once_and_holds_what_has_arrived_since_the_one_before(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.begin_run("run", "run", "{}")
        await store.add_questions([question(0), question(1), question(2)], split="train")

        async def accept(number: int) -> None:
            made = trajectory(f"t{number}", of=f"q{number}")
            await store.settle_question(f"q{number}", QuestionState.SOLVED, "", [made], [verdict(made.id)], [])

        await accept(0)
        first = await store.plan_epoch(0, least=1)
        await accept(1)
        assert await store.plan_epoch(0, least=5) == first == Plan(epoch=0, arrivals=1, ended=False)
        assert await store.plan_epoch(1, least=2) is None
        await store.end_search()
        assert await store.plan_epoch(1, least=2) == Plan(epoch=1, arrivals=1, ended=True)
        assert await store.plan_epoch(2) == Plan(epoch=2, arrivals=0, ended=True)
        arrived = [[lesson.trajectory.id for lesson in await store.lessons(epoch)] for epoch in range(3)]
        assert arrived == [["t0"], ["t1"], []]
        assert await store.plan_epoch(0) == first
        kinds = [event.kind for event in await store.events()]
        assert (kinds.count("plan"), kinds.count("search_ended")) == (3, 1)

    stored(tmp_path, work)


def test_the_target_of_a_lesson_without_gold_is_what_stands_in_for_it(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.begin_run("run", "run", "{}")
        await store.add_questions([replace(question(0), answer=None), replace(question(1), answer=None)], split="train")
        await store.set_target("q0", "7", 0.9)
        for number in (0, 1):
            made = trajectory(f"t{number}", of=f"q{number}")
            await store.settle_question(f"q{number}", QuestionState.SOLVED, "", [made], [verdict(made.id)], [])
        await store.plan_epoch(0)
        assert [lesson.target for lesson in await store.lessons(0)] == ["7", None]

    stored(tmp_path, work)


def test_the_lessons_of_a_student(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.begin_run("run", "run", "{}")
        await store.add_questions([question(0), question(1)], split="train")
        for key, name in (("1", "q1"), ("0", "q0")):
            made = [
                trajectory(key + end, score, of=name, best=end == "b")
                for end, score in zip("abcd", (0.1, 0.9, None, 0.5), strict=True)
            ]
            outcomes = [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.UNSOUND]
            judged = [verdict(each.id, outcome) for each, outcome in zip(made, outcomes, strict=True)]
            routes = [route(each.id) for each in made] + [
                route(key + "a", "other"),
                route(key + "b", "other", gate=0),
            ]
            await store.settle_question(name, QuestionState.SOLVED, "", made, judged, routes)

        def ids(lessons: list[Any]) -> list[str]:
            return [lesson.trajectory.id for lesson in lessons]

        assert await store.plan_epoch(0, least=7) is None
        assert await store.lessons(0) == []
        assert await store.plan_epoch(0, least=6) == Plan(epoch=0, arrivals=6, ended=False)
        assert ids(await store.lessons(0)) == ids(await store.lessons(0, "s")) == ["0b", "0a", "0c", "1b", "1a", "1c"]
        assert ids(await store.lessons(0, "s", best_only=True)) == ["0b", "1b"]
        assert ids(await store.lessons(0, "other")) == ["0a", "1a"]
        found, page = [], await store.judged(limit=2, accepted_only=True)
        while page:
            found += [each.trajectory.id for each in page]
            page = await store.judged(after=page[-1].cursor, limit=2, accepted_only=True)
        assert found == ["0a", "0b", "0c", "1a", "1b", "1c"]
        assert await store.mean_score() == 0.5

    stored(tmp_path, work)


def test_a_tree_only_moves_forward(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.add_questions([question(0)], split="train")
        await store.record_advance(Advance(question="q0", kept=(node("a"),), late=(node("b", NodeState.LATE),)))
        await store.record_advance(Advance(question="q0", expanded=("a",), kept=(node("b", rank=4),)))
        await store.record_advance(Advance(question="q0", kept=(node("a"),), late=(node("b", NodeState.LATE, rank=4),)))
        assert [(each.id, each.state, each.rank) for each in await store.tree("q0")] == [
            ("a", NodeState.KEPT, 0),
            ("b", NodeState.OPEN, 4),
        ]
        with pytest.raises(StoreError, match="node z is not in the store"):
            await store.record_advance(Advance(question="q0", expanded=("z",), kept=(node("c"),)))
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            await store.record_advance(Advance(question="nobody", kept=(node("d", of="nobody"),)))
        assert [each.id for each in await store.tree("q0")] == ["a", "b"]

    stored(tmp_path, work)


def test_seconds_add_up_and_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for _ in range(3):
            await store.add_stage_seconds("search", 0.5)
        await store.record_training([], [], CHECKPOINT)
        await store.record_training([], [], replace(CHECKPOINT, final=True))
        await store.record_training([], [], replace(CHECKPOINT, final=True))
        assert await store.checkpoints("s") == [replace(CHECKPOINT, final=True)]
        assert [event.kind for event in await store.events()] == ["checkpoint", "checkpoint"]
        assert await store.stage_seconds() == {"search": 1.5}

    stored(tmp_path, work)


def test_read_only_while_another_writes(tmp_path: Path) -> None:
    async def work(writing: Store) -> None:
        async with open_store(tmp_path / "run.db", create=False, read_only=True) as reading:
            await writing.record_calls([call("c1")])
            assert await reading.calls("q0") == {"c1": call("c1")}
            with pytest.raises(StoreError, match="opened for reading only"):
                await reading.record_calls([call("c2")])

    stored(tmp_path, work)


def test_of_several_claimants_one_makes_a_call_and_the_others_get_its_row(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        assert await store.claim_call("c1", "me", 60) is True
        assert await store.claim_call("c1", "me", 60) is True
        assert await store.claim_call("c1", "another", 60) is False
        await store.record_calls([call("c1")])
        assert await store.claim_call("c1", "another", 60) == call("c1")
        assert await store.call("c1") == call("c1")
        assert await store.call("c2") is None

    stored(tmp_path, work)


def test_a_claim_ends_when_it_is_given_up_or_not_renewed(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        assert await store.claim_call("c1", "me", 60) is True
        await store.release_claim("c1")
        assert await store.claim_call("c1", "another", 0.0) is True
        assert await store.claim_call("c1", "me", 60) is True, "an expired claim holds nobody back"
        assert await store.claim_call("c2", "another", 0.0) is True
        await store.renew_claims("another", 60)
        assert await store.claim_call("c2", "me", 60) is False

    stored(tmp_path, work)
