"""Which student gets which trajectory as soon as it is accepted. Pure.

Invariant: only accepted trajectories are routed. Not covered: the router, which routes by what students report (`trainers`).
"""

from __future__ import annotations

from collections.abc import Sequence

from configs.schema import RunConfig
from store.types import Outcome, Route, Verdict, content_id


def routes(verdicts: Sequence[Verdict], config: RunConfig) -> list[Route]:
    """A route from every accepted trajectory to every student; none where a router will decide."""
    accepted = [verdict.trajectory for verdict in verdicts if verdict.outcome is Outcome.ACCEPTED]
    return [
        Route(id=content_id("route", trajectory, student.name, 0), trajectory=trajectory, student=student.name)
        for trajectory in accepted
        for student in (config.students if config.router is None else ())
    ]
