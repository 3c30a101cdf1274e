"""The meta-prover: how likely does a reasoning, so far, make the right answer? (CoRD, Eq. 3)

Invariant: 0 <= score <= 1, and 1 only if every answer token has probability 1. Not covered: pruning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agents import prompts
from agents.ledger import Ledger, Model
from configs import schema
from store.types import Question, Score


class Prover:
    """A model that scores; its engine must give log-probs of given text."""

    def __init__(self, *, config: schema.Prover, model: Model, asking: schema.Asking) -> None:
        self.name = config.name
        self.model = model
        self._asking = asking

    async def score(self, ledger: Ledger, question: Question, steps: Sequence[str], target: str) -> Score:
        """Predictive perplexity of `target` after `steps`. Raises `EngineError` when the engine cannot score."""
        context = prompts.conclude(question, "\n".join(steps), self._asking)
        scored = await ledger.answer_logprobs(self.model, context, target, agent=self.name)
        return Score(value=predictive_perplexity(scored.values), logprobs=scored.values, prover=self.name)


def predictive_perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean log-prob of the answer's tokens (CoRD, Eq. 3): in [0, 1], higher is better. Of no tokens, 0."""
    if not logprobs:
        return 0.0
    return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs)))
