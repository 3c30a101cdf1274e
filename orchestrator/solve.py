"""One question's life: from its text to trajectories with verdicts.

    consumes     a leased question, and what the store has of its tree and calls
    produces     Advances, then trajectories, verdicts and routes, in one last transaction
    waits for    teachers, prover, store
    unblocked by their answers; a failed call is a Failure row and the others go on

Invariant: every change of the tree is durable before the next one is thought of, so that a kill loses only calls in flight.
Not covered: the search itself (`search.py`, pure) and which question comes next (`run.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from agents.errors import Broken, EngineError
from agents.ledger import Ledger
from agents.roster import Roster
from agents.teacher import Teacher
from configs.schema import RunConfig
from orchestrator.answers import extract
from orchestrator.progress import Progress
from orchestrator.routes import routes
from orchestrator.search import Tree, advance, best, closing, frontier, merged, plant
from orchestrator.sift import sift
from store.store import Store
from store.types import (
    Candidate,
    Failure,
    Node,
    Outcome,
    Question,
    QuestionState,
    Score,
    Trajectory,
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
    draining: Callable[[], bool]
    progress: Progress

    async def solve(self, question: Question) -> QuestionState:
        """Search, conclude, sift, settle. Raises `Drained`, and `Broken` when an engine is gone for good."""
        ledger = Ledger(
            subject=question.id,
            known=await self.store.calls(question.id),
            record=self.store.record_calls,
            tries=self.config.limits.tries,
        )
        tree = await self._search(plant(question, await self.store.tree(question.id)), ledger)
        trajectories = await self._conclude(tree, ledger)
        return await self._settle(tree, trajectories)

    async def _search(self, tree: Tree, ledger: Ledger) -> Tree:
        while beams := frontier(tree, self.config.search):
            if self.draining():
                raise Drained
            candidates = merged(await self._propose(tree, beams, ledger))
            scored = await self._score(tree, candidates, ledger)
            if not scored and not tree.nodes:
                return tree
            change = advance(
                tree,
                beams,
                scored,
                search=self.config.search,
                run=self.run,
                teachers=[teacher.name for teacher in self.roster.teachers],
            )
            await self.store.record_advance(change)
            self.progress.stepped(tree.question, change)
            log.debug("advanced", question=tree.question.id, kept=len(change.kept), finished=len(change.finished))
            tree = tree.grown(change)
        return tree

    async def _propose(self, tree: Tree, beams: Sequence[str | None], ledger: Ledger) -> list[Candidate]:
        """Every teacher's next steps for every beam, asked at once, in the order of beams and teachers."""

        async def one(beam: str | None, teacher: Teacher) -> list[Candidate]:
            budget = self.config.search.max_think_tokens - tree.think_tokens(beam)
            steps = tree.steps(beam)
            asked = teacher.propose(ledger, tree.question, parent=beam, steps=steps, budget=budget)
            return await self._or_failure(asked, f"teacher {teacher.name}", tree.question, beam) or []

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(one(beam, teacher)) for beam in beams for teacher in self.roster.teachers]
        return [candidate for task in asked for candidate in task.result()]

    async def _score(self, tree: Tree, candidates: Sequence[Candidate], ledger: Ledger) -> list[tuple[Candidate, Score]]:
        """Every candidate with its score; one that could not be scored is left out, as a Failure row."""
        target = tree.question.answer or ""

        async def one(candidate: Candidate) -> Score | None:
            steps = [*tree.steps(candidate.parent), candidate.step.text]
            asked = self.roster.prover.score(ledger, tree.question, steps, target)
            return await self._or_failure(asked, "prover", tree.question, candidate.parent, candidate.step.text)

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(one(candidate)) for candidate in candidates]
        return [(candidate, score) for candidate, task in zip(candidates, asked, strict=True) if (score := task.result())]

    async def _conclude(self, tree: Tree, ledger: Ledger) -> list[Trajectory]:
        """The finished beams as trajectories, tau* first; the teacher of the last step writes the answer."""
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._trajectory(tree, node, ledger, first=index == 0)) for index, node in enumerate(best(tree))
            ]
        return [trajectory for task in asked if (trajectory := task.result())]

    async def _trajectory(self, tree: Tree, node: Node, ledger: Ledger, *, first: bool) -> Trajectory | None:
        teacher = next(t for t in self.roster.teachers if t.name == node.step.author)
        text = "\n".join(tree.steps(node.id))
        asked = teacher.conclude(ledger, tree.question, beam=node.id, text=text)
        if (concluded := await self._or_failure(asked, f"teacher {teacher.name}", tree.question, node.id)) is None:
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
        except Broken:
            raise
        except EngineError as error:
            kind, message = type(error).__name__, str(error)
            log.warning("call_failed", question=question.id, where=where, kind=kind, message=message)
            await self.store.record_failure(
                Failure(
                    id=content_id("failure", where, question.id, beam, step, kind, message),
                    where=where,
                    kind=kind,
                    message=message,
                    tries=self.config.limits.tries,
                    subject=question.id,
                )
            )
            return None


def _outcome(tree: Tree, verdicts: Sequence[Verdict]) -> tuple[QuestionState, str]:
    """The question's last state, and why."""
    outcomes = [verdict.outcome for verdict in verdicts]
    if Outcome.ACCEPTED in outcomes:
        return QuestionState.SOLVED, f"{outcomes.count(Outcome.ACCEPTED)} of {len(outcomes)} trajectories accepted"
    if outcomes:
        return QuestionState.UNSOLVED, f"no trajectory accepted: {verdicts[0].reason}"
    if not tree.nodes:
        return QuestionState.UNSOLVED, "every call failed, or every step was empty"
    return QuestionState.UNSOLVED, "no reasoning was closed within the budgets"
