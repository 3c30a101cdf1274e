"""What benchmarks that solve questions in this process share: a solver, and a run that shows nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents.embedder import open_embedder
from agents.ledger import Terms
from agents.roster import Roster
from configs.schema import RunConfig
from orchestrator.answers.checker import open_checker
from orchestrator.progress import Lines
from orchestrator.quota import Quota
from orchestrator.solve import Solver
from store.store import Store


class Silent(Lines):
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@asynccontextmanager
async def solver(config: RunConfig, roster: Roster, store: Store) -> AsyncIterator[Solver]:
    """Solves questions of `store`, whose run is called "bench"."""
    async with open_checker() as checker, open_embedder(config.consensus) as embedder:
        yield Solver(
            run="bench",
            config=config,
            roster=roster,
            store=store,
            terms=Terms(keep=store),
            checker=checker,
            embedder=embedder,
            quota=Quota(None, 0),
            draining=lambda: False,
            progress=Silent(),
        )
