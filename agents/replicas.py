"""Several replicas of one model as one engine: the requests of a tree go to the replica that holds their prefix.

    a tree's home    its first choice by rendezvous hashing among the replicas that are up, so that one which comes or goes
                     moves only its own trees (Thaler & Ravishankar, 1998)
    overloaded       a home with many more requests in flight than the others: this request goes to the least loaded one
    down             one whose server does not answer; at a mere address, where nobody looks: one that failed a moment ago

Invariant: a request goes to one replica; whether to ask again, and so perhaps another, is for retries, which wrap engines.
Not covered: how a replica is reached (`agents.engines`), started and watched (`servers.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import structlog

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Engine, Prompt, together
from agents.errors import Broken, Retryable, Throttled, Unreadable
from store.types import content_id

log = structlog.get_logger()
T = TypeVar("T")

SPILL = 1.25
"""A home with more than this many times the mean of requests in flight, and SLACK more, is overloaded."""
SLACK = 8
"""Requests: what one tree asks at once by default (4 beams, 2 teachers) stays at home on idle replicas."""
REST_S = 5.0
"""How long a replica at a mere address counts as down after a failure; its retry comes before that, and goes to another."""


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """One of them. `name` is its place in the hashing; `watched` tells whether its server answers, where somebody looks."""

    name: str
    engine: Engine
    watched: Callable[[], bool] | None = None
    in_flight: int = 0
    requests: int = 0
    gone: bool = False
    rests_until: float = -math.inf

    def up(self, now: float) -> bool:
        """Whether it can be asked."""
        return not self.gone and (self.watched() if self.watched else self.rests_until <= now)

    def failed(self, now: float, error: Retryable) -> None:
        """A request failed. A server that turns it away, or talks nonsense, is there all the same."""
        if not isinstance(error, Throttled | Unreadable):
            self.rests_until = now + REST_S

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Count a request while it lasts."""
        self.requests += 1
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


class Replicas:
    """`Engine` over several of one model. Open with `async with`, which opens all of them.

    `spilled` counts the requests that did not go to their tree's first choice.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)
        self.spilled = 0
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        first, *others = (each.engine for each in self.replicas)
        try:  # the first alone: it imports what all need, and transformers cannot be imported in two threads at once
            await self._opened.enter_async_context(first)
            await together([self._opened.enter_async_context(each) for each in others])
        except BaseException:
            await self._opened.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        requests = {each.name: each.requests for each in self.replicas}
        log.info("replicas_closed", model=self.capabilities.model, requests=requests, spilled=self.spilled)
        await self._opened.__aexit__(None, None, None)

    @property
    def capabilities(self) -> Capabilities:
        """Those of the first replica, as far as all have them."""
        found = [each.engine.capabilities for each in self.replicas]
        scoring = next((each for each in found if not each.scores), found[0])
        return replace(
            found[0],
            found=f"{found[0].found}, {len(found)} replicas",
            scores=scoring.scores,
            why_not=scoring.why_not,
            structures=all(each.structures for each in found),
            context_tokens=min(each.context_tokens for each in found),
        )

    def shown(self, prompt: Prompt) -> str:
        """See `Engine.shown`."""
        return self.replicas[0].engine.shown(prompt)

    async def generate(self, prompt: Prompt, *, max_tokens: int, **sampling: Any) -> list[Completion]:
        """See `Engine.generate`."""
        return await self._ask(prompt, lambda engine: engine.generate(prompt, max_tokens=max_tokens, **sampling))

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """See `Engine.answer_logprobs`."""
        return await self._ask(context, lambda engine: engine.answer_logprobs(context, answer))

    async def _ask(self, prompt: Prompt, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """The answer of the replica that is to be asked; of the next one, where a replica turns out to be gone for good."""
        order = ranked(tree_of(prompt), self.replicas)
        now = asyncio.get_running_loop().time
        while True:
            replica = chosen(order, now())
            self.spilled += replica is not order[0]
            with replica.asked():
                try:
                    return await ask(replica.engine)
                except Retryable as error:
                    replica.failed(now(), error)
                    raise
                except Broken as error:
                    replica.gone = True
                    log.warning("replica_gone", replica=replica.name, error=str(error))
                    if all(each.gone for each in self.replicas):
                        raise


def tree_of(prompt: Prompt) -> str:
    """Which tree a request belongs to: all of one tree have the same turns, and only the unfinished one grows."""
    return content_id(*((message.role, message.content) for message in prompt.messages))


def ranked(tree: str, replicas: Sequence[Replica]) -> list[Replica]:
    """All replicas in the order in which this tree prefers them."""

    def weight(replica: Replica) -> bytes:
        return hashlib.blake2b(f"{tree} {replica.name}".encode(), digest_size=8).digest()

    return sorted(replicas, key=weight, reverse=True)


def chosen(order: Sequence[Replica], now: float) -> Replica:
    """Whom to ask, of replicas in a tree's order: of those that are up, or else of those that may come up again."""
    able = [each for each in order if each.up(now)] or [each for each in order if not each.gone] or order
    mean = sum(each.in_flight for each in able) / len(able)
    if able[0].in_flight <= SPILL * mean + SLACK:
        return able[0]
    return min(able, key=lambda each: each.in_flight)  # of equals, the one that the tree prefers
