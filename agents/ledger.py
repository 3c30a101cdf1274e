"""One subject's calls: each request is made once, is a durable row before its result is used, and is paid for once.

    known row? ──▶ shared row? ──▶ budget ──▶ gate of the engine ──▶ row ──▶ result

Invariant: a call that is already known, from this run, from the one it resumes, or from a run that shares its ledger, is
answered from its row. Not covered: when a request is sent, and how often (`limits.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from agents.budget import Budget
from agents.engines.base import AnswerLogprobs, Completion, Engine, Message, Prompt
from agents.errors import Broken, EngineError, MissingCall, Parked, Quarantined, again
from agents.limits import Gate
from agents.pauses import Pauses
from agents.shared_ledger import SharedLedger
from configs.engines import Price
from store.types import Call, Failure, Usage, content_id, sum_usage

Purpose = Literal["propose", "score", "answer", "judge", "evaluate"]
Response = tuple[dict[str, Any], Usage]

BYTES_PER_TOKEN = 3
"""Few, so that what is reserved for a prompt is rather too much; of UTF-8, since a Chinese character is about a token."""
TURN_TOKENS = 8
"""What a template adds to a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An open engine under its name in the config; `identity` is equal for engines that give equal answers."""

    name: str
    identity: str
    engine: Engine
    gate: Gate = field(default_factory=Gate)
    price: Price | None = None


class Keep(Protocol):
    """Where calls are kept: the store."""

    async def record_calls(self, calls: Sequence[Call]) -> None:
        """Make calls durable."""
        ...

    async def record_spent(self, agent: str, tokens: int, cost: float | None) -> None:
        """Count what a request that failed cost."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for all calls of a run. An engine that is parked is waited for: `patience_s` from when it was parked by calls
    that nobody else can answer, `grace_s` by others."""

    keep: Keep
    budget: Budget | None = None
    shared: SharedLedger | None = None
    replay: bool = False
    patience_s: float = 3600.0
    grace_s: float = 0.0
    pauses: Pauses = field(default_factory=Pauses)


class Ledger:
    """The calls made for one subject (a question). `known` are its calls of an earlier life, `failures` its failures: what is in
    quarantine is not made again, and a replay fails where the run failed."""

    def __init__(self, *, subject: str, known: Mapping[str, Call], terms: Terms, failures: Sequence[Failure] = ()) -> None:
        self._subject = subject
        self._known = dict(known)
        self._terms = terms
        self._failed = {failure.request: failure for failure in failures if failure.request}
        self._asking: dict[str, asyncio.Event] = {}
        self._begun = time.monotonic()

    @property
    def pauses(self) -> Pauses:
        """Who is not to be asked for now."""
        return self._terms.pauses

    async def generate(
        self, model: Model, purpose: Purpose, prompt: Prompt, *, agent: str, waits: bool = True, **sampling: Any
    ) -> list[Completion]:
        """`Engine.generate`, through the ledger, for `agent`. Raises what the engine raises, after the last try.

        While the engine is parked: `waits`, or raises `Parked` after the grace.
        """

        async def ask() -> Response:
            completions = await model.engine.generate(prompt, **sampling)
            return {"completions": [_completion_row(c) for c in completions]}, sum_usage([c.usage for c in completions])

        n = sampling.get("n", 1)  # most engines count the prompt once for each sample
        most = Usage(prompt=n * _most_tokens(prompt), completion=n * sampling["max_tokens"])
        call = _Asked(model=model, agent=agent, purpose=purpose, request=_request(prompt, sampling), ask=ask, most=most)
        response = await self._once(call, waits=waits)
        return [_completion(row) for row in response["completions"]]

    async def answer_logprobs(self, model: Model, context: Prompt, answer: str, *, agent: str) -> AnswerLogprobs:
        """`Engine.answer_logprobs`, through the ledger, for `agent`; waits while the engine is parked."""

        async def ask() -> Response:
            scored = await model.engine.answer_logprobs(context, answer)
            tokens = {"tokens": list(scored.tokens)} if scored.tokens else {}
            return {"logprobs": list(scored.values), "usage": asdict(scored.usage), **tokens}, scored.usage

        length = len(answer.encode())
        most = Usage(prompt=_most_tokens(context) + length, completion=length)
        request = _request(context, {"answer": answer})
        call = _Asked(model=model, agent=agent, purpose="score", request=request, ask=ask, most=most)
        response = await self._once(call, waits=True)
        return AnswerLogprobs(values=tuple(response["logprobs"]), usage=Usage(**response["usage"]))

    async def _once(self, asked: _Asked, *, waits: bool) -> Mapping[str, Any]:
        key = content_id("call", self._subject, asked.model.identity, asked.purpose, asked.request)
        while key not in self._known and (other := self._asking.get(key)):
            await other.wait()
        if call := self._known.get(key):
            return call.response
        self._asking[key] = asyncio.Event()
        try:
            self._known[key] = await self._found_or_made(key, asked, waits=waits)
        except EngineError as error:
            error.request = key
            raise
        finally:
            self._asking.pop(key).set()
        return self._known[key].response

    async def _found_or_made(self, key: str, asked: _Asked, *, waits: bool) -> Call:
        terms = self._terms
        failed = self._failed.get(key)
        if failed and failed.kind == Quarantined.__name__:
            raise again(failed)
        if terms.shared and (found := await terms.shared.claim(key)):
            return await self._reused(found, asked)
        if terms.replay and failed:
            raise again(failed)
        if terms.replay:
            raise MissingCall(
                f"replay: no call of {asked.agent} ({asked.purpose}) about question {self._subject} is in the ledger"
            )
        try:
            call = await self._made(key, asked, waits=waits)
            if terms.shared:
                await terms.shared.record(call)
        except BaseException:
            if terms.shared:
                await terms.shared.release(key)
            raise
        await terms.keep.record_calls([call])
        return call

    async def _reused(self, call: Call, asked: _Asked) -> Call:
        own = replace(call, agent=asked.agent, engine=asked.model.name, cost=0.0, latency_s=0.0, reused=True)
        await self._terms.keep.record_calls([own])
        return own

    async def _made(self, key: str, asked: _Asked, *, waits: bool) -> Call:
        """The call, paid for. A parked engine is waited for: for as long as the run is patient, or as its grace lasts."""
        gate, limit_s = asked.model.gate, self._terms.patience_s if waits else self._terms.grace_s
        while True:
            await self._allowed(asked.agent, waits=waits)
            try:
                return await self._paid(key, asked)
            except _Again:
                continue  # until the others are settled, or nothing is left; or until the pause is over
            except Parked as parked:
                try:
                    async with asyncio.timeout(max(0.0, limit_s - gate.down_s)):
                        await gate.available()
                except (TimeoutError, Broken):
                    if waits:
                        raise gate.gone or Broken(f"{parked}; waited {limit_s:g} s") from parked
                    raise parked from None

    async def _allowed(self, agent: str, *, waits: bool) -> None:
        """Wait while the run is paused, or the agent; for the agent only if it `waits`. Raises `Parked`, and `Ending`."""
        pauses = self._terms.pauses
        while why := pauses.holds(agent):
            if not (waits or pauses.run):
                raise Parked(f"{agent} is {why}")
            await pauses.over(agent)

    async def _paid(self, key: str, asked: _Asked) -> Call:
        """The call, paid for. A try that failed may have cost something too, and then the next one needs room of its own."""
        budget, most = self._terms.budget, asked.most
        reservation = await budget.reserve(asked.agent, asked.cost(most) or 0.0, _tokens(most)) if budget else None
        room, usage = True, Usage()

        async def one_try() -> tuple[Response, float]:
            nonlocal room
            if not room or self._terms.pauses.holds(asked.agent):
                raise _Again
            started = time.perf_counter()
            try:
                return await asked.ask(), time.perf_counter() - started
            except EngineError as error:
                if error.usage:
                    tokens, cost = _tokens(error.usage), asked.cost(error.usage)
                    room = await budget.spend(reservation, cost, tokens) if budget and reservation else True
                    await self._terms.keep.record_spent(asked.agent, tokens, cost)
                raise

        try:
            (response, usage), latency_s = await asked.model.gate.ask(
                one_try, begun=self._begun, tokens=_tokens(most), used=lambda found: _tokens(found[0][1])
            )
        finally:
            if budget and reservation:
                await budget.settle(reservation, asked.cost(usage), _tokens(usage))
        return Call(
            id=key,
            subject=self._subject,
            agent=asked.agent,
            engine=asked.model.name,
            purpose=asked.purpose,
            request=asked.request,
            response=response,
            usage=usage,
            latency_s=latency_s,
            cost=asked.cost(usage),
        )


class _Again(Exception):
    """It is not to be sent now: what failed tries have cost leaves no room for another one beside the calls that are out, or
    somebody has paused its agent while it stood in the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One request: whose, of what, how it is made, and the most that one try of it may take."""

    model: Model
    agent: str
    purpose: Purpose
    request: Mapping[str, Any]
    ask: Callable[[], Awaitable[Response]]
    most: Usage

    def cost(self, usage: Usage) -> float | None:
        """US dollars; None where no price is known."""
        price = self.model.price
        return price.of(usage.prompt, usage.completion, usage.cached) if price else None


def _tokens(usage: Usage) -> int:
    return usage.prompt + usage.completion


def _most_tokens(prompt: Prompt) -> int:
    length = sum(len(message.content.encode()) for message in prompt.messages) + len(prompt.prefix.encode())
    return length // BYTES_PER_TOKEN + TURN_TOKENS * (len(prompt.messages) + 1)


def _request(prompt: Prompt, rest: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it is kept: whole turns by their hash (they repeat in every call of a question), the rest in full."""
    turns = turns_hash(prompt.messages)
    schema = {"schema": content_id(prompt.schema)} if prompt.schema else {}
    return {"turns": turns, "prefix": prompt.prefix, **schema, **rest}


def turns_hash(turns: Sequence[Message]) -> str:
    """What stands in a kept request for whole turns."""
    return content_id(*((message.role, message.content) for message in turns))


def _completion_row(completion: Completion) -> dict[str, Any]:
    logprobs = None if completion.logprobs is None else list(completion.logprobs)
    return {
        "text": completion.text,
        "finish": completion.finish,
        "stop": completion.stop,
        "usage": asdict(completion.usage),
        "logprobs": logprobs,
    }


def _completion(row: Mapping[str, Any]) -> Completion:
    logprobs = None if row["logprobs"] is None else tuple(row["logprobs"])
    return Completion(text=row["text"], finish=row["finish"], stop=row["stop"], usage=Usage(**row["usage"]), logprobs=logprobs)
