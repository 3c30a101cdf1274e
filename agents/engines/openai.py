"""A model behind an OpenAI-compatible server: vLLM, SGLang, or another.

    generate          raw completion of the rendered template's tokens where we have the tokenizer, else the chat route
    answer_logprobs   SGLang: one request, which computes only the answer; vLLM: every answer token forced, all at once

Both keep the server's prefix cache. What a server does not tell is found out, or watched for here: one that does not say at
which stop string it ended is read as a stream, which we leave at the first stop.
Invariant: every request ends within its deadline; cancelling it closes its connection, at which the server stops.
Not covered: retries, rates (they wrap an engine), bodies and answers (`dialects.py`), HTTP (`wire.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from agents.engines import dialects
from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Prompt, as_turns, together
from agents.engines.dialects import Dialect, Draft, Sampling
from agents.engines.encoding import PromptEncoder
from agents.engines.rendering import (
    CONVERSATION,
    AnswerTokens,
    check_template,
    encode,
    fingerprints,
    render,
)
from agents.engines.samples import Samples
from agents.engines.wire import Wire
from agents.errors import EngineError, ModelNotFound, Overlong, Refused, Terminal, Unreadable
from configs.engines import OpenAIEngine as OpenAIConfig
from store.types import Usage, content_id

Method = Literal["generate", "forced", "prompt_logprobs"]

STREAMED_TOKENS = 256
"""Requests for more tokens than this are read as a stream, so that a server that has fallen silent is noticed early."""
TOLERANCE = 0.25
"""Greatest difference of two ways to score one token: bfloat16 moves a log-prob by up to 0.2 between modes."""

_CHARACTERS_PER_TOKEN = 4
_UNBOUNDED = 1 << 30


class OpenAIEngine:
    """`agents.engines.base.Engine` over HTTP, at `url`. `tokenizer` is the folder of the model's own, or None."""

    def __init__(self, config: OpenAIConfig, url: str, tokenizer: Path | None) -> None:
        self._config = config
        self._folder = tokenizer
        self._tokenizer: Any = None
        self._encoder: PromptEncoder | None = None
        self._wire = Wire(
            url.rstrip("/").removesuffix("/v1"),
            key=_key(config.key),
            deadline_s=config.deadline_s,
            silence_s=config.silence_s,
        )
        self._dialect: Dialect = "other"
        self._samples = Samples()
        self._method: Method | None = None
        self._why_not = ""
        self._structures = True
        self._fingerprints: tuple[str | None, str | None] = (None, None)
        self._differs = ""
        self._context_tokens = 0

    async def __aenter__(self) -> Self:
        if self._folder:
            self._tokenizer = await asyncio.to_thread(_load_tokenizer, self._folder)
            self._encoder = PromptEncoder(self._tokenizer)
            self._fingerprints = fingerprints(self._tokenizer)
        await self._wire.__aenter__()
        try:
            await self._look()
            self._method, self._why_not = await self._find_method()
            self._differs = await self._compare_templates()
        except BaseException:
            await self._wire.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._wire.__aexit__(*exc)

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid while it is open."""
        way = "its own template" if self._tokenizer else "the chat route"
        scoring = f", scores by {self._method}" if self._method else ""
        template, cut = self._fingerprints
        return Capabilities(
            model=self._config.model,
            found=f"{self._dialect} server, asked through {way}{scoring}{self._differs}",
            device=self._wire.url,
            dtype="the server's type",
            scores=self._method is not None,
            continues=True,
            context_tokens=self._context_tokens,
            why_not=self._why_not,
            structures=self._structures,
            template=template,
            tokenizer=cut,
        )

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
        """See `Engine.generate`."""
        sampling = Sampling(
            n=n,
            max_tokens=max_tokens,
            stop=tuple(text for text in stop if text),
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
        )
        if logprobs and self._dialect == "sglang" and temperature not in (0.0, 1.0):
            raise Refused("SGLang scales the log-probs of sampled tokens by the temperature: ask at temperature 1")
        if self._dialect == "other":  # not every such server knows n, and each sample may meet its stop at another time
            request = content_id(dataclasses.asdict(prompt), dataclasses.asdict(sampling))
            return await self._samples.of(request, [partial(self._one, prompt, sampling.one(index)) for index in range(n)])
        return await self._complete(prompt, sampling)

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """See `Engine.answer_logprobs`."""
        if self._method is None or self._encoder is None:
            raise Refused(f"{self._config.model} at {self._wire.url} cannot give log-probs of a given answer")
        whole = self._encoder.answer(context, answer)
        if len(whole.tokens) + 1 > self._context_tokens:
            raise Overlong(f"{len(whole.tokens)} tokens to score, of at most {self._context_tokens - 1}")
        return await self._scored(whole, self._method)

    def shown(self, prompt: Prompt) -> str:
        """The rendered template where we have it, else the turns; see `Engine.shown`."""
        return render(self._tokenizer, prompt) if self._tokenizer else as_turns(prompt.messages, prompt.prefix)

    async def _one(self, prompt: Prompt, sampling: Sampling) -> Completion:
        (completion,) = await self._complete(prompt, sampling)
        return completion

    async def _complete(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        stream = self._dialect == "other" or sampling.max_tokens > STREAMED_TOKENS
        common = dialects.body(self._dialect, self._config.model, sampling, stream=stream)
        common = dialects.held_to(common, prompt.schema if self._structures else None)
        if self._encoder:
            tokens = self._encoder.tokens(prompt)
            self._check_fits(len(tokens), sampling.max_tokens)
            path, body = dialects.COMPLETIONS, dialects.raw(common, tokens, sampling.logprobs)
        else:
            path, body = dialects.CHAT, dialects.chat(self._dialect, common, prompt, sampling.logprobs)
        repeated = (prompt.prefix,) if prompt.prefix and path == dialects.CHAT and self._dialect == "other" else ()
        drafts = [Draft(sampling.stop, sampling.max_tokens, repeated) for _ in range(sampling.n)]
        try:
            usage = await (self._streamed if stream else self._whole)(path, body, drafts)
        except EngineError as error:
            refused = isinstance(error, Terminal) and not isinstance(error, Overlong)
            if refused and "response_format" in common and self._dialect == "other":
                self._structures = False  # it knows no such thing
                return await self._complete(prompt, sampling)
            if any(draft.pieces for draft in drafts):
                error.usage = self._estimated(body, drafts)
            raise
        each = _shares(usage or self._estimated(body, drafts), sampling.n)
        return [draft.completion(share, logprobs=sampling.logprobs) for draft, share in zip(drafts, each, strict=True)]

    async def _whole(self, path: str, body: dialects.Json, drafts: list[Draft]) -> Usage | None:
        answer = await self._wire.post(path, body)
        _take(answer, drafts)
        return dialects.usage_of(answer)

    async def _streamed(self, path: str, body: dialects.Json, drafts: list[Draft]) -> Usage | None:
        """Read until every choice is over; on a server that stops by itself, also the usage that comes last."""
        usage = None
        async with aclosing(self._wire.stream(path, body)) as events:
            async for event in events:
                _take(event, drafts)
                usage = dialects.usage_of(event) or usage
                if self._dialect == "other" and all(draft.over and draft.matched for draft in drafts):
                    break
        return usage

    async def _scored(self, whole: AnswerTokens, method: Method) -> AnswerLogprobs:
        tokens, first = whole.tokens, whole.first
        if method == "generate":
            answer = await self._wire.post(dialects.GENERATE, dialects.scored_from(tokens, first))
            values, usage = dialects.input_logprobs(answer, tokens, first), dialects.meta_usage(answer)
        elif method == "prompt_logprobs":
            answer = await self._wire.post(dialects.COMPLETIONS, dialects.prompt_scored(self._config.model, tokens))
            values, usage = dialects.prompt_logprobs(answer, tokens, first), Usage(prompt=len(tokens))
        else:
            bodies = [dialects.forced(self._config.model, tokens[:at], tokens[at]) for at in range(first, len(tokens))]
            answers = await together([self._wire.post(dialects.COMPLETIONS, each) for each in bodies])
            values = [dialects.forced_logprob(answer) for answer in answers]
            usage = dialects.joined(dialects.usage_of(answer) or Usage(prompt=len(tokens)) for answer in answers)
        return AnswerLogprobs(values=tuple(values), usage=usage, tokens=whole.texts)

    async def _look(self) -> None:
        """Which server this is, whether it has the model, how long its context is."""
        served = {entry.get("id"): entry for entry in (await self._wire.get("/v1/models")).get("data") or ()}
        if self._config.model not in served:
            known = ", ".join(map(str, served)) or "none"
            raise ModelNotFound(f"{self._wire.url} has no model {self._config.model!r}; it has: {known}")
        entry = served[self._config.model]
        owner = entry.get("owned_by")
        self._dialect = owner if owner in ("vllm", "sglang") else "other"
        self._context_tokens = int(entry.get("max_model_len") or 0) or _UNBOUNDED

    async def _find_method(self) -> tuple[Method | None, str]:
        """How this server scores; None, and why, when it cannot.

        Forced decoding counts only if it agrees with `prompt_logprobs`.
        """
        if self._dialect == "other":
            return None, "a server that is neither vLLM nor SGLang is not known to give log-probs of a given answer"
        if not self._tokenizer:
            return None, "it has no tokenizer configured"
        tokens = encode(self._tokenizer, "The capital of France is Paris.")
        known = AnswerTokens(tokens, len(tokens) - 3)
        if self._dialect == "sglang":
            found = await self._try(known, "generate")
            return (None, found) if isinstance(found, str) else ("generate", "")
        whole = await self._try(known, "prompt_logprobs")
        if isinstance(whole, str):
            return None, whole
        if self._config.scoring == "prompt_logprobs":
            return "prompt_logprobs", ""
        forced = await self._try(known, "forced")
        if not isinstance(forced, str) and all(abs(a - b) < TOLERANCE for a, b in zip(forced, whole, strict=True)):
            return "forced", ""
        if self._config.scoring == "auto":
            return "prompt_logprobs", ""
        return None, forced if isinstance(forced, str) else "its forced tokens and its prompt_logprobs do not agree"

    async def _try(self, known: AnswerTokens, method: Method) -> tuple[float, ...] | str:
        """The log-probs, or why there are none."""
        try:
            return (await self._scored(known, method)).values
        except (Terminal, Unreadable) as error:
            return str(error)

    async def _compare_templates(self) -> str:
        """What is told when the chat route renders a conversation otherwise than we do. No fault: we send our own tokens."""
        if not self._tokenizer:
            return ""
        one = Sampling(n=1, max_tokens=1, stop=(), temperature=0.0, top_p=1.0, seed=0, logprobs=False)
        common = dialects.body(self._dialect, self._config.model, one, stream=False)
        try:
            answer = await self._wire.post(dialects.CHAT, dialects.chat(self._dialect, common, CONVERSATION, logprobs=False))
        except EngineError:  # a server without a chat route, or without a template
            return ""
        theirs, ours = dialects.usage_of(answer), len(encode(self._tokenizer, render(self._tokenizer, CONVERSATION)))
        if theirs is None or theirs.prompt == ours:
            return ""
        return f", the server's own template differs ({theirs.prompt} tokens where ours makes {ours})"

    def _check_fits(self, num_prompt: int, max_tokens: int) -> None:
        if num_prompt + max_tokens > self._context_tokens:
            raise Overlong(f"{num_prompt} prompt tokens and {max_tokens} new ones, of at most {self._context_tokens}")

    def _estimated(self, body: dialects.Json, drafts: list[Draft]) -> Usage:
        """Tokens of a stream that we left, or of a server that does not count: exact where we have the tokenizer."""
        if isinstance(body.get("prompt"), list):
            return Usage(prompt=len(body["prompt"]), completion=sum(draft.pieces for draft in drafts))
        characters = sum(len(turn["content"]) for turn in body["messages"])
        return Usage(prompt=characters // _CHARACTERS_PER_TOKEN, completion=sum(draft.pieces for draft in drafts))


def _take(answer: dialects.Json, drafts: list[Draft]) -> None:
    for choice in dialects.choices_of(answer):
        index = choice.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < len(drafts):
            raise Unreadable(f"a choice with index {index!r}, of {len(drafts)}")
        if not drafts[index].over:
            drafts[index].add(choice)


def _shares(usage: Usage, n: int) -> list[Usage]:
    """The usage of a whole request over its n choices: the prompt with the first, the new tokens evenly."""
    each, rest = divmod(usage.completion, n)
    first = Usage(prompt=usage.prompt, completion=each + rest, cached=usage.cached)
    return [first, *(Usage(completion=each) for _ in range(n - 1))]


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    if not (key := os.environ.get(name)):
        raise Refused(f"the environment variable {name}, which is to hold the key, is not set")
    return key


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    check_template(tokenizer, str(folder))
    return tokenizer
