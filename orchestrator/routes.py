"""Which student gets which trajectory. Pure.

Invariant: only accepted trajectories are routed. Not covered: a router that learns; here every student gets all.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.types import Outcome, Route, Verdict, content_id


def routes(verdicts: Sequence[Verdict], students: Sequence[str]) -> list[Route]:
    """A route from every accepted trajectory to every student."""
    accepted = [verdict.trajectory for verdict in verdicts if verdict.outcome is Outcome.ACCEPTED]
    return [
        Route(id=content_id("route", trajectory, student, 0), trajectory=trajectory, student=student)
        for trajectory in accepted
        for student in students
    ]
