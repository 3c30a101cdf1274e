"""What every model offers: the protocol between an agent and whatever runs a model.

Invariant: an engine never blocks the event loop, and cancelling an awaited call frees what it held.
Not covered: retries and limits (they wrap an engine), prompts (`agents.prompts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar

from configs.engines import Price
from store.types import Usage

T = TypeVar("T")
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Whole turns, ending with a user's, and the unfinished assistant turn that is to be continued ("" to start one).

    `schema`, as JSON text, is what the answer has to be: an engine that can holds the model to it (`Capabilities.structures`).
    """

    messages: tuple[Message, ...]
    prefix: str = ""
    schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """New text only: never the prefix, never the matched stop string.

    `finish`: "stop" a stop string matched (it is `stop`), "end" the model ended its turn, "length" max_tokens was reached.
    `logprobs` holds one log-prob per generated token (at temperature 1, float32) when asked for.
    """

    text: str
    finish: Literal["stop", "end", "length"]
    stop: str | None
    usage: Usage
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLogprobs:
    """log p of each token that covers the answer's characters, given the context; raw (temperature 1), float32. `tokens` are
    their characters, where they are known."""

    values: tuple[float, ...]
    usage: Usage
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do, as found out and not as promised. `context_tokens` is the longest prompt plus completion,
    `price` what the engine knows of it.

    `why_not`, in a few words, when it does not score. `structures`: it holds an answer to a JSON schema. `template` and
    `tokenizer` are fingerprints (16 hex characters), where the engine has them: equal ones render and cut text alike.
    """

    model: str
    found: str
    device: str
    dtype: str
    scores: bool
    continues: bool
    context_tokens: int
    price: Price | None = None
    why_not: str = ""
    structures: bool = False
    template: str | None = None
    tokenizer: str | None = None


class Engine(Protocol):
    """A model that can be asked. Open with `async with`; safe to call from many tasks at once."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid while it is open."""
        ...

    async def generate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        logprobs: bool = False,
    ) -> list[Completion]:
        """Continue `prompt` n times. `temperature` 0 is greedy. Sample i draws from its own stream of (`seed`, i).

        Raises `Overlong` when the prompt and `max_tokens` do not fit, `Retryable` and `Terminal` otherwise.
        """
        ...

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """Log-probs of `answer` as the continuation of `context.prefix` (CoRD, Eq. 3).

        The whole string is tokenised at once and the tokens that overlap the answer's characters count.
        Raises `Refused` when the model cannot score, `Overlong`, `Retryable`.
        """
        ...

    def shown(self, prompt: Prompt) -> str:
        """The prompt as it is sent: the rendered template, or the turns where the server renders them.

        Valid while the engine is open. Raises `Terminal` when the template refuses these turns.
        """
        ...


def as_turns(messages: Iterable[Message], prefix: str) -> str:
    """Turns for people to read, where nobody here knows the template."""
    whole = [f"{message.role}: {message.content}" for message in messages]
    return "\n\n".join([*whole, f"assistant: {prefix}"])


async def together(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The values of all; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in asked]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]
