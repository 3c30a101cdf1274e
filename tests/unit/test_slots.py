"""Attention over slots against plain attention, row by row."""

import pytest
import torch

from agents.engines.slots import Slots, Span, attend, attend_plainly, lay_out, slot_attention

LAYERS, HEADS, GROUP, WIDTH = 2, 2, 3, 16


class Layer:
    layer_idx = 1


def make_slots(num: int, length: int) -> Slots:
    slots = Slots((LAYERS, HEADS, WIDTH), torch.float32, torch.device("cpu"), 1 << 30)
    slots.reserve(num, length)
    slots.tensor.normal_(generator=torch.Generator().manual_seed(0))
    return slots


def expected(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """query [H, n, D] at the end of keys [K, T, D] -> [n, H, D]."""
    keys, values = keys.repeat_interleave(GROUP, 0), values.repeat_interleave(GROUP, 0)
    num, length = query.shape[1], keys.shape[1]
    hidden = torch.arange(length) > torch.arange(length - num, length).unsqueeze(1)
    scores = (query @ keys.transpose(1, 2) * WIDTH**-0.5).masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1) @ values).transpose(0, 1)


@pytest.mark.parametrize(
    ("spans", "shared"),
    [
        ([Span(0, 50, 1), Span(1, 70, 1), Span(2, 44, 1)], 0),
        ([Span(0, 50, 1), Span(1, 70, 1), Span(2, 44, 1)], 40),
        ([Span(0, 50, 1), Span(1, 40, 9), Span(2, 44, 1), Span(3, 0, 5)], 40),
        ([Span(0, 0, 7), Span(1, 5, 1)], 5),
        ([Span(1, 50, 1), Span(3, 60, 1)], 40),
        ([Span(0, 0, 7), Span(1, 3, 2)], 0),
        ([Span(0, 33, 1)], 33),
    ],
)
def test_rows_of_one_pass_attend_to_their_own_slots(spans: list[Span], shared: int):
    slots = make_slots(4, 80)
    slots.tensor[:, :, 1:, :, :shared] = slots.tensor[:, :, :1, :, :shared]
    generator = torch.Generator().manual_seed(1)
    num = sum(span.count for span in spans)
    query = torch.randn(1, HEADS * GROUP, num, WIDTH, generator=generator)
    key, value = torch.randn(2, 1, HEADS, num, WIDTH, generator=generator)
    out, _ = slot_attention(Layer(), query, key, value, None, scaling=WIDTH**-0.5, layout=lay_out(slots, spans, shared))
    begin = 0
    for span in spans:
        end = begin + span.count
        cached = slots.tensor[:, 1, span.slot, :, : span.stop]
        assert torch.equal(cached[0, :, span.start :], key[0, :, begin:end])
        assert torch.allclose(out[0, begin:end], expected(query[0, :, begin:end], cached[0], cached[1]), atol=1e-5)
        begin = end


def test_growing_keeps_what_is_there():
    slots = make_slots(2, 10)
    before = slots.read(1, 0, 10)
    slots.reserve(40, 3000)
    assert torch.equal(slots.read(1, 0, 10), before)
    slots.copy(1, 39, 10)
    assert torch.equal(slots.read(39, 2, 7), before[:, :, :, 2:7])


def test_the_limit_lets_one_row_through():
    slots = Slots((LAYERS, HEADS, WIDTH), torch.float32, torch.device("cpu"), 100 * 2 * LAYERS * HEADS * WIDTH * 4)
    assert slots.fits(1, 1000) and slots.fits(4, 25) and not slots.fits(4, 26)


def test_the_quick_kernel_agrees_with_plain_operations():
    query, key, value = (torch.randn(3, HEADS, length, WIDTH) for length in (GROUP, 21, 21))
    mask = torch.zeros(3, 1, 1, 21).masked_fill(torch.rand(3, 1, 1, 21) < 0.3, float("-inf"))
    for given in (None, mask):
        for quick, plain in zip(
            attend(query, key, value, given, 0.2), attend_plainly(query, key, value, given, 0.2), strict=True
        ):
            assert torch.allclose(quick, plain, atol=1e-5)
