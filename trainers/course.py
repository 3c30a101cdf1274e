"""The plans of all epochs so far, with their lessons, as one actor reads them.

Consumes: what is accepted. Produces: an epoch's plan, where this actor is the first to need it. Waits for: a batch of arrivals
while teachers still write. Unblocked by: verdicts, and the end of the search.

Invariant: two actors that agree on `Student.epochs`, `batch`, `batch_of` and `trajectories` see the same batches.
Not covered: batches (`plan.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.schema import Student
from store.store import Store
from store.types import Lesson, content_id
from trainers.plan import Item, Walk, item_of

_LOOK_S = 0.25

Fits = Callable[[Lesson], bool]


@dataclass(slots=True)
class Course:
    """Grows by `reach`."""

    store: Store
    walk: Walk
    stopping: asyncio.Event
    best_only: bool
    student: str | None
    """Only what is routed to it; None: all that is accepted."""

    @property
    def identity(self) -> str:
        """Of all that has arrived."""
        return content_id(*([item.trajectory for item in items] for items in self.walk.arrivals))

    async def reach(self, epoch: int, fits: Fits) -> bool:
        """Know the plan of `epoch`; what does not fit (`fits` sees each lesson once) is in no batch.

        False when there is nothing more to learn, or when it is time to stop.
        """
        while self.walk.ended_with is None and len(self.walk.arrivals) <= epoch:
            number = len(self.walk.arrivals)
            least = 0 if self.walk.has_epoch(number) else self.walk.batch
            plan = await self.store.plan_epoch(number, least)
            if plan is not None:
                lessons = await self.store.lessons(number, self.student, self.best_only) if plan.arrivals else []
                arrived = tuple(item_of(lesson) for lesson in lessons if fits(lesson))
                ended_with = number if plan.ended else None
                self.walk = replace(self.walk, arrivals=(*self.walk.arrivals, arrived), ended_with=ended_with)
            elif self.stopping.is_set():
                return False
            else:
                await asyncio.sleep(_LOOK_S)
        return self.walk.has_epoch(epoch) or self.walk.ended_with is None


def begin_course(store: Store, config: Student, seed: int, stopping: asyncio.Event, student: str | None) -> Course:
    """A course of which nothing is known yet."""
    walk = Walk(arrivals=(), ended_with=None, epochs=config.epochs, batch=config.batch, batch_of=config.batch_of, seed=seed)
    best_only = config.trajectories == "best"
    return Course(store=store, walk=walk, stopping=stopping, best_only=best_only, student=student)


def batch_at(course: Course, epoch: int, update: int) -> list[list[Item]]:
    """The batches of an epoch that come after `update` updates."""
    return course.walk.batches(epoch)[max(0, update - course.walk.first_update(epoch)) :]
