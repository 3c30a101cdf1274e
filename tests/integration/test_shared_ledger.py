"""Runs that share a ledger: what one has paid for the others use, whoever asks first, and whoever dies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from counting_engine import CountingEngine, model

from agents.engines.base import Message, Prompt, together
from agents.errors import EngineError, MissingCall, Terminal
from agents.ledger import Ledger, Model, Terms
from agents.shared_ledger import LOOK_S, SharedLedger, open_shared_ledger
from configs.engines import Price
from configs.engines import ScriptedEngine as Config
from store.store import Store, StoreError, open_store
from store.types import Call

T = TypeVar("T")
TESTS = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": f"{TESTS.parents[1]}:{TESTS}"}
PROMPT = Prompt(messages=(Message(role="user", content="Ann has 3 pens, then 4, then 5. How many?"),))
PRICE = Price(prompt=100.0, completion=500.0)


def engine(latency_s: float = 0.0, *errors: EngineError) -> CountingEngine:
    """An engine whose first calls raise `errors`."""

    def before(kind: str, number: int) -> None:
        if number <= len(errors):
            raise errors[number - 1]

    return CountingEngine(Config(kind="scripted", latency_s=latency_s), before)


@asynccontextmanager
async def a_run(folder: Path, name: str, *, claim_s: float = 30.0, replay: bool = False) -> AsyncIterator[tuple[Store, Terms]]:
    """A run's own store, and its terms with the ledger that all runs in `folder` share."""
    sharing = open_shared_ledger(folder / "ledger.db", owner=name, replay=replay, claim_s=claim_s)
    async with open_store(folder / f"{name}.db") as store, sharing as shared:
        yield store, Terms(keep=store, shared=shared, replay=replay)


def book(terms: Terms, subject: str = "q") -> Ledger:
    return Ledger(subject=subject, known={}, terms=terms)


async def ask(terms: Terms, made: CountingEngine, answer: str = "12", agent: str = "prover", subject: str = "q") -> Any:
    """One request, of which `answer` makes another one."""
    return await book(terms, subject).answer_logprobs(priced(made), PROMPT, answer, agent=agent)


def priced(made: CountingEngine) -> Model:
    return replace(model(made), price=PRICE)


def in_time(work: Awaitable[T], limit_s: float = 30.0) -> T:
    async def limited() -> T:
        async with asyncio.timeout(limit_s):
            return await work

    return asyncio.run(limited())


def test_what_one_run_has_paid_for_another_one_uses_and_it_costs_nothing_there(tmp_path: Path) -> None:
    first, second = engine(), engine()

    async def work() -> None:
        async with a_run(tmp_path, "one") as (store, terms):
            paid = await ask(terms, first)
            (own,) = (await store.calls("q")).values()
            assert own.cost and not own.reused
        async with a_run(tmp_path, "two") as (store, terms):
            assert await ask(terms, second, agent="judge") == paid
            (used,) = (await store.calls("q")).values()
            assert used == replace(own, agent="judge", cost=0.0, latency_s=0.0, reused=True)
            counts = await store.counts()
            assert (counts["calls.score"], counts["calls.reused"]) == (1, 1)
            assert not [name for name in counts if name.startswith(("spent.", "tokens."))]
        async with open_store(tmp_path / "ledger.db", create=False, read_only=True) as ledger:
            assert await ledger.call(own.id) == own, "the ledger knows what was paid"

    in_time(work())
    assert (first.asked, second.asked) == (["score"], [])


def test_two_runs_that_ask_at_the_same_moment_ask_each_request_once(tmp_path: Path) -> None:
    """At once, and then one after the other from both ends."""
    made = [engine(0.02), engine(0.02)]

    async def work() -> None:
        async with a_run(tmp_path, "one") as (one, terms), a_run(tmp_path, "two") as (two, others):
            both = ((terms, made[0]), (others, made[1]))
            found = await together([ask(each, by, str(number)) for number in range(20) for each, by in both])
            assert found[::2] == found[1::2]
            await together([one_by_one(terms, made[0], range(20, 40)), one_by_one(others, made[1], reversed(range(20, 40)))])
            rows = [await store.calls("q") for store in (one, two)]
            assert rows[0].keys() == rows[1].keys()
            assert [rows[0][key].reused != rows[1][key].reused for key in rows[0]] == [True] * 40

    in_time(work())
    assert sum(len(each.asked) for each in made) == 40
    assert all(each.asked for each in made)


async def one_by_one(terms: Terms, made: CountingEngine, numbers: Iterable[int]) -> None:
    for number in numbers:
        await ask(terms, made, str(number))


ASK_ALL = """if True:
    import asyncio, json, sys
    from pathlib import Path
    from agents.engines.base import together
    from test_shared_ledger import a_run, ask, engine

    async def main():
        folder, name, latency_s, at_once = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), asyncio.Semaphore(int(sys.argv[4]))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        made, numbers = engine(latency_s), range(60) if name == "one" else reversed(range(60))

        async def one(terms, number):
            async with at_once:
                return (await ask(terms, made, str(number), subject=f"q{number % 7}")).values

        async with a_run(folder, name) as (store, terms):
            found = await together([one(terms, number) for number in numbers])
            print(json.dumps([len(made.asked), found, await store.counts()]))

    asyncio.run(main())
"""


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.parametrize(("latency_s", "at_once"), [(0.0, 60), (0.05, 60), (0.05, 2)])
def test_two_processes_that_ask_at_the_same_moment_ask_each_request_once(tmp_path: Path, latency_s: float, at_once: int) -> None:
    """Neither finds the ledger there: one of them makes it."""
    runs = [started(ASK_ALL, str(tmp_path), name, str(latency_s), str(at_once)) for name in ("one", "two")]
    go(*runs)
    told = [json.loads(run.communicate(timeout=60)[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    (asked, found, counts), (others_asked, others_found, others_counts) = told
    assert asked + others_asked == 60
    assert found == others_found[::-1]
    for number, own in ((asked, counts), (others_asked, others_counts)):
        assert (own["calls.score"], own.get("spent.calls.prover", 0), own.get("calls.reused", 0)) == (60, number, 60 - number)
    assert at_once > 2 or (asked and others_asked)


def test_when_the_run_that_asks_fails_or_gives_up_another_one_asks_at_once(tmp_path: Path) -> None:
    failing, slow, made = engine(0.0, Terminal("no")), engine(60.0), engine()

    async def work() -> None:
        async with a_run(tmp_path, "one") as (_, terms), a_run(tmp_path, "two") as (store, others):
            with pytest.raises(Terminal):
                await ask(terms, failing)
            async with asyncio.TaskGroup() as group:
                given_up = group.create_task(ask(terms, slow, "13"))
                await until(lambda: bool(slow.asked))
                waiting = group.create_task(ask(others, made, "13"))
                await asyncio.sleep(2 * LOOK_S)
                assert made.asked == []
                given_up.cancel()
            assert waiting.done()
            await ask(others, made)
            assert not [call for call in (await store.calls("q")).values() if call.reused]

    in_time(work(), 10)
    assert made.asked == ["score", "score"]


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - engines have no event
        await asyncio.sleep(0.01)


ASK_ONE = """if True:
    import asyncio, sys
    from pathlib import Path
    from test_shared_ledger import a_run, ask, engine, until

    async def main():
        made = engine(600.0)
        async with a_run(Path(sys.argv[1]), "one", claim_s=float(sys.argv[2])) as (_, terms):
            async with asyncio.TaskGroup() as group:
                group.create_task(ask(terms, made))
                await until(lambda: bool(made.asked))
                print("asked", flush=True)

    asyncio.run(main())
"""


@pytest.mark.chaos
def test_a_killed_run_that_is_resumed_does_not_wait_for_its_own_claims_nor_keep_them(tmp_path: Path) -> None:
    made, others = engine(), engine()

    async def work() -> None:
        async with a_run(tmp_path, "one") as (_, resumed), a_run(tmp_path, "two") as (_, terms):
            await ask(terms, others)
            await ask(resumed, made, "13")

    with started(ASK_ONE, str(tmp_path), "3600") as run:
        assert run.stdout and run.stdout.readline() == "asked\n"
        run.kill()
        run.wait()
    in_time(work(), 10)
    assert others.asked == made.asked == ["score"]


@pytest.mark.chaos
def test_a_living_run_keeps_what_it_asks_for_and_a_killed_one_holds_others_back_for_as_long_as_a_claim_lasts(
    tmp_path: Path,
) -> None:
    claim_s, made = 1.5, engine()

    async def work(run: subprocess.Popen[str]) -> float:
        async with a_run(tmp_path, "two", claim_s=claim_s) as (store, terms):
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(ask(terms, made))
                await asyncio.sleep(2 * claim_s)
                assert made.asked == [], "the claim of a living run does not end"
                run.kill()
                began = time.monotonic()
                await asked
            assert [call.reused for call in (await store.calls("q")).values()] == [False]
            return time.monotonic() - began

    with started(ASK_ONE, str(tmp_path), str(claim_s)) as run:
        assert run.stdout and run.stdout.readline() == "asked\n"
        held_s = in_time(work(run))
    assert made.asked == ["score"]
    assert claim_s * 2 / 3 - LOOK_S - 0.5 < held_s < claim_s + LOOK_S + 1.0


def test_a_run_that_was_asleep_for_too_long_does_not_give_up_the_claim_of_the_one_that_asks_now(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def work() -> None:
        others = [open_shared_ledger(path, owner=owner, replay=False) for owner in ("two", "three")]
        async with asleep(path) as one, others[0] as two, others[1] as three:
            assert await one.claim("key") is None
            await asyncio.sleep(0.05)
            assert await two.claim("key") is None, "the claim has ended"
            await one.release("key")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2 * LOOK_S):
                    await three.claim("key")

    in_time(work())


@asynccontextmanager
async def asleep(path: Path) -> AsyncIterator[SharedLedger]:
    """A ledger whose claims end before they are renewed."""
    async with open_store(path) as store:
        yield SharedLedger(store, "asleep", writable=True, claim_s=0.01)


async def finished_run(path: Path, made: CountingEngine, *, ends: bool = True) -> list[dict[str, Any]]:
    """A run's own database with three calls; its call rows."""
    async with open_store(path) as store:
        await store.begin_run("run", "walk", "name: walk")
        for answer in ("12", "13", "14"):
            await ask(Terms(keep=store), made, answer)
        if ends:
            await store.end_run("finished")
        return (await store.dump())["call"]


def dumped(path: Path) -> dict[str, Any]:
    async def read() -> dict[str, Any]:
        async with open_store(path, create=False, read_only=True) as store:
            return await store.dump()

    return asyncio.run(read())


@pytest.mark.parametrize("replay", [False, True])
def test_the_own_database_of_a_run_is_read_and_never_changed(tmp_path: Path, replay: bool) -> None:
    path, made = tmp_path / "ledger.db", engine(0.0, Terminal("no"))
    rows = asyncio.run(finished_run(path, engine()))
    before = path.read_bytes(), dumped(path), sorted(each.name for each in tmp_path.iterdir())

    async def work() -> None:
        async with a_run(tmp_path, "two", replay=replay) as (store, terms):
            for answer in ("12", "13", "14"):
                await ask(terms, engine(600.0), answer)
            calls = (await store.calls("q")).values()
            assert sorted(call.id for call in calls) == [row["id"] for row in rows]
            assert all(call.reused for call in calls)
            for error in (MissingCall,) * 2 if replay else (Terminal,):
                with pytest.raises(error):
                    await ask(terms, made, "15")
            if not replay:
                await ask(terms, made, "15")

    in_time(work())
    (tmp_path / "two.db").unlink()
    assert (path.read_bytes(), dumped(path), sorted(each.name for each in tmp_path.iterdir())) == before
    assert len(made.asked) == (0 if replay else 2)


def test_the_database_of_a_run_that_is_still_running_can_be_shared(tmp_path: Path) -> None:
    """What it pays for meanwhile is found too."""
    path, made = tmp_path / "ledger.db", engine()

    async def work() -> None:
        await finished_run(path, engine(), ends=False)
        async with open_store(path) as living, a_run(tmp_path, "two") as (_, terms):
            await ask(terms, made, "14")
            await ask(Terms(keep=living), engine(), "15")
            before = await living.dump()
            await ask(terms, made, "15")
            await ask(terms, made, "16")
            assert await living.dump() == before

    in_time(work())
    assert made.asked == ["score"]


@pytest.mark.parametrize("replay", [False, True])
def test_what_is_no_ledger_is_told_in_one_line_and_left_alone(tmp_path: Path, replay: bool) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("name: walk\n" * 100)

    async def opened() -> None:
        async with a_run(tmp_path, "one", replay=replay):
            pass

    with pytest.raises(StoreError) as error:
        asyncio.run(opened())
    assert str(error.value) == f"{path}: file is not a database"
    assert path.read_text() == "name: walk\n" * 100


def test_a_replay_makes_no_ledger(tmp_path: Path) -> None:
    async def opened() -> None:
        async with a_run(tmp_path, "one", replay=True):
            pass

    with pytest.raises(StoreError, match="there is no store here"):
        asyncio.run(opened())
    assert not (tmp_path / "ledger.db").exists()


def test_a_row_that_the_run_could_not_keep_itself_is_used_when_it_is_resumed(tmp_path: Path) -> None:
    """A process that dies between the two rows."""

    class Dying:
        async def record_calls(self, calls: list[Call]) -> None:
            raise OSError("killed")

        async def record_spent(self, agent: str, tokens: int, cost: float | None) -> None:
            return None

    made = engine()

    async def work() -> None:
        async with a_run(tmp_path, "one") as (store, terms):
            with pytest.raises(OSError, match="killed"):
                await ask(replace(terms, keep=Dying()), made)
            await ask(terms, made)
            assert [call.reused for call in (await store.calls("q")).values()] == [True]

    in_time(work())
    assert made.asked == ["score"]
