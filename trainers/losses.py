"""Losses, as pure functions of tensors.

    B trajectories (rows), T tokens, N response tokens of all rows together, D width, V vocabulary, K some ids

Invariant: only response tokens count, so padding changes nothing; log-probabilities are float32, and never more than
`CHUNK` rows of logits are held. Not covered: weights between trajectories (`compatibility.py`) and peers (`peers.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""From states (N, D) to logits (N, V)."""
Look = Callable[[int, Tensor], None]
"""Is shown the first row's number and the logits (n, V) of each chunk, once, without gradient."""

CHUNK = 128
"""States that meet the vocabulary at a time: 128 x 49,152 logits and what is made of them are 75 MB."""


def token_cross_entropy(
    head: Head, states_ND: Tensor, labels_N: Tensor, *, look: Look | None = None, head_learns: bool = False
) -> Tensor:
    """-log p of each label under `head(state)`, in nats: N, float32."""
    if head_learns:
        return _recomputed(head, states_ND, labels_N, look)
    losses_N: Tensor = _ThroughHead.apply(head, states_ND, labels_N, look)  # pyright: ignore[reportAssignmentType] - untyped
    return losses_N


def gathered(head: Head, states_ND: Tensor, ids_NK: Tensor, temperature: float = 1.0) -> Tensor:
    """The log-probs of `ids_NK` under `head(state)`, with gradient: N x K, float32. Logits are computed again on the way back."""

    def look_up(states_nD: Tensor, ids_nK: Tensor) -> Tensor:
        return torch.log_softmax(head(states_nD).float() / temperature, -1).gather(1, ids_nK)

    pieces = zip(states_ND.split(CHUNK), ids_NK.split(CHUNK), strict=True)
    return torch.cat([checkpoint(look_up, states, ids, use_reentrant=False) for states, ids in pieces])  # type: ignore[misc]


def mean_by_row(values_N: Tensor, rows_N: Tensor, num_rows: int) -> Tensor:
    """The mean of each row's values: B. Every row has at least one."""
    sums_B = values_N.new_zeros(num_rows).index_add(0, rows_N, values_N)
    return sums_B / torch.bincount(rows_N, minlength=num_rows)


def _recomputed(head: Head, states_ND: Tensor, labels_N: Tensor, look: Look | None) -> Tensor:
    """For a head that learns: its gradient needs each token's weight, which is known only on the way back."""
    losses = []
    for start in range(0, len(labels_N), CHUNK):
        shown = [look]

        def loss(states_nD: Tensor, labels_n: Tensor, start: int = start, shown: list[Look | None] = shown) -> Tensor:
            logits_nV = head(states_nD).float()
            if shown and (see := shown.pop()):
                with torch.no_grad():
                    see(start, logits_nV)
            return torch.nn.functional.cross_entropy(logits_nV, labels_n, reduction="none")

        end = start + CHUNK
        losses.append(checkpoint(loss, states_ND[start:end], labels_N[start:end], use_reentrant=False))
    return torch.cat(losses)


class _ThroughHead(torch.autograd.Function):
    """Cross-entropy that takes the gradient towards its states at once, chunk by chunk, and then forgets the logits.

    A token's loss depends on its own state only, so the gradient of the sum holds every token's own.
    """

    @staticmethod
    def forward(ctx: Any, head: Head, states_ND: Tensor, labels_N: Tensor, look: Look | None) -> Tensor:
        losses, gradients, start = [], [], 0
        for states, labels in zip(states_ND.split(CHUNK), labels_N.split(CHUNK), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[1]):
                leaf = states.detach().requires_grad_(ctx.needs_input_grad[1])
                logits_nV = head(leaf).float()
                loss = torch.nn.functional.cross_entropy(logits_nV, labels, reduction="none")
                if ctx.needs_input_grad[1]:
                    gradients += torch.autograd.grad(loss.sum(), leaf)
            if look is not None:
                look(start, logits_nV.detach())
            losses.append(loss.detach())
            start += len(labels)
        ctx.save_for_backward(*gradients)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[None, Tensor, None, None]:
        states_gradient_ND = torch.cat(ctx.saved_tensors)
        return None, (states_gradient_ND * outer[0].unsqueeze(1)).to(states_gradient_ND.dtype), None, None
