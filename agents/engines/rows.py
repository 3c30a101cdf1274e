"""What the batch computes: requests, and the rows that they become.

Invariant: a row knows which tokens it has, how many of them are in its slot, and when it is done; it never sees a tensor.
Not covered: which rows run when (`agents.engines.batching`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from agents.engines.base import AnswerLogprobs, Completion, Prompt
from agents.engines.prefixes import Tokens
from agents.engines.rendering import Transcript, encode, encode_answer, render
from agents.errors import Overlong, Terminal
from store.types import Usage

Outcome = list[Completion] | AnswerLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """`Engine.generate` as a value."""

    prompt: Prompt
    n: int
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    top_p: float
    seed: int
    logprobs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """`Engine.answer_logprobs` as a value."""

    context: Prompt
    answer: str


class Job:
    """One request and its future. It is done when all its rows are; when nobody waits for it any more, it is `abandoned`."""

    def __init__(self, request: Generation | Scoring) -> None:
        self.request = request
        self.future: Future[Any] = Future()
        self._results: dict[int, Any] = {}

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the result."""
        return self.future.cancelled()

    def put(self, index: int, result: Completion | AnswerLogprobs) -> None:
        """One row's result; the last one settles the future."""
        self._results[index] = result
        if isinstance(self.request, Scoring):
            settle(self.future, result=result)
        elif len(self._results) == self.request.n:
            settle(self.future, result=[self._results[i] for i in range(self.request.n)])

    def fail(self, error: BaseException) -> None:
        """Settle the future with an error, unless it is settled."""
        settle(self.future, error=error)


def settle(future: Future[Any], *, result: Any = None, error: BaseException | None = None) -> None:
    """Set a future that its owner may have cancelled, or that has been settled already."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """`tokens` are all that it has; [0, computed) of them are in its slot, and `cached` of those were found there."""

    job: Job
    tokens: list[int]
    prompt: Tokens
    reusable: int
    """So many of the first tokens may come from a cache: the logits after them are not asked for."""
    computed: int = 0
    cached: int = 0

    @property
    def pending(self) -> int:
        """Tokens that are still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def reads(self) -> bool:
        """Whether it is still computing the tokens it came with."""
        return self.computed < len(self.prompt)


@dataclass(slots=True, eq=False, kw_only=True)
class Writer(Row):
    """One completion in the making."""

    request: Generation
    index: int
    transcript: Transcript
    logprobs: list[float] = field(default_factory=list)

    @property
    def num_new(self) -> int:
        """Tokens written so far."""
        return len(self.tokens) - len(self.prompt)

    @property
    def num_tokens_at_most(self) -> int:
        """Length when all has been written."""
        return len(self.prompt) + self.request.max_tokens

    @property
    def num_stored(self) -> int:
        """Tokens whose states are worth keeping."""
        return self.computed

    def wanted(self, stop: int) -> range:
        """Positions before `stop` after which logits are needed."""
        return range(stop - 1, stop) if stop == len(self.tokens) else range(0)

    def write(self, token: int, ends: bool) -> bool:
        """Append a token; whether this was the last."""
        self.tokens.append(token)
        finish: Literal["stop", "end", "length"] | None = "end" if ends else None
        if finish is None and self.transcript.add(token):
            finish = "stop"
        if finish is None and self.num_new == self.request.max_tokens:
            finish = "length"
        if finish is None:
            return False
        self._complete(finish)
        return True

    def _complete(self, finish: Literal["stop", "end", "length"]) -> None:
        text = self.transcript.close()
        stop = self.transcript.stop
        usage = Usage(prompt=len(self.prompt), completion=self.num_new, cached=self.cached)
        logprobs = tuple(self.logprobs) if self.request.logprobs else None
        finish = finish if stop is None else "stop"
        self.job.put(self.index, Completion(text=text, finish=finish, stop=stop, usage=usage, logprobs=logprobs))


@dataclass(slots=True, eq=False, kw_only=True)
class Reader(Row):
    """One answer being scored: a prompt whose last tokens, `targets`, are known. The very last need not be computed."""

    targets: list[int]
    texts: tuple[str, ...]
    values: list[float] = field(default_factory=list)

    @property
    def num_tokens_at_most(self) -> int:
        """Its length: nothing is written."""
        return len(self.prompt)

    @property
    def num_stored(self) -> int:
        """The context alone: the next answer is another one."""
        return min(self.computed, self.reusable + 1)

    def wanted(self, stop: int) -> range:
        """Positions before `stop` after which logits are needed and not yet seen."""
        return range(self.reusable + len(self.values), stop)

    def read(self, values: Sequence[float]) -> bool:
        """Note the log-probs of the next targets; whether these were the last."""
        self.values.extend(values)
        if len(self.values) < len(self.targets):
            return False
        usage = Usage(prompt=len(self.tokens) + 1, completion=0, cached=self.cached)
        self.job.put(0, AnswerLogprobs(values=tuple(self.values), usage=usage, tokens=self.texts))
        return True


def make_rows(job: Job, tokenizer: Any, context_tokens: int) -> list[Writer] | list[Reader]:
    """Render and tokenise a request. Raises `Overlong` and `Terminal`, for this request alone."""
    make: Callable[..., Any] = _writers if isinstance(job.request, Generation) else _readers
    return make(job, job.request, tokenizer, context_tokens)


def _writers(job: Job, request: Generation, tokenizer: Any, context_tokens: int) -> list[Writer]:
    if request.n < 1 or request.max_tokens < 1:
        raise Terminal(f"n and max_tokens must be at least 1, not {request.n} and {request.max_tokens}")
    tokens = encode(tokenizer, render(tokenizer, request.prompt))
    if len(tokens) + request.max_tokens > context_tokens:
        raise Overlong(f"{len(tokens)} tokens of prompt and {request.max_tokens} to write do not fit into {context_tokens}")
    prompt = np.array(tokens, np.int64)
    return [
        Writer(
            job=job,
            tokens=list(tokens),
            prompt=prompt,
            reusable=len(tokens) - 1,
            request=request,
            index=index,
            transcript=Transcript(tokenizer, tokens, request.stop),
        )
        for index in range(request.n)
    ]


def _readers(job: Job, request: Scoring, tokenizer: Any, context_tokens: int) -> list[Reader]:
    whole = encode_answer(tokenizer, render(tokenizer, request.context), request.answer)
    if len(whole.tokens) > context_tokens:
        raise Overlong(f"{len(whole.tokens)} tokens of context and answer do not fit into {context_tokens}")
    tokens, targets = whole.tokens[:-1], whole.tokens[whole.first :]
    prompt = np.array(tokens, np.int64)
    return [Reader(job=job, tokens=tokens, prompt=prompt, reusable=whole.first - 1, targets=targets, texts=whole.texts)]
