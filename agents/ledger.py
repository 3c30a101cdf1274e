"""One subject's calls: each request is made once, is a durable row before its result is used, and is retried within bounds.

Invariant: a call that is already known, from this run or from the one it resumes, is answered from its row.
Not covered: rates, budgets, breakers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from agents.engines.base import AnswerLogprobs, Completion, Engine, Prompt
from agents.errors import Retryable
from store.types import Call, Usage, content_id, sum_usage

Purpose = Literal["propose", "score", "answer", "evaluate"]
Record = Callable[[Sequence[Call]], Awaitable[None]]

_FIRST_WAIT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An open engine under its name in the config; `identity` is equal for engines that give equal answers."""

    name: str
    identity: str
    engine: Engine


class Ledger:
    """The calls made for one subject (a question). `known` are its calls of an earlier process; `record` makes one durable."""

    def __init__(self, *, subject: str, known: Mapping[str, Call], record: Record, tries: int) -> None:
        self._subject = subject
        self._known = dict(known)
        self._record = record
        self._tries = tries

    async def generate(self, model: Model, purpose: Purpose, prompt: Prompt, **sampling: Any) -> list[Completion]:
        """`Engine.generate`, through the ledger. Raises what the engine raises, after the last try."""

        async def ask() -> tuple[dict[str, Any], Usage]:
            completions = await model.engine.generate(prompt, **sampling)
            return {"completions": [_completion_row(c) for c in completions]}, sum_usage([c.usage for c in completions])

        response = await self._once(model, purpose, _request(prompt, sampling), ask)
        return [_completion(row) for row in response["completions"]]

    async def answer_logprobs(self, model: Model, context: Prompt, answer: str) -> AnswerLogprobs:
        """`Engine.answer_logprobs`, through the ledger. Raises what the engine raises, after the last try."""

        async def ask() -> tuple[dict[str, Any], Usage]:
            scored = await model.engine.answer_logprobs(context, answer)
            return {"logprobs": list(scored.values), "usage": asdict(scored.usage)}, scored.usage

        response = await self._once(model, "score", _request(context, {"answer": answer}), ask)
        return AnswerLogprobs(values=tuple(response["logprobs"]), usage=Usage(**response["usage"]))

    async def _once(
        self,
        model: Model,
        purpose: Purpose,
        request: dict[str, Any],
        ask: Callable[[], Awaitable[tuple[dict[str, Any], Usage]]],
    ) -> Mapping[str, Any]:
        key = content_id("call", self._subject, model.identity, purpose, request)
        if call := self._known.get(key):
            return call.response
        started = time.perf_counter()
        response, usage = await self._retried(ask)
        call = Call(
            id=key,
            subject=self._subject,
            engine=model.name,
            purpose=purpose,
            request=request,
            response=response,
            usage=usage,
            latency_s=time.perf_counter() - started,
        )
        await self._record([call])
        self._known[key] = call
        return call.response

    async def _retried(self, ask: Callable[[], Awaitable[tuple[dict[str, Any], Usage]]]) -> tuple[dict[str, Any], Usage]:
        for attempt in range(1, self._tries):
            try:
                return await ask()
            except Retryable as error:
                await asyncio.sleep(max(_FIRST_WAIT_S * 2 ** (attempt - 1), error.after_s or 0.0))
        return await ask()


def _request(prompt: Prompt, rest: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it is kept: whole turns by their hash (they repeat in every call of a question), the rest in full."""
    turns = content_id(*((message.role, message.content) for message in prompt.messages))
    return {"turns": turns, "prefix": prompt.prefix, **rest}


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
