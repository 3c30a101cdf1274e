"""What vLLM, SGLang and other OpenAI-compatible servers say differently: request bodies out of plain values, and answers read.

Pure. Invariant: an answer that lacks what was asked for is `Unreadable`, never a guess.
Not covered: sending (`wire.py`), what is asked (`openai.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.engines.base import Completion, Prompt
from agents.errors import Terminal, Unreadable
from store.types import Usage

Json = dict[str, Any]
Dialect = Literal["vllm", "sglang", "other"]

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
GENERATE = "/generate"

_ROUNDING = 1e-3
_LONGEST_TOKEN = 256
"""Characters that no token exceeds."""
_SEEDS = (1 << 31) - 1
"""Seeds above this are refused by some servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How text is drawn; `stop` strings are watched by the server too if it tells which one it met."""

    n: int
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    top_p: float
    seed: int
    logprobs: bool

    def one(self, index: int) -> Sampling:
        """Sample number `index` alone."""
        return Sampling(
            n=1,
            max_tokens=self.max_tokens,
            stop=self.stop,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed + index,
            logprobs=self.logprobs,
        )


def body(dialect: Dialect, model: str, sampling: Sampling, *, stream: bool) -> Json:
    """What chat and raw completions have in common."""
    found: Json = {
        "model": model,
        "n": sampling.n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.temperature > 0 else 1.0,
        "seed": sampling.seed & _SEEDS,
    }
    if dialect != "other" and sampling.stop:  # another server does not say which string it stopped at: we watch for them
        found["stop"] = list(sampling.stop)
    if stream:
        found |= {"stream": True, "stream_options": {"include_usage": True}}
    return found


def held_to(common: Json, schema: str | None) -> Json:
    """The same request, whose answer the server holds to a JSON schema, given as text; without one, as it is."""
    if schema is None:
        return common
    return common | {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema)}}}


def raw(common: Json, prompt: list[int] | str, logprobs: bool) -> Json:
    """A completion of `prompt`, which is rendered: its tokens, or its text."""
    return common | {"prompt": prompt} | ({"logprobs": 1} if logprobs else {})


def chat(dialect: Dialect, common: Json, prompt: Prompt, logprobs: bool) -> Json:
    """A completion of whole turns and of the unfinished one, which the server continues."""
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    if prompt.prefix:
        turns.append({"role": "assistant", "content": prompt.prefix})
        if dialect != "other":
            common = common | {"continue_final_message": True, "add_generation_prompt": False}
    return common | {"messages": turns} | ({"logprobs": True} if logprobs else {})


def forced(model: str, prompt: list[int], token: int) -> Json:
    """vLLM: one token that must be `token`; its raw log-prob is the score, and the prefix cache is used."""
    sampled = {"max_tokens": 1, "temperature": 0.0, "allowed_token_ids": [token], "logprobs": 0}
    return {"model": model, "prompt": prompt, **sampled}


def prompt_scored(model: str, prompt: list[int]) -> Json:
    """vLLM: log-probs of the whole prompt, computed anew; slow."""
    return {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def scored_from(prompt: list[int], first: int) -> Json:
    """SGLang: log-probs of the prompt's tokens from `first` on; the first entry that it returns is always null."""
    sampling = {"max_new_tokens": 0, "temperature": 0.0}
    return {"input_ids": prompt, "sampling_params": sampling, "return_logprob": True, "logprob_start_len": first - 1}


@dataclass(slots=True)
class Draft:
    """One choice as it arrives. `over` when its text needs no more: it has ended, or one of the stop strings came.

    `repeated` is what the server may repeat before the new text: the whole prefix, or its end.
    """

    stops: tuple[str, ...]
    max_tokens: int
    repeated: tuple[str, ...] = ()
    text: str = ""
    pieces: int = 0
    finish: str | None = None
    matched: str | None = None
    logprobs: list[float] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nothing more is needed."""
        return self.finish is not None

    def add(self, choice: Mapping[str, Any]) -> None:
        """Take a piece of a stream, or a whole choice. Raises `Unreadable`."""
        piece = text_of(choice)
        seen = 0 if self.repeated else max(0, len(self.text) - max(map(len, self.stops), default=0))
        self.text += piece
        self.pieces += bool(piece)
        if len(self.text) > max(map(len, self.repeated), default=0) + _LONGEST_TOKEN * self.max_tokens:
            raise Unreadable(f"the server ignores max_tokens: {len(self.text)} characters for {self.max_tokens} tokens")
        self.logprobs += _logprobs_of(choice)
        self.finish = choice.get("finish_reason") or self.finish
        matched = choice.get("stop_reason", choice.get("matched_stop"))
        self.matched = matched if isinstance(matched, str) else self.matched
        if not self._repeats():
            self._cut(seen)

    def _repeats(self) -> bool:
        """Whether the text, so far, may be nothing but a repetition; once that is whole, it is taken away."""
        if not self.over and any(len(self.text) < len(each) and each.startswith(self.text) for each in self.repeated):
            return True
        whole = max((each for each in self.repeated if self.text.startswith(each)), key=len, default="")
        self.text, self.repeated = self.text[len(whole) :], ()
        return False

    def _cut(self, start: int) -> None:
        found = [(at, stop) for stop in self.stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            at, self.matched = min(found)
            self.text, self.finish = self.text[:at], "stop"

    def completion(self, usage: Usage, *, logprobs: bool) -> Completion:
        """The finished choice. Raises `Unreadable` when it has no end."""
        if self.finish not in ("stop", "length"):
            raise Unreadable(f"a choice ended with finish_reason {self.finish!r}, neither 'stop' nor 'length'")
        matched = self.matched if self.matched in self.stops else None
        finish = "length" if self.finish == "length" else "stop" if matched else "end"
        values = tuple(self.logprobs) if logprobs else None
        text = self.text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # halves of a character, joined
        return Completion(text=text, finish=finish, stop=matched, usage=usage, logprobs=values)


def text_of(choice: Mapping[str, Any]) -> str:
    """New text of a choice: raw or chat, whole or a piece of a stream. Raises `Unreadable`."""
    part = choice.get("delta") or choice.get("message") or choice
    text = part.get("text") if part is choice else part.get("content")
    if text is None and (part is not choice or "delta" in choice):
        text = ""  # a piece that only tells of the role, or of the end
    if not isinstance(text, str):
        raise Unreadable("a choice without text")
    return text


def _logprobs_of(choice: Mapping[str, Any]) -> list[float]:
    found = choice.get("logprobs")
    if not isinstance(found, Mapping):
        return []
    if isinstance(found.get("content"), list):
        return [float(entry["logprob"]) for entry in found["content"]]
    return [float(value) for value in found.get("token_logprobs") or () if value is not None]


def choices_of(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The choices of an answer or of a stream's event. Raises `Unreadable`."""
    found = answer.get("choices")
    if not isinstance(found, list) or not all(isinstance(choice, Mapping) for choice in found):
        raise Unreadable("an answer without choices")
    return found


def usage_of(answer: Mapping[str, Any]) -> Usage | None:
    """Tokens that the server counted; None when it does not say."""
    found = answer.get("usage")
    if not isinstance(found, Mapping) or not isinstance(found.get("prompt_tokens"), int):
        return None
    details = found.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Usage(prompt=found["prompt_tokens"], completion=int(found.get("completion_tokens") or 0), cached=int(cached or 0))


def forced_logprob(answer: Mapping[str, Any]) -> float:
    """The log-prob of the one token that `forced` asked for. Raises `Unreadable`."""
    values = [value for choice in choices_of(answer) for value in _logprobs_of(choice)]
    if not values:
        raise Unreadable("no log-prob of the token that was asked for")
    return _logprob(values[0])


def prompt_logprobs(answer: Mapping[str, Any], tokens: Sequence[int], first: int) -> list[float]:
    """vLLM: the log-probs of `tokens[first:]` out of `prompt_scored`'s answer. Raises `Terminal` when they are not there."""
    found = choices_of(answer)[0].get("prompt_logprobs")
    if not isinstance(found, list) or len(found) != len(tokens):
        raise Terminal("the server ignores prompt_logprobs")
    return [_logprob(_entry(found[at], tokens[at])) for at in range(first, len(tokens))]


def _entry(found: Any, token: int) -> object:
    entry = found.get(str(token)) if isinstance(found, Mapping) else None
    return entry.get("logprob") if isinstance(entry, Mapping) else None


def input_logprobs(answer: Mapping[str, Any], tokens: Sequence[int], first: int) -> list[float]:
    """SGLang: the log-probs of `tokens[first:]` out of `scored_from`'s answer. Raises `Unreadable`."""
    meta = answer.get("meta_info")
    found = meta.get("input_token_logprobs") if isinstance(meta, Mapping) else None
    entries = found[-(len(tokens) - first) :] if isinstance(found, list) else []
    if [entry[1] for entry in entries] != list(tokens[first:]):
        raise Unreadable("the log-probs are not of the tokens that were asked for")
    return [_logprob(entry[0]) for entry in entries]


def meta_usage(answer: Mapping[str, Any]) -> Usage:
    """SGLang's own count of tokens."""
    meta = answer.get("meta_info") or {}
    counted = (int(meta.get(key) or 0) for key in ("prompt_tokens", "completion_tokens", "cached_tokens"))
    prompt, completion, cached = counted
    return Usage(prompt=prompt, completion=completion, cached=cached)


def _logprob(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int) or not value < _ROUNDING:
        raise Unreadable(f"not a log-prob: {value!r}")
    return min(float(value), 0.0)


def joined(usages: Iterable[Usage]) -> Usage:
    """One scoring that took several requests over the same prefix: its longest prompt counts once, the rest was cached."""
    found = list(usages)
    longest = max(found, key=lambda usage: usage.prompt)
    return Usage(prompt=longest.prompt, completion=0, cached=min(longest.prompt, max(usage.cached for usage in found)))
