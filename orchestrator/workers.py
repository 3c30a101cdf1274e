"""The search stage: N workers lease questions until none is left, each question moving on its own.

    consumes     pending questions of the store
    produces     settled ones (`solve.py`)
    waits for    engines to open, then for each question's calls
    unblocked by the end of the questions, a target that is met, a drain, a spent budget, a replay without a row

Invariant: what is not settled is pending in the store, so that the same command goes on. Not covered: one question (`solve.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agents import prompts
from agents.embedder import open_embedder
from agents.errors import BudgetSpent, Withheld
from agents.ledger import Terms
from agents.pauses import Ending
from agents.roster import Roster, open_roster
from configs.load import identity
from configs.schema import RunConfig
from orchestrator.answers.checker import open_checker
from orchestrator.controls import Controls
from orchestrator.daemon import Draining
from orchestrator.folder import Folder, write_whole
from orchestrator.pulse import Pulse
from orchestrator.quota import Quota
from orchestrator.solve import Drained, Solver
from orchestrator.terms import open_terms
from store.store import Store
from store.types import content_id

_OWNER = "run"
_SHOWN = 60
"""Characters of a prompt's end that are told."""


@dataclass(kw_only=True)
class Search:
    """The search stage of one run; `most` bounds how many questions are settled before it ends (a dry run's sample)."""

    config: RunConfig
    folder: Folder
    store: Store
    progress: Pulse
    draining: Draining
    controls: Controls
    most: int | None = None
    _done: int = 0
    _total: int = 0
    _started: int = 0
    _withheld: Withheld | None = None
    _working: int = 0
    _idle: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Settle what is not settled. Raises `BudgetSpent`, which says what is left, and `MissingCall`."""
        counts = await self.store.counts()
        self._total = sum(counts.get(f"questions.{state}", 0) for state in ("pending", "leased", "solved", "unsolved"))
        self._done = counts.get("questions.solved", 0) + counts.get("questions.unsolved", 0)
        self.progress.stage("search", self._done, self._total)
        quota = Quota(self.config.target.accepted, counts.get("trajectories.accepted", 0))
        if self._done == self._total:
            return
        if quota.met:
            self._tell_met()
            return
        async with (
            self._roster() as roster,
            open_terms(self.controls.config, self.store, self.controls.pauses) as terms,
            open_checker() as checker,
            open_embedder(self.config.consensus) as embedder,
        ):
            await self._show_prompts(roster)
            solver = Solver(
                run=content_id("run", identity(self.config)),
                config=self.config,
                roster=roster,
                store=self.store,
                terms=terms,
                checker=checker,
                embedder=embedder,
                quota=quota,
                draining=lambda: bool(self.draining() or self._withheld),
                progress=self.progress,
            )
            async with self._listening(roster, terms):
                await self._work(solver)
            if quota.met:
                await self.store.release_leases(_OWNER)
                self._tell_met()
            if isinstance(spent := self._withheld, BudgetSpent) and terms.budget:
                left = f"{self._total - self._done} of {self._total} questions are left"
                told = f"{terms.budget.told(spent.agent)}; {left}: with more, the same command goes on"
                self._withheld = BudgetSpent(told, spent.agent)
        if self._withheld and not isinstance(self._withheld, Ending):
            raise self._withheld

    def _tell_met(self) -> None:
        self.progress.note(f"the target of {self.config.target.accepted} accepted trajectories is met")

    async def _work(self, solver: Solver) -> None:
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep_leases())
            async with asyncio.TaskGroup() as workers:
                while self._working or not self._idle:
                    self._wake.clear()
                    while not self._idle and self._working < self._most_working:
                        self._working += 1
                        workers.create_task(self._worker(solver))
                    await self._wake.wait()
            keeping.cancel()

    @property
    def _most_working(self) -> int:
        return self.controls.config.limits.questions

    @asynccontextmanager
    async def _listening(self, roster: Roster, terms: Terms) -> AsyncIterator[None]:
        """What is asked of the run meanwhile changes limits and budget, and a requeued question is work again."""

        async def listen(config: RunConfig) -> None:
            roster.set_limits(config)
            if terms.budget:
                await terms.budget.recap(config.budget, {teacher.name: teacher.budget for teacher in config.teachers})
            counts = await self.store.counts()
            self._done = counts.get("questions.solved", 0) + counts.get("questions.unsolved", 0)
            self._idle = self._withheld is not None or not counts.get("questions.pending")
            self._wake.set()

        self.controls.listen(listen)
        self.progress.roster = roster
        try:
            yield
        finally:
            self.controls.forget(listen)
            self.progress.roster = None

    async def _worker(self, solver: Solver) -> None:
        """Question after question, while there is one and there are not too many workers."""
        try:
            while self._working <= self._most_working:
                if not await self._one(solver):
                    self._idle = True
                    return
        finally:
            self._working -= 1
            self._wake.set()

    async def _one(self, solver: Solver) -> bool:
        """Settle a question; False when there is none to settle, or none is to be."""
        if solver.draining() or solver.quota.met or (self.most is not None and self._started >= self.most):
            return False
        self._started += 1
        if not (question := await self.store.lease_question(_OWNER, self.config.limits.lease_s)):
            return False
        try:
            await solver.solve(question)
        except Drained:
            return False
        except Withheld as withheld:
            self._withheld = withheld
            return False
        self._done += 1
        self.progress.stage("search", self._done, self._total)
        return True

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self.config.limits.lease_s / 3)
            await self.store.renew_leases(_OWNER, self.config.limits.lease_s)

    @asynccontextmanager
    async def _roster(self) -> AsyncIterator[Roster]:
        if not self.config.replay:
            self.progress.note("opening engines; a model that is not on this machine is fetched once")
        async with open_roster(self.config, outputs=self.folder.servers, tell=self.progress.note) as roster:
            yield roster

    async def _show_prompts(self, roster: Roster) -> None:
        """What each teacher is asked first, as it is sent: in a file each, and its end in a line."""
        first = (await self.store.questions("train", limit=1))[0].question
        for teacher in roster.teachers:
            if shown := teacher.model.engine.shown(prompts.propose(first, (), teacher.asking, self.config.search.segmentation)):
                path = self.folder.prompts / f"{teacher.name}.txt"
                await asyncio.to_thread(write_whole, path, shown)
                self.progress.note(f"teacher {teacher.name} is asked {path} first, which ends in {shown[-_SHOWN:]!r}")
