"""The meta-prover: how likely does a reasoning, so far, make the right answer? (CoRD, Eq. 3)

Invariant: 0 <= score <= 1, and 1 only if every answer token has probability 1. Not covered: pruning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agents import prompts
from agents.ledger import Ledger, Model
from configs import schema
from store.reasoning import Segmentation
from store.types import Question, Score, Target, content_id

ANSWER_TEMPERATURE, ANSWER_TOP_P = 0.6, 0.95


class Prover:
    """A model that scores: by the log-probs of the answer, which its engine must give, or by answers of its own."""

    def __init__(
        self,
        *,
        config: schema.Prover,
        model: Model,
        asking: schema.Asking,
        segmentation: Segmentation = "header",
        seed: int = 0,
    ) -> None:
        self.name = config.name
        self.model = model
        self._asking = asking
        self._segmentation: Segmentation = segmentation
        self._seed = seed

    async def score(self, ledger: Ledger, question: Question, text: str, answer: str, target: Target = "gold") -> Score:
        """Predictive perplexity of `answer`, the `target`'s, after the reasoning `text`. Raises `EngineError`."""
        context = prompts.conclude(question, text, self._asking, self._segmentation)
        scored = await ledger.answer_logprobs(self.model, context, answer, agent=self.name)
        return Score(value=predictive_perplexity(scored.values), logprobs=scored.values, prover=self.name, target=target)

    async def answers(self, ledger: Ledger, question: Question, text: str, *, num: int, max_tokens: int) -> list[str]:
        """`num` answers to the question, drawn after the reasoning `text` as if it were complete. Raises `EngineError`."""
        prefix = self._asking.answer_prefix
        completions = await ledger.generate(
            self.model,
            "score",
            prompts.conclude(question, text, self._asking, self._segmentation),
            agent=self.name,
            n=num,
            max_tokens=max_tokens,
            stop=("\n",) if prefix else (),
            temperature=ANSWER_TEMPERATURE,
            top_p=ANSWER_TOP_P,
            seed=int(content_id("seed", self._seed, question.id, text, self.name)[:15], 16),
        )
        return [prefix + completion.text for completion in completions]


def predictive_perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean log-prob of the answer's tokens (CoRD, Eq. 3): in [0, 1], higher is better. Of no tokens, 0."""
    if not logprobs:
        return 0.0
    return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs)))
