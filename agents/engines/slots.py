"""Keys and values of the rows that run, and the attention over them.

One forward pass takes the new tokens of all rows laid end to end, so linear layers see no padding: a row that decodes adds
one token, a row that joins adds what its cached prefix lacks. Attention is by row: rows with one new token together, in one
call per layer; rows with several, one by one. Tokens that all decoding rows have in common (a few-shot prefix) are read once
for all of them and joined to each row's own by their log-sum-exps: 32 rows of 450 tokens with 350 in common take 0.5 ms a
layer instead of 1.2 (2 cores, bf16).

Invariant: of row i, tokens [0, length) are valid in slot i; what lies beyond is finite and never attended to.
Not covered: sliding windows, recurrent layers, attention with a bias: `agents.engines.loading` refuses them.

Legend: L layers, S slots, N new tokens of all rows, T tokens of a row, H heads, K heads of keys, G = H / K, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "peripatos_slots"
LENGTH_CHUNK = 256
SLOT_CHUNK = 16
MIN_SHARED = 32
"""Fewer tokens in common are not worth a second call."""


@dataclass(frozen=True, slots=True)
class Span:
    """The new tokens of one row in a pass: [start, start + count) of the row in `slot`."""

    slot: int
    start: int
    count: int

    @property
    def stop(self) -> int:
        """One past the last."""
        return self.start + self.count


class Slots:
    """One tensor, [2, L, S, K, T, D]: keys and values. It grows as needed, up to `limit_bytes`. `shape` is (L, K, D)."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, limit_bytes: int) -> None:
        layers, heads, width = self._shape = shape
        self._limit_bytes = limit_bytes
        # zeros, not empty: a masked NaN would still poison the sum over values
        self.tensor = torch.zeros(2, layers, 0, heads, 0, width, dtype=dtype, device=device)
        self.token_bytes = 2 * layers * heads * width * dtype.itemsize

    def fits(self, slots: int, length: int) -> bool:
        """Whether that many rows of that many tokens stay within the limit; one row always may try."""
        return slots == 1 or slots * length * self.token_bytes <= self._limit_bytes

    def reserve(self, slots: int, length: int) -> None:
        """Make room for that many rows of that many tokens; what is there stays."""
        old = self.tensor
        slots, length = max(slots, old.shape[2]), max(length, old.shape[4])
        if (slots, length) == (old.shape[2], old.shape[4]):
            return
        layers, heads, width = self._shape
        slots, length = _round_up(slots, SLOT_CHUNK), _round_up(length, LENGTH_CHUNK)
        self.tensor = torch.zeros(2, layers, slots, heads, length, width, dtype=old.dtype, device=old.device)
        self.tensor[:, :, : old.shape[2], :, : old.shape[4]] = old

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens from slot to slot."""
        self.tensor[:, :, target, :, :length] = self.tensor[:, :, source, :, :length]

    def read(self, slot: int, start: int, stop: int) -> Tensor:
        """A copy of some tokens, [2, L, K, T, D]."""
        return self.tensor[:, :, slot, :, start:stop].clone(memory_format=torch.contiguous_format)

    def write(self, slot: int, start: int, states: Tensor) -> None:
        """Put tokens, [2, L, K, T, D], into a slot."""
        self.tensor[:, :, slot, :, start : start + states.shape[3]] = states


def _round_up(value: int, chunk: int) -> int:
    return -(-value // chunk) * chunk


@dataclass(frozen=True, slots=True)
class Long:
    """A row with several new tokens: where they lie in the pass, and what they may see (None: plain causal)."""

    slot: int
    begin: int
    end: int
    length: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Singles:
    """All slots at once, for the rows with one new token; a slot without one computes something that is not used.

    `queries` [S] and `places` [rows] say which new token belongs to which slot; None where they are all, in order.
    `mask` [S, 1, 1, T - shared] hides what lies beyond a row's end.
    """

    slots: int
    source: int
    shared: int
    length: int
    mask: Tensor
    queries: Tensor | None
    chosen: Tensor | None


@dataclass(frozen=True, slots=True)
class Layout:
    """How the N new tokens of one forward pass lie in the slots."""

    tensor: Tensor
    slots_N: Tensor
    positions_N: Tensor
    longs: tuple[Long, ...]
    singles: Singles | None


def lay_out(slots: Slots, spans: Sequence[Span], shared: int) -> Layout:
    """Plan a pass. `shared` is the number of tokens that all rows with one new token have in common, cached in each."""
    tensor = slots.tensor
    where = [(span.slot, position) for span in spans for position in range(span.start, span.stop)]
    slots_N, positions_N = torch.tensor(where, device=tensor.device).unbind(1)
    begins = _begins(spans)
    longs = tuple(_long(tensor, span, begin) for span, begin in zip(spans, begins, strict=True) if span.count > 1)
    return Layout(tensor, slots_N, positions_N, longs, _singles(tensor, spans, begins, shared))


def _begins(spans: Sequence[Span]) -> list[int]:
    begins, total = [], 0
    for span in spans:
        begins.append(total)
        total += span.count
    return begins


def _long(tensor: Tensor, span: Span, begin: int) -> Long:
    mask = None
    if span.start:
        seen = torch.arange(span.stop, device=tensor.device)
        last = torch.arange(span.start, span.stop, device=tensor.device).unsqueeze(1)
        mask = _hide(seen > last, tensor.dtype)
    return Long(span.slot, begin, begin + span.count, span.stop, mask)


def _singles(tensor: Tensor, spans: Sequence[Span], begins: list[int], shared: int) -> Singles | None:
    ones = [(span, begin) for span, begin in zip(spans, begins, strict=True) if span.count == 1]
    if not ones:
        return None
    slots = max(span.slot for span in spans) + 1
    shared = shared if shared >= MIN_SHARED and len(ones) > 1 else 0
    length = max(span.stop for span, _ in ones)
    lengths, queries = [shared + 1] * slots, [0] * slots
    for span, begin in ones:
        lengths[span.slot], queries[span.slot] = span.stop, begin
    ends = torch.tensor(lengths, device=tensor.device).unsqueeze(1)
    mask = _hide(torch.arange(shared, length, device=tensor.device) >= ends, tensor.dtype)[:, None, None, :]
    plain = queries == list(range(len(begins))) and len(ones) == len(spans)
    chosen = None if plain else torch.tensor([(begin, span.slot) for span, begin in ones], device=tensor.device)
    return Singles(
        slots, ones[0][0].slot, shared, length, mask, None if plain else torch.tensor(queries, device=tensor.device), chosen
    )


def _hide(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def slot_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, as transformers calls it: query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D]."""
    keys, values = layout.tensor[0, module.layer_idx], layout.tensor[1, module.layer_idx]  # [S, K, T, D]
    keys[layout.slots_N, :, layout.positions_N] = key[0].transpose(0, 1)
    values[layout.slots_N, :, layout.positions_N] = value[0].transpose(0, 1)
    query_NHD = query[0].transpose(0, 1)
    singles = layout.singles
    if singles is not None and singles.chosen is None:
        return _attend_singles(singles, query_NHD, keys, values, scaling).unsqueeze(0), None
    out_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    if singles is not None and singles.chosen is not None:
        attended = _attend_singles(singles, query_NHD[singles.queries], keys, values, scaling)
        out_NHD[singles.chosen[:, 0]] = attended[singles.chosen[:, 1]]
    for long in layout.longs:
        out_NHD[long.begin : long.end] = _attend_long(long, query, keys, values, scaling)
    return out_NHD.unsqueeze(0), None


def _attend_long(long: Long, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """Several new tokens of one row over that row's slot, [n, H, D]."""
    attended = scaled_dot_product_attention(
        query[:, :, long.begin : long.end],
        keys[long.slot : long.slot + 1, :, : long.length],
        values[long.slot : long.slot + 1, :, : long.length],
        attn_mask=long.mask,
        is_causal=long.mask is None,
        scale=scaling,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _attend_singles(singles: Singles, query_SHD: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """One new token per slot, [S, H, D]: the heads of a group lie where a prompt's tokens would, so keys are not repeated."""
    num, shared, heads = singles.slots, singles.shared, keys.shape[1]
    query_SKGD = query_SHD.unflatten(1, (heads, -1))
    own = slice(shared, singles.length)
    out, log_sum = attend(query_SKGD, keys[:num, :, own], values[:num, :, own], singles.mask, scaling)
    if shared:
        source = slice(singles.source, singles.source + 1)
        query_1KPD = query_SKGD.transpose(0, 1).flatten(1, 2).unsqueeze(0)  # P = S x G: every slot's heads, side by side
        common, common_log_sum = attend(query_1KPD, keys[source, :, :shared], values[source, :, :shared], None, scaling)
        common = common[0].unflatten(1, (num, -1)).transpose(0, 1)
        common_log_sum = common_log_sum[0].unflatten(1, (num, -1)).transpose(0, 1)
        out = torch.lerp(common, out, torch.sigmoid(log_sum - common_log_sum).unsqueeze(-1).to(out.dtype))
    return out.flatten(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    """Softmax attention [B, K, Q, D] and the float32 log of its denominator [B, K, Q]; `mask` is added to the scores."""
    if query.device.type == "cpu":
        if mask is not None:
            mask = mask.expand(query.shape[0], 1, query.shape[2], key.shape[2])
        # the kernel behind scaled_dot_product_attention; only here does it tell the log-sum-exp
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(query, key, value, attn_mask=mask, scale=scaling)
    return attend_plainly(query, key, value, mask, scaling)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    """`attend` in plain operations, for every device."""
    scores = (query @ key.transpose(-1, -2)).float() * scaling
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1).to(value.dtype) @ value, scores.logsumexp(-1)


AttentionInterface.register(ATTENTION, slot_attention)
