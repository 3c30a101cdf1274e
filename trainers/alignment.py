"""One text under different tokenizers: which tokens are which characters, and which pieces of two vocabularies are equal.

    N tokens of a text, W spans of it, P pairs of a span and a token that share characters, D width

Tokens are given by the character at which each begins, and by the end of the text. A token reaches to where the next
begins; if that is where it begins itself, it counts as one character. `begins_of` makes such begins of a tokenizer's
offsets, and a boundary between two tokens is then one between characters.
Invariant: nothing is compared by index; a word's vector is a weighted mean of its tokens' vectors.
Not covered: what is compared (`peers`), tokenizers themselves (`student.Chat`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import torch
from torch import Tensor

Pooling = tuple[Tensor, Tensor, Tensor]
"""A sparse matrix (W, N) that averages: spans_P, tokens_P, weights_P (float64)."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_ODD = [byte for byte in range(256) if byte not in _PRINTABLE]
_ALPHABET = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + index): byte for index, byte in enumerate(_ODD)}
"""GPT-2's: printable bytes stand for themselves, the others for the characters from U+0100 on; a space is `Ġ`."""


def words(text: str) -> list[tuple[int, int]]:
    """Where the words are: the longest runs of characters that are not white space."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def begins_of(offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Where tokens begin, from a tokenizer's (begin, end) of each, so that every boundary is one between characters.

    White space that no token covers goes to the token after it: some tokenizers leave it out of their offsets. A token
    that begins inside a character begins where the token before it does: bytes of two characters may share a token.
    """
    begins: list[int] = []
    covered = 0
    for begin, end in offsets:
        begins.append(begins[-1] if begins and begin < covered else covered)
        covered = max(covered, end)
    return begins


def pooling(begins: Sequence[int], end: int, spans: Sequence[tuple[int, int]]) -> Pooling:
    """The mean of each span's tokens, weighted by the characters that they have in it.

    Spans are in order and do not overlap. Raises `ValueError` if there is a span without a token.
    """
    _check(begins, end)
    ends = [max(after, begin + 1) for begin, after in zip(begins, [*begins[1:], end], strict=True)]
    of_span, of_token, weights = [], [], []
    first = 0
    for number, (left, right) in enumerate(spans):
        while first < len(begins) and ends[first] <= left:
            first += 1
        token, shared = first, []
        while token < len(begins) and begins[token] < right:
            shared.append(min(ends[token], right) - max(begins[token], left))
            token += 1
        if not shared:
            raise ValueError(f"no token has a character of [{left}, {right})")
        of_span += [number] * len(shared)
        of_token += range(first, token)
        weights += [count / sum(shared) for count in shared]
    return torch.tensor(of_span), torch.tensor(of_token), torch.tensor(weights, dtype=torch.float64)


def pool(values_ND: Tensor, pooling: Pooling, num_spans: int) -> Tensor:
    """Token vectors into span vectors: (W, D), at least float32."""
    spans_P, tokens_P, weights_P = (part.to(values_ND.device) for part in pooling)
    values_PD = values_ND[tokens_P].to(torch.promote_types(values_ND.dtype, torch.float32))
    sums_WD = values_PD.new_zeros(num_spans, values_ND.shape[1])
    return sums_WD.index_add(0, spans_P, values_PD * weights_P.to(values_PD.dtype).unsqueeze(1))


def shared_spans(begins_a: Sequence[int], begins_b: Sequence[int], end: int) -> tuple[list[int], list[int]]:
    """The finest segmentation that both tokenizers make: the segment of each token of a, and of each of b, from 0.

    Segments are divided where a token of each begins. What one of them has before the first such place belongs to the
    first segment, so that every segment has tokens of both. Raises `ValueError` if a text has no tokens.
    """
    for begins in (begins_a, begins_b):
        _check(begins, end)
        if not begins:
            raise ValueError("a text without tokens shares no span with another")
    shared = set(begins_a) & set(begins_b)
    return _segments(begins_a, shared), _segments(begins_b, shared)


def text_of_tokens(tokens: Sequence[str]) -> list[str]:
    """The pieces of a whole vocabulary, as it writes them, as plain text: equal text is equal bytes in any vocabulary.

    Which kind it is follows from the vocabulary: byte-level if pieces begin with `Ġ`, SentencePiece if with `▁`. Bytes
    that are not UTF-8 by themselves become lone surrogates, a form that no other text has. A byte piece (`<0x41>`)
    whose character has a piece of its own keeps its written form: it is never what that character becomes.
    """
    if any(token.startswith("▁") for token in tokens):
        plain = [token.replace("▁", " ") for token in tokens]
        own = {text for text in plain if not _BYTE_PIECE.fullmatch(text)}
        return [_text_of_byte_piece(text, own) for text in plain]
    if any(token.startswith("Ġ") for token in tokens):
        return [_text_of_byte_level(token) for token in tokens]
    return list(tokens)


def common_ids(own_tokens: Sequence[str | None], peer_tokens: Sequence[str | None]) -> Tensor:
    """The own id of each of the peer's ids, or -1: (size of the peer's vocabulary). No own id stands there twice.

    None stands for an id without a piece and has no equal: models often have more ids than their tokenizers.
    """
    ids: dict[str, int] = {}
    for index, text in enumerate(text_of_tokens([token or "" for token in own_tokens])):
        ids.setdefault(text, index)
    ids.pop("", None)
    return torch.tensor([ids.pop(text, -1) for text in text_of_tokens([token or "" for token in peer_tokens])], dtype=torch.long)


def _check(begins: Sequence[int], end: int) -> None:
    """Raise `ValueError` unless tokens could begin so in a text of `end` characters."""
    places = [0, *begins, end]
    if any(after < before for before, after in itertools.pairwise(places)):
        raise ValueError(f"tokens do not begin in order within {end} characters")


def _segments(begins: Sequence[int], shared: set[int]) -> list[int]:
    segments, segment, last = [], -1, -1
    for begin in begins:
        segment += begin != last and begin in shared
        segments.append(max(segment, 0))
        last = begin
    return segments


def _text_of_byte_piece(text: str, own: set[str]) -> str:
    match = _BYTE_PIECE.fullmatch(text)
    if not match:
        return text
    byte = bytes([int(match[1], 16)]).decode("utf-8", "surrogateescape")
    return text if byte in own else byte


def _text_of_byte_level(token: str) -> str:
    """A piece that has other characters was added to the vocabulary as it is."""
    if any(character not in _ALPHABET for character in token):
        return token
    return bytes(_ALPHABET[character] for character in token).decode("utf-8", "surrogateescape")
