"""Samples that are a request each: a retry asks only for what is missing, and every token is told once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from stub_server import Behaviour, StubServer, reset, says, serving

from agents.engines.base import Message, Prompt
from agents.engines.openai import OpenAIEngine
from agents.errors import Retryable
from configs.engines import OpenAIEngine as Config
from store.types import Usage, sum_usage

PROMPT = Prompt(messages=(Message(role="user", content="What is 2 + 3?"),))
GOOD = says("five", usage={"prompt_tokens": 9, "completion_tokens": 4})


@asynccontextmanager
async def opened(default: Behaviour) -> AsyncIterator[tuple[StubServer, OpenAIEngine]]:
    """An engine on a server that takes one sample a request."""
    async with serving(default) as server:
        config = Config(kind="openai", url=server.url, model="stub")
        async with OpenAIEngine(config, server.url, None) as engine:
            yield server, engine


def test_what_is_finished_when_another_sample_fails_is_not_asked_again() -> None:
    async def work() -> None:
        async with opened(GOOD) as (server, engine):
            server.behaviours.extend([GOOD, GOOD, says("f", done=False, finish="")])
            with pytest.raises(Retryable) as caught:
                await engine.generate(PROMPT, n=3, max_tokens=8, seed=1)
            assert caught.value.usage
            assert caught.value.usage.prompt >= 18
            found = await engine.generate(PROMPT, n=3, max_tokens=8, seed=1)
            assert [completion.text for completion in found] == ["five"] * 3
            assert sum_usage([completion.usage for completion in found]) == Usage(prompt=9, completion=4)
            seeds = Counter(body["seed"] for body in server.bodies)
            assert sorted(seeds.values()) == [1, 1, 2]
            again = await engine.generate(PROMPT, n=3, max_tokens=8, seed=1)
            assert sum_usage([completion.usage for completion in again]) == Usage(prompt=27, completion=12)

    asyncio.run(work())


def test_when_nothing_was_made_nothing_is_told() -> None:
    async def work() -> None:
        async with opened(reset) as (_, engine):
            with pytest.raises(Retryable) as caught:
                await engine.generate(PROMPT, n=2, max_tokens=8)
            assert caught.value.usage is None

    asyncio.run(work())
