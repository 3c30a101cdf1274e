"""Styled sampling: whole reasonings of every teacher in every style, beside search or instead of it (QR-Distill, part 2).

    consumes     a question, the number of a round
    produces     one trajectory for each reasoning that got an answer; without scores
    waits for    every teacher that can be asked
    unblocked by their answers; when all are parked, by the first that is back

Invariant: a round draws what no other round draws, and the same in every life of the run. Not covered: what becomes of the
trajectories (`sift.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agents.ledger import Ledger
from agents.roster import Roster
from configs.schema import RunConfig, Sampling
from orchestrator.answers.answer import find_answer
from orchestrator.conclusions import Conclusions
from orchestrator.failures import Failures
from orchestrator.proposals import proposing
from orchestrator.scoring import all_of
from orchestrator.search import plant
from orchestrator.strategies import Ask
from store.types import Candidate, Question, Trajectory, content_id, sum_cost


def sampling_of(config: RunConfig) -> Sampling:
    """How a run samples; where it does not say so, plain reasonings, for questions that need them."""
    return config.sampling or Sampling(styles=("plain",), samples=config.consensus.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples one question of the run with this id."""

    run: str
    config: RunConfig
    roster: Roster
    ledger: Ledger
    failures: Failures
    conclusions: Conclusions

    async def round(self, question: Question, number: int) -> list[Trajectory]:
        """The trajectories of one round. Raises `Withheld`, and `Broken` when nobody can be asked."""
        sampling = sampling_of(self.config)
        asks = [
            Ask(beam=None, teacher=teacher.name, samples=sampling.samples, writes="rest", draw=number, style=style)
            for teacher in self.roster.teachers
            for style in sampling.styles
        ]
        candidates = await self._asked(question, asks)
        places: Counter[tuple[str, str | None]] = Counter()
        asked = []
        for candidate in candidates:
            key = candidate.step.author, candidate.style
            asked.append(self._trajectory(question, candidate, number, places[key]))
            places[key] += 1
        return [trajectory for trajectory in await all_of(asked) if trajectory]

    async def _asked(self, question: Question, asks: Sequence[Ask]) -> list[Candidate]:
        patient = self.config.search.model_copy(update={"quorum": None, "step_deadline_s": None})
        async with proposing(
            roster=self.roster,
            ledger=self.ledger,
            search=patient,
            record=self.failures.record,
            patience_s=self.config.limits.patience_s,
        ) as proposals:
            return await proposals.of(plant(question), asks)

    async def _trajectory(self, question: Question, candidate: Candidate, number: int, place: int) -> Trajectory | None:
        author, text = candidate.step.author, candidate.step.text
        name = content_id("trajectory", self.run, question.id, candidate.style, author, number, place)
        if (concluded := await self.conclusions.of(question, text, author, name)) is None:
            return None
        found = find_answer(concluded.text, question.kind, question.choices)
        return Trajectory(
            id=name,
            question=question.id,
            nodes=(),
            teachers=(author,),
            text=text,
            conclusion=concluded.text,
            answer=found and found.answer,
            where=found and found.where,
            origin="style",
            style=candidate.style,
            score=None,
            best=False,
            usage=candidate.usage + concluded.usage,
            cost=sum_cost([candidate.cost, concluded.cost]),
        )
