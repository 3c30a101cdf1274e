"""The store from one end to the other, a page at a time, so that memory stays flat however large the run is.

Invariant: questions come in their order, trajectories of a question together and by id. Not covered: what changes meanwhile
in a living run: a page is one committed state, all pages together are not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from orchestrator.search import Tree, plant
from store.store import Judged, Placed, Store
from store.types import Consensus, QuestionState

_PAGE = 256
_SETTLED = (QuestionState.SOLVED, QuestionState.UNSOLVED)


async def trajectories(store: Store, *, accepted_only: bool = False, best_only: bool = False) -> AsyncIterator[Judged]:
    """All trajectories with what is said of them, the accepted ones, or the best ones of those."""
    cursor = (-1, "")
    while page := await store.judged(after=cursor, limit=_PAGE, accepted_only=accepted_only):
        for judged in page:
            if judged.trajectory.best or not best_only:
                yield judged
        cursor = page[-1].cursor


async def by_question(store: Store) -> AsyncIterator[list[Judged]]:
    """All trajectories, those of each question that has any."""
    together: list[Judged] = []
    async for judged in trajectories(store):
        if together and together[0].position != judged.position:
            yield together
            together = []
        together.append(judged)
    if together:
        yield together


async def consensuses(store: Store) -> AsyncIterator[tuple[Consensus, list[Judged]]]:
    """The graph of each question that has one, with its trajectories."""
    async for together in by_question(store):
        if consensus := await store.consensus(together[0].question.id):
            yield consensus, together


async def questions(store: Store) -> AsyncIterator[Placed]:
    """The questions that are reasoned about."""
    position = -1
    while page := await store.questions("train", after=position, limit=_PAGE):
        for placed in page:
            yield placed
        position = page[-1].position


async def trees(store: Store, *, settled_only: bool = False) -> AsyncIterator[Tree]:
    """The trees of all questions, or of the settled ones."""
    async for placed in questions(store):
        if placed.state in _SETTLED or not settled_only:
            yield plant(placed.question, await store.tree(placed.question.id))
