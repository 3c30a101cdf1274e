"""The prefix store against a dictionary of what was put in."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.engines.prefixes import Prefixes, num_common

LAYERS, HEADS, WIDTH = 2, 1, 2
TOKEN_BYTES = 2 * LAYERS * HEADS * WIDTH * 4

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


def states(tokens: list[int]) -> torch.Tensor:
    """States that tell the whole path: position t holds a number made of tokens 0..t."""
    paths = torch.tensor([hash(tuple(tokens[: t + 1])) % 10007 for t in range(len(tokens))], dtype=torch.float32)
    return paths[None, None, None, :, None].expand(2, LAYERS, HEADS, len(tokens), WIDTH)


def put(store: Prefixes, tokens: list[int]) -> None:
    store.insert(np.array(tokens), lambda start, stop: states(tokens)[:, :, :, start:stop].clone())


def check(store: Prefixes, tokens: list[int]) -> int:
    length, pieces = store.match(np.array(tokens, np.int64))
    if length:
        assert torch.equal(torch.cat(pieces, dim=3), states(tokens[:length]))
    return length


@given(sequences, sequences)
def test_matches_the_longest_prefix_that_was_put_in(stored: list[list[int]], asked: list[list[int]]):
    store = Prefixes(1 << 20)
    for tokens in stored:
        put(store, tokens)
    for tokens in asked + stored:
        assert check(store, tokens) == max(num_common(np.array(tokens), np.array(other)) for other in stored)


@given(sequences, st.integers(1, 30))
def test_a_small_store_forgets_but_never_errs(stored: list[list[int]], limit: int):
    store = Prefixes(limit * TOKEN_BYTES)
    for tokens in stored:
        put(store, tokens)
        assert store.num_bytes <= limit * TOKEN_BYTES
        for other in stored:
            check(store, other)


def test_the_least_recently_used_leaves_first():
    store = Prefixes(25 * TOKEN_BYTES)
    put(store, [0] * 10)
    put(store, [1] * 10)
    assert check(store, [0] * 10) == 10
    put(store, [2] * 10)
    assert [check(store, [first] * 10) for first in (0, 1, 2)] == [10, 0, 10]


def test_zero_keeps_nothing():
    store = Prefixes(0)
    put(store, [1, 2, 3])
    assert check(store, [1, 2, 3]) == 0 and store.num_bytes == 0
