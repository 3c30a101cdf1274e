"""How much each rationale of a question counts for the student that it is now (COMPACT), as pure functions of tensors.

    B rationales (rows) of several questions, each question whole      R rationale positions of all rows, row by row
    H attention heads, G of them with keys of their own, d their width
    K rows of one question, M positions of its answer, V vocabulary

    information ──▶ adaptability ─┐
    states ───────▶ consensus ────┼─▶ z-scores within each question ─▶ alpha, 1 in all for each question
    losses ───────▶ difficulty ───┘

Invariant: questions never mix, and neither absent rows nor padding change anything of the others. Everything is computed
in float32 or wider, whatever comes in, under autocast too.
Not covered: what comes in, which the student's forward pass makes, and which tokens the thinking words are made of.

Departures: the softmax of the consensus leaves out the diagonal before it, not after, so that its rows sum to 1; thinking
words are whole words of the text, in any case, so that any tokenizer finds the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainers.losses import mean_by_row

STEADY = 1e-4
"""Added to a standard deviation, so that equal scores are standardised to 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What speaks for and against each row: B each, None where it is switched off."""

    adaptability: Tensor | None
    consensus: Tensor | None
    difficulty: Tensor | None


def thinking_words(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where in `text` thinking words begin and end, in characters. Any case and any space within; "so", but not "some"."""
    longest_first = sorted(words, key=len, reverse=True)
    either = "|".join(r"\s+".join(map(re.escape, word.split())) for word in longest_first)
    found = re.finditer(rf"(?<!\w)(?:{either})(?!\w)", text, re.IGNORECASE)
    return [match.span() for match in found if match[0]]  # no words at all match the empty text everywhere


def adaptability(information_R: Tensor, thinking_R: Tensor, rows_R: Tensor, num_rows: int, elsewhere: float = 0.1) -> Tensor:
    """How much a row's positions teach of the answer: B, in nats (COMPACT, Eq. 2-3). 0 for a row without positions.

    Sums the rises of `information_R` (the answer's mean log-prob, read off at each position) from the position before in the
    same row; a rise counts whole where `thinking_R` says that a thinking word stands, else `elsewhere` of it.
    """
    information_R = _wide(information_R)
    rises = (information_R[1:] - information_R[:-1]).relu()
    weighed = torch.where(thinking_R[1:], rises, elsewhere * rises)
    within_row = torch.where(rows_R[1:] == rows_R[:-1], weighed, 0)
    return information_R.new_zeros(num_rows).index_add(0, rows_R[1:], within_row)


def difficulty(nll_R: Tensor, rows_R: Tensor, num_rows: int) -> Tensor:
    """The mean loss of each row's rationale tokens: B, in nats (COMPACT, Eq. 6). NaN for a row without any."""
    return mean_by_row(_wide(nll_R), rows_R, num_rows)


def attention(queries_BHd: Tensor, keys_BGd: Tensor, questions_B: Tensor, present_B: Tensor | None = None) -> Tensor:
    """How much row i looks at row j of its question, the mean over heads: A_BB, with rows that sum to 1 (COMPACT, Eq. 4).

    G divides H: each key head serves H / G query heads in a row. Nobody looks at itself; a row alone looks at nothing.
    """
    queries_BHd, keys_BGd = _wide(queries_BHd), _wide(keys_BGd)
    num_heads, width = queries_BHd.shape[1:]
    keys_BHd = keys_BGd.repeat_interleave(num_heads // keys_BGd.shape[1], dim=1)
    with torch.autocast(queries_BHd.device.type, enabled=False):
        logits_HBB = torch.einsum("ihd,jhd->hij", queries_BHd, keys_BHd) / math.sqrt(width)
    others_BB = _fellows(questions_B, present_B).fill_diagonal_(False)
    return _softmax_among(logits_HBB, others_BB).mean(0)


def consensus(queries_BHd: Tensor, keys_BGd: Tensor, questions_B: Tensor, present_B: Tensor | None = None) -> Tensor:
    """How much the other rows of its question look at each row: B (COMPACT, Eq. 5); the arguments are `attention`'s."""
    return attention(queries_BHd, keys_BGd, questions_B, present_B).sum(0)


def standardise(values_B: Tensor, questions_B: Tensor, present_B: Tensor) -> Tensor:
    """How many standard deviations a value is above the mean of its question's present rows: B; 0 for a row alone or absent."""
    values_B = _wide(values_B)
    fellows_BB = _fellows(questions_B, present_B)
    num_B = fellows_BB.sum(1)
    centred_B = values_B - torch.where(fellows_BB, values_B, 0).sum(1) / num_B
    variance_B = torch.where(fellows_BB, centred_B.square(), 0).sum(1) / num_B
    return torch.where(present_B, centred_B / (variance_B.sqrt() + STEADY), 0)


def weights(
    scores: Scores,
    questions_B: Tensor,
    present_B: Tensor,
    *,
    factors: tuple[float, float, float] = (1.0, 1.0, 0.5),
    temperature: float = 1.0,
) -> Tensor:
    """alpha_B, how much each present row counts within its question: 1 in all, without gradient (COMPACT, Eq. 7).

    `factors` are those of adaptability, consensus and difficulty, of which the last speaks against a row. ValueError where a
    present row has a score that is not finite.
    """
    logits_B = torch.zeros(questions_B.shape, device=questions_B.device)
    for_and_against = (factors[0], factors[1], -factors[2])
    for field, factor in zip(fields(scores), for_and_against, strict=True):
        values_B: Tensor | None = getattr(scores, field.name)
        if values_B is not None:
            _check_finite(field.name, values_B, present_B)
            logits_B = logits_B + factor * standardise(values_B.detach(), questions_B, present_B)
    return _share_out(logits_B / temperature, questions_B, present_B)


def uniform(questions_B: Tensor, present_B: Tensor) -> Tensor:
    """alpha_B where all present rows of a question count the same: 1 / K."""
    return _share_out(torch.zeros(questions_B.shape, device=questions_B.device), questions_B, present_B)


def consistency(log_probs_KMV: Tensor, alpha_K: Tensor) -> Tensor:
    """How far the answer's distributions of one question's rows are apart: a scalar, in nats (COMPACT, Eq. 8-11).

        sum_k alpha_k L_MCon,k  =  sum_{i<j} alpha_i alpha_j (KL(i||j) + KL(j||i))  =  sum_k alpha_k (p_k - p) . (log p_k - l)

    with p, l the means of p_k and log p_k under alpha, which sums to 1: a covariance of two quantities that rise together, so
    negative by no more than rounding, which for equal rows is next to nothing, and of K M V numbers only. The mean over M, the
    sum over V. `log_probs_KMV` are finite and get the gradient, on both sides of each KL; `alpha_K` gets none.
    """
    log_probs_KMV = _wide(log_probs_KMV)
    alpha_K11 = alpha_K.detach().to(log_probs_KMV)[:, None, None]
    probs_KMV = log_probs_KMV.exp()
    apart_KMV = probs_KMV - (alpha_K11 * probs_KMV).sum(0)
    log_apart_KMV = log_probs_KMV - (alpha_K11 * log_probs_KMV).sum(0)
    return (alpha_K11 * apart_KMV * log_apart_KMV).sum((0, 2)).mean()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _fellows(questions_B: Tensor, present_B: Tensor | None) -> Tensor:
    """Which rows are present and of one question: BB. Each is its own fellow."""
    fellows_BB = questions_B[:, None] == questions_B
    return fellows_BB if present_B is None else fellows_BB & present_B & present_B[:, None]


def _softmax_among(logits: Tensor, allowed_BB: Tensor) -> Tensor:
    """The softmax of each row over its allowed columns; 0 elsewhere, also where a row has no allowed column."""
    return logits.masked_fill(~allowed_BB, -math.inf).softmax(-1).masked_fill(~allowed_BB, 0)


def _share_out(logits_B: Tensor, questions_B: Tensor, present_B: Tensor) -> Tensor:
    """The softmax within each question, over its present rows: B; 0 for absent ones."""
    fellows_BB = _fellows(questions_B, present_B)
    return _softmax_among(logits_B.expand_as(fellows_BB), fellows_BB).diagonal().clone()


def _check_finite(name: str, values_B: Tensor, present_B: Tensor) -> None:
    wrong = (present_B & ~values_B.isfinite()).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"the {name} of row {row} is {float(values_B[row])}: only finite scores can be weighed")
