"""What the trajectories of a question are held against."""

from __future__ import annotations

from dataclasses import dataclass

from store.types import Question, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """The gold answer, or the one that stands in for it with its `support` (methods parts 1 and 4)."""

    answer: str
    target: Target
    support: float | None = None

    def told(self) -> str:
        """In words, for a verdict's reason."""
        return self.answer if self.support is None else f"{self.answer}, the consensus of {self.support:.0%}"


def gold(question: Question) -> Aim | None:
    """The question's own answer, if it has one."""
    return None if question.answer is None else Aim(answer=question.answer, target="gold")
