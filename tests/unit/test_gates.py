"""The router's gates against their formulas, what they learn on a table of losses, and features without a model."""

import hashlib
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.encoder import HashedText
from trainers.gates import (
    Baseline,
    Gates,
    Kind,
    decided,
    noise,
    objective,
    probabilities,
    sample,
    utility,
    weights,
)

KINDS: list[Kind] = ["independent", "onehot"]
LN2 = math.log(2)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ids(num: int) -> list[str]:
    return [f"t{number}" for number in range(num)]


def chance() -> tuple[bytes, bytes, object]:
    """The global random states."""
    return bytes(torch.get_rng_state().numpy()), np.random.get_state(legacy=False)["state"]["key"].tobytes(), random.getstate()


# --- the MLP


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_zero_or_one_and_every_parameter_gets_gradient(kind: Kind):
    gates = Gates(16, 3, seed=1)
    values = sample(gates.logits(drawn(40, 16)), noise(1, ids(40), 0, 3), kind)
    assert set(values.flatten().tolist()) == {0.0, 1.0}
    (values * drawn(40, 3, seed=2)).sum().backward()
    for name, parameter in gates.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name


def test_the_mlp_is_the_papers():
    shapes = [tuple(parameter.shape) for parameter in Gates(16, 3, seed=1).parameters()]
    assert shapes == [(8, 16), (8,), (6, 8), (6,)]
    assert Gates(16, 3, seed=1).logits(drawn(5, 16).double()).dtype == torch.float32


def test_parameters_depend_on_the_seed_alone_and_leave_global_chance_as_it_is():
    torch.manual_seed(99)  # not the state that making these gates would leave
    before = chance()
    one = [parameter.clone() for parameter in Gates(16, 3, seed=1).parameters()]
    assert chance() == before
    torch.rand(1)
    again, other = list(Gates(16, 3, seed=1).parameters()), list(Gates(16, 3, seed=2).parameters())
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_encoders_units_do_not_matter():
    gates, h = Gates(16, 2, seed=1), drawn(5, 16)
    torch.testing.assert_close(gates.logits(h), gates.logits(1000 * h), rtol=1e-4, atol=1e-5)
    assert gates.logits(torch.zeros(1, 16)).isfinite().all()


# --- what they see of students


def test_a_students_state_moves_the_logits():
    gates, h = Gates(16, 2, seed=1, student_state=True), drawn(3, 16)
    state = torch.tensor([[0.5, 1.0], [0.0, math.nan], [math.nan, math.nan]])
    blind, seeing = gates.logits(h), gates.logits(h, state)
    assert seeing.isfinite().all()
    moved = (blind - seeing).abs().amax(dim=(1, 2)) > 1e-3
    assert moved.tolist() == [True, True, False]  # a loss of 0 that is known is not an unknown one
    assert not torch.equal(gates.logits(h, state), gates.logits(h, state + torch.tensor([1.0, 0.0])))


def test_a_students_state_gets_no_gradient():
    gates, state, h = Gates(16, 2, seed=1, student_state=True), drawn(3, 2).requires_grad_(), drawn(3, 16).requires_grad_()
    gates.logits(h, state).sum().backward()
    assert state.grad is None
    assert h.grad is None


def test_gates_without_eyes_refuse_a_state():
    with pytest.raises(ValueError, match="see no student state"):
        Gates(16, 2, seed=1).logits(drawn(3, 16), drawn(3, 2))


# --- sampling


def test_the_gradient_of_independent_gates_is_that_of_the_soft_ones():
    logits, gumbel, outer = drawn(6, 3, 2).requires_grad_(), noise(0, ids(6), 0, 3), drawn(6, 3, seed=4)
    soft = ((logits + gumbel) / 0.5).softmax(2)[..., 0]
    (wanted,) = torch.autograd.grad((soft * outer).sum(), logits)
    gates = sample(logits, gumbel, "independent", temperature=0.5)
    (given,) = torch.autograd.grad((gates * outer).sum(), logits)
    torch.testing.assert_close(given, wanted)
    assert torch.equal(gates.detach(), (soft >= 0.5).float())


def test_the_gradient_of_onehot_gates_is_that_of_the_soft_ones():
    logits, gumbel, outer = drawn(6, 3, 2).requires_grad_(), noise(0, ids(6), 0, 3), drawn(6, 3, seed=4)
    soft = ((logits[..., 0] - logits[..., 1] + gumbel[..., 0]) / 0.5).softmax(1)
    (wanted,) = torch.autograd.grad((soft * outer).sum(), logits)
    gates = sample(logits, gumbel, "onehot", temperature=0.5)
    (given,) = torch.autograd.grad((gates * outer).sum(), logits)
    torch.testing.assert_close(given, wanted)
    assert torch.equal(gates.argmax(1), soft.argmax(1))


def test_onehot_gates_send_each_trajectory_to_one_student():
    gates = sample(drawn(200, 4, 2), noise(0, ids(200), 0, 4), "onehot")
    assert (gates.sum(1) == 1).all()
    assert (gates.sum(0) > 0).all()
    assert (sample(drawn(50, 1, 2), noise(0, ids(50), 0, 1), "onehot") == 1).all()
    assert (decided(drawn(200, 4, 2), "onehot").sum(1) == 1).all()


def test_independent_gates_send_a_trajectory_to_any_number_of_students():
    gates = sample(drawn(200, 3, 2), noise(0, ids(200), 0, 3), "independent")
    assert set(gates.sum(1).tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_on_as_often_as_their_probability_says(kind: Kind):
    logits = 1.5 * drawn(1, 3, 2)
    often = sample(logits.expand(20_000, 3, 2), noise(0, ids(20_000), 0, 3), kind).mean(0)
    torch.testing.assert_close(often, probabilities(logits, kind)[0], atol=0.015, rtol=0)


def test_probabilities_and_decisions_know_no_noise():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert decided(logits, "independent").tolist() == [[1, 0], [0, 0], [1, 1]]
    assert decided(logits, "onehot").tolist() == [[1, 0], [0, 1], [1, 0]]
    assert decided(logits, "onehot").dtype == torch.int64
    torch.testing.assert_close(probabilities(logits, "independent"), logits.softmax(2)[..., 0])
    torch.testing.assert_close(probabilities(logits, "onehot")[:2], torch.tensor([[2.0, -1.0], [-3.0, -1.0]]).softmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_trajectories_permutes_their_gates(kind: Kind):
    gates, h, keys, order = Gates(16, 3, seed=1), drawn(20, 16), ids(20), torch.randperm(20)
    plain = sample(gates.logits(h), noise(5, keys, 2, 3), kind)
    permuted = sample(gates.logits(h[order]), noise(5, [keys[place] for place in order], 2, 3), kind)
    assert torch.equal(permuted, plain[order])
    assert len({tuple(row) for row in plain.tolist()}) > 1


# --- noise


def test_noise_is_that_of_the_seed_the_trajectory_and_the_round():
    one = noise(7, ["a", "b", "c"], 3, 2)
    assert one.shape == (3, 2, 2)
    assert torch.equal(noise(7, ["c", "x", "a"], 3, 2)[[2, 0]], one[[0, 2]])
    assert torch.equal(noise(7, ["a"], 3, 4)[:, :2], one[:1])
    for other in (noise(8, ["a"], 3, 2), noise(7, ["a"], 4, 2), one[1:2]):
        assert not (other == one[:1]).any()
    assert len(one.unique()) == one.numel()


def test_noise_is_the_same_on_every_machine():
    wanted = [[[0.04952108860015869, -0.07935646176338196]]]
    torch.testing.assert_close(noise(1, ["t"], 0, 1), torch.tensor(wanted))


def test_noise_leaves_global_chance_as_it_is():
    before = chance()
    noise(7, ids(3), 3, 2)
    assert chance() == before


def test_noise_is_gumbel_and_fast():
    began = time.perf_counter()
    drawn_ = noise(7, ids(10_000), 3, 4).double()
    assert time.perf_counter() - began < 1
    assert drawn_.isfinite().all()
    assert drawn_.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert drawn_.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


# --- the objective


def parts(num: int = 12, students: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gates of which every student has at least two, and losses."""
    gates = (drawn(num, students, seed=seed) > 0).double()
    gates[:2] = 1
    return gates.requires_grad_(), 1 + drawn(num, students, seed=seed + 1, dtype=torch.float64).abs()


def gradient(value: Tensor, gates: Tensor) -> Tensor:
    return torch.autograd.grad(value, gates, retain_graph=True)[0]


def test_a_gate_is_judged_against_the_students_average():
    gates, losses = parts()
    found = objective(gates, losses, torch.ones_like(losses), 0.0)
    sizes = gates.sum(0)
    means = torch.stack([losses[gates[:, s] == 1, s].mean() for s in range(2)])
    torch.testing.assert_close(found.routed, means)
    torch.testing.assert_close(found.loss, means.sum())
    assert (sizes > 1).all()
    torch.testing.assert_close(gradient(found.loss, gates), (losses - means) / sizes)


def test_the_only_trajectory_of_a_student_is_its_average():
    gates = torch.tensor([[1.0], [0.0]], requires_grad=True)
    found = objective(gates, torch.tensor([[2.0], [5.0]]), torch.ones(2, 1), 0.0)
    torch.testing.assert_close(gradient(found.loss, gates), torch.tensor([[0.0], [3.0]]))


def test_a_student_without_trajectories_has_no_loss():
    gates = torch.zeros(3, 1, requires_grad=True)
    losses = torch.tensor([[1.0], [2.0], [3.0]])
    found = objective(gates, losses, torch.ones(3, 1), 0.0)
    assert found.routed.tolist() == [0.0]
    torch.testing.assert_close(gradient(found.loss, gates), losses)


def test_gradients_are_those_of_finite_differences_of_soft_gates():
    _, losses = parts(6, 3)
    soft = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    counts = weights(soft > 0.5, torch.ones(6, 3), 0.5).double()
    assert torch.autograd.gradcheck(lambda gates: objective(gates, losses, counts, 0.7).loss, soft.requires_grad_())


def test_what_a_student_did_not_measure_does_not_count():
    gates, losses = parts(8, 1)
    known = torch.ones(8, 1, dtype=torch.float64)
    known[[1, 5]] = 0
    unknown = losses.where(known > 0, math.nan)
    found = objective(gates, unknown, known, 0.0)
    kept = known[:, 0] > 0
    wanted = objective(gates[kept], losses[kept], known[kept], 0.0)
    torch.testing.assert_close(found.routed, wanted.routed)
    torch.testing.assert_close(gradient(found.loss, gates), gradient(wanted.loss, gates))
    assert (gradient(found.loss, gates)[~kept] == 0).all()
    assert not torch.allclose(found.routed, objective(gates, losses, torch.ones_like(known), 0.0).routed)


def test_losses_are_numbers():
    gates, losses = parts()
    found = objective(gates, losses.requires_grad_(), torch.ones_like(losses, requires_grad=True), 0.1)
    found.loss.backward()
    assert losses.grad is None


def test_weights_are_the_inverse_of_the_probability_to_be_measured():
    routed, known = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 0, 1, 0]])
    assert weights(routed, known, 0.25).tolist() == [[1.0, 0.0, 4.0, 0.0]]
    assert weights(routed, known, 0.0).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_measuring_a_sample_leaves_the_gradient_unbiased_and_the_loss_as_it_is():
    gates, losses = parts()
    losses = 10 * losses  # so that the gradients are about 1
    full = objective(gates, losses, torch.ones_like(losses), 0.3)
    wanted, generator, draws, explore = gradient(full.loss, gates), torch.Generator().manual_seed(0), 4000, 0.25
    total, unweighted = torch.zeros_like(wanted), torch.zeros_like(wanted)
    for _ in range(draws):
        known = (gates > 0) | (torch.rand(losses.shape, generator=generator) < explore)
        found = objective(gates, losses.where(known, math.nan), weights(gates > 0, known, explore), 0.3)
        torch.testing.assert_close(found.routed, full.routed)
        total += gradient(found.loss, gates)
        unweighted += gradient(objective(gates, losses, known.double(), 0.3).loss, gates)
    torch.testing.assert_close(total / draws, wanted, atol=0.08, rtol=0)
    assert (unweighted / draws - wanted).abs().max() > 0.4  # what would be without weights


def test_against_all_that_is_known_values_stay_and_what_is_routed_does_not_matter():
    gates, losses = parts()
    counts = weights(gates > 0, torch.rand(losses.shape, generator=torch.Generator().manual_seed(1)) < 0.7, 0.5).double()
    plain, found = objective(gates, losses, counts, 0.2), objective(gates, losses, counts, 0.2, "known")
    torch.testing.assert_close([found.loss, found.routed], [plain.loss, plain.routed])
    means = (counts * losses).sum(0) / counts.sum(0)
    torch.testing.assert_close(
        gradient(found.routed.sum(), gates), counts * (losses - means) / (counts * gates).sum(0).clamp(min=1)
    )


# --- entropy


def entropy_of(gates: Tensor) -> Tensor:
    return objective(gates, torch.zeros_like(gates), torch.ones_like(gates), 1.0).entropy


def test_entropy_is_zero_at_all_or_nothing_and_ln_2_at_balance():
    on, off, half = torch.ones(8, 1), torch.zeros(8, 1), torch.tensor([1.0, 0.0] * 4).unsqueeze(1)
    assert entropy_of(torch.cat([on, off], 1)).item() == 0.0
    assert entropy_of(torch.cat([half, 1 - half], 1)).item() == pytest.approx(LN2, abs=1e-6)
    assert entropy_of(torch.cat([on, half], 1)).item() == pytest.approx(LN2 / 2, abs=1e-6)  # a mean over students


@pytest.mark.parametrize(("value", "sign"), [(0.0, 1), (1.0, -1)])
def test_entropy_pulls_back_from_all_or_nothing_with_a_finite_gradient(value: float, sign: int):
    gates = torch.full((8, 1), value, requires_grad=True)
    slope = gradient(entropy_of(gates), gates)
    torch.testing.assert_close(slope, torch.full((8, 1), sign * math.log(15) / 8))  # that of half a trajectory of 8
    one = torch.full((1, 1), value, requires_grad=True)
    assert gradient(entropy_of(one), one).item() == 0.0


def test_the_slope_of_entropy_is_the_log_odds_of_off():
    gates = torch.tensor([[1.0], [0.0], [0.0], [0.0]], requires_grad=True)
    torch.testing.assert_close(gradient(entropy_of(gates), gates), torch.full((4, 1), math.log(3) / 4))


# --- learning


def learn(kind: Kind, table: list[list[float]], entropy_weight: float, updates: int, baseline: Baseline = "routed") -> Tensor:
    """How much of each half of 64 trajectories each student is given in the end: (2, S)."""
    half = torch.arange(64) % 2
    h = drawn(64, 16)
    h[:, 0] += 3 * (2 * half - 1)
    losses = torch.tensor(table)[half] + 0.1 * drawn(64, 2, seed=1)
    gates = Gates(16, 2, seed=0)
    optimizer = torch.optim.Adam(gates.parameters(), lr=1e-2)
    for update in range(updates):
        values = sample(gates.logits(h), noise(0, ids(64), update, 2), kind)
        optimizer.zero_grad()
        objective(values, losses, torch.ones_like(losses), entropy_weight, baseline).loss.backward()
        optimizer.step()
    on = decided(gates.logits(h), kind).float()
    return torch.stack([on[half == 0].mean(0), on[half == 1].mean(0)])


SPECIALISTS = [[0.5, 1.5], [1.5, 0.5]]
STRONG_AND_WEAK = [[0.5, 1.0], [0.5, 1.0]]
TO_EACH_ITS_OWN = torch.eye(2)


@pytest.mark.parametrize(
    ("kind", "entropy_weight", "baseline"),
    [("independent", 1.0, "routed"), ("independent", 0.01, "known"), ("onehot", 0.01, "routed"), ("onehot", 0.01, "known")],
)
def test_each_student_gets_what_it_is_good_at(kind: Kind, entropy_weight: float, baseline: Baseline):
    given = learn(kind, SPECIALISTS, entropy_weight, 300, baseline)
    torch.testing.assert_close(given, TO_EACH_ITS_OWN, atol=0.1, rtol=0)


def test_with_too_little_entropy_independent_gates_find_the_right_routes_and_then_drop_them():
    early, late = learn("independent", SPECIALISTS, 0.01, 100), learn("independent", SPECIALISTS, 0.01, 1000)
    torch.testing.assert_close(early, TO_EACH_ITS_OWN, atol=0.1, rtol=0)
    assert late.sum() < early.sum() / 2  # as `objective` says: the least loss is that of nothing routed


def test_against_all_that_is_known_the_right_routes_stay():
    torch.testing.assert_close(learn("independent", SPECIALISTS, 0.01, 1000, "known"), TO_EACH_ITS_OWN, atol=0.1, rtol=0)


def test_without_entropy_one_student_takes_all_and_not_for_being_stronger():
    given = learn("onehot", STRONG_AND_WEAK, 0.0, 400)
    assert given.mean(0).max() > 0.9
    assert given.mean(0).min() < 0.1


@pytest.mark.parametrize(("entropy_weight", "baseline"), [(1.0, "routed"), (0.01, "known")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_strong_student_does_not_take_all(kind: Kind, entropy_weight: float, baseline: Baseline):
    shares = learn(kind, STRONG_AND_WEAK, entropy_weight, 400, baseline).mean(0)
    assert (shares > 0.25).all(), shares
    assert (shares < 0.75).all(), shares


# --- utility


def test_progress_is_less_the_drop_since_last_seen():
    now = torch.tensor([[1.0, 2.0, 3.0, math.nan, math.nan]])
    previous = torch.tensor([[1.5, 1.0, math.nan, 1.0, math.nan]])
    wanted = torch.tensor([[-0.5, 1.0, 0.0, math.nan, math.nan]])
    torch.testing.assert_close(utility(now, previous, "progress"), wanted, equal_nan=True)
    torch.testing.assert_close(utility(now, previous, "loss"), now, equal_nan=True)


# --- features without a model


TEXT = "What is 12 + 30?\n### Step 1. Adding \\frac{1}{2} gives 42 — so the answer is 42."
DIGEST = "efaf3246359504d7"
DIGESTED = """
import hashlib, sys
from trainers.encoder import HashedText
vector = HashedText().encode([sys.argv[1]])[0]
assert "transformers" not in sys.modules
print(hashlib.sha256((vector * 10_000).round().short().numpy().tobytes()).hexdigest()[:16])
"""


def test_hashed_features_are_the_same_in_every_process():
    vector = HashedText().encode([TEXT])[0]
    assert hashlib.sha256((vector * 10_000).round().short().numpy().tobytes()).hexdigest()[:16] == DIGEST
    command = [sys.executable, "-c", DIGESTED, TEXT]
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == DIGEST


def test_hashed_features_have_length_1_whatever_the_text_is_long():
    encoded = HashedText(64).encode([TEXT, "word", TEXT * 50])
    assert encoded.shape == (3, 64)
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded.norm(dim=1), torch.ones(3))
    assert encoded[0] @ encoded[2] > 0.7 > encoded[0] @ encoded[1]


def test_different_texts_have_different_features():
    texts = ["a then b", "b then a", "a then b then", "a then c", "a then 5", "a then 50", "a then +", ""]
    encoded = HashedText(1024).encode(texts)
    assert ((encoded.unsqueeze(0) - encoded.unsqueeze(1)).norm(dim=2) > 0.1).sum() == len(texts) * (len(texts) - 1)


def test_case_and_the_digits_of_a_number_do_not_matter():
    one, other = HashedText().encode(["The sum of 17 and 1,234", "the SUM of 92 and 5.678"])
    assert torch.equal(one, other)


def test_a_texts_features_do_not_depend_on_others():
    encode = HashedText().encode
    assert torch.equal(encode([TEXT, "x", TEXT])[2], encode([TEXT])[0])
    assert encode([]).shape == (0, 256)
    assert (encode(["", " \n"]) == 0).all()
    assert encode(["half a pair \ud83d"]).isfinite().all()
