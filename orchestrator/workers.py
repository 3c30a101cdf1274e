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
from dataclasses import dataclass

from agents import prompts
from agents.embedder import open_embedder
from agents.errors import BudgetSpent, Withheld
from agents.roster import Roster, open_roster
from configs.load import identity
from configs.schema import RunConfig
from orchestrator.answers.checker import open_checker
from orchestrator.daemon import Draining
from orchestrator.folder import Folder, write_whole
from orchestrator.progress import Progress
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
    progress: Progress
    draining: Draining
    most: int | None = None
    _done: int = 0
    _total: int = 0
    _started: int = 0
    _withheld: Withheld | None = None

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
            open_terms(self.config, self.store) as terms,
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
            await self._work(solver)
            if quota.met:
                await self.store.release_leases(_OWNER)
                self._tell_met()
            if isinstance(spent := self._withheld, BudgetSpent) and terms.budget:
                left = f"{self._total - self._done} of {self._total} questions are left"
                told = f"{terms.budget.told(spent.agent)}; {left}: with more, the same command goes on"
                self._withheld = BudgetSpent(told, spent.agent)
        if self._withheld:
            raise self._withheld

    def _tell_met(self) -> None:
        self.progress.note(f"the target of {self.config.target.accepted} accepted trajectories is met")

    async def _work(self, solver: Solver) -> None:
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep_leases())
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.config.limits.questions, self._total - self._done)):
                    workers.create_task(self._worker(solver))
            keeping.cancel()

    async def _worker(self, solver: Solver) -> None:
        while not solver.draining() and not solver.quota.met and (self.most is None or self._started < self.most):
            self._started += 1
            if not (question := await self.store.lease_question(_OWNER, self.config.limits.lease_s)):
                return
            try:
                await solver.solve(question)
            except Drained:
                return
            except Withheld as withheld:
                self._withheld = withheld
                return
            self._done += 1
            self.progress.stage("search", self._done, self._total)

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
