"""The engine of a replay: there is nobody to ask, every answer comes from the ledger.

Invariant: opens nothing, reaches nothing. Not covered: the ledger, which says what is missing (`agents.ledger`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Prompt
from agents.errors import MissingCall

_REASON = "replay: nobody is asked"


class Nobody:
    """`agents.engines.base.Engine` that answers nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    @property
    def capabilities(self) -> Capabilities:
        """All, as far as the ledger goes."""
        return Capabilities(
            model="the ledger",
            found="replay",
            device="nowhere",
            dtype="none",
            scores=True,
            continues=True,
            context_tokens=0,
        )

    async def generate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        logprobs: bool = False,
    ) -> list[Completion]:
        """Raises `MissingCall`."""
        raise MissingCall(_REASON)

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """Raises `MissingCall`."""
        raise MissingCall(_REASON)

    def shown(self, prompt: Prompt) -> str:
        """Nothing is sent."""
        return ""
