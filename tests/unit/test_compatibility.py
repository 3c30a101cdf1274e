"""COMPACT's scores and weights, against what the formulas say when they are written as loops."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.training import THINKING_WORDS as WORDS
from trainers.compatibility import (
    STEADY,
    Scores,
    adaptability,
    attention,
    consensus,
    consistency,
    difficulty,
    standardise,
    thinking_words,
    uniform,
    weights,
)

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ("adaptability", "consensus", "difficulty")
FACTORS = (1.0, 1.0, 0.5)
close = torch.testing.assert_close


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of several questions in any order, some absent, with random scores and attention states."""

    questions: Tensor
    present: Tensor
    scores: Scores
    queries: Tensor
    keys: Tensor

    def at(self, index: Tensor) -> Rows:
        """Some of the rows, in another order."""
        scores = Scores(**{name: getattr(self.scores, name)[index] for name in NAMES})
        return Rows(
            questions=self.questions[index],
            present=self.present[index],
            scores=scores,
            queries=self.queries[index],
            keys=self.keys[index],
        )

    def alpha(self) -> Tensor:
        return weights(self.scores, self.questions, self.present)

    def consensus(self) -> Tensor:
        return consensus(self.queries, self.keys, self.questions, self.present)


def draw(sizes: list[int], seed: int, absent: float = 0.3, heads: int = 4, groups: int = 2) -> Rows:
    """As many rows as `sizes` says of each question; the questions' numbers are any, and their rows lie among each other."""
    chance = torch.Generator().manual_seed(seed)
    names = torch.randperm(50, generator=chance)[: len(sizes)] - 20
    questions = names.repeat_interleave(torch.tensor(sizes))
    num = len(questions)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    return Rows(
        questions=questions[torch.randperm(num, generator=chance)],
        present=torch.rand(num, generator=chance) >= absent,
        scores=Scores(adaptability=5 * normal(num), consensus=normal(num).exp(), difficulty=2 + normal(num)),
        queries=3 * normal(num, heads, 3),
        keys=normal(num, groups, 3),
    )


BATCHES = st.builds(draw, st.lists(st.integers(1, 5), min_size=1, max_size=4), SEEDS)


def members(rows: Rows) -> list[list[int]]:
    """The present rows of each question."""
    found: dict[int, list[int]] = {}
    for row, question in enumerate(rows.questions.tolist()):
        if rows.present[row]:
            found.setdefault(question, []).append(row)
    return list(found.values())


def ragged(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))


# ---------------------------------------------------------------------------------------------------- thinking words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So it is 7.", ["So"]),
        ("it is, so, 7", ["so"]),
        ("SO WHAT", ["SO"]),
        ("some also soap", []),
        ("Let's see. Let\u2019s.", ["Let", "Let"]),
        ("letter outlet", []),
        ('(But) *Wait*, "hence"\nthus', ["But", "Wait", "hence", "thus"]),
        ("In summary, in\n  summary; in sum mary", ["In summary", "in\n  summary"]),
        ("insummary, within summary", []),
        ("first_name, second2, 2second", []),
        ("First: a. Secondly: b. Finally", ["First", "Finally"]),
        ("Hmm... Hmmm", ["Hmm"]),
        ("", []),
    ],
)
def test_thinking_words_are_whole_words(text: str, found: list[str]) -> None:
    spans = thinking_words(text, WORDS)
    assert [text[start:end] for start, end in spans] == found
    assert spans == sorted(spans)


def test_the_thinking_words_are_the_papers() -> None:
    printed = (
        "Therefore, Thus, Hence, So, Because, Consequently, Wait, But, However, Although, First, Second, Finally, Specifically, "
        "In summary, Basically, Let, Assuming, Suppose, Hmm, Okay, Note"
    )
    assert printed.split(", ") == list(WORDS)


def test_every_thinking_word_is_found_where_it_stands() -> None:
    for word in WORDS:
        assert thinking_words(f"7, {word} 7", WORDS) == thinking_words(f"7, {word.upper()} 7", WORDS) == [(3, 3 + len(word))]


def test_other_words_may_be_any() -> None:
    assert thinking_words("So a+b? In all: in all cases, c++!", ["in", "in  all cases", "a+b", "c++", "in all"]) == [
        (3, 6),
        (8, 14),
        (16, 28),
        (30, 33),
    ]
    assert thinking_words("So a.", []) == []
    assert thinking_words("So a.", ["", " ", "A"]) == [(3, 4)]


# ---------------------------------------------------------------------------------------------------- adaptability, difficulty


def naive_adaptability(information: list[float], thinking: list[bool], elsewhere: float) -> float:
    gains = [max(later - earlier, 0) for earlier, later in pairwise(information)]
    return sum(gain * (1 if thinks else elsewhere) for gain, thinks in zip(gains, thinking[1:], strict=True))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), SEEDS, st.sampled_from([0.0, 0.1, 1.0]))
def test_adaptability_is_that_of_a_loop_over_each_row_alone(lengths: list[int], seed: int, elsewhere: float) -> None:
    chance = torch.Generator().manual_seed(seed)
    rows = ragged(lengths)
    information = torch.randn(len(rows), generator=chance, dtype=torch.float64)
    thinking = torch.rand(len(rows), generator=chance) < 0.4
    found = adaptability(information, thinking, rows, len(lengths), elsewhere)
    right = [
        naive_adaptability(information[rows == row].tolist(), thinking[rows == row].tolist(), elsewhere)
        for row in range(len(lengths))
    ]
    close(found, torch.tensor(right, dtype=torch.float64))


def test_adaptability_counts_a_tenth_beside_thinking_words_and_nothing_between_rows() -> None:
    information = torch.tensor([-9.0, -8.0, -6.0, -7.0, -1.0, -0.5], dtype=torch.float64)  # rises: 1, 2, none; another row; 0.5
    thinking = torch.tensor([True, False, True, True, True, False])
    found = adaptability(information, thinking, torch.tensor([0, 0, 0, 0, 2, 2]), 4)
    close(found, torch.tensor([0.1 + 2, 0, 0.05, 0], dtype=torch.float64))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), SEEDS)
def test_difficulty_is_the_mean_of_each_row(lengths: list[int], seed: int) -> None:
    rows = ragged(lengths)
    nll = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    right = [statistics.fmean(nll[rows == row].tolist()) for row in range(len(lengths))]
    close(difficulty(nll, rows, len(lengths)), torch.tensor(right, dtype=torch.float64))


def test_no_tokens_have_no_difficulty() -> None:
    assert difficulty(torch.tensor([1.0, 3.0]), torch.tensor([1, 1]), 2).isnan().tolist() == [True, False]


def test_sums_of_bfloat16_are_float32() -> None:
    """bfloat16 counts to 256 by ones."""
    values, rows = torch.arange(2000).remainder(2).bfloat16(), torch.zeros(2000, dtype=torch.long)
    close(difficulty(values, rows, 1), torch.tensor([0.5]))
    close(adaptability(values, torch.ones(2000, dtype=torch.bool), rows, 1), torch.tensor([1000.0]))


# ---------------------------------------------------------------------------------------------------- consensus


def naive_attention(rows: Rows) -> Tensor:
    """Head by head and question by question, with -inf written into the diagonal."""
    num, num_heads, width = rows.queries.shape
    shared = num_heads // rows.keys.shape[1]
    found = torch.zeros(num, num, dtype=torch.float64)
    for those in members(rows):
        if len(those) < 2:
            continue
        for head in range(num_heads):
            queries, keys = rows.queries[those, head], rows.keys[those, head // shared]
            logits = queries @ keys.T / math.sqrt(width)
            logits[range(len(those)), range(len(those))] = -torch.inf
            found[torch.tensor(those)[:, None], torch.tensor(those)] += torch.softmax(logits, -1) / num_heads
    return found


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), SEEDS, st.sampled_from([(1, 1), (3, 3), (4, 2), (4, 1), (6, 2)]))
def test_attention_is_that_of_a_loop_over_heads(sizes: list[int], seed: int, heads: tuple[int, int]) -> None:
    rows = draw(sizes, seed, heads=heads[0], groups=heads[1])
    right = naive_attention(rows)
    close(attention(rows.queries, rows.keys, rows.questions, rows.present), right)
    close(rows.consensus(), right.sum(0))


@given(BATCHES)
def test_whoever_is_not_alone_looks_at_others_with_a_weight_of_one(rows: Rows) -> None:
    looks = attention(rows.queries, rows.keys, rows.questions, rows.present)
    assert not looks.diagonal().any()
    accompanied = {row for those in members(rows) if len(those) > 1 for row in those}
    close(looks.sum(1), torch.tensor([float(row in accompanied) for row in range(len(rows.questions))], dtype=torch.float64))


def test_all_rows_are_present_unless_it_is_said() -> None:
    rows = draw([3, 1, 2], 0, absent=0)
    assert rows.present.all()
    assert torch.equal(consensus(rows.queries, rows.keys, rows.questions), rows.consensus())
    assert torch.equal(
        attention(rows.queries, rows.keys, rows.questions),
        attention(rows.queries, rows.keys, rows.questions, rows.present),
    )


def test_heads_that_share_keys_are_those_of_keys_repeated() -> None:
    """Query heads 0 and 1 share the first keys, 2 and 3 the second: as in transformers' `repeat_kv`."""
    rows = draw([4, 3], 3, absent=0, heads=4, groups=2)
    repeated = torch.stack([rows.keys[:, 0], rows.keys[:, 0], rows.keys[:, 1], rows.keys[:, 1]], 1)
    alternating = rows.keys.repeat(1, 2, 1)
    close(rows.consensus(), replace(rows, keys=repeated).consensus())
    assert (rows.consensus() - replace(rows, keys=alternating).consensus()).abs().max() > 0.01


@given(BATCHES)
def test_what_an_absent_row_holds_does_not_matter(rows: Rows) -> None:
    absent = ~rows.present
    garbage = replace(
        rows,
        queries=rows.queries.masked_fill(absent[:, None, None], torch.nan),
        keys=rows.keys.masked_fill(absent[:, None, None], torch.inf),
        scores=Scores(**{name: getattr(rows.scores, name).masked_fill(absent, torch.nan) for name in NAMES}),
    )
    assert torch.equal(garbage.consensus(), rows.consensus())
    assert torch.equal(garbage.alpha(), rows.alpha())
    assert not rows.alpha()[absent].any()
    assert not rows.consensus()[absent].any()


def test_a_row_alone_leaves_a_gradient_of_numbers() -> None:
    rows = draw([1, 3], 0, absent=0)
    queries = rows.queries.clone().requires_grad_()
    consensus(queries, rows.keys, rows.questions).square().sum().backward()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    assert queries.grad.any()


def test_attention_is_float32_under_autocast_and_from_bfloat16() -> None:
    rows = draw([4, 3], 1, absent=0)
    queries, keys = rows.queries.float(), rows.keys.float()
    plain = consensus(queries, keys, rows.questions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(consensus(queries, keys, rows.questions), plain)
    narrow = consensus(queries.bfloat16(), keys.bfloat16(), rows.questions)
    assert plain.dtype == narrow.dtype == torch.float32
    assert torch.equal(narrow, consensus(queries.bfloat16().float(), keys.bfloat16().float(), rows.questions))


# ---------------------------------------------------------------------------------------------------- standardised, weighed


def naive_standardised(rows: Rows, values: Tensor) -> Tensor:
    found = torch.zeros(len(values), dtype=torch.float64)
    for those in members(rows):
        one = values[those].tolist()
        found[those] = torch.tensor(
            [(value - statistics.fmean(one)) / (statistics.pstdev(one) + STEADY) for value in one], dtype=torch.float64
        )
    return found


def naive_alpha(rows: Rows, factors: tuple[float, float, float], temperature: float) -> Tensor:
    good, agreed, hard = (naive_standardised(rows, getattr(rows.scores, name)) for name in NAMES)
    found = torch.zeros(len(good), dtype=torch.float64)
    for those in members(rows):
        logits = (factors[0] * good + factors[1] * agreed - factors[2] * hard)[those] / temperature
        found[those] = torch.softmax(logits, 0)
    return found


@given(BATCHES)
def test_values_are_standardised_as_by_a_loop_over_questions(rows: Rows) -> None:
    values = rows.scores.adaptability
    assert values is not None
    close(standardise(values, rows.questions, rows.present), naive_standardised(rows, values), rtol=1e-9, atol=1e-9)


@given(BATCHES, st.tuples(*[st.floats(0, 3)] * 3), st.floats(0.1, 10))
def test_weights_are_those_of_a_loop_over_questions(rows: Rows, factors: tuple[float, float, float], temperature: float) -> None:
    found = weights(rows.scores, rows.questions, rows.present, factors=factors, temperature=temperature)
    close(found, naive_alpha(rows, factors, temperature), rtol=1e-8, atol=1e-10)


@given(BATCHES)
def test_the_factors_and_temperature_of_the_paper_are_the_defaults(rows: Rows) -> None:
    close(rows.alpha(), naive_alpha(rows, FACTORS, 1.0), rtol=1e-8, atol=1e-10)


@given(BATCHES)
def test_the_weights_of_a_question_are_one_in_all(rows: Rows) -> None:
    for alpha in (rows.alpha(), uniform(rows.questions, rows.present).double()):
        assert (alpha >= 0).all()
        for those in members(rows):
            assert float(alpha[those].sum()) == pytest.approx(1, abs=1e-6)
    close(rows.alpha().sum(), torch.tensor(float(len(members(rows))), dtype=torch.float64))


@given(BATCHES)
def test_uniform_weights_are_one_of_k(rows: Rows) -> None:
    right = torch.zeros(len(rows.questions))
    for those in members(rows):
        right[those] = 1 / len(those)
    close(uniform(rows.questions, rows.present), right)
    nothing = Scores(adaptability=None, consensus=None, difficulty=None)
    assert torch.equal(weights(nothing, rows.questions, rows.present), uniform(rows.questions, rows.present))


@given(st.integers(2, 6), SEEDS)
def test_equal_rationales_have_equal_weights_and_are_consistent(num: int, seed: int) -> None:
    one = draw([1], seed, absent=0)
    same = one.at(torch.zeros(num, dtype=torch.long))
    same = replace(same, scores=replace(same.scores, consensus=same.consensus()))
    close(same.scores.consensus, torch.ones(num, dtype=torch.float64))
    alpha = same.alpha()
    close(alpha, torch.full((num,), 1 / num, dtype=torch.float64))
    log_probs = log_probs_of(1, seed).expand(num, -1, -1)
    assert abs(float(consistency(log_probs, alpha))) < 1e-20


@given(BATCHES, st.floats(-100, 100))
def test_a_constant_added_to_all_losses_changes_no_weight(rows: Rows, constant: float) -> None:
    assert rows.scores.difficulty is not None
    moved = replace(rows, scores=replace(rows.scores, difficulty=rows.scores.difficulty + constant))
    close(moved.alpha(), rows.alpha(), rtol=0, atol=1e-8)


@given(st.lists(st.integers(1, 6), min_size=4, max_size=4), SEEDS, st.floats(-100, 100))
def test_a_constant_added_to_the_loss_of_each_token_changes_no_weight(lengths: list[int], seed: int, constant: float) -> None:
    index = ragged(lengths)
    nll = torch.randn(len(index), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = draw([4], seed, absent=0)
    one, other = (replace(rows.scores, difficulty=difficulty(each, index, 4)) for each in (nll, nll + constant))
    close(replace(rows, scores=one).alpha(), replace(rows, scores=other).alpha(), rtol=0, atol=1e-7)


@given(BATCHES, SEEDS)
def test_rows_in_another_order_have_their_weights_in_that_order(rows: Rows, seed: int) -> None:
    order = torch.randperm(len(rows.questions), generator=torch.Generator().manual_seed(seed))
    close(rows.at(order).alpha(), rows.alpha()[order])
    close(rows.at(order).consensus(), rows.consensus()[order])


@given(BATCHES)
def test_absent_rows_change_nothing_of_the_others(rows: Rows) -> None:
    left = rows.present.nonzero().squeeze(1)
    close(rows.at(left).alpha(), rows.alpha()[left])
    close(rows.at(left).consensus(), rows.consensus()[left])


@given(BATCHES)
def test_several_questions_at_once_are_each_alone(rows: Rows) -> None:
    for question in rows.questions.unique():
        own = (rows.questions == question).nonzero().squeeze(1)
        close(rows.at(own).alpha(), rows.alpha()[own])
        close(rows.at(own).consensus(), rows.consensus()[own])


def test_one_rationale_has_all_the_weight_whatever_its_scores() -> None:
    rows = draw([1, 1], 0, absent=0)
    assert rows.alpha().tolist() == [1, 1]
    assert rows.consensus().tolist() == [0, 0]
    assert standardise(torch.tensor([7.0, -7.0]), rows.questions, rows.present).tolist() == [0, 0]
    assert float(consistency(log_probs_of(1, 0), torch.ones(1))) == 0


@pytest.mark.parametrize(("name", "best"), [("adaptability", 2), ("consensus", 2), ("difficulty", 0)])
def test_what_speaks_for_a_row_and_what_against(name: str, best: int) -> None:
    scores = Scores(**{each: torch.tensor([1.0, 2.0, 3.0]) if each == name else None for each in NAMES})
    alpha = weights(scores, torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.bool))
    assert int(alpha.argmax()) == best
    assert alpha.unique().numel() == 3


@given(BATCHES, st.integers(0, 2))
def test_a_factor_of_zero_is_a_score_that_is_switched_off(rows: Rows, which: int) -> None:
    factors = (0.0 if which == 0 else 1.0, 0.0 if which == 1 else 1.0, 0.0 if which == 2 else 0.5)
    off = replace(rows.scores, **{NAMES[which]: None})
    zero = weights(rows.scores, rows.questions, rows.present, factors=factors)
    close(zero, weights(off, rows.questions, rows.present), rtol=0, atol=1e-15)


@given(BATCHES, st.floats(0.2, 5))
def test_the_logarithms_of_weights_scale_with_the_temperature(rows: Rows, temperature: float) -> None:
    """alpha_i / alpha_j to the power of tau is what it is at tau = 1."""
    warm = weights(rows.scores, rows.questions, rows.present, temperature=temperature).log() * temperature
    plain = rows.alpha().log()
    for those in members(rows):
        close(warm[those] - warm[those[0]], plain[those] - plain[those[0]], rtol=1e-8, atol=1e-8)


def test_weights_carry_no_gradient() -> None:
    rows = draw([3, 2], 0, absent=0)
    scores = Scores(**{name: getattr(rows.scores, name).clone().requires_grad_() for name in NAMES})
    alpha = weights(scores, rows.questions, rows.present)
    assert not alpha.requires_grad
    assert alpha.unique().numel() == 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_told_in_one_line(name: str, value: float) -> None:
    rows = draw([3, 2], 0, absent=0)
    getattr(rows.scores, name)[3] = value
    with pytest.raises(ValueError, match=rf"^the {name} of row 3 is {value}: only finite scores can be weighed$"):
        rows.alpha()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_float32_or_wider(dtype: torch.dtype) -> None:
    rows = draw([4, 3], 0, absent=0)
    narrow = replace(rows, scores=Scores(**{name: getattr(rows.scores, name).to(dtype) for name in NAMES}))
    exact = replace(rows, scores=Scores(**{name: getattr(narrow.scores, name).double() for name in NAMES}))
    assert narrow.alpha().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(narrow.alpha().double(), exact.alpha(), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- consistency


def log_probs_of(num: int, seed: int, positions: int = 3, words: int = 7) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(num, positions, words, generator=chance, dtype=torch.float64).mul(2).log_softmax(-1)


def alpha_of(num: int, seed: int) -> Tensor:
    return torch.rand(num, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).softmax(0)


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other), the mean over positions."""
    return (one.exp() * (one - other)).sum(-1).mean()


def naive_consistency(log_probs: Tensor, alpha: Tensor) -> Tensor:
    """sum_k alpha_k L_MCon,k as the paper has it."""
    total = torch.zeros((), dtype=torch.float64)
    for k in range(len(alpha)):
        others = [j for j in range(len(alpha)) if j != k]
        total = total + alpha[k] * sum(alpha[j] * divergence(log_probs[k], log_probs[j]) for j in others)
    return total


@given(st.integers(1, 5), st.integers(1, 4), SEEDS)
def test_consistency_and_its_gradient_are_those_of_the_paper(num: int, positions: int, seed: int) -> None:
    log_probs, alpha = log_probs_of(num, seed, positions).requires_grad_(), alpha_of(num, seed)
    found = consistency(log_probs, alpha)
    assert found.shape == ()
    right = naive_consistency(log_probs, alpha)
    close(found, right)
    (ours,), (theirs,) = torch.autograd.grad(found, log_probs), torch.autograd.grad(right + 0 * log_probs.sum(), log_probs)
    close(ours, theirs, rtol=1e-7, atol=1e-12)


@given(st.integers(2, 5), SEEDS)
def test_consistency_is_that_of_each_pair_once(num: int, seed: int) -> None:
    log_probs, alpha = log_probs_of(num, seed), alpha_of(num, seed)
    pairs = [(i, j) for j in range(num) for i in range(j)]
    one_by_one = sum(
        alpha[i] * alpha[j] * (divergence(log_probs[i], log_probs[j]) + divergence(log_probs[j], log_probs[i])) for i, j in pairs
    )
    close(consistency(log_probs, alpha), torch.as_tensor(one_by_one))


@given(st.integers(2, 5), SEEDS, st.floats(0, 1e-4))
def test_what_little_is_left_between_close_rows_is_seen_in_float32(num: int, seed: int, far: float) -> None:
    """p_i . log p_i - p_i . log p_j is off by 1e-7, as much as such rows differ."""
    rows = (log_probs_of(1, seed) + far * log_probs_of(num, seed + 2)).log_softmax(-1).float()
    found = consistency(rows, alpha_of(num, seed).float())
    assert found.dtype == torch.float32
    close(found.double(), naive_consistency(rows.double(), alpha_of(num, seed)), rtol=1e-2, atol=1e-10)


@given(st.integers(2, 5), SEEDS)
def test_a_row_without_weight_changes_no_consistency(num: int, seed: int) -> None:
    log_probs, alpha = log_probs_of(num + 1, seed), alpha_of(num, seed)
    with_absent = torch.cat([alpha, alpha.new_zeros(1)])
    close(consistency(log_probs, with_absent), consistency(log_probs[:-1], alpha))


@settings(max_examples=5)
@given(st.integers(2, 3), SEEDS)
def test_the_gradient_of_consistency_is_that_of_differences(num: int, seed: int) -> None:
    alpha = alpha_of(num, seed)
    assert torch.autograd.gradcheck(lambda x: consistency(x, alpha), log_probs_of(num, seed, 2, 4).requires_grad_())


def test_learning_consistency_moves_the_rows_together_and_leaves_alpha_alone() -> None:
    logits, alpha = log_probs_of(3, 0).requires_grad_(), alpha_of(3, 0).requires_grad_()
    before = consistency(logits.log_softmax(-1), alpha)
    before.backward()
    assert alpha.grad is None
    assert logits.grad is not None
    assert all(row.abs().max() > 1e-4 for row in logits.grad)
    after = consistency((logits - 0.5 * logits.grad).detach().log_softmax(-1), alpha)
    assert after < before
