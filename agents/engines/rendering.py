"""Between text and tokens: prompts in, and generated text out, one token at a time.

Invariant: text that a stop string ends never holds the stop or anything after it, wherever token borders fall; a
character is never cut (its bytes may come in several tokens). What a question, a model or a file wrote is data: a special token
that is spelled out in it is text, and ends no turn. Not covered: what the prompts say (`agents.prompts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agents.engines.base import Message, Prompt
from agents.errors import Terminal
from store.reasoning import inert
from store.types import content_id

THINK = "<think>"
CONTEXT_TOKENS = 6
"""Prompt tokens that are decoded before the first new one: some tokenizers drop a space at the start of a text."""
HALF = "\ufffd"

CONVERSATION = Prompt(
    messages=(
        Message(role="user", content="What is 2 + 3?"),
        Message(role="assistant", content="It is 5."),
        Message(role="user", content="And 12 times 12?"),
    )
)
"""What templates are told apart by."""

_MANY_SIDED = (
    "Tom has 1234 apples (-5.6%).\n\n  ### Step 1.\tx==y[0] DON'T <think>\n</think>\n"
    "na\u00efve \u20ac5 \u4f60\u597d \U0001f600 e\u0301 "
)
_REPLY = "It is 144, as I was told."
_SAME_DAY = "{% macro strftime_now(form) %}2026-01-01{% endmacro %}"
"""Some templates write today's date, and are the same ones tomorrow."""


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """A whole text in tokens; those from `first` on overlap the answer's characters, and are `texts`."""

    tokens: list[int]
    first: int
    texts: tuple[str, ...] = ()


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The model's own template around the turns, then the unfinished turn; exactly one `<think>` where both open it."""
    marks = marks_of(tokenizer)
    messages = [Message(role=message.role, content=inert(message.content, marks)) for message in prompt.messages]
    text = _applied(tokenizer, messages, add_generation_prompt=True)
    if text.rstrip().endswith(THINK) and prompt.prefix.lstrip().startswith(THINK):
        text = text[: text.rindex(THINK)]
    return text + inert(prompt.prefix, marks)


@lru_cache(64)
def marks_of(tokenizer: Any) -> tuple[str, ...]:
    """The texts of a tokenizer's special tokens: those that stand for turns, ends and roles."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return tuple(sorted({token.content for token in added.values() if token.special}))


def check_template(tokenizer: Any, model: str) -> None:
    """A template must open the assistant's turn: what is written elsewhere is no answer. Raises `Terminal`, which names `model`.

    Some templates need no generation prompt (`[/INST]` ends the user's turn and opens the other): what counts is that nothing
    but reasoning marks stands between the prompt and a reply to it.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise Terminal(f"{model}: the tokenizer has no chat template")
    opened = render(tokenizer, CONVERSATION)
    if opened != _applied(tokenizer, CONVERSATION.messages, add_generation_prompt=False):
        return
    answered = _applied(tokenizer, (*CONVERSATION.messages, Message(role="assistant", content=_REPLY)))
    before = answered.partition(_REPLY)[0].removeprefix(opened.rstrip())
    if before.replace(THINK, "").replace("</think>", "").strip():
        raise Terminal(f"{model}: the chat template has no generation prompt: it ends with the user's turn, and opens no answer")


def fingerprints(tokenizer: Any) -> tuple[str, str]:
    """Of the template, by what it makes of a conversation; of the tokenizer, by its tokens of a text with many sides."""
    template = _SAME_DAY + tokenizer.get_chat_template()
    rendered = _applied(tokenizer, CONVERSATION.messages, add_generation_prompt=True, chat_template=template)
    return content_id(rendered)[:16], content_id(*encode(tokenizer, _MANY_SIDED))[:16]


def _applied(tokenizer: Any, messages: Sequence[Message], **settings: Any) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, **settings)
    except Exception as error:  # jinja and the template itself raise what they like
        raise Terminal(f"the chat template refuses these turns: {' '.join(str(error).split())}") from error


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a rendered text; the template has already written every special token."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_answer(tokenizer: Any, text: str, answer: str) -> AnswerTokens:
    """Tokenise `text + answer` at once and find the tokens that overlap the answer (CoRD, Eq. 3)."""
    if not answer:
        raise Terminal("there is no answer to score: it is empty")
    answer = inert(answer, marks_of(tokenizer))
    encoded = tokenizer(text + answer, add_special_tokens=False, return_offsets_mapping=True)
    places = encoded["offset_mapping"]
    ends = [end for _, end in places]
    first = next((index for index, end in enumerate(ends) if end > len(text)), len(ends))
    if not 0 < first < len(ends):
        raise Terminal("the answer cannot be scored: it has no tokens of its own, or no context before it")
    texts = tuple((text + answer)[start:end] for start, end in places[first:])
    return AnswerTokens(encoded["input_ids"], first, texts)


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
