"""Between text and tokens: prompts in, and generated text out, one token at a time.

Invariant: text that a stop string ends never holds the stop or anything after it, wherever token borders fall; a
character is never cut (its bytes may come in several tokens). Not covered: what the prompts say (`agents.prompts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.engines.base import Prompt
from agents.errors import Terminal

THINK = "<think>"
CONTEXT_TOKENS = 6
"""Prompt tokens that are decoded before the first new one: some tokenizers drop a space at the start of a text."""
HALF = "\ufffd"


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """A whole text in tokens; those from `first` on overlap the answer's characters."""

    tokens: list[int]
    first: int


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The model's own template around the turns, then the unfinished turn; exactly one `<think>` where both open it."""
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    try:
        text: str = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # jinja and the template itself raise what they like
        raise Terminal(f"the chat template refuses these turns: {error}") from error
    if text.rstrip().endswith(THINK) and prompt.prefix.lstrip().startswith(THINK):
        text = text[: text.rindex(THINK)]
    return text + prompt.prefix


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a rendered text; the template has already written every special token."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_answer(tokenizer: Any, text: str, answer: str) -> AnswerTokens:
    """Tokenise `text + answer` at once and find the tokens that overlap the answer (CoRD, Eq. 3)."""
    if not answer:
        raise Terminal("there is no answer to score: it is empty")
    encoded = tokenizer(text + answer, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    first = next((index for index, end in enumerate(ends) if end > len(text)), len(ends))
    if not 0 < first < len(ends):
        raise Terminal("the answer cannot be scored: it has no tokens of its own, or no context before it")
    return AnswerTokens(encoded["input_ids"], first)


class Transcript:
    """The text of one completion as it grows, watched for stop strings."""

    def __init__(self, tokenizer: Any, prompt_tokens: Sequence[int], stops: Sequence[str]) -> None:
        self.text = ""
        self.stop: str | None = None
        self._tokenizer = tokenizer
        self._tokens = list(prompt_tokens[-CONTEXT_TOKENS:])
        self._shown, self._read = 0, len(self._tokens)
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)

    def add(self, token: int) -> bool:
        """Append a token; whether a stop string has been completed. Bytes of an unfinished character wait for the rest."""
        self._tokens.append(token)
        before, after = self._decode(self._tokens[self._shown : self._read]), self._decode(self._tokens[self._shown :])
        if len(after) <= len(before) or after.endswith(HALF):
            return False
        self._shown, self._read = self._read, len(self._tokens)
        return self._extend(after[len(before) :])

    def close(self) -> str:
        """The whole text, with what was still waiting."""
        if self.stop is None:
            before, after = self._decode(self._tokens[self._shown : self._read]), self._decode(self._tokens[self._shown :])
            self._shown = self._read = len(self._tokens)
            self._extend(after[len(before) :])
        return self.text

    def _extend(self, new: str) -> bool:
        start = max(0, len(self.text) - self._longest + 1)
        self.text += new
        found = [(at, order) for order, stop in enumerate(self._stops) if (at := self.text.find(stop, start)) >= 0]
        if not found:
            return False
        at, order = min(found)
        self.stop, self.text = self._stops[order], self.text[:at]
        return True

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
