"""Losses, as pure functions of tensors.

    B trajectories (rows), T tokens, N response tokens of all rows together, D width, V vocabulary

Invariant: only response tokens count, so padding changes nothing; log-probabilities are float32.
Not covered: weights between trajectories (COMPACT) and peers (QR-Distill).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Head = Callable[[Tensor], Tensor]
"""From states (N, D) to logits (N, V); its parameters are frozen."""

CHUNK = 128
"""States that meet the vocabulary at a time: 128 x 49,152 logits and what is made of them are 75 MB."""


def token_cross_entropy(head: Head, states_ND: Tensor, labels_N: Tensor) -> Tensor:
    """-log p of each label under `head(state)`, in nats: N, float32. Never holds more than `CHUNK` rows of logits."""
    losses_N: Tensor = _ThroughHead.apply(head, states_ND, labels_N)  # pyright: ignore[reportAssignmentType] - untyped in torch
    return losses_N


def mean_by_row(values_N: Tensor, rows_N: Tensor, num_rows: int) -> Tensor:
    """The mean of each row's values: B. Every row has at least one."""
    sums_B = values_N.new_zeros(num_rows).index_add(0, rows_N, values_N)
    return sums_B / torch.bincount(rows_N, minlength=num_rows)


class _ThroughHead(torch.autograd.Function):
    """Cross-entropy that takes the gradient towards its states at once, chunk by chunk, and then forgets the logits.

    A token's loss depends on its own state only, so the gradient of the sum holds every token's own.
    """

    @staticmethod
    def forward(ctx: Any, head: Head, states_ND: Tensor, labels_N: Tensor) -> Tensor:
        losses, gradients = [], []
        for states, labels in zip(states_ND.split(CHUNK), labels_N.split(CHUNK), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[1]):
                leaf = states.detach().requires_grad_(ctx.needs_input_grad[1])
                loss = torch.nn.functional.cross_entropy(head(leaf).float(), labels, reduction="none")
                if ctx.needs_input_grad[1]:
                    gradients += torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
        ctx.save_for_backward(*gradients)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[None, Tensor, None]:
        states_gradient_ND = torch.cat(ctx.saved_tensors)
        return None, (states_gradient_ND * outer[0].unsqueeze(1)).to(states_gradient_ND.dtype), None
