"""What students learn from each other (QR-Distill, Eq. 5-8): hidden states of words, or distributions of tokens.

    S students, O others (S - 1), W words of a response, D width of the model, E projected width, V vocabulary
    N tokens of a response, K tokens of a top-k, U of a union, G groups: characters that two tokenizers share

Invariant: a peer is data. Targets, peers' tensors and ensembles get no gradient; the student's own do.
Logits are compared over a support of tokens and one bucket for all the rest, so that full vocabularies never travel.
[ours] What the paper leaves open: words instead of indices, LayerNorm without affine parameters against collapse, a
small loss for the competence weights, and all of the exchange of logits.
Not covered: which students share a response, the exchange itself, where words and tokens are (`alignment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.alignment import shared_spans

Merge = Literal["first", "span"]


class Projection(nn.Module):
    """z = LayerNorm(P h), and the competence w . mean z (Eq. 5-6). Float32, also where autocast is on.

    P is drawn from `seed`; w begins at zero, so that all students count the same until one is known to be better.
    """

    def __init__(self, width: int, projected: int = 512, *, seed: int = 0) -> None:
        super().__init__()
        drawn_ED = torch.randn(projected, width, generator=torch.Generator().manual_seed(seed))
        self.matrix_ED = nn.Parameter(drawn_ED / width**0.5)
        self.weights_E = nn.Parameter(torch.zeros(projected))

    def forward(self, words_WD: Tensor) -> Tensor:
        """Project the words' states: (W, E)."""
        with torch.autocast(words_WD.device.type, enabled=False):
            z_WE = functional.linear(words_WD.to(self.matrix_ED.dtype), self.matrix_ED)
            return functional.layer_norm(z_WE, z_WE.shape[-1:])

    def competence(self, z_WE: Tensor) -> Tensor:
        """The student's logit among students: a scalar."""
        with torch.autocast(z_WE.device.type, enabled=False):
            return z_WE.mean(0) @ self.weights_E


def agreement(own_WE: Tensor, others_OWE: Tensor, logits_S: Tensor) -> Tensor:
    """How far the own words are from the ensemble's: the mean over words and width of (z - z_ens)^2 (Eq. 7-8).

    [ours] the mean over the width too: two strangers are .5 apart then, at any width; summed, 256 at the paper's 512.

    `logits_S` are competences, the own one first. Only `own_WE` gets a gradient, and none through the ensemble.
    """
    students_SWE = torch.cat([own_WE.unsqueeze(0), others_OWE]).detach()
    ensemble_WE = torch.einsum("s,swe->we", logits_S.detach().softmax(0), students_SWE)
    return (own_WE - ensemble_WE).square().mean()


def competence_loss(logits_S: Tensor, cross_entropies_S: Tensor) -> Tensor:
    """-log of the weight of the student with the lowest cross-entropy; equals share [ours]. Gradient to the logits only."""
    best_S = (cross_entropies_S == cross_entropies_S.min()).to(logits_S.dtype)
    return -(best_S / best_S.sum() * logits_S.log_softmax(0)).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What one student says of one response, every log-probability at the same temperature."""

    ids_NK: Tensor
    log_probs_NK: Tensor
    tokens_N: Tensor
    """The response's tokens."""
    labels_N: Tensor
    """Their log-probabilities."""
    begins: Sequence[int]
    """As `alignment.begins_of` has them, counted from the response's first character."""
    end: int
    tokenizer: str
    """A fingerprint: equal for equal tokenizers."""


def top(log_probs_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The most probable tokens of each position, most probable first: ids_NK (int64) and log_probs_NK."""
    log_probs_NK, ids_NK = log_probs_NV.topk(min(k, log_probs_NV.shape[-1]), dim=-1)
    return ids_NK, log_probs_NK


def mean_at_temperature(losses_N: Tensor, temperature: float) -> Tensor:
    """The mean, times T^2: this is the one place where that is. Gradients shrink with 1/T^2; this undoes it."""
    return losses_N.mean() * temperature**2


def mix(distributions: Sequence[Distribution], weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ensemble of students of one tokenizer: ids_NU, log_probs_NU and mask_NU of what is no padding, without gradient.

    What is in no student's top-k has probability 0 with that student: its mass stays in the tail. `weights` sum to 1.
    Raises `ValueError` for students of different tokenizers, or of different tokens.
    """
    first = distributions[0]
    for other in distributions:
        if other.tokenizer != first.tokenizer or not torch.equal(other.tokens_N, first.tokens_N):
            raise ValueError(f"not the same tokens: {first.tokenizer} and {other.tokenizer}; compare these with `hybrid`")
    probs = [weight * each.log_probs_NK.exp() for weight, each in zip(weights, distributions, strict=True)]
    ids_NA, order_NA = torch.cat([each.ids_NK for each in distributions], dim=1).sort(dim=1)
    probs_NA = torch.cat(probs, dim=1).detach().gather(1, order_NA)
    new_NA = torch.ones_like(ids_NA, dtype=torch.bool)
    new_NA[:, 1:] = ids_NA[:, 1:] != ids_NA[:, :-1]
    places_NA = new_NA.cumsum(1) - 1
    sizes_N = new_NA.sum(1)
    shape = (len(ids_NA), int(sizes_N.max()))
    ids_NU = ids_NA.new_zeros(shape).scatter(1, places_NA, ids_NA)
    probs_NU = probs_NA.new_zeros(shape).scatter_add(1, places_NA, probs_NA)
    mask_NU = torch.arange(shape[1], device=ids_NA.device) < sizes_N.unsqueeze(1)
    return ids_NU, probs_NU.log(), mask_NU


def tail_kl(teacher_NU: Tensor, student_NU: Tensor, mask_NU: Tensor) -> Tensor:
    """KL(teacher || student) over the support and one bucket for the rest, from log-probabilities: (N).

    Not negative but for rounding, 0 where both are equal, never more than the KL of the whole vocabulary. Only the
    student gets a gradient. A tail counts as at least 16 roundings of 1, so that a support of nearly everything is safe.
    """
    teacher_NU = teacher_NU.detach()
    probs_NU = torch.where(mask_NU, teacher_NU.exp(), 0.0)
    some_NU = probs_NU > 0
    terms_NU = probs_NU * (torch.where(some_NU, teacher_NU, 0.0) - torch.where(some_NU, student_NU, 0.0))
    tail_N = (1 - probs_NU.sum(-1)).clamp_min(0)
    student_tail_N = 1 - torch.where(mask_NU, student_NU, -torch.inf).exp().sum(-1)
    smallest = 16 * torch.finfo(student_NU.dtype).eps
    return terms_NU.sum(-1) + tail_N * (tail_N.clamp_min(smallest).log() - student_tail_N.clamp_min(smallest).log())


def needed(begins: Sequence[int], peer: Distribution, common_V: Tensor) -> Tensor:
    """The own ids whose log-probabilities `hybrid` must be told, for every own token: (N, K of the peer).

    At the first token of a group these are the peer's top-k there, in own ids; where there is nothing to tell, 0.
    """
    own_groups, peer_groups = shared_spans(begins, peer.begins, peer.end)
    ids_NK = torch.zeros(len(begins), peer.ids_NK.shape[1], dtype=torch.long, device=peer.ids_NK.device)
    ids_NK[_firsts(own_groups)] = common_V[peer.ids_NK[_firsts(peer_groups)]].clamp_min(0)
    return ids_NK


def hybrid(own: Distribution, at_NK: Tensor, peer: Distribution, common_V: Tensor, *, merge: Merge = "first") -> Tensor:
    """How far a student is from a peer with another tokenizer, for every group of characters that both share: (G).

    Per group, the peer's tokens whose string the student has too are compared by `tail_kl`, all others being the rest;
    tokens that only one vocabulary has, by the L1 distance of their sorted probabilities (ULD, arXiv 2402.12030; GOLD in
    TRL is a public example of such a hybrid). Both are taken at the group's first token, of each side. With equal
    tokenizers it is `tail_kl` over the peer's support.

    A group of several tokens, on either side, is one of two things. `merge="first"`: the distribution of its first
    token, times the probability of the later ones as they are. `merge="span"` [ours]: its text as a whole is one outcome
    that both know, with the product of its tokens' probabilities, and stands for the first token as it is; the outcomes
    that begin otherwise keep their probability. These are disjoint on both sides, so that `the` and `t`, `he` can agree;
    under "first" the `t` of the student is held against the `t` of a peer who would never split the word.

    own: its own top-k, tokens and labels, with gradient, on the device of all other tensors
    at_NK: own log-probabilities of the ids that `needed` names
    common_V: the own id of each of the peer's, of all that its model has, or -1 (`alignment.common_ids`)
    """
    if own.end != peer.end:
        raise ValueError(f"not the same text: {own.end} characters and {peer.end}")
    own_groups, peer_groups = shared_spans(own.begins, peer.begins, peer.end)
    own_side = _at_groups(own, at_NK, own_groups)
    peer_side = _at_groups(peer, peer.log_probs_NK, peer_groups)
    same_GK = common_V[peer_side.ids_GK] >= 0
    peer_only_GK, own_only_GK = ~same_GK, ~_is_in(own_side.ids_GK, common_V)
    peer_GK, student_GK = peer_side.at_GK, own_side.at_GK
    peer_top_GK, own_top_GK = peer_side.top_GK, own_side.top_GK
    if merge == "first":
        peer_later_G1, own_later_G1 = peer_side.later_G.unsqueeze(1), own_side.later_G.unsqueeze(1)
        peer_GK, peer_top_GK = peer_GK + peer_later_G1, peer_top_GK + peer_later_G1
        student_GK, own_top_GK = student_GK + own_later_G1, own_top_GK + own_later_G1
    else:
        several_G1 = ((peer_side.sizes_G > 1) | (own_side.sizes_G > 1)).unsqueeze(1)
        peer_actual_GK = several_G1 & (peer_side.ids_GK == peer_side.tokens_G.unsqueeze(1))
        own_actual_GK = several_G1 & (common_V[peer_side.ids_GK] == own_side.tokens_G.unsqueeze(1))
        same_GK = torch.cat([same_GK & ~peer_actual_GK & ~own_actual_GK, several_G1], dim=1)
        peer_GK = torch.cat([peer_GK, (peer_side.label_G + peer_side.later_G).unsqueeze(1)], dim=1)
        student_GK = torch.cat([student_GK, (own_side.label_G + own_side.later_G).unsqueeze(1)], dim=1)
        peer_only_GK = peer_only_GK & ~peer_actual_GK
        own_only_GK = own_only_GK & ~(several_G1 & (own_side.ids_GK == own_side.tokens_G.unsqueeze(1)))
    same_G = tail_kl(peer_GK, student_GK, same_GK)
    return same_G + _sorted_distance(_probs(peer_top_GK, peer_only_GK).detach(), _probs(own_top_GK, own_only_GK))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One student's numbers, for every group."""

    ids_GK: Tensor
    top_GK: Tensor
    at_GK: Tensor
    tokens_G: Tensor
    label_G: Tensor
    later_G: Tensor
    sizes_G: Tensor


def _at_groups(said: Distribution, at_NK: Tensor, groups: Sequence[int]) -> _Side:
    firsts = _firsts(groups)
    groups_N = torch.tensor(groups, device=said.labels_N.device)
    later_N = said.labels_N.index_fill(0, torch.tensor(firsts, device=said.labels_N.device), 0.0)
    return _Side(
        ids_GK=said.ids_NK[firsts],
        top_GK=said.log_probs_NK[firsts],
        at_GK=at_NK[firsts],
        tokens_G=said.tokens_N[firsts],
        label_G=said.labels_N[firsts],
        later_G=later_N.new_zeros(len(firsts)).index_add(0, groups_N, later_N),
        sizes_G=torch.bincount(groups_N),
    )


def _firsts(groups: Sequence[int]) -> list[int]:
    return [index for index, group in enumerate(groups) if index == 0 or group != groups[index - 1]]


def _is_in(ids_GK: Tensor, common_V: Tensor) -> Tensor:
    """Which of the own ids are ids of the peer too."""
    known = torch.zeros(int(max(ids_GK.max(), common_V.max())) + 1, dtype=torch.bool, device=ids_GK.device)
    known[common_V[common_V >= 0]] = True
    return known[ids_GK]


def _probs(log_probs_GK: Tensor, which_GK: Tensor) -> Tensor:
    return torch.where(which_GK, log_probs_GK, -torch.inf).exp()


def _sorted_distance(peer_GA: Tensor, own_GB: Tensor) -> Tensor:
    """The L1 distance of probabilities by rank, R ranks, the shorter filled up with zeros: (G)."""
    size = max(peer_GA.shape[1], own_GB.shape[1])
    peer_GR = functional.pad(peer_GA.sort(dim=1, descending=True).values, (0, size - peer_GA.shape[1]))
    own_GR = functional.pad(own_GB.sort(dim=1, descending=True).values, (0, size - own_GB.shape[1]))
    return (own_GR - peer_GR).abs().sum(1)
