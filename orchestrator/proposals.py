"""What the teachers propose for the beams of one question: asked at once, awaited up to the quorum; what comes later is kept.

    consumes     beams, each to be continued by every teacher
    produces     the candidates that decide this step, then late ones, for the next
    waits for    `quorum` teachers a beam, or `step_deadline_s`, and for at least one candidate
    unblocked by the teachers' answers; when all that could answer are parked, by the first that is back

Invariant: every proposal that was asked for ends as candidates, or as a failure that is recorded (methods part 1, Quorum).
Not covered: scores, pruning (`solve.py`, `search.py`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agents.errors import Broken, BudgetSpent, EngineError, Late, Parked, Withheld
from agents.ledger import Ledger
from agents.limits import LOOK_S, Gate
from agents.roster import Roster
from agents.teacher import Teacher
from configs.schema import Search
from orchestrator.search import Tree
from orchestrator.strategies import Ask
from store.types import Candidate, NodeState

Record = Callable[[str, str | None, EngineError, str | None], Awaitable[None]]
"""Make a failure a row: where, of which beam, what, and which of several requests for that beam."""


@dataclass(eq=False, slots=True)
class _Asked:
    """One teacher's answer: pending while `outcome` is None."""

    ask: Ask
    teacher: Teacher
    outcome: list[Candidate] | EngineError | None = None


@asynccontextmanager
async def proposing(
    *, roster: Roster, ledger: Ledger, search: Search, record: Record, patience_s: float
) -> AsyncIterator[Proposals]:
    """The proposals of one question; what is still out at the end is cancelled, and recorded as late."""
    try:
        async with asyncio.TaskGroup() as group:
            proposals = Proposals(group=group, roster=roster, ledger=ledger, search=search, record=record, patience_s=patience_s)
            yield proposals
            await proposals.abandon()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


class Proposals:
    """What `proposing` gives. `group` holds the tasks."""

    def __init__(
        self,
        *,
        group: asyncio.TaskGroup,
        roster: Roster,
        ledger: Ledger,
        search: Search,
        record: Record,
        patience_s: float,
    ) -> None:
        self._group = group
        self._roster = roster
        self._teachers = roster.teachers
        self._ledger = ledger
        self._search = search
        self._record = record
        self._patience_s = patience_s
        self._asked: list[_Asked] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()

    async def of(self, tree: Tree, asks: Sequence[Ask]) -> list[Candidate]:
        """The candidates that decide this step, in the order of `asks`. Raises `Withheld`, `Broken`.

        Without any, those who were parked are asked again when one of them may be; nobody else is.
        """
        asked = [self._ask(tree, ask) for ask in await self._allowed(asks)]
        until = math.inf
        while True:
            await self._decided(asked)
            if self._roster.gone:
                raise self._roster.gone
            found = any(isinstance(each.outcome, list) and each.outcome for each in asked)
            parked = [each for each in asked if isinstance(each.outcome, Parked) and not each.teacher.model.gate.gone]
            await self._raise_if_withheld(asked)
            if found or not parked:
                return await self._taken(asked)
            until = min(until, time.monotonic() + self._patience_s)
            await somebody([each.teacher.model.gate for each in parked], until, self._patience_s)
            self._forget(parked)
            again = await self._allowed([each.ask for each in parked])
            asked = [each for each in asked if each not in parked] + [self._ask(tree, ask) for ask in again]
            asked.sort(key=lambda each: asks.index(each.ask))

    async def _allowed(self, asks: Sequence[Ask]) -> list[Ask]:
        """Those whose teachers are not paused; when all are, wait for the first that is not. Raises `Ending`."""
        pauses, names = self._ledger.pauses, [ask.teacher for ask in asks]
        if names and all(name in pauses.by for name in names):
            await pauses.over(*names)
        return [ask for ask in asks if ask.teacher not in pauses.by]

    async def late(self) -> list[Candidate]:
        """The candidates that have come since their step was decided."""
        return await self._taken(self._asked)

    async def all_in(self) -> None:
        """Wait for everything that is still out."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(each.outcome is not None for each in self._asked))

    async def abandon(self) -> None:
        """The question ends: what is still out is cancelled, and recorded as late; so is what came, and is of no use any more."""
        for each, task in zip(self._asked, self._tasks, strict=True):
            task.cancel()
            if not isinstance(each.outcome, EngineError):
                each.outcome = Late("the question ended before the proposal was there")
        await self._taken(self._asked)

    def _ask(self, tree: Tree, ask: Ask) -> _Asked:
        asked = _Asked(ask, next(teacher for teacher in self._teachers if teacher.name == ask.teacher))
        budget = self._search.max_think_tokens - tree.think_tokens(ask.beam)
        steps = tree.steps(ask.beam)
        traces = [node.step.text for node in tree.in_state(NodeState.FINISHED)] if ask.writes == "merged" else []

        async def answer() -> None:
            try:
                asked.outcome = await asked.teacher.propose(
                    self._ledger,
                    tree.question,
                    parent=ask.beam,
                    steps=steps,
                    budget=budget,
                    writes=ask.writes,
                    samples=ask.samples,
                    draw=ask.draw,
                    traces=sorted(traces),
                    style=ask.style,
                    waits=False,
                )
            except EngineError as error:
                asked.outcome = error
            async with self._changed:
                self._changed.notify_all()

        self._asked.append(asked)
        self._tasks.append(self._group.create_task(answer()))
        return asked

    async def _decided(self, asked: list[_Asked]) -> None:
        """Wait for the quorum of every beam, or for the deadline and one candidate, or for all."""

        def proposed() -> bool:
            return any(each.outcome for each in asked if isinstance(each.outcome, list))

        def over() -> bool:
            return all(each.outcome is not None for each in asked)

        def quorum() -> bool:
            return over() or (proposed() and all(self._has_quorum(asked, beam) for beam in {each.ask.beam for each in asked}))

        async with self._changed:
            try:
                async with asyncio.timeout(self._search.step_deadline_s):
                    await self._changed.wait_for(quorum)
            except TimeoutError:
                await self._changed.wait_for(lambda: proposed() or over())

    def _has_quorum(self, asked: Sequence[_Asked], beam: str | None) -> bool:
        """Whether enough teachers have proposed for a beam; one that failed is not waited for."""
        outcomes = [each.outcome for each in asked if each.ask.beam == beam]
        failed = sum(1 for outcome in outcomes if isinstance(outcome, EngineError))
        proposed = sum(1 for outcome in outcomes if isinstance(outcome, list))
        return proposed >= min(self._search.quorum or len(outcomes), len(outcomes) - failed)

    async def _taken(self, asked: Sequence[_Asked]) -> list[Candidate]:
        """The candidates that are there; they, and the failures, which become rows, are dealt with."""
        done = [each for each in asked if each.outcome is not None]
        self._forget(done)
        for each in done:
            if isinstance(each.outcome, EngineError):
                await self._record(f"teacher {each.teacher.name}", each.ask.beam, each.outcome, _which(each.ask))
        return [candidate for each in done if isinstance(each.outcome, list) for candidate in each.outcome]

    async def _raise_if_withheld(self, asked: Sequence[_Asked]) -> None:
        """A spent budget or a missing call ends the run, unless a teacher may leave it and others are left; what was sent
        is awaited, and paid for, all the same."""
        nobody_left = all(isinstance(each.outcome, Withheld) for each in asked)
        for each in asked:
            if isinstance(error := each.outcome, Withheld) and (nobody_left or not self._may_leave(error)):
                await self.all_in()
                raise error

    def _may_leave(self, error: Withheld) -> bool:
        return isinstance(error, BudgetSpent) and any(
            teacher.name == error.agent and teacher.leaves_when_spent for teacher in self._teachers
        )

    def _forget(self, asked: Sequence[_Asked]) -> None:
        kept = [(each, task) for each, task in zip(self._asked, self._tasks, strict=True) if each not in asked]
        self._asked, self._tasks = [each for each, _ in kept], [task for _, task in kept]


def _which(ask: Ask) -> str | None:
    """What tells a request for a whole reasoning from others to the same teacher; the next step is asked for once."""
    return None if ask.writes == "step" else f"{ask.writes} {ask.style or ''} {ask.draw}"


async def somebody(gates: Sequence[Gate], until: float, patience_s: float) -> None:
    """Wait until one of the teachers' engines may be asked. Raises `Broken` when none answers in time."""
    while time.monotonic() <= until or not all(gate.parked for gate in gates):
        if any(gate.may_look or gate.gone for gate in gates):
            return
        await asyncio.sleep(LOOK_S)
    reasons = dict.fromkeys(f"engine {gate.name}: {gate.parked}" for gate in gates)
    raise Broken(f"no teacher could be asked for {patience_s:g} s: {'; '.join(reasons)}")
