"""The loss, against plain cross-entropy."""

import pytest
import torch
from torch import Tensor, nn

from trainers.losses import CHUNK, mean_by_row, token_cross_entropy


def plain(head: nn.Module, states_ND: Tensor, labels_N: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(states_ND).float(), labels_N, reduction="none")


def drawn(num: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(12, 30, bias=False, dtype=dtype).requires_grad_(False)
    return head, torch.randn(num, 12, dtype=dtype, requires_grad=True), torch.randint(30, (num,))


@pytest.mark.parametrize("num", [1, CHUNK, 2 * CHUNK + 3])
def test_values_and_gradients_are_those_of_plain_cross_entropy(num: int):
    head, states, labels = drawn(num)
    weights = torch.rand(num)
    ours, theirs = token_cross_entropy(head, states, labels), plain(head, states, labels)
    torch.testing.assert_close(ours, theirs)
    (mine,) = torch.autograd.grad((ours * weights).sum(), states)
    (plain_gradient,) = torch.autograd.grad((theirs * weights).sum(), states)
    torch.testing.assert_close(mine, plain_gradient)


def test_the_loss_of_bfloat16_states_is_float32():
    head, states, labels = drawn(5, torch.bfloat16)
    losses = token_cross_entropy(head, states, labels)
    assert losses.dtype == torch.float32
    (gradient,) = torch.autograd.grad(losses.sum(), states)
    assert gradient.dtype == torch.bfloat16


def test_nothing_is_kept_where_no_gradient_is_wanted():
    head, states, labels = drawn(5)
    assert not token_cross_entropy(head, states.detach(), labels).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(token_cross_entropy(head, states, labels), plain(head, states, labels))


def test_the_mean_of_each_row_does_not_depend_on_its_length():
    values = torch.tensor([1.0, 3.0, 10.0, 20.0, 30.0])
    torch.testing.assert_close(mean_by_row(values, torch.tensor([0, 0, 1, 1, 1]), 2), torch.tensor([2.0, 20.0]))
    torch.testing.assert_close(mean_by_row(values, torch.tensor([1, 1, 0, 0, 0]), 2), torch.tensor([20.0, 2.0]))
