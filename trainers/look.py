"""What is read off the logits beside the cross-entropy, in the same pass: the right answer's tokens, and the likeliest ones.

    B rows, N response tokens of all rows, n of one chunk, A tokens of the longest answer, K top-k, V vocabulary

Invariant: no gradient, and never more than a chunk of logits. Not covered: what is made of it (`compatibility.py`,
`teaching.py`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from configs.schema import Peers
from trainers.data import Batch
from trainers.peers import top


class Look:
    """Shown every chunk of logits once. `information_N` is there with `gold`, the others with `peers`."""

    def __init__(self, batch: Batch, *, gold: bool, peers: Peers | None) -> None:
        num, device = len(batch.labels_N), batch.labels_N.device
        self._batch = batch
        self._gold_BA, self._holds_BA = _gold(batch) if gold else (None, None)
        self._peers = peers
        self.information_N = torch.zeros(num, device=device)
        """Of each place, the mean log-prob of its row's right answer, all of it read off that place (COMPACT, Eq. 2)."""
        size = peers.top if peers else 0
        self.ids_NK = torch.zeros(num, size, dtype=torch.long, device=device)
        self.log_probs_NK = torch.full((num, size), -math.inf, device=device)
        """The likeliest tokens, and their log-probs at the peers' temperature."""
        self.labels_N = torch.zeros(num, device=device)
        """The log-prob of the response's own token, at that temperature."""

    def __call__(self, start: int, logits_nV: Tensor) -> None:
        """Read one chunk."""
        here = slice(start, start + len(logits_nV))
        if self._gold_BA is not None and self._holds_BA is not None:
            rows_n = self._batch.rows_N[here]
            holds_nA = self._holds_BA[rows_n]
            gold_nA = logits_nV.gather(1, self._gold_BA[rows_n]) - logits_nV.logsumexp(1, keepdim=True)
            self.information_N[here] = (gold_nA * holds_nA).sum(1) / holds_nA.sum(1).clamp(min=1)
        if self._peers is not None:
            log_probs_nV = torch.log_softmax(logits_nV / self._peers.temperature, -1)
            ids_nK, log_probs_nK = top(log_probs_nV, self._peers.top)
            self.ids_NK[here, : ids_nK.shape[1]] = ids_nK
            self.log_probs_NK[here, : ids_nK.shape[1]] = log_probs_nK
            self.labels_N[here] = log_probs_nV.gather(1, self._batch.labels_N[here].unsqueeze(1)).squeeze(1)


def _gold(batch: Batch) -> tuple[Tensor, Tensor]:
    """The right answer's tokens of each row, and which of the padded ones they are: B x A each."""
    spans = [batch.labels_N[slice(*span)] for span in batch.answers]
    gold_BA = torch.nn.utils.rnn.pad_sequence(spans, batch_first=True)
    lengths_B = torch.tensor([len(span) for span in spans], device=gold_BA.device)
    return gold_BA, torch.arange(gold_BA.shape[1], device=gold_BA.device) < lengths_B.unsqueeze(1)
