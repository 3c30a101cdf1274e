"""Who is not to be asked for now, because somebody said so: the whole run, or one agent.

Invariant: what is already sent comes home; what is answered from a row is answered all the same. Not covered: who says so
(`orchestrator.controls`), engines that fail (`breaker.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agents.errors import Withheld

LOOK_S = 0.1
"""Between two looks at whether a pause is over."""
RUN = ""
"""The subject of a pause of the whole run."""


class Ending(Withheld):
    """The run ends while it is paused."""


class Pauses:
    """Those of one run; `by` says who paused what. `ends` tells whether the run is about to end: nobody waits any more then."""

    def __init__(self, ends: Callable[[], bool] = lambda: False) -> None:
        self.by: Mapping[str, str] = {}
        self._ends = ends

    @property
    def run(self) -> bool:
        """Whether nobody is to be asked."""
        return RUN in self.by

    def holds(self, agent: str) -> str | None:
        """Why an agent is not asked; None when it is."""
        subject = RUN if self.run else agent
        return f"paused by {self.by[subject]}" if subject in self.by else None

    async def over(self, *agents: str) -> None:
        """Wait until one of these may be asked. Raises `Ending`."""
        while all(self.holds(agent) for agent in agents):
            if self._ends():
                raise Ending(f"the run ends while {agents[0]} is {self.holds(agents[0])}")
            await asyncio.sleep(LOOK_S)
