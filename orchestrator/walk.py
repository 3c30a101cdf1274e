"""The search of one question's tree: round by round what the strategy asks for, scored, kept or pruned, and at its end concluded.

    consumes     a question, what the store has of its tree, and the answer that is aimed at
    produces     Advances, each durable before the next round; the finished beams as trajectories
    waits for    proposals (`proposals.py`), scores (`scoring.py`), conclusions (`conclusions.py`)
    unblocked by their answers; while the run drains, by the proposals that are out

Invariant: a walk that is interrupted is taken up where it stood. Not covered: what is asked and kept (`strategies.py`, pure).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from agents.ledger import Ledger
from agents.prover import Prover
from agents.roster import Roster
from configs.schema import RunConfig
from orchestrator.aim import Aim
from orchestrator.answers.answer import find_answer
from orchestrator.answers.checker import Checker
from orchestrator.conclusions import Conclusions
from orchestrator.failures import Failures
from orchestrator.progress import Progress
from orchestrator.proposals import proposing
from orchestrator.scoring import Scorer, all_of
from orchestrator.search import Tree, best, latecomers, merged, plant
from orchestrator.strategies import Strategy, strategy_of
from store.reasoning import joined
from store.store import Store
from store.types import Advance, Candidate, Node, Question, Trajectory, content_id, sum_cost, sum_usage

log = structlog.get_logger()


class Drained(Exception):
    """The run is ending: the question was left between two steps, as the store has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What one question's tree is searched with."""

    run: str
    config: RunConfig
    roster: Roster
    store: Store
    ledger: Ledger
    failures: Failures
    conclusions: Conclusions
    checker: Checker
    aim: Aim
    draining: Callable[[], bool]
    progress: Progress

    @property
    def _strategy(self) -> Strategy:
        return strategy_of(self.config.search, run=self.run, teachers=[teacher.name for teacher in self.roster.teachers])

    @property
    def _prover(self) -> Prover:
        assert self.roster.prover, "a search has a prover: the configuration sees to it"
        return self.roster.prover

    async def search(self, question: Question) -> tuple[Tree, list[Trajectory]]:
        """The tree, and its finished beams as trajectories, tau* first. Raises `Drained`, `Withheld`, `Broken`."""
        known = await self.store.tree(question.id) if self._strategy.resumes else ()
        tree = await self._searched(plant(question, known))
        kept = best(tree, self._strategy.value)
        found = await all_of([self._trajectory(tree, node, first=index == 0) for index, node in enumerate(kept)])
        return tree, [trajectory for trajectory in found if trajectory]

    async def _searched(self, tree: Tree) -> Tree:
        strategy, search = self._strategy, self.config.search
        scorer = Scorer(
            run=self.run,
            roster=self.roster,
            prover=self._prover,
            search=search,
            scoring=strategy.scoring,
            ledger=self.ledger,
            attempt=self.failures.attempt,
            aim=self.aim,
            checker=self.checker,
        )
        async with proposing(
            roster=self.roster,
            ledger=self.ledger,
            search=search,
            record=self.failures.record,
            patience_s=self.config.limits.patience_s,
        ) as proposals:
            num_rounds = 0
            while asks := strategy.asks(tree, num_rounds):
                if self.draining():
                    await proposals.all_in()
                    await self._join_late(tree, await proposals.late(), scorer)
                    raise Drained
                candidates = merged(await proposals.of(tree, asks))
                tree = await self._join_late(tree, await proposals.late(), scorer)
                scored = await scorer.scored(tree, candidates)
                if not scored and not tree.nodes:
                    break
                tree = await self._grown(tree, strategy.advance(tree, asks, scored))
                num_rounds += 1
            return await self._join_late(tree, await proposals.late(), scorer)

    async def _join_late(self, tree: Tree, late: Sequence[Candidate], scorer: Scorer) -> Tree:
        """The tree with what came after its step was decided."""
        if not late:
            return tree
        scored = await scorer.scored(tree, merged(late))
        return await self._grown(tree, latecomers(tree, scored, search=self.config.search, run=self.run))

    async def _grown(self, tree: Tree, change: Advance) -> Tree:
        await self.store.record_advance(change)
        self.progress.stepped(tree.question, change)
        log.debug("advanced", question=tree.question.id, kept=len(change.kept), finished=len(change.finished))
        return tree.grown(change)

    async def _trajectory(self, tree: Tree, node: Node, *, first: bool) -> Trajectory | None:
        """A finished beam with its conclusion, which the teacher of the last step writes."""
        question, text = tree.question, joined(tree.steps(node.id), self.config.search.segmentation)
        if (concluded := await self.conclusions.of(question, text, node.step.author, node.id)) is None:
            return None
        path = tree.path(node.id)
        found = find_answer(concluded.text, question.kind, question.choices)
        return Trajectory(
            id=content_id("trajectory", self.run, node.id),
            question=question.id,
            nodes=tuple(each.id for each in path),
            teachers=tuple(dict.fromkeys(each.step.author for each in path)),
            text=text,
            conclusion=concluded.text,
            answer=found and found.answer,
            where=found and found.where,
            origin="search",
            score=node.score.value,
            target=node.score.target,
            best=first,
            usage=sum_usage([*(each.usage for each in path), concluded.usage]),
            cost=sum_cost([*(each.cost for each in path), concluded.cost]),
        )
