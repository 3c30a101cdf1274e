"""What a student makes of a peer's message, in every type that it computes in."""

import pytest
import torch

from trainers.data import Example
from trainers.peers import Projection
from trainers.teaching import HiddenStates, Spoken

TEXT = "one two three"
EXAMPLE = Example(trajectory="t", question="q", tokens=(5, 6, 7, 8, 9), first=1, response=TEXT, begins=(0, 3, 7, 13))


def spoken(seed: int) -> Spoken:
    states = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    return Spoken(
        example=EXAMPLE,
        states_ND=states,
        labels_N=torch.tensor([6, 7, 8, 9]),
        cross_entropy=1.0 + seed,
        top=(torch.zeros(4, 0, dtype=torch.long), torch.zeros(4, 0)),
        label_log_probs_N=torch.zeros(4),
    )


@pytest.mark.parametrize("bfloat16", [False, True])
def test_hidden_states_of_peers_are_heard_under_autocast_too(bfloat16: bool):
    own, peer = HiddenStates(Projection(8, 16, seed=1)), HiddenStates(Projection(8, 16, seed=2))
    mine = spoken(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        own.speak([mine], "own", 0)
        messages = [*peer.speak([spoken(1)], "peer", 0), *peer.speak([spoken(2)], "third", 0)]
        heard = own.hear(mine, messages)
    assert heard is not None
    heard.loss.backward()
    assert mine.states_ND.grad is not None
    assert mine.states_ND.grad.abs().sum() > 0
