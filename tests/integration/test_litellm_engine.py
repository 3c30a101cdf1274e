"""litellm's own call path, to the socket, against a local provider that answers, refuses, stalls and lies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from stub_server import Behaviour, Json, StubServer, cut, endless, reset, says, serving, silent, status

from agents.engines.base import Message, Prompt
from agents.engines.litellm import LitellmEngine
from agents.errors import EngineError, ModelNotFound, Overlong, Refused, Retryable, Terminal, Throttled, TimedOut, Unreadable
from configs.engines import LitellmEngine as Config
from store.types import Usage

ROOT = Path(__file__).parents[2]
PROMPT = Prompt(messages=(Message(role="user", content="What is 2 + 3?"),), prefix="<think>\n### Step 1.")
STOPS = ("\n### Step", "</think>")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:Pydantic serializer", "ignore:Item '"
)


def asked(
    *behaviours: Behaviour,
    then: Callable[[StubServer, LitellmEngine], Awaitable[Any]] | None = None,
    default: Behaviour | None = None,
    config: dict[str, Any] | None = None,
    **sampling: Any,
) -> Any:
    """What the engine gives against a provider that behaves so, or what `then` makes of both."""

    async def go() -> Any:
        async with serving(default or says("five")) as server:
            settings: dict[str, Any] = {
                "model": "openai/stub",
                "url": f"{server.url}/v1",
                "key": "STUB_KEY",
                "deadline_s": 3.0,
                "silence_s": 1.0,
            }
            settings |= config or {}
            if settings["model"].startswith("anthropic"):
                settings["url"] = server.url
            async with LitellmEngine(Config(kind="litellm", **settings)) as engine:
                server.behaviours.extend(behaviours)
                if then:
                    return await then(server, engine)
                return await engine.generate(PROMPT, **({"max_tokens": 20, "stop": STOPS} | sampling))

    return asyncio.run(go())


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """litellm imports much at its first call: seconds, on a busy machine more than a deadline."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("STUB_KEY", "secret")
        asked(config={"deadline_s": 60.0, "silence_s": 60.0})


@pytest.mark.parametrize(("model", "held"), [("openai/gpt-4o-mini", True), ("openai/stub", False)])
def test_a_schema_goes_to_models_that_are_known_to_take_it(model: str, held: bool) -> None:
    schema = {"type": "object", "properties": {"ruling": {"enum": ["VALID", "INVALID"]}}, "required": ["ruling"]}

    async def then(server: StubServer, engine: LitellmEngine) -> None:
        assert engine.capabilities.structures is held
        prompt = Prompt(messages=PROMPT.messages, schema=json.dumps(schema))
        assert (await engine.generate(prompt, max_tokens=20))[0].text == "five"
        sent = server.bodies[-1].get("response_format")
        assert (sent and sent["json_schema"]["schema"]) == (schema if held else None)

    asked(then=then, config={"model": model})


def test_a_stop_string_ends_the_text_and_the_stream_is_left() -> None:
    async def then(server: StubServer, engine: LitellmEngine) -> None:
        (completion,) = await engine.generate(PROMPT, max_tokens=20, stop=STOPS)
        assert (completion.text, completion.finish, completion.stop) == (" 2 + 3 = 5.", "stop", "\n### Step")
        assert completion.usage.prompt > 5
        assert completion.usage.completion > 3
        for _ in range(100):
            if server.left_early:
                break
            await asyncio.sleep(0.02)
        assert server.left_early == 1

    asked(says(" 2 + 3", " = 5.\n##", "# St", "ep 2. And", *[" more"] * 200, pause_s=0.01), then=then)


def test_end_cap_and_the_providers_count() -> None:
    (ended,) = asked(says("It is 5.", usage={"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}))
    assert (ended.finish, ended.usage) == ("end", Usage(prompt=9, completion=4))
    assert asked(says("It is", finish="length"))[0].finish == "length"


def test_a_model_without_prefill_is_asked_in_words_and_a_repetition_is_not_heard() -> None:
    async def then(server: StubServer, engine: LitellmEngine) -> None:
        assert "continues by words" in engine.capabilities.found
        (completion,) = await engine.generate(PROMPT, max_tokens=20, stop=STOPS)
        assert (completion.text, completion.stop) == (" Add them.", "</think>")
        (turn,) = server.bodies[-1]["messages"]
        assert turn["role"] == "user"
        assert turn["content"].startswith("What is 2 + 3?\n\n")
        assert turn["content"].endswith(PROMPT.prefix)

    asked(says("### St", "ep 1. Add", " them.</think>x"), then=then)


def test_prefill_is_an_unfinished_turn() -> None:
    async def then(server: StubServer, engine: LitellmEngine) -> None:
        await engine.generate(PROMPT, max_tokens=20)
        assert server.bodies[-1]["messages"][-1]["content"] == PROMPT.prefix

    asked(then=then, config={"continues": "prefill"})


def test_each_sample_has_a_seed_and_the_key_is_the_named_one() -> None:
    async def then(server: StubServer, engine: LitellmEngine) -> None:
        found = await engine.generate(PROMPT, n=3, max_tokens=20, temperature=0.7, top_p=0.9, seed=7)
        assert [completion.text for completion in found] == ["five"] * 3
        assert sorted(body["seed"] for body in server.bodies) == [7, 8, 9]
        assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in server.bodies} == {(0.7, 0.9, 20)}
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}

    asked(then=then)


async def _anthropic(_: StubServer, request: web.Request, __: Json) -> web.StreamResponse:
    """A whole answer in Anthropic's own form."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "c", "stop_reason": None}
    events: list[Json] = [
        {"type": "message_start", "message": message | {"usage": {"input_tokens": 30, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " It is 5."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 6}},
        {"type": "message_stop"},
    ]
    for event in events:
        await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return response


def test_a_provider_with_a_protocol_of_its_own() -> None:
    async def then(server: StubServer, engine: LitellmEngine) -> None:
        assert engine.capabilities.found == "hosted, continues by prefill, without seed"
        assert engine.capabilities.context_tokens == 200_000
        (completion,) = await engine.generate(PROMPT, max_tokens=20, stop=STOPS, seed=3)
        assert (completion.text, completion.finish) == (" It is 5.", "end")
        assert completion.usage == Usage(prompt=30, completion=6)
        body = server.bodies[-1]
        assert body["messages"][-1]["role"] == "assistant"
        assert "seed" not in body
        assert server.headers[-1]["x-api-key"] == "secret"

    asked(default=_anthropic, then=then, config={"model": "anthropic/claude-sonnet-4-5"})


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        (status(429, {"error": {"message": "slow down"}}, Retry_After="7"), Throttled, "slow down"),
        (status(503, {"error": {"message": "busy"}}), Throttled, "busy"),
        (status(500, "<html>"), Retryable, "500"),
        (status(401, {"error": {"message": "no such key"}}), Refused, "is the key right?"),
        (status(404, {"error": {"message": "no such model"}}), Terminal, "no such model"),
        (
            status(400, {"error": {"message": "maximum context length is 9 tokens", "code": "context_length_exceeded"}}),
            Overlong,
            "maximum context",
        ),
        (status(400, {"error": {"message": "bad value"}}), Terminal, "bad value"),
        (status(200, "data: {]\n\n"), Retryable, "openai/stub"),
        (says("It is", finish="content_filter"), Unreadable, "content_filter"),
        (cut(" 2 +"), Retryable, "openai/stub"),
        (says(" 2 +", done=False, finish=""), Retryable, "the stream was cut"),
        (silent, Retryable, "openai/stub"),
        (reset, Retryable, "openai/stub"),
        (says(*"a slow trickle of text, piece by piece", pause_s=0.3), TimedOut, "no answer in 3 s"),
        (says(" 2 +", " 3", pause_s=2.0), TimedOut, "silent for 1 s"),
        (endless(" and so on" * 100), Unreadable, "ignores max_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_request_ends_within_its_deadline_as_one_class_of_error(
    behaviour: Behaviour, kind: type[EngineError], words: str
) -> None:
    started = time.monotonic()
    with pytest.raises(EngineError) as caught:
        asked(default=behaviour)
    assert isinstance(caught.value, kind), repr(caught.value)
    assert isinstance(caught.value, Retryable) == issubclass(kind, Retryable)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert time.monotonic() - started < 8
    if isinstance(caught.value, Retryable) and "slow down" in words:
        assert caught.value.after_s == 7


def test_mistakes_are_told_when_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match="litellm knows no provider of it; write provider/model"):
        asked(config={"model": "nonsense"})
    with pytest.raises(Refused, match=r"gemini/gemini-2.5-flash: not set in the environment: .*GEMINI_API_KEY"):
        asked(config={"model": "gemini/gemini-2.5-flash", "key": None})
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(Refused, match="STUB_KEY, which is to hold the key, is not set"):
        asked()


def test_it_cannot_score() -> None:
    async def then(_: StubServer, engine: LitellmEngine) -> None:
        assert not engine.capabilities.scores
        with pytest.raises(Refused, match="none can be the prover"):
            await engine.answer_logprobs(PROMPT, "5")

    asked(then=then)


def test_opening_asks_the_network_nothing() -> None:
    script = """if True:
        import asyncio, sys

        def refuse(event, arguments):
            if event in {"socket.getaddrinfo", "socket.connect", "socket.sendto"}:
                raise SystemExit(f"{event} {arguments}")

        sys.addaudithook(refuse)
        from agents.engines.litellm import LitellmEngine
        from configs.engines import LitellmEngine as Config

        assert "litellm" not in sys.modules

        async def main():
            async with LitellmEngine(Config(kind="litellm", model="openai/gpt-4o", key="STUB_KEY")) as engine:
                print(engine.capabilities.found)

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "hosted, continues by words\n", done.stderr


def test_the_price_is_that_of_litellms_table() -> None:
    async def then(_: StubServer, engine: LitellmEngine) -> None:
        price = engine.capabilities.price
        assert price
        assert price.completion > price.prompt > (price.cached or 0) > 0
        assert price.of(prompt=1_000_000, completion=0, cached=0) == pytest.approx(price.prompt)
        assert price.of(prompt=1_000_000, completion=1_000_000, cached=500_000) == pytest.approx(
            (price.prompt + (price.cached or 0)) / 2 + price.completion
        )

    asked(then=then, config={"model": "openai/gpt-4o-mini"})

    async def unknown(_: StubServer, engine: LitellmEngine) -> None:
        assert engine.capabilities.price is None

    asked(then=unknown)


def test_an_error_says_what_was_spent_before_it() -> None:
    with pytest.raises(Retryable) as caught:
        asked(default=says(" 2 +", " 3", " is", done=False, finish=""))
    assert caught.value.usage
    assert caught.value.usage.prompt > 5
    assert caught.value.usage.completion >= 3
    with pytest.raises(Retryable) as nothing:
        asked(default=reset)
    assert nothing.value.usage is None
