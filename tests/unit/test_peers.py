"""What students learn from each other: values against whole vocabularies, gradients only where they belong."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainers.alignment import common_ids
from trainers.peers import (
    Distribution,
    Merge,
    Projection,
    agreement,
    competence_loss,
    hybrid,
    mean_at_temperature,
    mix,
    needed,
    tail_kl,
    top,
)

MERGES: tuple[Merge, ...] = ("first", "span")
seeds = st.integers(0, 10_000)


def randn(*shape: int, seed: int = 0, **options: Any) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, **options)


def drawn(num: int, size: int, seed: int = 0, sharpness: float = 2.0) -> Tensor:
    """Log-probabilities, NV."""
    return (sharpness * randn(num, size, seed=seed)).log_softmax(-1)


def full_kl(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    return (teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1)


# --- hidden states


def test_the_ensemble_is_the_weighted_mean_and_the_loss_the_mean_over_words_and_width():
    own, others = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[[0.0, 0.0], [0.0, 4.0]]])
    logits = torch.tensor([3.0, 1.0]).log()  # own 3/4, other 1/4
    # word 1: ensemble (.75, 0), distance .25^2; word 2: ensemble (0, 1), distance 1
    torch.testing.assert_close(agreement(own, others, logits), torch.tensor((0.0625 + 1) / 4))


def test_identical_students_agree():
    own = randn(5, 8)
    assert agreement(own, own.expand(3, 5, 8), randn(4)).item() == pytest.approx(0, abs=1e-28)
    assert agreement(own, own[None] + 0.1, randn(2)).item() > 1e-4


def test_a_student_without_peers_agrees():
    assert agreement(randn(5, 8), torch.zeros(0, 5, 8, dtype=torch.float64), randn(1)).item() == 0


def test_only_the_own_words_get_a_gradient_and_none_through_the_ensemble():
    own, others, logits = (
        randn(5, 8, requires_grad=True),
        randn(2, 5, 8, seed=1, requires_grad=True),
        randn(3, requires_grad=True),
    )
    agreement(own, others, logits).backward()
    assert others.grad is None
    assert logits.grad is None
    weights = logits.detach().softmax(0)
    target = weights[0] * own.detach() + weights[1] * others[0].detach() + weights[2] * others[1].detach()
    torch.testing.assert_close(own.grad, 2 * (own.detach() - target) / own.numel())


def test_the_projection_is_normalised_float32_and_the_same_for_the_same_seed():
    one, same, other = Projection(16, 32, seed=3), Projection(16, 32, seed=3), Projection(16, 32, seed=4)
    words = randn(6, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = one(words)
    assert z.shape == (6, 32)
    assert z.dtype == torch.float32
    assert one.competence(z).shape == ()
    torch.testing.assert_close(z.mean(-1), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(-1, unbiased=False), torch.ones(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(z, same(words), rtol=0, atol=0)
    assert not torch.allclose(z, other(words))
    assert sorted(one.state_dict()) == ["matrix_ED", "weights_E"]


def test_drawing_a_projection_leaves_the_common_randomness_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    Projection(4, 4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_projection_and_competence_learn():
    projection = Projection(16, 32)
    z = projection(randn(6, 16))
    agreement(z, torch.randn(2, 6, 32), torch.zeros(3)).backward()
    assert projection.matrix_ED.grad is not None
    assert projection.matrix_ED.grad.abs().max() > 0
    assert projection.weights_E.grad is None
    logits = torch.stack([projection.competence(z.detach()), torch.tensor(0.5), torch.tensor(-0.5)])
    competence_loss(logits, torch.tensor([2.0, 1.0, 3.0])).backward()
    assert projection.weights_E.grad is not None
    assert projection.weights_E.grad.abs().max() > 0


def test_competence_is_a_matter_of_the_mean_word():
    projection = Projection(16, 32)
    projection.weights_E.data = torch.arange(32.0)
    z = projection(randn(6, 16))
    torch.testing.assert_close(projection.competence(z), (z @ torch.arange(32.0)).mean())
    torch.testing.assert_close(projection.competence(z.repeat(3, 1)), projection.competence(z))


def test_the_competence_loss_is_lowest_for_the_student_with_the_lowest_cross_entropy():
    cross_entropies = torch.tensor([2.0, 1.0, 3.0], requires_grad=True)
    logits = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    loss = competence_loss(logits, cross_entropies)
    torch.testing.assert_close(loss, -logits.log_softmax(0)[1])
    loss.backward()
    assert cross_entropies.grad is None
    torch.testing.assert_close(logits.grad, logits.detach().softmax(0) - torch.tensor([0.0, 1.0, 0.0]))


def test_students_of_equal_cross_entropy_share():
    logits = torch.tensor([0.3, -0.2, 0.1])
    expected = -(logits.log_softmax(0)[0] + logits.log_softmax(0)[2]) / 2
    torch.testing.assert_close(competence_loss(logits, torch.tensor([1.0, 2.0, 1.0])), expected)


# --- distributions of one vocabulary


def said(log_probs_NV: Tensor, tokens: Sequence[int], k: int, begins: Sequence[int] | None = None, end: int = 0) -> Distribution:
    ids_NK, log_probs_NK = top(log_probs_NV, k)
    tokens_N = torch.tensor(tokens)
    return Distribution(
        ids_NK=ids_NK,
        log_probs_NK=log_probs_NK,
        tokens_N=tokens_N,
        labels_N=log_probs_NV.gather(1, tokens_N.unsqueeze(1)).squeeze(1),
        begins=range(len(tokens)) if begins is None else begins,
        end=end or len(tokens),
        tokenizer="one",
    )


def test_the_top_is_the_most_probable_first():
    ids, log_probs = top(torch.tensor([[-3.0, -1.0, -2.0]]), 2)
    assert (ids.tolist(), log_probs.tolist()) == ([[1, 2]], [[-1.0, -2.0]])
    assert top(torch.zeros(1, 3), 64)[0].shape == (1, 3)


@given(seeds, st.integers(1, 9), st.integers(1, 3))
@settings(deadline=None)
def test_a_mixture_is_the_weighted_sum_of_what_students_say(seed: int, k: int, num: int):
    students = [drawn(4, 9, seed * 3 + each) for each in range(num)]
    weights = randn(num, seed=seed).softmax(0)
    ids, log_probs, mask = mix([said(student, [0, 1, 2, 3], k) for student in students], weights)
    expected = torch.zeros(4, 9, dtype=torch.float64)
    for weight, student in zip(weights, students, strict=True):
        at, values = top(student, k)
        expected += weight * torch.zeros_like(student).scatter(1, at, values.exp())
    torch.testing.assert_close(torch.zeros_like(expected).scatter_add(1, ids, log_probs.exp()), expected)
    for row in range(4):
        support = ids[row][mask[row]].tolist()
        assert len(support) == len(set(support)) == int((expected[row] > 0).sum())
    assert mask.sum(1).max() == mask.shape[1]


def test_a_mixture_gives_its_students_no_gradient():
    leaf, weights = drawn(2, 5).requires_grad_(), torch.tensor([1.0], requires_grad=True)
    _, log_probs, _ = mix([said(leaf, [0, 1], 3)], weights)
    assert not log_probs.requires_grad


def test_students_of_other_tokens_do_not_mix():
    one = said(drawn(2, 5), [0, 1], 3)
    for other in (dataclasses.replace(one, tokenizer="two"), said(drawn(2, 5), [0, 2], 3)):
        with pytest.raises(ValueError, match="not the same tokens"):
            mix([one, other], torch.tensor([0.5, 0.5]))


def everywhere(ids_NU: Tensor) -> Tensor:
    return torch.ones_like(ids_NU, dtype=torch.bool)


@given(seeds)
@settings(deadline=None)
def test_over_a_whole_vocabulary_it_is_the_kl(seed: int):
    teacher, student = drawn(3, 7, seed), drawn(3, 7, seed + 1)
    torch.testing.assert_close(tail_kl(teacher, student, everywhere(teacher)), full_kl(teacher, student), rtol=1e-9, atol=1e-12)


@given(seeds, st.integers(1, 6))
@settings(deadline=None)
def test_over_a_part_it_is_the_kl_of_the_coarser_outcomes_and_no_larger(seed: int, k: int):
    teacher, student = drawn(3, 7, seed), drawn(3, 7, seed + 1)
    ids, log_probs = top(teacher, k)
    ours = tail_kl(log_probs, student.gather(1, ids), everywhere(ids))
    rest = torch.ones_like(teacher, dtype=torch.bool).scatter(1, ids, False)
    p, q = [torch.where(rest, each.exp(), 0).sum(1) for each in (teacher, student)]
    inside = (log_probs.exp() * (log_probs - student.gather(1, ids))).sum(1)
    torch.testing.assert_close(ours, inside + p * (p / q).log(), rtol=1e-6, atol=1e-10)
    assert (ours <= full_kl(teacher, student) + 1e-12).all()
    assert (ours >= -1e-14).all()


@given(seeds, st.integers(1, 7), st.floats(0.1, 40))
@settings(deadline=None)
def test_it_is_never_negative_nor_infinite_in_float32_however_sharp(seed: int, k: int, sharpness: float):
    teacher, student = drawn(3, 7, seed, sharpness).float(), drawn(3, 7, seed + 1, sharpness).float()
    ids, log_probs = top(teacher, k)
    leaf = student.gather(1, ids).requires_grad_()
    loss = tail_kl(log_probs, leaf, everywhere(ids))
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert (loss > -1e-5).all()
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@given(seeds, st.integers(1, 7))
@settings(deadline=None)
def test_it_is_zero_for_equal_students_and_for_them_only(seed: int, k: int):
    teacher = drawn(3, 7, seed)
    ids, log_probs = top(teacher, k)
    assert tail_kl(log_probs, log_probs, everywhere(ids)).abs().max() < 1e-14
    assert tail_kl(log_probs, log_probs - 0.1, everywhere(ids)).min() > 1e-4


def test_identical_students_have_nothing_to_learn_from_their_mixture():
    log_probs = drawn(4, 9)
    same = said(log_probs, [0, 1, 2, 3], 5)
    ids, mixed, mask = mix([same, same, same], torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    torch.testing.assert_close(tail_kl(mixed, log_probs.gather(1, ids), mask), torch.zeros(4, dtype=torch.float64))


def test_a_teacher_without_a_tail_asks_nothing_of_the_students_tail():
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.25]]).log()
    torch.testing.assert_close(tail_kl(teacher, student, everywhere(teacher)), torch.tensor([math.log(2)]))


def test_outcomes_of_probability_zero_count_nothing():
    teacher, student = torch.tensor([[-torch.inf, math.log(0.5)]]), torch.tensor([[-torch.inf, math.log(0.5)]])
    leaf = student.requires_grad_()
    loss = tail_kl(teacher, leaf, everywhere(leaf))
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    torch.testing.assert_close(loss.detach(), torch.zeros(1))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("junk", [0.0, -3.0, torch.nan, torch.inf, -torch.inf])
def test_padding_changes_nothing(junk: float):
    teacher, student = drawn(3, 7)[:, :4], drawn(3, 7, 1)[:, :4]
    column = torch.full((3, 1), junk, dtype=torch.float64)
    padded, mask = torch.cat([student, column], 1).requires_grad_(), torch.tensor([[True] * 4 + [False]] * 3)
    plain = student.clone().requires_grad_()
    loss, expected = tail_kl(torch.cat([teacher, column], 1), padded, mask), tail_kl(teacher, plain, mask[:, :4])
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    (gradient,), (without,) = torch.autograd.grad(loss.sum(), padded), torch.autograd.grad(expected.sum(), plain)
    torch.testing.assert_close(gradient, torch.cat([without, torch.zeros(3, 1)], 1), rtol=0, atol=0)


def test_more_positions_do_not_change_those_that_were_there():
    students = [drawn(5, 9), drawn(5, 9, 1)]
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    tokens = [0, 1, 2, 3, 4]
    losses = []
    for num in (3, 5):
        ids, mixed, mask = mix([said(each[:num], tokens[:num], 4) for each in students], weights)
        losses.append(tail_kl(mixed, students[0][:num].gather(1, ids), mask))
    torch.testing.assert_close(losses[0], losses[1][:3], rtol=1e-12, atol=0)


def test_the_gradient_of_the_kl_is_right_and_the_students_only():
    teacher, mask = drawn(3, 7)[:, :5], torch.tensor([[True] * 4 + [False]] * 3)
    student = drawn(3, 7, 1)[:, :5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda student: tail_kl(teacher, student, mask), student)
    leaf = teacher.clone().requires_grad_()
    tail_kl(leaf, student, mask).sum().backward()
    assert leaf.grad is None
    assert student.grad is not None


def test_gradients_at_a_high_temperature_have_the_size_of_those_at_a_higher_one():
    teacher, student = randn(3, 7), randn(3, 7, seed=1)
    gradients = []
    for temperature in (1_000.0, 2_000.0):
        leaf = student.clone().requires_grad_()
        each = [(logits / temperature).log_softmax(-1) for logits in (teacher, leaf)]
        mean_at_temperature(tail_kl(each[0], each[1], everywhere(teacher)), temperature).backward()
        gradients.append(leaf.grad)
    centred = [logits - logits.mean(-1, keepdim=True) for logits in (teacher, student)]
    expected = (centred[1] - centred[0]) / 7 / 3  # the limit: half the squared distance of logits, over V, mean over N
    torch.testing.assert_close(gradients[0], expected, rtol=2e-2, atol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-2, atol=1e-4)


def test_at_temperature_one_it_is_the_mean():
    assert mean_at_temperature(torch.tensor([1.0, 3.0]), 1).item() == 2
    assert mean_at_temperature(torch.tensor([1.0, 3.0]), 3).item() == 18


# --- distributions of two vocabularies


def compared(
    own_NV: Tensor, own: Distribution, peer: Distribution, common_V: Tensor, merge: Merge = "first", at_NK: Tensor | None = None
) -> Tensor:
    if at_NK is None:
        at_NK = own_NV.gather(1, needed(own.begins, peer, common_V))
    return hybrid(own, at_NK, peer, common_V, merge=merge)


@pytest.mark.parametrize("merge", MERGES)
@given(seed=seeds, k=st.integers(1, 9), own_k=st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_with_equal_tokenizers_it_is_the_kl_over_the_peers_top(merge: Merge, seed: int, k: int, own_k: int):
    own_NV, peer_NV = drawn(4, 9, seed), drawn(4, 9, seed + 1)
    own, peer = said(own_NV, [3, 1, 4, 1], own_k), said(peer_NV, [3, 1, 4, 1], k)
    expected = tail_kl(peer.log_probs_NK, own_NV.gather(1, peer.ids_NK), everywhere(peer.ids_NK))
    torch.testing.assert_close(compared(own_NV, own, peer, torch.arange(9), merge), expected, rtol=1e-12, atol=1e-15)
    assert compared(peer_NV, peer, peer, torch.arange(9), merge).abs().max() < 1e-14
    assert compared(own_NV, own, peer, torch.arange(9), merge).min() > 0


@pytest.mark.parametrize("merge", MERGES)
@given(seed=seeds, order=st.permutations(range(9)))
@settings(deadline=None, max_examples=40)
def test_vocabularies_in_another_order_change_nothing(merge: Merge, seed: int, order: list[int]):
    pieces = [f"piece {index}" for index in range(7)]
    own_pieces = [*pieces, "own 1", "own 2"]
    peer_pieces = [*pieces, "peer 1", "peer 2"]
    own_NV, peer_NV = drawn(4, 9, seed), drawn(4, 9, seed + 1)
    tokens, begins = [3, 1, 4, 1], [0, 1, 1, 2]
    own = said(own_NV, tokens, 5, begins, 3)
    plain = compared(own_NV, own, said(peer_NV, tokens, 6, begins, 3), common_ids(own_pieces, peer_pieces), merge)
    common = common_ids(own_pieces, [peer_pieces[index] for index in order])
    peer = said(peer_NV[:, order], [order.index(token) for token in tokens], 6, begins, 3)
    torch.testing.assert_close(compared(own_NV, own, peer, common, merge), plain, rtol=1e-12, atol=1e-15)
    moved = said(own_NV[:, order], [order.index(token) for token in tokens], 5, begins, 3)
    common = common_ids([own_pieces[index] for index in order], peer_pieces)
    peer = said(peer_NV, tokens, 6, begins, 3)
    torch.testing.assert_close(compared(own_NV[:, order], moved, peer, common, merge), plain, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("merge", MERGES)
def test_what_only_one_vocabulary_has_is_compared_by_rank(merge: Merge):
    own_NV, peer_NV = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.1, 0.5, 0.25, 0.15]]).log()
    own, peer = said(own_NV, [0], 3), said(peer_NV, [1], 4)
    common = torch.tensor([-1, 0, -1, -1])
    # the common token agrees; by rank: .25 with .3, .15 with .2, .1 with nothing
    torch.testing.assert_close(compared(own_NV, own, peer, common, merge), torch.tensor([0.05 + 0.05 + 0.1]))


@pytest.mark.parametrize("merge", MERGES)
def test_what_the_peer_has_but_does_not_name_is_not_compared_by_rank(merge: Merge):
    own_NV, peer_NV = drawn(1, 5), drawn(1, 5)
    loss = compared(own_NV, said(own_NV, [0], 5), said(peer_NV, [0], 2), torch.arange(5), merge)
    assert loss.abs().max() < 1e-14


@pytest.mark.parametrize("merge", MERGES)
def test_vocabularies_with_nothing_in_common_are_compared_by_rank_alone(merge: Merge):
    own_NV, peer_NV = drawn(2, 6), drawn(2, 8, 1)
    loss = compared(own_NV, said(own_NV, [0, 1], 6), said(peer_NV, [0, 1], 8), torch.full((8,), -1), merge)
    ranked = [each.exp().sort(dim=1, descending=True).values for each in (own_NV, peer_NV)]
    expected = (torch.nn.functional.pad(ranked[0], (0, 2)) - ranked[1]).abs().sum(1)
    torch.testing.assert_close(loss, expected)


def test_later_tokens_multiply_the_whole_distribution_of_the_first():
    tokens, begins = [0, 1, 2], [0, 0, 1]
    own_NV, peer_NV = drawn(3, 4), drawn(3, 4, 1)
    loss = compared(own_NV, said(own_NV, tokens, 4, begins, 2), said(peer_NV, tokens, 4, begins, 2), torch.arange(4))
    whole = torch.ones(1, 4, dtype=torch.bool)
    merged = tail_kl(peer_NV[:1] + peer_NV[1, 1], own_NV[:1] + own_NV[1, 1], whole)
    torch.testing.assert_close(loss, torch.cat([merged, tail_kl(peer_NV[2:], own_NV[2:], whole)]))


def test_later_tokens_multiply_what_is_compared_by_rank_too():
    own_NV, peer_NV = drawn(2, 4), drawn(3, 4, 1)
    own, peer = said(own_NV, [0, 1], 4, [0, 1], 3), said(peer_NV, [0, 1, 2], 4, [0, 2, 2], 3)
    loss = compared(own_NV, own, peer, torch.full((4,), -1))
    own_merged, peer_merged = own_NV[0] + own_NV[1, 1], peer_NV[0] + peer_NV[1, 1] + peer_NV[2, 2]
    expected = (own_merged.exp().sort().values - peer_merged.exp().sort().values).abs().sum()
    torch.testing.assert_close(loss, expected.unsqueeze(0))


@pytest.mark.parametrize("merge", MERGES)
def test_groups_of_several_tokens_are_equal_for_equal_students_and_for_them_only(merge: Merge):
    tokens, begins, common = [0, 1, 2, 3], [0, 0, 1, 1], torch.tensor([0, -1, 2, 3, -1, 5])
    equal, other = [said(drawn(4, 6, seed), tokens, 4, begins, 2) for seed in (0, 1)]
    assert compared(drawn(4, 6), equal, equal, torch.arange(6), merge).abs().max() < 1e-14
    assert compared(drawn(4, 6, 1), other, equal, torch.arange(6), merge).min() > 0
    assert compared(drawn(4, 6, 1), other, equal, common, merge).min() > 0


SPLIT = ["t", "he", "o", "a"]
JOINT = ["the", "to", "a", "t"]
JOINT_NV = torch.tensor([[0.6, 0.2, 0.2, 0.0]], dtype=torch.float64).clamp_min(1e-12).log()
SPLIT_NV = torch.tensor([[0.8, 0.0, 0.0, 0.2], [0.0, 0.75, 0.25, 0.0]], dtype=torch.float64).clamp_min(1e-12).log()
"""Both say "the" with .6, "to" with .2, "a" with .2."""


def test_a_word_is_one_outcome_however_it_is_split():
    own, peer = said(SPLIT_NV, [0, 1], 4, [0, 1], 3), said(JOINT_NV, [0], 4, [0], 3)
    common = common_ids(SPLIT, JOINT)
    (span,) = compared(SPLIT_NV, own, peer, common, "span").tolist()
    (first,) = compared(SPLIT_NV, own, peer, common, "first").tolist()
    assert span == pytest.approx(0.2, abs=1e-9)  # "to": only one of them has it, and nothing else differs
    assert first > 1  # the own "t" against the peer's "t", which never is
    (back,) = compared(
        JOINT_NV, said(JOINT_NV, [0], 4, [0], 3), said(SPLIT_NV, [0, 1], 4, [0, 1], 3), common_ids(JOINT, SPLIT), "span"
    ).tolist()
    assert back == pytest.approx(0.2, abs=1e-9)


def test_a_word_that_both_vocabularies_have_is_not_counted_twice():
    """The student has `the` as a piece as well, but the text is split: the whole is compared, and once."""
    split = [*SPLIT, "the"]
    own_NV = torch.cat([SPLIT_NV, torch.full((2, 1), 1e-12, dtype=torch.float64).log()], dim=1)
    loss = compared(own_NV, said(own_NV, [0, 1], 5, [0, 1], 3), said(JOINT_NV, [0], 4, [0], 3), common_ids(split, JOINT), "span")
    assert loss.item() == pytest.approx(0.2, abs=1e-9)


def test_a_word_that_is_less_probable_costs_its_kl():
    doubtful_NV = torch.tensor([[0.8, 0.0, 0.0, 0.2], [0.0, 0.25, 0.75, 0.0]], dtype=torch.float64).clamp_min(1e-12).log()
    own, peer = said(doubtful_NV, [0, 1], 4, [0, 1], 3), said(JOINT_NV, [0], 4, [0], 3)
    expected = 0.6 * math.log(0.6 / 0.2) + 0.2 * math.log(0.2 / 0.6) + 0.2  # the word, all that is not, "to" by rank
    assert compared(doubtful_NV, own, peer, common_ids(SPLIT, JOINT), "span").item() == pytest.approx(expected, abs=1e-9)


def test_needed_names_the_peers_top_at_the_first_token_of_every_group():
    peer = said(drawn(2, 4), [0, 1], 3, [0, 2], 4)
    common = torch.tensor([5, -1, 7, 8])
    ids = needed([0, 1, 2, 2], peer, common)
    assert ids.shape == (4, 3)
    assert ids[0].tolist() == common[peer.ids_NK[0]].clamp_min(0).tolist()
    assert ids[2].tolist() == common[peer.ids_NK[1]].clamp_min(0).tolist()
    assert not ids[[1, 3]].any()


@pytest.mark.parametrize("merge", MERGES)
def test_what_is_not_needed_does_not_count(merge: Merge):
    own_NV, peer_NV = drawn(4, 6), drawn(3, 6, 1)
    own, peer = said(own_NV, [0, 1, 2, 3], 4, [0, 1, 1, 2], 4), said(peer_NV, [0, 1, 2], 4, [0, 1, 3], 4)
    common = torch.tensor([0, 1, -1, 3, 4, -1])
    ids = needed(own.begins, peer, common)
    at_NK = own_NV.gather(1, ids)
    junk_NK = at_NK.masked_fill(torch.zeros_like(ids, dtype=torch.bool).index_fill(0, torch.tensor([2, 3]), True), torch.nan)
    junk_NK[:2] = junk_NK[:2].masked_fill((common[peer.ids_NK[:2]] < 0), torch.nan)
    torch.testing.assert_close(
        compared(own_NV, own, peer, common, merge, junk_NK), compared(own_NV, own, peer, common, merge), rtol=0, atol=0
    )


def test_another_text_is_an_error():
    peer = said(drawn(2, 4), [0, 1], 3)
    with pytest.raises(ValueError, match="not the same text"):
        hybrid(dataclasses.replace(peer, end=3), peer.log_probs_NK, peer, torch.arange(4))


@pytest.mark.parametrize("merge", MERGES)
def test_the_gradient_of_the_hybrid_is_right_and_the_students_only(merge: Merge):
    peer_leaf = drawn(3, 6, 1).requires_grad_()
    peer = said(peer_leaf, [0, 1, 2], 4, [0, 1, 3], 4)
    common = torch.tensor([0, 1, -1, 3, -1, -1])

    def loss(own_NV: Tensor) -> Tensor:
        own_NV = own_NV.log_softmax(-1)
        return compared(own_NV, said(own_NV, [0, 1, 2, 3], 5, [0, 1, 2, 3], 4), peer, common, merge)

    logits = randn(4, 6, requires_grad=True)
    assert torch.autograd.gradcheck(loss, logits)
    loss(logits).sum().backward()
    assert peer_leaf.grad is None
    assert logits.grad is not None
    assert (logits.grad.abs().sum(1) > 0).all()  # the later token of a group too
