"""The engine over HTTP against a server that misbehaves; the real servers are met in tests/servers."""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import Behaviour, StubServer, cut, endless, reset, says, serving, silent, status

from agents.engines.base import Completion, Message, Prompt
from agents.engines.dialects import Draft
from agents.engines.openai import OpenAIEngine
from agents.errors import EngineError, ModelNotFound, Overlong, Refused, Retryable, Terminal, Throttled, TimedOut, Unreadable
from configs.engines import OpenAIEngine as Config
from store.types import Usage

PROMPT = Prompt(messages=(Message(role="user", content="What is 2 + 3?"),), prefix="<think>\n### Step 1.")
STOPS = ("\n### Step", "</think>")


def asked(
    *behaviours: Behaviour,
    then: Callable[[StubServer, OpenAIEngine], Awaitable[Any]] | None = None,
    default: Behaviour | None = None,
    config: dict[str, Any] | None = None,
    **sampling: Any,
) -> Any:
    """What the engine gives against a server that behaves so, or what `then` makes of both."""

    async def go() -> Any:
        async with serving(default or says("five")) as server:
            settings: dict[str, Any] = {"model": "stub", "url": server.url, "deadline_s": 2.0, "silence_s": 0.5}
            settings |= config or {}
            async with OpenAIEngine(Config(kind="openai", **settings), settings["url"], None) as engine:
                server.behaviours.extend(behaviours)
                if then:
                    return await then(server, engine)
                return await engine.generate(PROMPT, **({"max_tokens": 20, "stop": STOPS} | sampling))

    return asyncio.run(go())


def test_a_stop_string_ends_the_text_wherever_the_pieces_are_cut_and_the_stream_is_left() -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        (completion,) = await engine.generate(PROMPT, max_tokens=20, stop=STOPS)
        assert (completion.text, completion.finish, completion.stop) == (" 2 + 3 = 5.", "stop", "\n### Step")
        for _ in range(100):
            if server.left_early:
                break
            await asyncio.sleep(0.02)
        assert server.left_early == 1

    asked(says(" 2 + 3", " = 5.\n##", "# St", "ep 2. And", *[" more"] * 200, pause_s=0.01), then=then)


def test_the_end_of_the_turn_and_the_cap_are_told_apart() -> None:
    assert asked(says("It is 5."))[0].finish == "end"
    assert asked(says("It is", finish="length"))[0].finish == "length"


@pytest.mark.parametrize(("pieces", "text"), [(("a \ud83d", "\ude00 b"), "a \U0001f600 b"), (("a \ud800 b",), "a \ufffd b")])
def test_halves_of_a_character_are_joined_or_seen(pieces: tuple[str, ...], text: str) -> None:
    (completion,) = asked(says(*pieces))
    assert completion.text == text
    assert completion.text.encode()


def test_a_server_that_repeats_the_prefix_is_heard_without_it() -> None:
    (completion,) = asked(says("<think>\n### St", "ep 1. Add", " them.</think>x"))
    assert (completion.text, completion.stop) == (" Add them.", "</think>")


RULING = Prompt(messages=PROMPT.messages, schema='{"type": "object", "required": ["ruling"]}')


def test_a_schema_goes_with_the_request() -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        assert engine.capabilities.structures
        await engine.generate(RULING, max_tokens=20)
        await engine.generate(PROMPT, max_tokens=20)
        form = {"name": "answer", "schema": {"type": "object", "required": ["ruling"]}}
        assert server.bodies[0]["response_format"] == {"type": "json_schema", "json_schema": form}
        assert "response_format" not in server.bodies[1]

    asked(then=then)


def test_a_server_that_knows_no_schemas_is_asked_without() -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        server.behaviours.append(status(400, {"error": {"message": "unknown field response_format"}}))
        for _ in range(2):
            assert (await engine.generate(RULING, max_tokens=20))[0].text == "five"
        assert ["response_format" in body for body in server.bodies] == [True, False, False]
        assert not engine.capabilities.structures

    asked(then=then)


def test_what_is_refused_without_a_schema_too_is_an_error() -> None:
    with pytest.raises(Terminal):
        asked(then=lambda _, engine: engine.generate(RULING, max_tokens=20), default=status(400, {"error": {"message": "no"}}))


def test_each_sample_has_a_seed_of_its_own() -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        assert len(await engine.generate(PROMPT, n=3, max_tokens=20, seed=7)) == 3
        assert sorted(body["seed"] for body in server.bodies) == [7, 8, 9]
        assert {body["n"] for body in server.bodies} == {1}

    asked(then=then)


def test_tokens_are_the_servers_count_where_it_counts() -> None:
    (completion,) = asked(says("It is 5.", usage={"prompt_tokens": 9, "completion_tokens": 4}))
    assert completion.usage == Usage(prompt=9, completion=4)


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        (status(429, {"error": {"message": "slow down"}}), Throttled, "429: slow down"),
        (status(503), Throttled, "503"),
        (status(500, "<html>\n<b>oh</b>"), Retryable, "500: <html> <b>oh</b>"),
        (status(401, {"error": {"message": "no such key"}}), Refused, "no such key (is the key right?)"),
        (status(404, {"detail": "no such route"}), Terminal, "404: no such route"),
        (status(400, {"object": "error", "message": "exceeds the maximum context length"}), Overlong, "maximum context"),
        (status(400, {"error": {"message": "bad seed"}}), Terminal, "400: bad seed"),
        (status(200, "data: [1, 2]\n\n"), Unreadable, "not a JSON object: '[1, 2]'"),
        (status(200, "data: {]\n\n"), Unreadable, "not a JSON object"),
        (status(200, 'data: {"choices": 3}\n\n'), Unreadable, "an answer without choices"),
        (status(200, 'data: {"choices": [{"index": 5, "text": "a"}]}\n\n'), Unreadable, "a choice with index 5, of 1"),
        (status(200, 'data: {"choices": [{"text": 5}]}\n\n'), Unreadable, "a choice without text"),
        (status(200, 'data: {"error": {"message": "out of memory"}}\n\n'), Retryable, "out of memory"),
        (says("It is", finish="content_filter"), Unreadable, "'content_filter'"),
        (cut(" 2 +"), Retryable, "http://127.0.0.1"),
        (says(" 2 +", done=False, finish=""), Retryable, "the stream was cut"),
        (silent, TimedOut, "no answer in 2 s"),
        (says(*"a slow trickle of text, piece by piece", pause_s=0.2), TimedOut, "no answer in 2 s"),
        (says(" 2 +", " 3", pause_s=1.0), TimedOut, "silent for 0.5 s"),
        (endless(" and so on" * 100), Unreadable, "the server ignores max_tokens"),
        (status(200, f"data: {'x' * 3_000_000}\n\n"), Unreadable, "beyond all bounds"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_request_ends_within_its_deadline_as_one_class_of_error(
    behaviour: Behaviour, kind: type[EngineError], words: str
) -> None:
    started = time.monotonic()
    with pytest.raises(EngineError) as caught:
        asked(behaviour, default=behaviour)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


def test_a_reset_connection_is_asked_once_more_and_then_retryable() -> None:
    assert asked(reset)[0].text == "five"
    with pytest.raises(Retryable):
        asked(default=reset)


@pytest.mark.parametrize("form", [lambda at: "7", lambda at: email.utils.formatdate(at + 7, usegmt=True)])
def test_retry_after_is_kept(form: Callable[[float], str]) -> None:
    with pytest.raises(Retryable) as caught:
        asked(status(429, "", Retry_After=form(time.time())))
    assert caught.value.after_s is not None
    assert 5 < caught.value.after_s <= 7


def test_kept_connections_survive_a_restart_of_the_server() -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        for _ in range(3):
            assert (await engine.generate(PROMPT, max_tokens=20))[0].text == "five"
            await server.stop()
            await server.start()

    asked(then=then)


def test_a_cancelled_call_closes_its_connection() -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await engine.generate(PROMPT, max_tokens=20)
        for _ in range(100):
            if server.left_early:
                break
            await asyncio.sleep(0.02)
        assert server.left_early == 1
        assert (await engine.generate(PROMPT, max_tokens=20))[0].text == "five"

    asked(silent, then=then)


def test_the_key_is_read_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        await engine.generate(PROMPT, max_tokens=20)
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}

    monkeypatch.setenv("STUB_KEY", "secret")
    asked(then=then, config={"key": "STUB_KEY"})
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(Refused, match="the environment variable STUB_KEY, which is to hold the key, is not set"):
        asked(config={"key": "STUB_KEY"})


def test_an_unknown_model_and_an_unreachable_server_are_told_when_opening() -> None:
    with pytest.raises(ModelNotFound, match="has no model 'other'; it has: stub"):
        asked(config={"model": "other"})
    with pytest.raises(Retryable, match="Cannot connect"):
        asked(config={"url": "http://127.0.0.1:9"})


def test_a_server_that_cannot_score_says_so() -> None:
    async def then(_: StubServer, engine: OpenAIEngine) -> None:
        assert not engine.capabilities.scores
        with pytest.raises(Refused, match="cannot give log-probs"):
            await engine.answer_logprobs(PROMPT, "5")

    asked(then=then)


def test_hundreds_of_calls_at_once_all_end() -> None:
    async def then(server: StubServer, engine: OpenAIEngine) -> None:
        server.behaviours.extend([says("five"), status(500), cut("a"), status(429, "")] * 100)

        async def one() -> str:
            try:
                return (await engine.generate(PROMPT, max_tokens=20))[0].text
            except Retryable:
                return "failed"

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(400)]
        answers = [task.result() for task in tasks]
        assert (answers.count("five"), answers.count("failed")) == (100, 300)

    asked(then=then, config={"deadline_s": 30.0, "silence_s": 30.0})


def finished(draft: Draft) -> Completion:
    return draft.completion(Usage(), logprobs=False)


@given(st.text(alphabet="ab\n# Step</think>", max_size=60), st.lists(st.integers(0, 60), max_size=8), st.booleans())
def test_a_text_in_pieces_is_the_text_at_once(text: str, cuts: list[int], repeats: bool) -> None:
    prefix = "<think>\n### Step 1." if repeats else ""
    whole, pieces = Draft(STOPS, 99), Draft(STOPS, 99, (prefix,) if repeats else ())
    whole.add({"text": text, "finish_reason": "stop"})
    told = prefix + text
    borders = sorted({0, len(told), *(min(at, len(told)) for at in cuts)})
    for start, end in itertools.pairwise(borders):
        if not pieces.over:
            pieces.add({"delta": {"content": told[start:end]}})
    if not pieces.over:
        pieces.add({"delta": {}, "finish_reason": "stop"})
    assert finished(pieces) == finished(whole)


def test_an_error_says_what_was_spent_before_it() -> None:
    with pytest.raises(Retryable) as caught:
        asked(default=says(" 2 +", " 3", " is", done=False, finish=""))
    assert caught.value.usage
    assert caught.value.usage.completion >= 3
    with pytest.raises(Retryable) as nothing:
        asked(default=reset)
    assert nothing.value.usage is None
