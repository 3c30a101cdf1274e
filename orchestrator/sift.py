"""One trajectory's verdict. Pure.

Invariant: exactly one verdict for each trajectory, with its reason; nothing is deleted.
Not covered: judges and consensus.
"""

from __future__ import annotations

from orchestrator.answers import same_answer
from store.types import Outcome, Question, Trajectory, Verdict


def sift(question: Question, trajectory: Trajectory) -> Verdict:
    """The answer check: is the extracted answer the gold answer? Without a gold answer nobody can tell."""
    outcome, reason = _checked(question, trajectory)
    return Verdict(trajectory=trajectory.id, outcome=outcome, reason=reason)


def _checked(question: Question, trajectory: Trajectory) -> tuple[Outcome, str]:
    if question.answer is None:
        return Outcome.UNDECIDED, "no gold answer"
    if trajectory.answer is None:
        return Outcome.WRONG_ANSWER, "no answer found"
    if same_answer(trajectory.answer, question.answer, question.kind, question.choices):
        return Outcome.ACCEPTED, "answer check"
    return Outcome.WRONG_ANSWER, f"{trajectory.answer} is not {question.answer}"
