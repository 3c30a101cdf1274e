"""Caps: whatever is asked together, and however it ends, no more is spent than may be, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from counting_engine import CountingEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.budget import Budget
from agents.engines.base import Message, Prompt, together
from agents.errors import BudgetSpent, EngineError, Retryable, Terminal
from agents.ledger import Ledger, Model, Terms
from agents.limits import Gate
from configs.engines import EngineLimits, Price
from configs.engines import ScriptedEngine as Config
from configs.schema import Budget as Cap
from store.store import Store, open_store
from store.types import Usage

T = TypeVar("T")
CENT = 0.01
"""In these tests a token costs a cent."""


def ends(work: Awaitable[T]) -> T:
    """What it gives, within seconds."""

    async def limited() -> T:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(limited())


async def ticks(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of a random interleaving: what it may take and takes, and when it begins, ends, and is cancelled."""

    agent: str
    most: int
    takes: int
    begins: int
    lasts: int
    cancelled: int | None


def asked_at_random() -> st.SearchStrategy[list[Asked]]:
    agents, few = st.sampled_from(["ann", "bob", "prover"]), st.integers(0, 6)
    tokens = st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda most: (most[0], most[0] * most[1] // 8))
    calls = st.tuples(agents, tokens, few, few, st.none() | st.integers(0, 9))
    return st.lists(calls.map(lambda call: Asked(call[0], *call[1], *call[2:])), max_size=14)


class Books:
    """Our own account of what is spent and reserved, beside the budget's."""

    def __init__(self, budget: Budget, run: int | None, ann: int | None) -> None:
        self.budget = budget
        self._caps = {name: cap for name, cap in (("", run), ("ann", ann)) if cap is not None}
        self.spent, self.reserved, self.ended = Counter[str](), Counter[str](), 0

    def left(self, agent: str) -> int:
        """What has not been spent of the tighter cap."""
        return min((cap - self.spent[name] for name, cap in self._caps.items() if name in {"", agent}), default=99)

    def _move(self, books: Counter[str], agent: str, tokens: int) -> None:
        books.update({"": tokens, agent: tokens})
        assert all(self.spent[name] + self.reserved[name] <= cap for name, cap in self._caps.items())

    async def call(self, asked: Asked) -> None:
        """One call from its beginning to its end."""
        await ticks(asked.begins)
        try:
            reservation = await self.budget.reserve(asked.agent, asked.most * CENT, asked.most)
        except BudgetSpent:
            assert asked.most > self.left(asked.agent), "there was room"
            self.ended += 1
            return
        self._move(self.reserved, asked.agent, asked.most)
        taken = 0
        try:
            await ticks(asked.lasts)
            taken = asked.takes
        finally:
            await self.budget.settle(reservation, taken * CENT, taken)
            self._move(self.reserved, asked.agent, -asked.most)
            self._move(self.spent, asked.agent, taken)
            self.ended += 1

    async def all(self, calls: list[Asked]) -> None:
        """All calls at once, some of them cancelled."""

        async def cancel(task: asyncio.Task[None], after: int) -> None:
            await ticks(after)
            task.cancel()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.call(each)) for each in calls]
            for task, each in zip(tasks, calls, strict=True):
                if each.cancelled is not None:
                    group.create_task(cancel(task, each.cancelled))
            await ticks(500)
            assert all(task.done() for task in tasks), "a call waits for ever"


def cap(tokens: int | None, money: bool) -> Cap:
    """So many tokens, said in tokens or in US dollars."""
    return Cap(usd=None if tokens is None else tokens * CENT) if money else Cap(tokens=tokens)


@settings(max_examples=300, deadline=None)
@given(asked_at_random(), st.none() | st.integers(0, 90), st.none() | st.integers(0, 50), st.booleans())
def test_whatever_is_asked_together_no_more_is_spent_than_may_be_and_every_call_ends(
    calls: list[Asked], run: int | None, own: int | None, money: bool
) -> None:
    books = Books(Budget(cap(run, money), {"ann": cap(own, money), "bob": Cap()}, {}), run, own)
    ends(books.all(calls))
    assert books.ended >= sum(each.cancelled is None for each in calls)
    assert not +books.reserved

    async def what_is_left() -> None:  # in one call, and not a token more: nothing is reserved any more
        for agent in ("ann", "bob"):
            if (left := books.left(agent)) < 99:
                reservation = await books.budget.reserve(agent, left * CENT, left)
                await books.budget.settle(reservation, 0.0, 0)
                with pytest.raises(BudgetSpent):
                    await books.budget.reserve(agent, (left + 1) * CENT, left + 1)

    ends(what_is_left())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 20)), max_size=8), st.integers(0, 8), st.booleans())
def test_what_earlier_lives_have_spent_counts(paid: list[tuple[str, int]], cut: int, money: bool) -> None:
    """The life that begins with the counts of another goes on where that one would have."""

    async def life(counts: dict[str, int], calls: list[tuple[str, int]]) -> tuple[Counter[str], list[tuple[str, int]]]:
        budget = Budget(cap(60, money), {"ann": cap(30, money)}, counts)
        after, refused = Counter(counts), []
        for agent, tokens in calls:
            try:
                reservation = await budget.reserve(agent, tokens * CENT, tokens)
            except BudgetSpent:
                refused.append((agent, tokens))
                continue
            await budget.settle(reservation, tokens * CENT, tokens)
            after[f"spent.tokens.{agent}"] += tokens
            after[f"spent.billionths.{agent}"] += round(tokens * CENT * 1e9)
        return after, refused

    other = {"spent.calls.ann": 1000, "calls.propose": 1000, "tokens.prompt": 1000, "questions.solved": 1000}
    whole, refused = ends(life(other, paid))
    half, first = ends(life(other, paid[:cut]))
    end, second = ends(life(dict(half), paid[cut:]))
    assert (end, first + second) == (whole, refused)


def test_a_call_that_does_not_fit_beside_others_waits_and_goes_when_they_are_settled() -> None:
    budget = Budget(Cap(tokens=100), {}, {})
    order: list[str] = []

    async def second() -> None:
        reservation = await budget.reserve("bob", 0.0, 60)
        order.append("second goes")
        await budget.settle(reservation, None, 60)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            first = await budget.reserve("ann", 0.0, 60)
            group.create_task(second())
            await asyncio.sleep(0.05)
            order.append("first is settled")
            await budget.settle(first, None, 40)

    ends(work())
    assert order == ["first is settled", "second goes"]


def test_a_call_that_waited_in_vain_is_told_so_when_nothing_is_out_any_more() -> None:
    budget = Budget(Cap(tokens=100), {}, {})

    async def work() -> None:
        first = await budget.reserve("ann", 0.0, 60)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(budget.reserve("bob", 0.0, 60), name="second")
            await asyncio.sleep(0.05)
            assert not second.done()
            await budget.settle(first, None, 50)

    with pytest.raises(ExceptionGroup) as several:
        ends(work())
    (spent,) = several.value.exceptions
    assert isinstance(spent, BudgetSpent)
    assert str(spent) == "budget: 50 of 100 tokens are spent, and the next call may take 60"
    assert spent.agent is None


def test_an_agents_own_cap_holds_that_agent_alone_and_the_runs_cap_holds_all() -> None:
    budget = Budget(Cap(usd=10), {"ann": Cap(usd=1, tokens=1000), "bob": Cap()}, {})

    async def work() -> None:
        first = await budget.reserve("ann", 0.75, 10)
        await budget.settle(first, 0.75, 10)
        with pytest.raises(BudgetSpent) as spent:
            await budget.reserve("ann", 0.5, 10)
        assert spent.value.agent == "ann"
        told = "budget of ann: 0.750000 of 1 US dollars are spent, and the next call may cost 0.500000"
        assert str(spent.value) == f"{told}; 10 of 1000 tokens are spent, and the next call may take 10"
        for agent, usd in (("bob", 5.0), ("prover", 4.0)):
            await budget.settle(await budget.reserve(agent, usd, 0), usd, 0)
        for agent in ("ann", "bob", "prover"):
            with pytest.raises(BudgetSpent) as spent:
                await budget.reserve(agent, 0.250001, 0)
            assert spent.value.agent == ("ann" if agent == "ann" else None)
        assert str(spent.value) == "budget: 9.750000 of 10 US dollars are spent, and the next call may cost 0.250001"
        await budget.reserve("ann", 0.25, 0)

    ends(work())


def test_while_ann_waits_for_room_of_her_own_bob_goes() -> None:
    budget = Budget(Cap(), {"ann": Cap(tokens=10)}, {})

    async def work() -> None:
        first = await budget.reserve("ann", 0.0, 10)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(budget.reserve("ann", 0.0, 5), name="second")
            await asyncio.sleep(0)
            await budget.settle(await budget.reserve("bob", 0.0, 1000), None, 1000)
            assert not second.done()
            await budget.settle(first, None, 5)

    ends(work())


def test_without_a_cap_nothing_is_held_back_and_of_a_cap_of_nothing_only_what_is_free_may_be_asked() -> None:
    budget = Budget(Cap(), {}, {"spent.tokens.ann": 10**12})
    ends(together([budget.reserve("ann", 1e9, 10**12) for _ in range(100)]))
    ends(Budget(Cap(usd=0), {}, {}).reserve("ann", 0.0, 10**6))
    with pytest.raises(BudgetSpent, match=r"0\.000000 of 0 US dollars are spent, and the next call may cost 0\.000015"):
        ends(Budget(Cap(usd=0), {}, {}).reserve("ann", 15e-6, 1))


# Budget behind the ledger


WORDS = "Ann has 3 pens, then 4, then 5. How many are there now? "
PRICE = Price(prompt=10_000, completion=10_000)
"""A cent a token."""


def prompt(text: str = WORDS) -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),))


def model(engine: CountingEngine, in_flight: int = 8) -> Model:
    gate = Gate(EngineLimits(in_flight=in_flight), tries=2)
    return Model(name="engine", identity="scripted", engine=engine, gate=gate, price=PRICE)


def failing(usage: Usage, *numbers: int) -> CountingEngine:
    """An engine whose calls of these numbers fail when they are half done."""

    def before(kind: str, number: int) -> None:
        if number in numbers:
            error = Retryable("the stream was cut")
            error.usage = usage
            raise error

    return CountingEngine(Config(kind="scripted"), before)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: to make one takes longer than a test."""
    return tmp_path_factory.mktemp("budget") / "run.db"


subjects = itertools.count()


def spent_after(database: Path, cap: Cap, work: Callable[[Ledger], Awaitable[None]]) -> tuple[int, int]:
    """Tokens and cents that the store has counted for `work` through a ledger."""

    async def spent(store: Store) -> Counter[str]:
        counts = Counter[str]()
        for name, value in (await store.counts()).items():
            counts[".".join(name.split(".")[:2])] += value
        return counts

    async def life() -> Counter[str]:
        async with open_store(database) as store:
            before = await spent(store)
            await work(Ledger(subject=f"q{next(subjects)}", known={}, terms=Terms(keep=store, budget=Budget(cap, {}, {}))))
            return await spent(store) - before

    counts = ends(life())
    return counts["spent.tokens"], counts["spent.billionths"] // 10**7


async def tried(call: Awaitable[object]) -> None:
    with contextlib.suppress(EngineError):
        await call


CALL = st.tuples(st.integers(1, 8), st.integers(1, 40), st.integers(1, 6), st.booleans())
"""Samples, tokens of an answer at most, length of the prompt, whether it is a score."""


@settings(max_examples=60, deadline=None)
@given(st.lists(CALL, min_size=1, max_size=8), st.integers(0, 1500), st.booleans(), st.integers(1, 4))
def test_samples_and_scores_of_any_size_stay_within_the_cap(
    database: Path, calls: list[tuple[int, int, int, bool]], most: int, money: bool, in_flight: int
) -> None:
    asked = model(CountingEngine(Config(kind="scripted")), in_flight)

    async def work(ledger: Ledger) -> None:
        async def one(number: int, call: tuple[int, int, int, bool]) -> None:
            n, max_tokens, length, scores = call
            text = prompt(WORDS * length)
            if scores:
                await tried(ledger.answer_logprobs(asked, text, str(number), agent="prover"))
            else:
                await tried(ledger.generate(asked, "propose", text, agent="ann", n=n, max_tokens=max_tokens, seed=number))

        await together([one(number, call) for number, call in enumerate(calls)])

    tokens, cents = spent_after(database, cap(most, money), work)
    assert tokens <= most
    assert cents == tokens


@pytest.mark.parametrize("money", [False, True])
@pytest.mark.parametrize("most", [0, 90, 150, 200, 300, 1000])
def test_tries_that_failed_half_way_stay_within_the_cap(database: Path, most: int, money: bool) -> None:
    """Each of them takes as much as a call may take at most, and half of all tries are such."""
    asked = model(failing(Usage(prompt=35, completion=20), *range(1, 40, 2)), 2)

    async def work(ledger: Ledger) -> None:
        calls = [ledger.generate(asked, "propose", prompt(), agent="ann", max_tokens=20, seed=seed) for seed in range(6)]
        await together([tried(call) for call in calls])

    tokens, cents = spent_after(database, cap(most, money), work)
    assert tokens <= most
    assert cents == tokens
    assert tokens >= min(most - 55, 6 * 30), "as much as could be was used"


@pytest.mark.parametrize("cut", ["cancelled", "failed", "cancelled in the queue"])
def test_a_call_that_came_to_nothing_gives_its_reservation_back(database: Path, cut: str) -> None:
    def before(kind: str, number: int) -> None:
        if cut == "failed" and number == 1:
            raise Terminal("no")

    asked = model(CountingEngine(Config(kind="scripted", latency_s=0.2), before), in_flight=1)

    async def work(ledger: Ledger) -> None:
        def call(seed: int) -> Awaitable[object]:
            return ledger.generate(asked, "propose", prompt(), agent="ann", max_tokens=20, seed=seed)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(tried(call(seed))) for seed in ((1, 2) if cut == "cancelled in the queue" else (1,))]
            await asyncio.sleep(0.05)
            if cut != "failed":
                tasks[-1].cancel()
        await call(3)

    room = (2 if cut == "cancelled in the queue" else 1) * (35 + 20)
    tokens, _ = spent_after(database, Cap(tokens=room), work)
    assert tokens > 0


def test_of_words_that_are_not_english_enough_is_reserved(database: Path) -> None:
    """A Chinese character is about a token."""
    chinese = "\u5b89\u6709\u4e09\u652f\u7b14\uff0c\u53c8\u4e70\u4e86\u56db\u652f\u3002" * 20

    async def work(ledger: Ledger) -> None:
        asked = model(failing(Usage(prompt=len(chinese), completion=5), 1))
        await tried(ledger.generate(asked, "propose", prompt(chinese), agent="ann", max_tokens=5))

    for most in (len(chinese) - 1, len(chinese) + 40):
        tokens, _ = spent_after(database, Cap(tokens=most), work)
        assert (tokens > 0) == (most > len(chinese))
        assert tokens <= most
