"""What a student says of a trajectory to its peers, and what it learns from what they say (QR-Distill, Eq. 5-8).

    W words of a response, E projected width, N tokens of a response, D width of the model, K top-k

Invariant: what a peer says is about the same characters, or it is passed over; it gets no gradient. Not covered: how
messages travel (`exchange.py`), the losses themselves (`peers.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from configs.schema import Peers
from trainers import peers
from trainers.alignment import Pooling, common_ids, pool, pooling, words
from trainers.data import Example
from trainers.exchange import Message, half
from trainers.losses import Head, gathered

Vocabulary = Callable[[str], list[str | None] | None]
"""A peer's vocabulary by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What a student knows of one response: `states_ND` predict each of its tokens but the end of the turn, and the state after
    the last one; only they carry gradient."""

    example: Example
    states_ND: Tensor
    labels_N: Tensor
    cross_entropy: float
    top: tuple[Tensor, Tensor]
    """The likeliest tokens and their log-probs: (N, K) each; of K = 0 where logits are not exchanged."""
    label_log_probs_N: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the peers' messages come to, for one trajectory."""

    loss: Tensor
    """The peer loss; its gradient goes to the student and its projection."""
    competence: Tensor | None
    """The small loss of the competence; its gradient goes to the competence only."""


class Teaching(Protocol):
    """One kind of exchange."""

    @property
    def projection(self) -> nn.Module | None:
        """What learns beside the student."""
        ...

    def speak(self, spoken: Sequence[Spoken], student: str, update: int) -> list[Message]:
        """A message for each trajectory."""
        ...

    def hear(self, spoken: Spoken, messages: Sequence[Message]) -> Heard | None:
        """What the messages of peers about this trajectory teach; None if none of them is about the same text."""
        ...


def make_teaching(
    config: Peers, width: int, head: Head, vocabulary: list[str | None], fingerprint: str, of: Vocabulary, seed: int
) -> Teaching:
    """The exchange that is configured."""
    if config.kind == "hidden":
        return HiddenStates(peers.Projection(width, config.width, seed=seed))
    return Logits(config, head, vocabulary, fingerprint, of)


class HiddenStates:
    """Projected states of words."""

    def __init__(self, projection: peers.Projection) -> None:
        self.projection: peers.Projection = projection
        self._own: dict[str, tuple[Tensor, Tensor]] = {}

    def speak(self, spoken: Sequence[Spoken], student: str, update: int) -> list[Message]:
        """The words' projected states, and how competent the student takes itself to be."""
        messages = []
        for each in spoken:
            places, num_words = _words(each.example)
            projected_WE = self.projection(pool(each.states_ND[1:], places, num_words))
            competence = self.projection.competence(projected_WE.detach())
            self._own[each.example.trajectory] = projected_WE, competence
            facts = {
                "text": fingerprint_of(each.example),
                "competence": competence.item(),
                "cross_entropy": each.cross_entropy,
            }
            tensors = {"words_WE": half(projected_WE)}
            messages.append(_message(each, student, update, facts, tensors))
        return messages

    def hear(self, spoken: Spoken, messages: Sequence[Message]) -> Heard | None:
        """The distance from the ensemble."""
        own_WE, competence = self._own.pop(spoken.example.trajectory)
        messages = _about(spoken, messages)
        if not messages:
            return None
        others_OWE = torch.stack([message.tensors["words_WE"].to(own_WE) for message in messages])  # autocast stacks no halves
        told = own_WE.new_tensor([message.facts["competence"] for message in messages])
        known = own_WE.new_tensor([spoken.cross_entropy, *(message.facts["cross_entropy"] for message in messages)])
        logits_S = torch.cat([competence.unsqueeze(0), told])
        return Heard(loss=peers.agreement(own_WE, others_OWE, logits_S), competence=peers.competence_loss(logits_S, known))


class Logits:
    """The likeliest next tokens."""

    projection = None

    def __init__(self, config: Peers, head: Head, vocabulary: list[str | None], fingerprint: str, of: Vocabulary) -> None:
        self._config = config
        self._head = head
        self._vocabulary = vocabulary
        self._fingerprint = fingerprint
        self._of = of
        self._common: dict[str, Tensor] = {}

    def speak(self, spoken: Sequence[Spoken], student: str, update: int) -> list[Message]:
        """The top-k of every token of the response."""
        messages = []
        for each in spoken:
            num = _num_tokens(each.example)
            facts = {"text": fingerprint_of(each.example), "tokenizer": self._fingerprint, "end": len(each.example.response)}
            tensors = {
                "ids_NK": each.top[0][:num].to("cpu", torch.int32),
                "log_probs_NK": half(each.top[1][:num]),
                "tokens_N": each.labels_N[:num].to("cpu", torch.int32),
                "labels_N": half(each.label_log_probs_N[:num]),
                "begins_N": torch.tensor(each.example.begins[:num], dtype=torch.int32),
            }
            messages.append(_message(each, student, update, facts, tensors))
        return messages

    def hear(self, spoken: Spoken, messages: Sequence[Message]) -> Heard | None:
        """KL to the ensemble of peers of the same tokenizer, and the hybrid distance to each of the others."""
        messages = _about(spoken, messages)
        same = [message for message in messages if message.facts["tokenizer"] == self._fingerprint]
        losses = [self._to_others(spoken, message) for message in messages if message not in same]
        if same:
            losses += [self._to_ensemble(spoken, [self._distribution(message) for message in same])] * len(same)
        known = [loss for loss in losses if loss is not None]
        return Heard(loss=torch.stack(known).mean(), competence=None) if known else None

    def _to_ensemble(self, spoken: Spoken, said: Sequence[peers.Distribution]) -> Tensor:
        device, num = spoken.states_ND.device, len(said[0].begins)
        weights = torch.full((len(said),), 1 / len(said))
        ids_NU, teacher_NU, mask_NU = (part.to(device) for part in peers.mix(said, weights))
        student_NU = gathered(self._head, spoken.states_ND[:num], ids_NU, self._config.temperature)
        return peers.mean_at_temperature(peers.tail_kl(teacher_NU, student_NU, mask_NU), self._config.temperature)

    def _to_others(self, spoken: Spoken, message: Message) -> Tensor | None:
        common_V = self._common_with(message)
        if common_V is None:
            return None
        device, num = spoken.states_ND.device, _num_tokens(spoken.example)
        said = self._distribution(message, device)
        begins = spoken.example.begins[:num]
        own_top_NK, tokens_N = spoken.top[0][:num], spoken.labels_N[:num]
        asked = [peers.needed(begins, said, common_V.to(device)), own_top_NK, tokens_N.unsqueeze(1)]
        known = gathered(self._head, spoken.states_ND[:num], torch.cat(asked, dim=1), self._config.temperature)
        at_NK, top_NK, label_N1 = known.split([part.shape[1] for part in asked], dim=1)
        own = peers.Distribution(
            ids_NK=own_top_NK,
            log_probs_NK=top_NK,
            tokens_N=tokens_N,
            labels_N=label_N1.squeeze(1),
            begins=begins,
            end=len(spoken.example.response),
            tokenizer=self._fingerprint,
        )
        losses_G = peers.hybrid(own, at_NK, said, common_V.to(device), merge=self._config.merge)
        return peers.mean_at_temperature(losses_G, self._config.temperature)

    def _common_with(self, message: Message) -> Tensor | None:
        tokenizer = message.facts["tokenizer"]
        if tokenizer not in self._common:
            theirs = self._of(message.student)
            if theirs is None:
                return None
            self._common[tokenizer] = common_ids(self._vocabulary, theirs)
        return self._common[tokenizer]

    def _distribution(self, message: Message, device: torch.device | None = None) -> peers.Distribution:
        ids, log_probs, tokens, labels = (
            message.tensors[name].to(device or "cpu") for name in ("ids_NK", "log_probs_NK", "tokens_N", "labels_N")
        )
        return peers.Distribution(
            ids_NK=ids.long(),
            log_probs_NK=log_probs.float(),
            tokens_N=tokens.long(),
            labels_N=labels.float(),
            begins=message.tensors["begins_N"].tolist(),
            end=message.facts["end"],
            tokenizer=message.facts["tokenizer"],
        )


def fingerprint_of(example: Example) -> str:
    """Equal for equal responses: two students may write special tokens differently."""
    return hashlib.sha256(example.response.encode()).hexdigest()[:16]


def _num_tokens(example: Example) -> int:
    """Of the response, without the end of the turn."""
    return sum(begin < len(example.response) for begin in example.begins)


def _words(example: Example) -> tuple[Pooling, int]:
    spans = words(example.response)
    num = _num_tokens(example)
    return pooling(example.begins[:num], len(example.response), spans), len(spans)


def _message(spoken: Spoken, student: str, update: int, facts: dict[str, object], tensors: dict[str, Tensor]) -> Message:
    return Message(student=student, trajectory=spoken.example.trajectory, update=update, facts=facts, tensors=tensors)


def _about(spoken: Spoken, messages: Sequence[Message]) -> list[Message]:
    """Those that are about the same text."""
    return [message for message in messages if message.facts["text"] == fingerprint_of(spoken.example)]
