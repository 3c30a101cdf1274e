"""The ledger with a real store behind it: nothing is asked twice, and nothing is used before it is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counting_engine import CountingEngine, model

from agents.engines.base import Completion, Message, Prompt, together
from agents.errors import EngineError, MissingCall, Quarantined, Retryable, Terminal
from agents.ledger import Ledger, Terms
from agents.prover import Prover
from configs import schema
from configs.engines import Price
from configs.engines import ScriptedEngine as Config
from store.store import Store, open_store
from store.types import Call, Failure, Question, Usage, sum_usage

PROMPT = Prompt(messages=(Message(role="user", content="Ann has 3 pens, then 4, then 5. How many?"),), prefix="### Step 1.")
SAMPLING = {"n": 2, "max_tokens": 50, "stop": ("\n### Step",), "temperature": 0.6, "top_p": 0.9, "seed": 7, "logprobs": True}


class Ignoring:
    """Keeps nothing."""

    async def record_calls(self, calls: Sequence[Call]) -> None:
        return None

    async def record_spent(self, agent: str, tokens: int, cost: float | None) -> None:
        return None


def engine(*errors: EngineError | None) -> CountingEngine:
    """An engine whose first calls raise `errors`."""

    def before(kind: str, number: int) -> None:
        if number <= len(errors) and (error := errors[number - 1]):
            raise error

    return CountingEngine(Config(kind="scripted"), before)


async def ledger(store: Store, subject: str = "q") -> Ledger:
    return Ledger(subject=subject, known=await store.calls(subject), terms=Terms(keep=store))


def asked(made: CountingEngine, tries: int = 3) -> list[Completion]:
    """Ask once through a ledger that keeps nothing."""
    book = Ledger(subject="q", known={}, terms=Terms(keep=Ignoring()))
    return asyncio.run(book.generate(model(made, tries=tries), "propose", PROMPT, agent="ann", **SAMPLING))


def test_a_call_of_an_earlier_process_is_answered_from_its_row_and_equal_to_the_live_answer(tmp_path: Path) -> None:
    async def life(made: CountingEngine) -> tuple[object, object]:
        async with open_store(tmp_path / "run.db") as store:
            book = await ledger(store)
            return (
                await book.generate(model(made), "propose", PROMPT, agent="ann", **SAMPLING),
                await book.answer_logprobs(model(made), PROMPT, "12", agent="ann"),
            )

    first, second = engine(), engine()
    assert asyncio.run(life(first)) == asyncio.run(life(second))
    assert (first.asked, second.asked) == (["generate", "score"], [])


def test_an_equal_request_in_the_same_process_is_asked_once(tmp_path: Path) -> None:
    made = engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            book = await ledger(store)
            one, other = [await book.answer_logprobs(model(made), PROMPT, "12", agent="ann") for _ in range(2)]
            assert one == other

    asyncio.run(work())
    assert made.asked == ["score"]


@pytest.mark.parametrize(
    "other",
    [
        lambda book, made: book.generate(model(made), "propose", PROMPT, agent="ann", **{**SAMPLING, "seed": 8}),
        lambda book, made: book.generate(model(made), "propose", PROMPT, agent="ann", **{**SAMPLING, "temperature": 0.7}),
        lambda book, made: book.generate(model(made), "answer", PROMPT, agent="ann", **SAMPLING),
        lambda book, made: book.generate(model(made, "another"), "propose", PROMPT, agent="ann", **SAMPLING),
        lambda book, made: book.generate(
            model(made), "propose", Prompt(messages=PROMPT.messages, prefix="### Step 2."), agent="ann", **SAMPLING
        ),
    ],
)
def test_a_request_that_differs_is_asked(tmp_path: Path, other: Callable[[Ledger, CountingEngine], object]) -> None:
    made = engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            await (await ledger(store)).generate(model(made), "propose", PROMPT, agent="ann", **SAMPLING)
            await other(await ledger(store), made)  # type: ignore[misc]
            assert len(await store.calls("q")) == 2

    asyncio.run(work())
    assert len(made.asked) == 2


def test_the_same_request_about_another_question_is_its_own_call(tmp_path: Path) -> None:
    made = engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            for subject in ("q", "r"):
                await (await ledger(store, subject)).answer_logprobs(model(made), PROMPT, "12", agent="ann")
            assert (await store.calls("q")).keys().isdisjoint(await store.calls("r"))

    asyncio.run(work())
    assert made.answered == 2


def test_what_may_succeed_later_is_tried_again_after_growing_waits() -> None:
    made = engine(Retryable("busy"), Retryable("busy"))
    began = time.monotonic()
    assert len(asked(made)) == 2
    assert len(made.asked) == 3
    assert time.monotonic() - began > 0.75 * (0.25 + 0.5) - 0.05


def test_tries_are_bounded_and_the_last_error_is_raised() -> None:
    made = engine(Retryable("first"), Retryable("second"), Retryable("third"))
    with pytest.raises(Retryable, match="second"):
        asked(made, tries=2)
    assert len(made.asked) == 2


def test_one_try_is_one_try() -> None:
    made = engine(Retryable("busy"))
    with pytest.raises(Retryable):
        asked(made, tries=1)
    assert len(made.asked) == 1


def test_what_will_fail_again_is_not_tried_again_and_keeps_no_row(tmp_path: Path) -> None:
    made = engine(Terminal("no"))

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            with pytest.raises(Terminal, match="no"):
                await (await ledger(store)).generate(model(made), "propose", PROMPT, agent="ann", **SAMPLING)
            assert await store.calls("q") == {}

    asyncio.run(work())
    assert len(made.asked) == 1


def test_a_result_is_used_only_after_its_row_is_kept() -> None:
    order: list[str] = []

    class Slow(Ignoring):
        async def record_calls(self, calls: Sequence[Call]) -> None:
            await asyncio.sleep(0.05)
            order.extend(f"kept {call.purpose}" for call in calls)

    async def work() -> None:
        await Ledger(subject="q", known={}, terms=Terms(keep=Slow())).answer_logprobs(model(engine()), PROMPT, "12", agent="ann")
        order.append("used")

    asyncio.run(work())
    assert order == ["kept score", "used"]


def test_a_row_that_cannot_be_kept_is_no_result() -> None:
    class Full(Ignoring):
        async def record_calls(self, calls: Sequence[Call]) -> None:
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        asyncio.run(
            Ledger(subject="q", known={}, terms=Terms(keep=Full())).answer_logprobs(model(engine()), PROMPT, "12", agent="ann")
        )


def test_a_row_says_what_was_asked_what_came_and_what_it_cost(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            completions = await (await ledger(store)).generate(model(engine()), "propose", PROMPT, agent="ann", **SAMPLING)
            ((key, call),) = (await store.calls("q")).items()
            assert (call.id, call.subject, call.agent, call.engine, call.purpose) == (key, "q", "ann", "engine", "propose")
            assert call.request["prefix"] == PROMPT.prefix
            assert call.request["seed"] == 7
            assert [row["text"] for row in call.response["completions"]] == [each.text for each in completions]
            assert call.usage == sum((each.usage for each in completions), Usage())
            assert 0 <= call.latency_s < 5

    asyncio.run(work())


# Two at the same time


SLOW = Config(kind="scripted", latency_s=0.05)


def test_two_equal_requests_at_the_same_time_are_asked_once(tmp_path: Path) -> None:
    made = CountingEngine(SLOW)

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            book, asked = await ledger(store), model(made)
            proposed = [book.generate(asked, "propose", PROMPT, agent=agent, **SAMPLING) for agent in ("ann", "bob", "ann")]
            first, *others = await together(proposed)
            assert others == [first, first]
            scored = [book.answer_logprobs(asked, PROMPT, "12", agent="prover") for _ in range(3)]
            assert len({each.values for each in await together(scored)}) == 1
            assert [call.agent for call in (await store.calls("q")).values() if call.purpose == "propose"] == ["ann"]

    asyncio.run(work())
    assert made.asked == ["generate", "score"]


def test_when_the_first_of_two_equal_requests_is_cancelled_the_second_is_made(tmp_path: Path) -> None:
    made = CountingEngine(SLOW)

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            book, asked = await ledger(store), model(made)
            async with asyncio.TaskGroup() as group:
                first = group.create_task(book.answer_logprobs(asked, PROMPT, "12", agent="ann"))
                others = [group.create_task(book.answer_logprobs(asked, PROMPT, "12", agent="bob")) for _ in range(2)]
                await asyncio.sleep(0.01)
                assert made.asked == ["score"]
                first.cancel()
            assert others[0].result() == others[1].result()
            assert [call.agent for call in (await store.calls("q")).values()] == ["bob"]

    asyncio.run(work())
    assert (made.asked, made.answered) == (["score", "score"], 1)


def test_when_the_first_of_two_equal_requests_fails_the_second_is_made(tmp_path: Path) -> None:
    made = engine(Terminal("no"))

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            book, asked = await ledger(store), model(made)
            async with asyncio.TaskGroup() as group:
                first = group.create_task(failed(book.answer_logprobs(asked, PROMPT, "12", agent="ann")))
                second = group.create_task(book.answer_logprobs(asked, PROMPT, "12", agent="ann"))
            assert str(first.result()) == "no"
            assert second.result().values

    asyncio.run(work())
    assert (len(made.asked), made.answered) == (2, 1)


async def failed(call: Awaitable[object]) -> EngineError:
    """The error that it ends with."""
    with pytest.raises(EngineError) as error:
        await call
    return error.value


# What it costs


PRICE = Price(prompt=3.0, completion=15.0, cached=0.3)


def wasteful(error: EngineError, prompt: int, completion: int) -> EngineError:
    """An error after which so many tokens are to be paid."""
    error.usage = Usage(prompt=prompt, completion=completion)
    return error


@pytest.mark.parametrize("last", [None, Retryable("cut at last"), Terminal("refused")])
def test_the_tokens_of_tries_that_failed_are_counted_as_spent_whatever_comes_after(
    tmp_path: Path, last: EngineError | None
) -> None:
    made = engine(wasteful(Retryable("cut"), 100, 7), wasteful(Retryable("cut again"), 100, 9), last)
    if last:
        wasteful(last, 100, 1)

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            asked = (await ledger(store)).generate(replace(model(made), price=PRICE), "propose", PROMPT, agent="ann", **SAMPLING)
            usage, cost = Usage(prompt=200, completion=16), (200 * 3 + 16 * 15) / 1e6
            if last:
                assert await failed(asked) is last
                usage, cost = Usage(prompt=300, completion=17), (300 * 3 + 17 * 15) / 1e6
                assert await store.calls("q") == {}
            else:
                paid = sum_usage([each.usage for each in await asked])
                (call,) = (await store.calls("q")).values()
                assert call.usage == paid, "the row is of the try that was answered"
                usage, cost = usage + paid, cost + (paid.prompt * 3 + paid.completion * 15) / 1e6
            counts = await store.counts()
            assert counts["spent.tokens.ann"] == usage.prompt + usage.completion
            assert counts["spent.billionths.ann"] == round(cost * 1e9)
            assert counts.get("spent.calls.ann", 0) == (0 if last else 1)

    asyncio.run(work())
    assert len(made.asked) == 3


def test_what_a_row_costs_is_what_the_price_of_its_tokens_says_and_without_a_price_nothing_is_said(tmp_path: Path) -> None:
    async def work(price: Price | None, name: str) -> tuple[Call, dict[str, int]]:
        async with open_store(tmp_path / name) as store:
            await (await ledger(store)).answer_logprobs(replace(model(engine()), price=price), PROMPT, "12", agent="prover")
            (call,) = (await store.calls("q")).values()
            return call, await store.counts()

    call, counts = asyncio.run(work(PRICE, "priced.db"))
    new = call.usage.prompt - call.usage.cached
    assert call.usage.cached > 0
    assert call.cost == pytest.approx((new * 3 + call.usage.cached * 0.3 + call.usage.completion * 15) / 1e6)
    assert counts["spent.billionths.prover"] == round((call.cost or 0.0) * 1e9) > 0
    uncached, _ = asyncio.run(work(Price(prompt=3.0, completion=15.0), "uncached.db"))
    assert uncached.cost == pytest.approx((call.usage.prompt * 3 + call.usage.completion * 15) / 1e6)
    call, counts = asyncio.run(work(None, "free.db"))
    assert call.cost is None
    assert "spent.billionths.prover" not in counts
    assert counts["spent.tokens.prover"] == call.usage.prompt + call.usage.completion


# Errors and their requests


def test_an_error_carries_the_key_that_the_row_of_its_request_has_once_it_is_answered(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            book, asked = await ledger(store), model(engine(Terminal("no"), Terminal("no")))
            scoring = await failed(book.answer_logprobs(asked, PROMPT, "12", agent="prover"))
            proposing = await failed(book.generate(asked, "propose", PROMPT, agent="ann", **SAMPLING))
            await book.answer_logprobs(asked, PROMPT, "12", agent="prover")
            await book.generate(asked, "propose", PROMPT, agent="ann", **SAMPLING)
            rows = {call.purpose: key for key, call in (await store.calls("q")).items()}
            assert rows == {"score": scoring.request, "propose": proposing.request}

    asyncio.run(work())


def test_a_request_in_quarantine_is_not_made_again_by_a_ledger_that_is_told_of_it_and_others_are(tmp_path: Path) -> None:
    first, second = engine(Retryable("cut"), Retryable("cut")), engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            book = Ledger(subject="q", known={}, terms=Terms(keep=store))
            error = await failed(book.generate(model(first, tries=2), "propose", PROMPT, agent="ann", **SAMPLING))
            row = Failure(id="f", where="", kind="Quarantined", message=str(error), tries=2, subject="q", request=error.request)
            again = Ledger(subject="q", known={}, terms=Terms(keep=store), failures=[row])
            told = await failed(again.generate(model(second), "propose", PROMPT, agent="ann", **SAMPLING))
            assert isinstance(told, Quarantined)
            assert (str(told), told.request) == ("cut", error.request)
            assert second.asked == []
            await again.generate(model(second), "propose", PROMPT, agent="ann", **{**SAMPLING, "seed": 8})

    asyncio.run(work())
    assert len(first.asked) == 2
    assert second.asked == ["generate"]


def test_a_replay_answers_from_rows_asks_nobody_and_names_the_call_that_is_missing(tmp_path: Path) -> None:
    made, later = engine(), engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            first = await (await ledger(store)).answer_logprobs(model(made), PROMPT, "12", agent="prover")
            book = Ledger(subject="q", known=await store.calls("q"), terms=Terms(keep=store, replay=True))
            assert await book.answer_logprobs(model(later), PROMPT, "12", agent="prover") == first
            missing = await failed(book.answer_logprobs(model(later), PROMPT, "13", agent="prover"))
            assert isinstance(missing, MissingCall)
            assert not [word for word in ("replay", "prover", "score", "question q") if word not in str(missing)]

    asyncio.run(work())
    assert later.asked == []


class Noting(CountingEngine):
    """Notes the seed of the last request."""

    seed: int | None = None

    async def generate(self, prompt: Prompt, *, seed: int = 0, **sampling: Any) -> list[Completion]:
        self.seed = seed
        return await super().generate(prompt, seed=seed, **sampling)


def test_the_provers_short_answers_are_drawn_from_the_runs_seed() -> None:
    question = Question(id="q", text="Ann has 3 pens, then 4, then 5. How many?", answer="12", kind="math")

    def drawn_from(seed: int) -> int | None:
        made = Noting(Config(kind="scripted"))
        prover = Prover(config=schema.Prover(engine="scripted"), model=model(made), asking=schema.Asking(), seed=seed)
        book = Ledger(subject="q", known={}, terms=Terms(keep=Ignoring()))
        asyncio.run(prover.answers(book, question, "### Step 1. We add.", num=8, max_tokens=20))
        return made.seed

    assert drawn_from(1) == drawn_from(1)
    assert len({drawn_from(seed) for seed in range(6)}) == 6
