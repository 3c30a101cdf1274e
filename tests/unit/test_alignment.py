"""One text under different tokenizers: random ones, and real ones made from scratch."""

import itertools
import random
import re
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from trainers.alignment import begins_of, common_ids, pool, pooling, shared_spans, text_of_tokens, words

TEXT = "Ein Café kostet 3 € \u2013 naïve 漢字 🙂 x.\n\nThe  cat and the cafés, theirs."
Segmentation = tuple[list[int], list[int], int]


@st.composite
def segmentations(draw: st.DrawFn) -> Segmentation:
    """Two tokenizers' begins in a text, several tokens in one character among them."""
    end = draw(st.integers(1, 12))
    places = st.lists(st.integers(0, end - 1), max_size=12)
    return sorted([0, *draw(places)]), sorted([0, *draw(places)]), end


def characters(begins: Sequence[int], end: int, token: int) -> set[int]:
    after = [*begins[1:], end][token]
    return set(range(begins[token], max(after, begins[token] + 1)))


# --- words and pooling


@settings(deadline=None)  # a busy machine may stall
@given(st.text("ab \n\t\u00a0é🙂", max_size=20))
def test_words_are_what_str_split_finds_at_their_places(text: str):
    assert [text[left:right] for left, right in words(text)] == text.split()
    assert all(right <= left for (_, right), (left, _) in itertools.pairwise(words(text)))


@settings(deadline=None)
@given(segmentations(), st.lists(st.integers(0, 12), min_size=2, max_size=8, unique=True))
def test_pooling_equals_counting_characters_one_by_one(segmentation: Segmentation, cuts: list[int]):
    begins, _, end = segmentation
    cuts = sorted({min(cut, end) for cut in cuts} | {0, end})
    spans = list(itertools.pairwise(cuts))[::2]
    counts = [[len(characters(begins, end, token) & set(range(*span))) for token in range(len(begins))] for span in spans]
    expected = torch.tensor(counts, dtype=torch.float64)
    expected /= expected.sum(1, keepdim=True)
    one_hot = torch.eye(len(begins), dtype=torch.float64)
    torch.testing.assert_close(pool(one_hot, pooling(begins, end, spans), len(spans)), expected)


@settings(deadline=None)
@given(segmentations())
def test_the_weights_of_every_span_sum_to_one(segmentation: Segmentation):
    begins, others, end = segmentation
    cuts = sorted({*others, end})
    spans = list(itertools.pairwise(cuts))
    of_span, _, weights = pooling(begins, end, spans)
    sums = torch.zeros(len(spans), dtype=torch.float64).index_add(0, of_span, weights)
    torch.testing.assert_close(sums, torch.ones(len(spans), dtype=torch.float64))
    assert (weights > 0).all()


@settings(deadline=None)
@given(st.text("ab é🙂", min_size=1, max_size=16).filter(str.strip), st.randoms(use_true_random=False))
def test_a_word_is_the_mean_of_its_characters_however_it_is_split(text: str, chance: random.Random):
    spans = words(text)
    values = torch.tensor([chance.random() for _ in text], dtype=torch.float64)
    expected = torch.stack([values[slice(*span)].mean() for span in spans])
    for _ in range(2):
        gaps = zip([0, *(right for _, right in spans)], [left for left, _ in spans], strict=False)
        cuts = {0, *(chance.randint(*gap) for gap in gaps), *(cut for cut in range(len(text)) if chance.random() < 0.3)}
        begins = sorted(cuts)  # no token has characters of two words; some have the space before theirs
        parts = [slice(*each) for each in zip(begins, [*begins[1:], len(text)], strict=True)]
        tokens = [[value for value, letter in zip(values[part], text[part], strict=True) if letter != " "] for part in parts]
        means = torch.stack([torch.stack(token).mean() if token else torch.tensor(9.0).double() for token in tokens])
        pooled = pool(means.unsqueeze(1), pooling(begins, len(text), spans), len(spans))
        torch.testing.assert_close(pooled.squeeze(1), expected)


def test_the_white_space_before_a_word_counts_nothing():
    of_span, of_token, weights = pooling([0, 1, 4], 6, [(0, 1), (3, 6)])  # "a", "  b", "cd"
    assert (of_span.tolist(), of_token.tolist()) == ([0, 1, 1], [0, 1, 2])
    torch.testing.assert_close(weights, torch.tensor([1, 1 / 3, 2 / 3], dtype=torch.float64))


def test_every_token_of_one_character_counts_as_one():
    _, tokens, weights = pooling([0, 1, 1, 1], 2, [(0, 2)])
    assert tokens.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(weights, torch.full((4,), 0.25, dtype=torch.float64))


def test_a_span_without_tokens_is_an_error():
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        pooling([2, 3], 4, [(0, 2), (2, 4)])


@pytest.mark.parametrize("begins", [[0, 2, 1], [0, 5], [-1, 2]])
def test_tokens_out_of_order_or_out_of_the_text_are_an_error(begins: list[int]):
    with pytest.raises(ValueError, match="in order"):
        pooling(begins, 4, [(0, 4)])
    with pytest.raises(ValueError, match="in order"):
        shared_spans([0], begins, 4)


def test_pooling_is_differentiable():
    values = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    matrix = pooling([0, 1, 3, 3], 6, [(0, 2), (2, 6)])
    assert torch.autograd.gradcheck(lambda values: pool(values, matrix, 2), values)


def test_narrow_states_are_added_up_in_float32():
    values = torch.randn(300, 2).bfloat16()
    pooled = pool(values, pooling(range(300), 300, [(0, 300)]), 1)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, values.float().mean(0, keepdim=True))


# --- shared spans


@settings(deadline=None)
@given(segmentations())
def test_shared_spans_are_those_of_brute_force(segmentation: Segmentation):
    a, b, end = segmentation
    bounds = [place for place in range(end) if place in a and place in b]
    expected = [[sum(bound <= begin for bound in bounds) - 1 for begin in begins] for begins in (a, b)]
    assert list(shared_spans(a, b, end)) == expected


@settings(deadline=None)
@given(segmentations())
def test_shared_spans_are_symmetric(segmentation: Segmentation):
    a, b, end = segmentation
    assert shared_spans(a, b, end) == shared_spans(b, a, end)[::-1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1).map(sorted), st.lists(st.integers(0, 8), min_size=1).map(sorted))
def test_every_shared_span_has_tokens_of_both(a: list[int], b: list[int]):
    groups_a, groups_b = shared_spans(a, b, 9)
    assert sorted(set(groups_a)) == sorted(set(groups_b)) == list(range(groups_a[-1] + 1))
    assert (groups_a, groups_b) == (sorted(groups_a), sorted(groups_b))


@settings(deadline=None)
@given(segmentations())
def test_a_tokenizer_shares_every_character_with_itself(segmentation: Segmentation):
    begins, _, end = segmentation
    groups, same = shared_spans(begins, begins, end)
    assert groups == same
    assert groups[-1] + 1 == len(set(begins))


def test_a_text_without_tokens_shares_nothing():
    with pytest.raises(ValueError, match="without tokens"):
        shared_spans([], [0], 1)


# --- real tokenizers


def byte_level(size: int, *, trimmed: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT] * 3, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False)
    )
    if trimmed:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(vocab_size=90, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """It has seen no letter beyond ASCII, and no figure."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    specials = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(["The cat and the caf theirs Ein kostet"] * 3, trainer)
    return tokenizer


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator([TEXT], trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


WHOLE: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: byte_level(270),
    "more bytes": lambda: byte_level(330),
    "trimmed": lambda: byte_level(300, trimmed=True),
    "unigram": unigram,
    "fallback": byte_fallback,
}
"""Tokenizers whose tokens are all of the text, white space too."""
EVERY = {**WHOLE, "words": word_level}


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size())]


def written(texts: Sequence[str]) -> bytes:
    return "".join(texts).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("a", EVERY)
@pytest.mark.parametrize("b", EVERY)
def test_real_tokenizers_cut_a_text_into_equal_parts(a: str, b: str):
    begins = {name: begins_of(EVERY[name]().encode(TEXT).offsets) for name in (a, b)}
    groups = dict(zip((a, b), shared_spans(begins[a], begins[b], len(TEXT)), strict=True))
    assert groups[a][-1] == groups[b][-1] >= 12  # words and signs, whatever the tokenizer; bytes alone would be finer
    for name in {a, b} & WHOLE.keys():
        tokenizer = WHOLE[name]()
        encoded = tokenizer.encode(TEXT)
        texts = text_of_tokens(vocabulary(tokenizer))
        cuts = [begins[name][groups[name].index(group)] for group in range(groups[name][-1] + 1)]
        for group, part in enumerate(zip(cuts, [*cuts[1:], len(TEXT)], strict=True)):
            members = [token for token, of in zip(encoded.ids, groups[name], strict=True) if of == group]
            assert written([texts[token] for token in members]) == TEXT[slice(*part)].encode(), (name, part)


@pytest.mark.parametrize("name", EVERY)
def test_begins_of_the_tokens_leave_no_gap_and_cut_no_character(name: str):
    encoded = EVERY[name]().encode(TEXT)
    begins = begins_of(encoded.offsets)
    assert begins == sorted(begins)
    assert begins[0] == 0
    for place in set(begins):  # no token reaches over a boundary, and what lies between a token and one is white space
        assert not any(left < place < right for left, right in encoded.offsets), place
        assert not TEXT[place : encoded.offsets[begins.index(place)][0]].strip()


def test_a_token_with_bytes_of_two_characters_is_not_cut():
    assert begins_of([(0, 2), (1, 2), (2, 3)]) == [0, 0, 2]  # "fÃ", "©", "s"
    assert begins_of([(0, 1), (0, 2), (1, 2), (2, 3)]) == [0, 0, 0, 2]


def test_white_space_left_out_belongs_to_the_token_after_it():
    assert begins_of([(0, 2), (3, 5), (5, 6), (8, 9)]) == [0, 2, 5, 6]


@pytest.mark.parametrize("name", EVERY)
def test_words_of_real_tokenizers_are_their_tokens_mean(name: str):
    encoded = EVERY[name]().encode(TEXT)
    spans = words(TEXT)
    numbers = [next((n for n, (_, right) in enumerate(spans) if begin < right), -1) for begin in begins_of(encoded.offsets)]
    values = torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)  # every token carries its word's number
    pooled = pool(values, pooling(begins_of(encoded.offsets), len(TEXT), spans), len(spans))
    torch.testing.assert_close(pooled.squeeze(1), torch.arange(len(spans), dtype=torch.float64))


# --- vocabularies


@pytest.mark.parametrize("size", [270, 330])
def test_byte_level_pieces_are_what_the_decoder_says(size: int):
    tokens = vocabulary(byte_level(size))
    for token, text in zip(tokens, text_of_tokens(tokens), strict=True):
        if re.search("[\udc80-\udcff]", text):
            assert "\ufffd" in decoders.ByteLevel().decode([token])
        else:
            assert text == decoders.ByteLevel().decode([token])


def test_byte_level_pieces_that_were_added_as_they_are_stay():
    tokens = ["Ġthe", "<|im_end|>", "<\uff5cend▁of▁turn\uff5c>", "\n  ", "Ċ", "Ã"]
    assert text_of_tokens(tokens) == [" the", "<|im_end|>", "<\uff5cend▁of▁turn\uff5c>", "\n  ", "\n", "\udcc3"]


def test_sentencepiece_pieces_have_their_spaces_and_bytes():
    assert text_of_tokens(["▁the", "▁▁", "<0x0A>", "<0xC3>", "é", "Ġ"]) == [" the", "  ", "\n", "\udcc3", "é", "Ġ"]


def test_a_byte_piece_gives_way_to_its_characters_own_piece():
    assert text_of_tokens(["<0x41>", "<0x42>", "<0x20>", "▁", "A"]) == ["<0x41>", "B", "<0x20>", " ", "A"]


def test_plain_pieces_stay():
    assert text_of_tokens(["the", "##ing", "[UNK]"]) == ["the", "##ing", "[UNK]"]


@pytest.mark.parametrize("a", EVERY)
@pytest.mark.parametrize("b", EVERY)
def test_common_pieces_are_all_that_are_equal_and_each_but_once(a: str, b: str):
    own, peer = vocabulary(EVERY[a]()), vocabulary(EVERY[b]())
    mapped = common_ids(own, peer)
    assert mapped.shape == (len(peer),)
    own_texts, peer_texts = text_of_tokens(own), text_of_tokens(peer)
    pairs = [(index, at) for index, at in enumerate(mapped.tolist()) if at >= 0]
    assert all(written([peer_texts[index]]) == written([own_texts[at]]) for index, at in pairs)
    assert len({at for _, at in pairs}) == len(pairs) == len(set(own_texts) & set(peer_texts))


def test_what_is_common_to_byte_level_and_sentencepiece():
    own, peer = ["Ġthe", "the", "Ċ", "Ã", "©", "Ã©"], ["▁the", "the", "<0x0A>", "<0xC3>", "<0xA9>", "é", "▁a"]
    assert common_ids(own, peer).tolist() == [0, 1, 2, 3, 4, 5, -1]


def test_a_piece_that_stands_twice_is_matched_once():
    assert common_ids(["a", "a", "b"], ["a", "b", "a"]).tolist() == [0, 2, -1]


def test_ids_without_a_piece_have_no_equal():
    assert common_ids(["a", None, None], [None, "a", None]).tolist() == [-1, 0, -1]
