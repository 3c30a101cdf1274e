"""The sampler against the definition: softmax at a temperature, cut to the nucleus."""

import torch

from agents.engines.sampling import HEAD, draw, sample

DRAWS = [(i + 0.5) / 4000 for i in range(4000)]


def frequencies(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """How often each token is chosen when the draws cover [0, 1) evenly: the sampler's distribution, to 1/4000."""
    num = len(DRAWS)
    tokens = sample(logits.expand(num, -1), [temperature] * num, [top_p] * num, DRAWS)
    return torch.bincount(tokens, minlength=logits.numel()) / num


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The definition, one token after another."""
    probabilities = (logits.double() / temperature).softmax(-1)
    kept, total = torch.zeros_like(probabilities), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept[token] = probabilities[token]
        total += float(probabilities[token])
    return (kept / kept.sum()).float()


def logits(vocabulary: int, spread: float) -> torch.Tensor:
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * spread


def test_peaked_distribution_within_the_head():
    for temperature in (0.5, 1.0, 1.7):
        for top_p in (0.3, 0.95, 1.0):
            given = logits(500, 4.0)
            assert torch.allclose(frequencies(given, temperature, top_p), nucleus(given, temperature, top_p), atol=6e-4)


def test_flat_distribution_needs_more_than_the_head():
    for top_p in (0.5, 0.9, 1.0):
        given = logits(4 * HEAD, 0.3)
        assert torch.allclose(frequencies(given, 1.0, top_p), nucleus(given, 1.0, top_p), atol=6e-4)


def test_vocabulary_smaller_than_the_head():
    given = logits(HEAD // 4, 1.0)
    assert torch.allclose(frequencies(given, 0.8, 0.9), nucleus(given, 0.8, 0.9), atol=6e-4)


def test_head_and_full_sort_choose_alike():
    """A row that needs the full sort does not change what its neighbours get, nor the other way round."""
    peaked, flat = logits(4 * HEAD, 5.0), logits(4 * HEAD, 0.2)
    for drawn in (0.01, 0.4, 0.97):
        both = sample(torch.stack((peaked, flat)), [1.0, 0.7], [0.9, 1.0], [drawn, drawn]).tolist()
        alone = [sample(peaked[None], [1.0], [0.9], [drawn]).item(), sample(flat[None], [0.7], [1.0], [drawn]).item()]
        assert both == alone


def test_zero_temperature_is_greedy_beside_sampled_rows():
    given = logits(300, 1.0)
    tokens = sample(given.expand(3, -1), [0.0, 1.0, 0.0], [1.0, 1.0, 0.5], [0.9, 0.9, 0.9]).tolist()
    assert tokens[0] == tokens[2] == given.argmax().item()


def test_tiny_top_p_is_greedy():
    given = logits(300, 1.0)
    assert sample(given[None], [1.0], [1e-9], [0.999]).item() == given.argmax().item()


def test_highest_draw_stays_inside():
    given = logits(4 * HEAD, 0.1)
    for top_p in (0.5, 1.0):
        assert 0 <= sample(given[None], [1.0], [top_p], [1 - 2**-53]).item() < given.numel()


def test_draws_are_uniform_and_their_own():
    drawn = torch.tensor(
        [draw(seed, index, at) for seed in range(10) for index in range(10) for at in range(100)], dtype=torch.float64
    )
    assert drawn.min() >= 0 and drawn.max() < 1
    assert (drawn.histc(10, 0, 1) / len(drawn) - 0.1).abs().max() < 0.015
    assert drawn.unique().numel() == len(drawn)
    assert draw(1, 2, 3) == draw(1, 2, 3)
