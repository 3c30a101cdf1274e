"""A hosted model through litellm: every provider that litellm knows, by its names.

Every completion is read as a stream, which we leave at the first stop string: hosted APIs do not say at which one they ended,
and a step that ended at the next header is another thing than a reasoning that ended. What the provider has written meanwhile
is paid for, some tokens at most.
Invariant: litellm is imported when an engine opens and not before (seconds, 160 MB), and fetches nothing then.
Not covered: scoring (no hosted API gives log-probs of given text), retries and rates (they wrap an engine).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Self

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Message, Prompt, as_turns
from agents.engines.dialects import Draft, held_to
from agents.engines.samples import Samples
from agents.engines.wire import classify, one_line
from agents.errors import EngineError, ModelNotFound, Refused, Retryable, TimedOut, Unreadable
from configs.engines import LitellmEngine as LitellmConfig
from configs.engines import Price
from store.types import Usage, content_id

CONTINUE = """\
Your answer has been begun. Go on exactly where it stops: write only what comes next, and repeat nothing of it.

{prefix}"""
"""How a model that takes no prefill is asked to continue."""

_WHY_NOT = "hosted models give no log-probs of a given answer"


class LitellmEngine:
    """`agents.engines.base.Engine` for a hosted model."""

    def __init__(self, config: LitellmConfig) -> None:
        self._config = config
        self._litellm: ModuleType | None = None
        self._supported: frozenset[str] = frozenset()
        self._facts: dict[str, Any] = {}
        self._key = ""
        self._samples = Samples()

    async def __aenter__(self) -> Self:
        self._litellm = await asyncio.to_thread(_import)
        self._look(self._litellm)
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid while it is open."""
        lacking = [name for name in ("seed", "top_p") if name not in self._supported]
        without = f", without {' and '.join(lacking)}" if lacking else ""
        return Capabilities(
            model=self._config.model,
            found=f"hosted, continues by {'prefill' if self._prefills else 'words'}{without}",
            device=self._config.url or "its provider",
            dtype="the provider's type",
            scores=False,
            continues=self._prefills,
            context_tokens=int(self._facts.get("max_input_tokens") or 0),
            price=_price(self._facts),
            why_not=_WHY_NOT,
            structures=self._structures,
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
        """See `Engine.generate`; what the provider does not take (`seed`, `top_p`) is left out, as `capabilities` says."""
        if logprobs:
            raise Refused(f"{self._config.model}: no log-probs are asked of hosted models")
        sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        if "top_p" in self._supported and temperature > 0 and top_p < 1:
            sampling["top_p"] = top_p
        seeds = [{"seed": (seed + index) % (1 << 31)} if "seed" in self._supported else {} for index in range(n)]
        stops = tuple(text for text in stop if text)
        sampling = held_to(sampling, prompt.schema if self._structures else None)
        request = content_id(dataclasses.asdict(prompt), stops, sampling, seeds)
        return await self._samples.of(request, [partial(self._complete, prompt, stops, sampling | each) for each in seeds])

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """Raises `Refused`: no hosted API gives log-probs of given text."""
        raise Refused(f"{self._config.model}: {_WHY_NOT}, so none can be the prover")

    def shown(self, prompt: Prompt) -> str:
        """The turns as they are sent; the provider renders them."""
        asked, continued = self._asked(prompt)
        return as_turns(asked, continued)

    @property
    def _structures(self) -> bool:
        return bool(self._facts.get("supports_response_schema"))

    @property
    def _prefills(self) -> bool:
        if self._config.continues == "auto":
            return bool(self._facts.get("supports_assistant_prefill"))
        return self._config.continues == "prefill"

    def _look(self, litellm: ModuleType) -> None:
        """Provider, key, what the model takes. Raises `ModelNotFound`, `Refused`."""
        try:
            _, provider, _, _ = litellm.get_llm_provider(self._config.model)
        except Exception as error:
            raise ModelNotFound(f"model {self._config.model!r}: litellm knows no provider of it; write provider/model") from error
        if self._config.key:
            if not (key := os.environ.get(self._config.key)):
                raise Refused(f"the environment variable {self._config.key}, which is to hold the key, is not set")
            self._key = key
        else:
            missing = litellm.validate_environment(self._config.model).get("missing_keys") or ()
            if missing:
                raise Refused(f"{self._config.model}: not set in the environment: {', '.join(missing)}")
        self._supported = frozenset(litellm.get_supported_openai_params(self._config.model, custom_llm_provider=provider) or ())
        try:
            self._facts = dict(litellm.get_model_info(self._config.model))
        except Exception:  # noqa: BLE001 - litellm raises a bare Exception for a model that is not in its table
            self._facts = {}

    async def _complete(self, prompt: Prompt, stops: tuple[str, ...], sampling: dict[str, Any]) -> Completion:
        messages = self._messages(prompt)
        draft = Draft(stops, sampling["max_tokens"], _repetitions(prompt.prefix))
        try:
            usage = await self._heard(messages, sampling, draft)
        except EngineError as error:
            if draft.pieces:
                error.usage = self._counted(messages, draft)
            raise
        return draft.completion(usage or self._counted(messages, draft), logprobs=False)

    async def _heard(self, messages: list[dict[str, Any]], sampling: dict[str, Any], draft: Draft) -> Usage | None:
        try:
            async with asyncio.timeout(self._config.deadline_s):
                return await self._read(messages, sampling, draft)
        except EngineError:
            raise
        except TimeoutError as error:
            late = f"no answer in {self._config.deadline_s:g} s, or silent for {self._config.silence_s:g} s"
            raise TimedOut(f"{self._config.model}: {late}") from error
        except Exception as error:  # litellm raises its own errors, its providers' and its HTTP clients'
            raise self._classified(error) from error

    async def _read(self, messages: list[dict[str, Any]], sampling: dict[str, Any], draft: Draft) -> Usage | None:
        assert self._litellm, "the engine is not open"
        stream = await self._litellm.acompletion(
            model=self._config.model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            api_key=self._key or None,
            api_base=self._config.url,
            timeout=self._config.deadline_s,
            max_retries=0,
            drop_params=True,
            **sampling,
        )
        usage = None
        try:
            pieces = aiter(stream)
            while (chunk := await asyncio.wait_for(anext(pieces, None), self._config.silence_s)) is not None:
                usage = _usage(getattr(chunk, "usage", None)) or usage
                if chunk.choices and not draft.over:
                    choice = chunk.choices[0]
                    draft.add({"delta": {"content": choice.delta.content}, "finish_reason": choice.finish_reason})
                if draft.matched:
                    return usage
            if stream.received_finish_reason is None:  # litellm makes one up
                raise Retryable(f"{self._config.model}: the stream was cut")
            return usage
        finally:
            await stream.aclose()

    def _messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        asked, continued = self._asked(prompt)
        turns: list[dict[str, Any]] = [{"role": message.role, "content": message.content} for message in asked]
        return [*turns, {"role": "assistant", "content": continued, "prefix": True}] if continued else turns

    def _asked(self, prompt: Prompt) -> tuple[tuple[Message, ...], str]:
        """Whole turns, and the unfinished one that the provider continues, "" for none."""
        if not prompt.prefix:
            return prompt.messages, ""
        if self._prefills:  # providers refuse one that ends in white space
            return prompt.messages, prompt.prefix.rstrip()
        last = prompt.messages[-1]
        asked = f"{last.content}\n\n{CONTINUE.format(prefix=prompt.prefix)}"
        return (*prompt.messages[:-1], Message(role=last.role, content=asked)), ""

    def _classified(self, error: Exception) -> EngineError:
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return Unreadable(f"{self._config.model}: {type(error).__name__}: {one_line(str(error))}")
        headers = getattr(error, "litellm_response_headers", None) or {}
        return classify(f"{self._config.model}: {status}", status, str(error), headers.get("retry-after"))

    def _counted(self, messages: list[dict[str, Any]], draft: Draft) -> Usage:
        """Tokens of a stream that was left before its end, by litellm's own tokenizers."""
        assert self._litellm
        count = self._litellm.token_counter
        return Usage(
            prompt=count(model=self._config.model, messages=messages), completion=count(model=self._config.model, text=draft.text)
        )


def _import() -> ModuleType:
    """litellm, without its look at a price list on the network, and without its banner."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.suppress_debug_info = True
    return litellm


def _price(facts: Mapping[str, Any]) -> Price | None:
    """What litellm's table says; None for a model that is not in it."""
    prompt, completion = facts.get("input_cost_per_token"), facts.get("output_cost_per_token")
    if prompt is None or completion is None:
        return None
    cached = facts.get("cache_read_input_token_cost")
    return Price(prompt=prompt * 1e6, completion=completion * 1e6, cached=None if cached is None else cached * 1e6)


def _repetitions(prefix: str) -> tuple[str, ...]:
    """What a model that was to continue `prefix` may begin with all the same: all of it, or its last line."""
    return tuple(dict.fromkeys(text for text in (prefix, prefix.rstrip(), prefix.rpartition("\n")[2]) if text.strip()))


def _usage(found: Any) -> Usage | None:
    if found is None or not getattr(found, "prompt_tokens", None):
        return None
    details = getattr(found, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    return Usage(prompt=found.prompt_tokens, completion=found.completion_tokens or 0, cached=cached)
