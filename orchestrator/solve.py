"""One question's life: from its text to trajectories with verdicts.

    consumes     a leased question, and what the store has of its tree and calls
    produces     Advances, then trajectories, verdicts and routes, in one last transaction
    waits for    teachers (`proposals.py`), prover, store
    unblocked by their answers; a failed call is a Failure row and the others go on

Invariant: every change of the tree is durable before the next one is thought of, so that a kill loses only calls in flight.
Not covered: the search itself (`search.py`, pure) and which question comes next (`run.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from agents.errors import Broken, BudgetSpent, EngineError, Parked, Withheld
from agents.ledger import Ledger, Terms
from agents.roster import Roster
from agents.teacher import Teacher
from configs.schema import RunConfig
from orchestrator.answers import extract
from orchestrator.progress import Progress
from orchestrator.proposals import proposing, somebody
from orchestrator.routes import routes
from orchestrator.scoring import Scorer, all_of
from orchestrator.search import Tree, best, closing, latecomers, merged, plant
from orchestrator.sift import sift
from orchestrator.strategies import Strategy, strategy_of
from store.reasoning import joined
from store.store import Store
from store.types import (
    Advance,
    Candidate,
    Failure,
    Node,
    Outcome,
    Question,
    QuestionState,
    Trajectory,
    Usage,
    Verdict,
    content_id,
    sum_usage,
)

log = structlog.get_logger()
T = TypeVar("T")


class Drained(Exception):
    """The run is ending: the question was left between two steps, as the store has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """What every question of a run is solved with. `draining` tells whether the run is about to end."""

    run: str
    config: RunConfig
    roster: Roster
    store: Store
    terms: Terms
    draining: Callable[[], bool]
    progress: Progress

    @property
    def _strategy(self) -> Strategy:
        return strategy_of(self.config.search, run=self.run, teachers=[teacher.name for teacher in self.roster.teachers])

    async def solve(self, question: Question) -> QuestionState:
        """Search, conclude, sift, settle.

        Raises `Drained`, `Withheld` (a spent budget, a replay without a row), and `Broken` when nobody can be asked.
        """
        failures = await self.store.failures_about(question.id)
        if self.terms.replay and self.terms.shared:
            failures += await self.terms.shared.failures(question.id)
        ledger = Ledger(
            subject=question.id,
            known=await self.store.calls(question.id),
            terms=self.terms,
            failures=failures,
        )
        known = await self.store.tree(question.id) if self._strategy.resumes else ()
        tree = await self._search(plant(question, known), ledger)
        trajectories = await self._conclude(tree, ledger)
        return await self._settle(tree, trajectories)

    async def _search(self, tree: Tree, ledger: Ledger) -> Tree:
        question, strategy = tree.question, self._strategy

        async def attempt(asked: Awaitable[T], where: str, beam: str | None, step: str | None = None) -> T | None:
            return await self._or_failure(asked, where, question, beam, step)

        async def record(where: str, beam: str | None, error: EngineError) -> None:
            await self._record_failure(error, where, question, beam)

        scorer = Scorer(
            run=self.run,
            roster=self.roster,
            search=self.config.search,
            scoring=strategy.scoring,
            ledger=ledger,
            attempt=attempt,
        )
        async with proposing(
            roster=self.roster,
            ledger=ledger,
            search=self.config.search,
            record=record,
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

    async def _conclude(self, tree: Tree, ledger: Ledger) -> list[Trajectory]:
        """The finished beams as trajectories, tau* first; the teacher of the last step writes the answer."""
        kept = best(tree, self._strategy.value)
        asked = [self._trajectory(tree, node, ledger, first=index == 0) for index, node in enumerate(kept)]
        return [trajectory for trajectory in await all_of(asked) if trajectory]

    async def _trajectory(self, tree: Tree, node: Node, ledger: Ledger, *, first: bool) -> Trajectory | None:
        text = joined(tree.steps(node.id), self.config.search.segmentation)
        if (concluded := await self._concluded(tree, node, text, ledger)) is None:
            return None
        conclusion, usage = concluded
        path = tree.path(node.id)
        return Trajectory(
            id=content_id("trajectory", self.run, node.id),
            question=tree.question.id,
            nodes=tuple(each.id for each in path),
            teachers=tuple(dict.fromkeys(each.step.author for each in path)),
            text=text,
            conclusion=conclusion,
            answer=extract(conclusion, tree.question.kind, tree.question.choices),
            origin="search",
            score=node.score.value,
            best=first,
            usage=sum_usage([*(each.usage for each in path), usage]),
        )

    async def _concluded(self, tree: Tree, node: Node, text: str, ledger: Ledger) -> tuple[str, Usage] | None:
        """The conclusion; None after a failure, which is recorded. Raises `Broken` and `Withheld` when nobody can write it.

        The author of the last step writes it, or, while it is parked or gone or has left, the first teacher that is not.
        """

        def reluctance(teacher: Teacher) -> tuple[bool, bool, bool, bool]:
            gate = teacher.model.gate
            return bool(gate.gone), not gate.may_look, bool(gate.parked), teacher.name != node.step.author

        teachers, patience_s, until = list(self.roster.teachers), self.config.limits.patience_s, math.inf
        while True:
            teacher = min(teachers, key=reluctance)
            where, asked = f"teacher {teacher.name}", teacher.conclude(ledger, tree.question, text=text, waits=False)
            try:
                return await self._or_failure(asked, where, tree.question, node.id)
            except (Broken, Parked):
                if teacher.model.gate.gone and all(each.model.gate.gone for each in teachers):
                    raise teacher.model.gate.gone from None
                until = min(until, time.monotonic() + patience_s)
                await somebody([each.model.gate for each in teachers], until, patience_s)
            except BudgetSpent as spent:
                teachers.remove(teacher)
                if not teachers or spent.agent != teacher.name or not teacher.leaves_when_spent:
                    raise
                await self._record_failure(spent, where, tree.question, node.id)

    async def _settle(self, tree: Tree, trajectories: Sequence[Trajectory]) -> QuestionState:
        verdicts = [sift(tree.question, trajectory) for trajectory in trajectories]
        state, reason = _outcome(tree, verdicts)
        students = [student.name for student in self.config.students]
        await self.store.settle_question(
            tree.question.id,
            state=state,
            reason=reason,
            trajectories=trajectories,
            verdicts=verdicts,
            routes=routes(verdicts, students),
            tree_update=closing(tree),
        )
        self.progress.settled(tree.question, state, reason)
        log.info("question_settled", question=tree.question.id, state=state.value, reason=reason, trajectories=len(trajectories))
        return state

    async def _or_failure(
        self, asked: Awaitable[T], where: str, question: Question, beam: str | None, step: str | None = None
    ) -> T | None:
        """The awaited value, or None after an engine's error, which then is a Failure row; `step` tells siblings apart."""
        try:
            return await asked
        except (Broken, Parked, Withheld):
            raise
        except EngineError as error:
            await self._record_failure(error, where, question, beam, step)
            return None

    async def _record_failure(
        self, error: EngineError, where: str, question: Question, beam: str | None, step: str | None = None
    ) -> None:
        kind, message = type(error).__name__, str(error)
        log.warning("call_failed", question=question.id, where=where, kind=kind, message=message)
        await self.store.record_failure(
            Failure(
                id=content_id("failure", where, question.id, beam, step, kind, message),
                where=where,
                kind=kind,
                message=message,
                tries=error.tries,
                subject=question.id,
                request=error.request,
            )
        )


def _outcome(tree: Tree, verdicts: Sequence[Verdict]) -> tuple[QuestionState, str]:
    """The question's last state, and why."""
    outcomes = [verdict.outcome for verdict in verdicts]
    if Outcome.ACCEPTED in outcomes:
        return QuestionState.SOLVED, f"{outcomes.count(Outcome.ACCEPTED)} of {len(outcomes)} trajectories accepted"
    if outcomes:
        return QuestionState.UNSOLVED, f"no trajectory accepted: {verdicts[0].reason}"
    if not tree.nodes:
        return QuestionState.UNSOLVED, "every call failed, or every step was empty"
    if best(tree):
        return QuestionState.UNSOLVED, "no answer could be written: its calls failed"
    return QuestionState.UNSOLVED, "no reasoning was closed within the budgets"
