"""What benchmarks that solve questions in this process share: a solver, and a run that shows nothing."""

from __future__ import annotations

from agents.ledger import Terms
from agents.roster import Roster
from configs.schema import RunConfig
from orchestrator.progress import Lines
from orchestrator.solve import Solver
from store.store import Store


class Silent(Lines):
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def solver(config: RunConfig, roster: Roster, store: Store) -> Solver:
    """Solves questions of `store`, whose run is called "bench"."""
    terms = Terms(keep=store)
    return Solver(run="bench", config=config, roster=roster, store=store, terms=terms, draining=lambda: False, progress=Silent())
