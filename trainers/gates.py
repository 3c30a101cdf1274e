"""The router's gates: which student learns from which trajectory (QR-Distill, Eq. 1, 2 and 9, with methods.md's changes).

    J trajectories, S students, D width of a trajectory's features h

Invariant: a gate's value is 0 or 1 and its gradient that of the soft gate; what a trajectory gets depends on its features and
its own noise, never on its neighbours; nothing here touches torch's global random state. Losses are numbers: no gradient leaves
through them, so a router can live away from its students. Not covered: features (`encoder.py`), updates, routes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["independent", "onehot"]
"""Independent: each student is on or off by itself. One-hot: one student per trajectory."""
Utility = Literal["loss", "progress"]
Baseline = Literal["routed", "known"]
"""What a gate is judged against: the student's mean over what it is routed, or over all that is known."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What the router minimises, and what it is made of; all carry gradient towards the gates."""

    loss: Tensor
    """A scalar: sum of `routed`, less the weighted `entropy`."""
    routed: Tensor
    """Each student's mean loss over what it was routed: S; 0 for one that got nothing."""
    entropy: Tensor
    """A scalar: H in nats, from 0 (each student all on or all off) to ln 2 (each has one half)."""


class Gates(nn.Module):
    """The MLP from features to logits: D -> D/2 -> GELU -> S x 2 (Eq. 1), drawn from `seed`.

    Features are brought to a root mean square of 1, so that an encoder's units do not decide how fast the router learns.
    With `student_state` it also sees each student's loss on the trajectory; the published router sees no student.
    """

    def __init__(self, width: int, num_students: int, seed: int, *, student_state: bool = False) -> None:
        super().__init__()
        self.num_students = num_students
        self.student_state = student_state
        features, hidden = width + (2 * num_students if student_state else 0), max(1, width // 2)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
            self._layers = nn.Sequential(
                nn.Linear(features, hidden, device="cpu", dtype=torch.float32),
                nn.GELU(),
                nn.Linear(hidden, 2 * num_students, device="cpu", dtype=torch.float32),
            )

    def logits(self, h_JD: Tensor, state: Tensor | None = None) -> Tensor:
        """(J, S, 2): index 0 of the pair is on, 1 is off. `state`: losses (J, S), NaN where unknown; none is all unknown.

        Raises `ValueError` for a state that these gates were not made to see.
        """
        if state is not None and not self.student_state:
            raise ValueError("these gates see no student state")
        features = functional.rms_norm(h_JD.detach().float(), h_JD.shape[1:])
        if self.student_state:
            features = torch.cat([features, self._state(h_JD, state)], dim=1)
        return self._layers(features).unflatten(1, (self.num_students, 2))

    def _state(self, h_JD: Tensor, losses_JS: Tensor | None) -> Tensor:
        """Each student's loss, 0 where unknown, and whether it is known: (J, 2S)."""
        if losses_JS is None:
            return h_JD.new_zeros(len(h_JD), 2 * self.num_students, dtype=torch.float32)
        losses_JS = losses_JS.detach().float()
        return torch.cat([losses_JS.nan_to_num(nan=0.0), (~losses_JS.isnan()).float()], dim=1)


def noise(seed: int, keys: Sequence[str], round: int, num_students: int) -> Tensor:
    """Gumbel noise (J, S, 2) of each trajectory's id: a hash of (seed, round, id), whoever else there is.

    A student that is added last leaves the others' noise as it is.
    """
    size = num_students * 2
    digests = b"".join(hashlib.shake_128(f"{seed}/{round}/{key}".encode()).digest(8 * size) for key in keys)
    drawn = np.frombuffer(digests, dtype="<u8").reshape(len(keys), num_students, 2)
    uniform = ((drawn >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52  # 52 bits and a half: never 0, never 1
    return torch.from_numpy((-np.log(-np.log(uniform))).astype(np.float32))


def sample(logits_JS2: Tensor, noise_JS2: Tensor, kind: Kind, temperature: float = 1.0) -> Tensor:
    """Gates (J, S): each exactly 0 or 1, with the gradient of the soft gate (Eq. 2, hard straight-through Gumbel-softmax).

    Of one-hot gates only the noise at index 0 counts: one Gumbel per student, or samples would not follow `probabilities`.
    """
    off_JS = noise_JS2[..., 1] if kind == "independent" else 0.0
    margins_JS = (_margins(logits_JS2) + noise_JS2[..., 0] - off_JS) / temperature
    soft_JS = _soft(margins_JS, kind)
    return _hard(margins_JS, kind) + (soft_JS - soft_JS.detach())  # the difference is exactly 0


def probabilities(logits_JS2: Tensor, kind: Kind) -> Tensor:
    """How likely each gate is on, without noise: (J, S)."""
    return _soft(_margins(logits_JS2), kind)


def decided(logits_JS2: Tensor, kind: Kind) -> Tensor:
    """The noiseless gates, int64: (J, S). A tie is on; of tied students in one-hot gates the first is."""
    return _hard(_margins(logits_JS2), kind).long()


def utility(losses_JS: Tensor, previous_JS: Tensor, kind: Utility) -> Tensor:
    """What a gate is judged by, lower is better: the loss now, or minus its drop since last seen. NaN is unknown.

    Without a previous loss there is no progress to tell: 0. Without a loss now: unknown.
    """
    if kind == "loss":
        return losses_JS
    return losses_JS - torch.where(previous_JS.isnan(), losses_JS, previous_JS)


def weights(routed_JS: Tensor, known_JS: Tensor, explore: float) -> Tensor:
    """How much each measurement counts in `objective` (J, S): 1 where routed, 1 / explore where not, 0 where unknown.

    `explore` is the probability with which a trajectory that was not routed to a student was measured all the same.
    """
    return torch.where(routed_JS.bool(), 1.0, 1.0 / explore if explore else 0.0) * known_JS.bool()


def objective(
    gates_JS: Tensor, losses_JS: Tensor, weights_JS: Tensor, entropy_weight: float, baseline: Baseline = "routed"
) -> Objective:
    """The router's loss (methods.md, part 2, after Eq. 9) of at least one trajectory. With g gates, c losses, w weights:

        L_s  = sum_j w_js g_js c_js / max(1, Z_s),   Z_s = sum_j w_js g_js
        H    = mean_s Hb(mean_j g_js)
        loss = sum_s L_s - entropy_weight * H

    so that dL_s/dg_js = w_js (c_js - L_s) / Z_s where Z_s >= 1, and w_js c_js where a student got nothing. A measured loss
    that was not routed has g = 0: its weight, 1 over the probability of measuring it, changes no L_s and no Z_s, only its own
    gate's gradient, whose mean over what might have been measured is the one with everything measured (Horvitz-Thompson).
    That is exact for gates that equal the routes; for gates drawn anew, L_s is a ratio of two unbiased sums. c is ignored,
    and may be NaN, where w is 0; H counts every gate, since a gate is known whether its loss is or not.

    L_s is least, 0, where nothing is routed, and falls with every trajectory above the mean that is dropped. In a toy of two
    students that differ by 1 nat with a spread of .1, independent gates learn in 100 updates who is good at what; after
    1,000 they have dropped most or all of it with an entropy weight of .01, and a fifth with 1. `baseline="known"` [ours]
    leaves the values and takes dL_s/dg_js = w_js (c_js - b_s) / max(1, Z_s), b_s the weighted mean of all that is known: what
    is routed does not move what it is judged against, and with .01 the same toy stays where it should.
    """
    known_JS = weights_JS > 0
    losses_JS = torch.where(known_JS, losses_JS.detach(), 0.0)
    assert not losses_JS.isnan().any(), "a loss that is not known has no weight"
    counted_JS = weights_JS.detach() * gates_JS
    sizes_S = counted_JS.sum(0).clamp(min=1.0)  # at 1 clamp passes the whole gradient, maximum half of it
    routed_S = (counted_JS * losses_JS).sum(0) / sizes_S
    if baseline == "known":
        means_S = (weights_JS * losses_JS).sum(0) / weights_JS.sum(0).clamp(min=1.0)
        excess_S = (counted_JS * (losses_JS - means_S)).sum(0) / sizes_S.detach()
        routed_S = routed_S.detach() + (excess_S - excess_S.detach())
    entropy = _binary_entropy(gates_JS.mean(0), 0.5 / len(gates_JS)).mean()
    return Objective(loss=routed_S.sum() - entropy_weight * entropy, routed=routed_S, entropy=entropy)


def _margins(logits_JS2: Tensor) -> Tensor:
    return logits_JS2[..., 0] - logits_JS2[..., 1]


def _soft(margins_JS: Tensor, kind: Kind) -> Tensor:
    """A softmax over (on, off) is the sigmoid of their difference."""
    return margins_JS.sigmoid() if kind == "independent" else margins_JS.softmax(1)


def _hard(margins_JS: Tensor, kind: Kind) -> Tensor:
    margins_JS = margins_JS.detach()
    if kind == "independent":
        return (margins_JS >= 0).to(margins_JS.dtype)
    return torch.zeros_like(margins_JS).scatter_(1, margins_JS.argmax(1, keepdim=True), 1.0)


def _binary_entropy(on_S: Tensor, least: float) -> Tensor:
    """Hb, in nats. Its slope, ln((1 - p) / p), is infinite at 0 and 1: nearer than `least` it is that at `least`.

    With `least` half a trajectory a student that got nothing is still pulled back, and a clamp of p would let it go.
    """
    value_S = torch.special.entr(on_S.detach()) + torch.special.entr(1 - on_S.detach())
    slope_S = torch.logit(on_S.detach().clamp(least, 1 - least)).neg()
    return value_S + slope_S * (on_S - on_S.detach())
