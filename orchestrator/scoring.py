"""How good a candidate is: three ways to ask the prover.

    perplexity   how likely the gold answer is after it (CoRD, Eq. 3)
    answers      the share of the prover's own short answers after it that are right (CoRD's binary baseline)
    rollout      its author writes it to the end, and that is scored by perplexity; the end is a candidate too (MCTS)

Invariant: a candidate that could not be scored is left out, as a recorded failure. Not covered: what is kept (`strategies.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agents.engines.base import together
from agents.errors import Withheld
from agents.ledger import Ledger
from agents.prover import Prover
from agents.roster import Roster
from configs.schema import Search
from orchestrator.aim import Aim
from orchestrator.answers.answer import extract
from orchestrator.answers.checker import Checker
from orchestrator.search import Tree, node_id
from orchestrator.strategies import Scoring
from store.reasoning import joined
from store.types import Candidate, Score

T = TypeVar("T")

SHORT_TOKENS = 64
"""Cap on one of the prover's short answers."""


class Attempt(Protocol):
    """Awaits a request; None after a failure, which then is a row."""

    async def __call__(self, asked: Awaitable[T], where: str, beam: str | None, step: str | None = None) -> T | None:
        """Await `asked`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Scores the candidates of one question of the run with this id, by the answer that they aim at."""

    run: str
    roster: Roster
    prover: Prover
    search: Search
    scoring: Scoring
    ledger: Ledger
    attempt: Attempt
    aim: Aim
    checker: Checker

    async def scored(self, tree: Tree, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Score]]:
        """Every candidate with its score, and the ends that were written for it."""
        found = await all_of([self._one(tree, candidate) for candidate in candidates])
        return [pair for pairs in found for pair in pairs]

    async def _one(self, tree: Tree, candidate: Candidate) -> list[tuple[Candidate, Score]]:
        if self.scoring == "rollout" and candidate.step.finish != "closed":
            return await self._rolled_out(tree, candidate)
        text = joined([*tree.steps(candidate.parent), candidate.step.text], self.search.segmentation)
        if self.scoring == "answers":
            score = await self._share(tree, text, candidate)
        else:
            score = await self._perplexity(tree, text, candidate)
        return [(candidate, score)] if score else []

    async def _perplexity(self, tree: Tree, text: str, candidate: Candidate) -> Score | None:
        asked = self.prover.score(self.ledger, tree.question, text, self.aim.answer, self.aim.target)
        return await self.attempt(asked, "prover", candidate.parent, candidate.step.text)

    async def _share(self, tree: Tree, text: str, candidate: Candidate) -> Score | None:
        question, search = tree.question, self.search
        asked = self.prover.answers(
            self.ledger, question, text, num=search.answers, max_tokens=min(search.max_answer_tokens, SHORT_TOKENS)
        )
        answers = await self.attempt(asked, "prover", candidate.parent, candidate.step.text)
        if not answers:
            return None
        found = [extract(each, question.kind, question.choices) for each in answers]
        aim = self.aim.answer
        right = [await self.checker.same(each, aim, question.kind, question.choices) for each in found if each is not None]
        return Score(value=sum(right) / len(answers), logprobs=(), prover=self.prover.name, target=self.aim.target)

    async def _rolled_out(self, tree: Tree, candidate: Candidate) -> list[tuple[Candidate, Score]]:
        author = next(teacher for teacher in self.roster.teachers if teacher.name == candidate.authors[0])
        steps = [*tree.steps(candidate.parent), candidate.step.text]
        budget = self.search.max_think_tokens - tree.think_tokens(candidate.parent) - candidate.usage.completion
        if budget <= 0:  # nothing more is to be written
            score = await self._perplexity(tree, joined(steps, self.search.segmentation), candidate)
            return [(candidate, score)] if score else []
        parent = node_id(tree.question, candidate, self.run)
        asked = author.propose(self.ledger, tree.question, parent=parent, steps=steps, budget=budget, writes="rest")
        ends = await self.attempt(asked, f"teacher {author.name}", candidate.parent, candidate.step.text)
        for end in ends or ():
            text = joined([*steps, end.step.text], self.search.segmentation)
            if score := await self._perplexity(tree, text, end):
                return [(candidate, score), (end, score)]
        return []


async def all_of(asked: Sequence[Awaitable[T]]) -> list[T]:
    """The values of all; what was sent is awaited, and paid for, even when another request is withheld."""

    async def one(each: Awaitable[T]) -> T | Withheld:
        try:
            return await each
        except Withheld as error:
            return error

    values = await together([one(each) for each in asked])
    for value in values:
        if isinstance(value, Withheld):
            raise value
    return [value for value in values if not isinstance(value, Withheld)]
