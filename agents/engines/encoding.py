"""Prompts in tokens, without doing the same work twice: what prompts share is rendered and encoded once.

    <|im_start|>system ... <|im_end|>/<|im_start|>assistant <think>/### Step 1. .../### Step 2. .../### Step 3.
    turns, once for each question   /pieces, once for each step

A search asks hundreds of prompts that begin with the same turns, and each reasoning grows by one step.
Invariant: the tokens are those of the whole rendered text. It is cut only where the two parts are known to make the tokens of
the whole, for reasons that stand at `_borders` and `_cuts_at_headings`; a tokenizer of another make encodes every prompt whole.
Not covered: rendering, and the tokens of a text (`rendering.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from agents.engines.base import Message, Prompt
from agents.engines.rendering import THINK, AnswerTokens, encode, encode_answer, marks_of, render
from agents.errors import Terminal
from store.reasoning import inert

MOST_TURNS = 256
"""Turns that are kept: more than there are questions in flight."""
MOST_PIECES = 512
"""Pieces that are kept: steps, or whole prompts of a tokenizer that is not cut."""

_HEADING = re.compile(r"(?<=[!-~]\n)(?=#)")
"""Before a heading that follows a line without white space at its end."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = (_WORDS + _SIGNS, _WORDS + "{1,3}" + _SIGNS)
"""How Qwen 2 and 3, and Llama 3, cut a text before they encode it."""


@dataclass(frozen=True, slots=True)
class _Turns:
    """Rendered turns: the tokens up to the last border, and the text from there on."""

    tokens: list[int]
    rest: str


class PromptEncoder:
    """What `render` and `encode` make of prompts, for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = _backend(tokenizer)
        self._borders = _borders(self._backend) if self._backend else {}
        self._cuts = self._backend is not None and _cuts_at_headings(self._backend)
        self._turns = lru_cache(MOST_TURNS)(self._make_turns)
        self._piece = lru_cache(MOST_PIECES)(self._encode)
        self._marks = marks_of(tokenizer)

    def tokens(self, prompt: Prompt) -> list[int]:
        """The tokens of the rendered prompt. Raises `Terminal`."""
        turns = self._turns_of(prompt)
        return list(chain(turns.tokens, *map(self._piece, self._pieces(turns.rest + inert(prompt.prefix, self._marks)))))

    def answer(self, context: Prompt, answer: str) -> AnswerTokens:
        """The tokens of the rendered context with `answer` after it, see `encode_answer`. Raises `Terminal`."""
        turns = self._turns_of(context)
        text = turns.rest + inert(context.prefix, self._marks)
        *pieces, last = self._pieces(text)
        try:
            found = encode_answer(self._tokenizer, last, answer)
        except Terminal:  # it may only be the last piece that is too short
            pieces, found = [], encode_answer(self._tokenizer, text, answer)
        before = list(chain(turns.tokens, *map(self._piece, pieces)))
        return AnswerTokens(before + found.tokens, len(before) + found.first, found.texts)

    def _pieces(self, text: str) -> list[str]:
        return _HEADING.split(text) if self._cuts else [text]

    def _encode(self, text: str) -> list[int]:
        if self._backend:  # what is around it costs a third of the whole
            return self._backend.encode(text, add_special_tokens=False).ids
        return encode(self._tokenizer, text)

    def _turns_of(self, prompt: Prompt) -> _Turns:
        return self._turns(prompt.messages, prompt.prefix.lstrip().startswith(THINK))

    def _make_turns(self, messages: tuple[Message, ...], thinks: bool) -> _Turns:
        """`thinks`: the prefix opens the reasoning, so that the template must not."""
        opened = THINK if thinks else ""
        text = render(self._tokenizer, Prompt(messages=messages, prefix=opened)).removesuffix(opened)
        if not self._borders:
            return _Turns([], text)
        found = self._backend.encode(text, add_special_tokens=False)
        tokens, places = found.ids, found.offsets
        for at in range(len(tokens) - 1, -1, -1):
            start, end = places[at]
            if text[start:end] == self._borders.get(tokens[at]):
                return _Turns(tokens[:at], text[start:])
        return _Turns([], text)


def _backend(tokenizer: Any) -> Any:
    """The `tokenizers` library's own tokenizer; None where a text goes through more than that."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None

    from transformers import PreTrainedTokenizerFast as Plain

    kind = type(tokenizer)
    if kind.__call__ is not Plain.__call__ or kind._encode_plus is not Plain._encode_plus:
        return None
    backend.no_truncation()  # these three are what the tokenizer itself would see to before each text
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def _borders(backend: Any) -> dict[int, str]:
    """Added tokens before which a text may be cut: id -> text.

    The `tokenizers` library takes the added tokens out of a text first, leftmost and longest, and encodes what lies between
    them piece by piece. So a text may be cut where one begins if it is there whatever follows: it does not depend on what
    stands beside it (single_word) nor takes away from that (lstrip), is looked for in the text as it is (not normalized), and
    is no part of another one. It goes with what follows it: some pre-tokenizers treat the start of a text unlike any other.
    """
    added = backend.get_added_tokens_decoder()
    texts = {token.content for token in added.values()}
    return {
        number: token.content
        for number, token in added.items()
        if not (token.normalized or token.lstrip or token.single_word)
        and not any(token.content in other for other in texts - {token.content})
    }


def _cuts_at_headings(backend: Any) -> bool:
    """Whether a text may be cut at `_HEADING`: byte-level BPE, which encodes each match of a pattern by itself.

    No match of the patterns below (GPT-2's is that of `use_regex`) goes over a line's end to a "#", and none looks back. One
    looks ahead, from the end of white space: the white space before the cut is one line's end, which is a match, or the end
    of one, whatever follows. No added token goes over the cut either, nor begins there and takes white space before it.
    """
    parts = [json.loads(backend.pre_tokenizer.__getstate__())] if backend.pre_tokenizer else []
    if parts and parts[0]["type"] == "Sequence":
        parts = parts[0]["pretokenizers"]
    patterns = 0
    for part in parts:
        if part["type"] == "ByteLevel" and not part["add_prefix_space"]:
            patterns += part["use_regex"]
        elif part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            if part["pattern"].get("Regex") not in _PATTERNS:
                return False
            patterns += 1
        elif part["type"] != "Digits":
            return False
    normalizer = json.loads(backend.normalizer.__getstate__())["type"] if backend.normalizer else "NFC"
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    safe = not any(text.startswith("#") or "\n#" in text for text in added)
    return patterns > 0 and normalizer == "NFC" and safe and type(backend.model).__name__ == "BPE"
