"""What goes wrong with one question, as rows: the question, and the others, go on.

Invariant: an engine's error is a `Failure`, or ends the run (`Broken`, `Parked`, `Withheld` are raised); none is swallowed.
Not covered: what errors there are (`agents.errors`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from agents.errors import Broken, EngineError, Parked, Withheld
from store.store import Store
from store.types import Failure, Question, content_id

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """The failures of one question."""

    store: Store
    question: Question

    async def attempt(self, asked: Awaitable[T], where: str, beam: str | None, step: str | None = None) -> T | None:
        """The awaited value, or None after an engine's error, which then is a row; `step` tells siblings apart."""
        try:
            return await asked
        except (Broken, Parked, Withheld):
            raise
        except EngineError as error:
            await self.record(where, beam, error, step)
            return None

    async def record(self, where: str, beam: str | None, error: EngineError, step: str | None = None) -> None:
        """Make an error a row."""
        kind, message = type(error).__name__, str(error)
        log.warning("call_failed", question=self.question.id, where=where, kind=kind, message=message)
        await self.store.record_failure(
            Failure(
                id=content_id("failure", where, self.question.id, beam, step, kind, message),
                where=where,
                kind=kind,
                message=message,
                tries=error.tries,
                subject=self.question.id,
                request=error.request,
            )
        )
