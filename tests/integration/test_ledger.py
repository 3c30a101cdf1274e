"""The ledger with a real store behind it: nothing is asked twice, and nothing is used before it is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from counting_engine import CountingEngine, model

from agents.engines.base import Completion, Message, Prompt
from agents.errors import EngineError, Retryable, Terminal
from agents.ledger import Ledger
from configs.engines import ScriptedEngine as Config
from store.store import Store, open_store
from store.types import Call, Usage

PROMPT = Prompt(messages=(Message(role="user", content="Ann has 3 pens, then 4, then 5. How many?"),), prefix="### Step 1.")
SAMPLING = {"n": 2, "max_tokens": 50, "stop": ("\n### Step",), "temperature": 0.6, "top_p": 0.9, "seed": 7, "logprobs": True}


async def ignore(calls: Sequence[Call]) -> None:
    return None


def engine(*errors: EngineError | None) -> CountingEngine:
    """An engine whose first calls raise `errors`."""

    def before(kind: str, number: int) -> None:
        if number <= len(errors) and (error := errors[number - 1]):
            raise error

    return CountingEngine(Config(kind="scripted"), before)


async def ledger(store: Store, subject: str = "q", tries: int = 3) -> Ledger:
    return Ledger(subject=subject, known=await store.calls(subject), record=store.record_calls, tries=tries)


def asked(made: CountingEngine, tries: int = 3) -> list[Completion]:
    """Ask once through a ledger that keeps nothing."""
    book = Ledger(subject="q", known={}, record=ignore, tries=tries)
    return asyncio.run(book.generate(model(made), "propose", PROMPT, **SAMPLING))


def test_a_call_of_an_earlier_process_is_answered_from_its_row_and_equal_to_the_live_answer(tmp_path: Path) -> None:
    async def life(made: CountingEngine) -> tuple[object, object]:
        async with open_store(tmp_path / "run.db") as store:
            book = await ledger(store)
            return (
                await book.generate(model(made), "propose", PROMPT, **SAMPLING),
                await book.answer_logprobs(model(made), PROMPT, "12"),
            )

    first, second = engine(), engine()
    assert asyncio.run(life(first)) == asyncio.run(life(second))
    assert (first.asked, second.asked) == (["generate", "score"], [])


def test_an_equal_request_in_the_same_process_is_asked_once(tmp_path: Path) -> None:
    made = engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            book = await ledger(store)
            one, other = [await book.answer_logprobs(model(made), PROMPT, "12") for _ in range(2)]
            assert one == other

    asyncio.run(work())
    assert made.asked == ["score"]


@pytest.mark.parametrize(
    "other",
    [
        lambda book, made: book.generate(model(made), "propose", PROMPT, **{**SAMPLING, "seed": 8}),
        lambda book, made: book.generate(model(made), "propose", PROMPT, **{**SAMPLING, "temperature": 0.7}),
        lambda book, made: book.generate(model(made), "answer", PROMPT, **SAMPLING),
        lambda book, made: book.generate(model(made, "another"), "propose", PROMPT, **SAMPLING),
        lambda book, made: book.generate(
            model(made), "propose", Prompt(messages=PROMPT.messages, prefix="### Step 2."), **SAMPLING
        ),
    ],
)
def test_a_request_that_differs_is_asked(tmp_path: Path, other: Callable[[Ledger, CountingEngine], object]) -> None:
    made = engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            await (await ledger(store)).generate(model(made), "propose", PROMPT, **SAMPLING)
            await other(await ledger(store), made)  # type: ignore[misc]
            assert len(await store.calls("q")) == 2

    asyncio.run(work())
    assert len(made.asked) == 2


def test_the_same_request_about_another_question_is_its_own_call(tmp_path: Path) -> None:
    made = engine()

    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            for subject in ("q", "r"):
                await (await ledger(store, subject)).answer_logprobs(model(made), PROMPT, "12")
            assert (await store.calls("q")).keys().isdisjoint(await store.calls("r"))

    asyncio.run(work())
    assert made.answered == 2


def test_what_may_succeed_later_is_tried_again_after_growing_waits() -> None:
    made = engine(Retryable("busy"), Retryable("busy"))
    began = time.monotonic()
    assert len(asked(made)) == 2
    assert len(made.asked) == 3
    assert time.monotonic() - began > 0.2 + 0.4 - 0.05


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
                await (await ledger(store)).generate(model(made), "propose", PROMPT, **SAMPLING)
            assert await store.calls("q") == {}

    asyncio.run(work())
    assert len(made.asked) == 1


def test_a_result_is_used_only_after_its_row_is_kept() -> None:
    order: list[str] = []

    async def slow(calls: Sequence[Call]) -> None:
        await asyncio.sleep(0.05)
        order.extend(f"kept {call.purpose}" for call in calls)

    async def work() -> None:
        await Ledger(subject="q", known={}, record=slow, tries=1).answer_logprobs(model(engine()), PROMPT, "12")
        order.append("used")

    asyncio.run(work())
    assert order == ["kept score", "used"]


def test_a_row_that_cannot_be_kept_is_no_result() -> None:
    async def refuse(calls: Sequence[Call]) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        asyncio.run(Ledger(subject="q", known={}, record=refuse, tries=3).answer_logprobs(model(engine()), PROMPT, "12"))


def test_a_row_says_what_was_asked_what_came_and_what_it_cost(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            completions = await (await ledger(store)).generate(model(engine()), "propose", PROMPT, **SAMPLING)
            ((key, call),) = (await store.calls("q")).items()
            assert (call.id, call.subject, call.engine, call.purpose) == (key, "q", "engine", "propose")
            assert call.request["prefix"] == PROMPT.prefix
            assert call.request["seed"] == 7
            assert [row["text"] for row in call.response["completions"]] == [each.text for each in completions]
            assert call.usage == sum((each.usage for each in completions), Usage())
            assert 0 <= call.latency_s < 5

    asyncio.run(work())
