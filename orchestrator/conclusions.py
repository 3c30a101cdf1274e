"""The final answer to a closed reasoning: written by the author of its last step, or by whoever can be asked.

Invariant: a failed call is a row, and the reasoning is then no trajectory. Not covered: what the answer is worth (`sift.py`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from agents.errors import Broken, BudgetSpent, Parked
from agents.ledger import Ledger
from agents.roster import Roster
from agents.teacher import Teacher
from orchestrator.failures import Failures
from orchestrator.proposals import somebody
from store.types import Question, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What follows `</think>`, and what it took; `cost` in US dollars, None where no price is known."""

    text: str
    usage: Usage
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusions:
    """Writes the conclusions of one question."""

    roster: Roster
    ledger: Ledger
    failures: Failures
    patience_s: float

    async def of(self, question: Question, text: str, author: str, about: str) -> Conclusion | None:
        """The conclusion to the reasoning `text`, whose failures are `about` a node or a sample; None after a failure.

        The author writes it, or, while it is parked or gone or has left, the first teacher that is not.
        Raises `Broken` and `Withheld` when nobody can.
        """

        pauses = self.ledger.pauses

        def reluctance(teacher: Teacher) -> tuple[bool, bool, bool, bool, bool]:
            gate = teacher.model.gate
            return bool(gate.gone), teacher.name in pauses.by, not gate.may_look, bool(gate.parked), teacher.name != author

        teachers, until = list(self.roster.teachers), math.inf
        while True:
            teacher = min(teachers, key=reluctance)
            await pauses.over(teacher.name)
            where, asked = f"teacher {teacher.name}", teacher.conclude(self.ledger, question, text=text, waits=False)
            try:
                found = await self.failures.attempt(asked, where, about)
            except (Broken, Parked):
                if teacher.model.gate.gone and all(each.model.gate.gone for each in teachers):
                    raise teacher.model.gate.gone from None
                if pauses.holds(teacher.name):
                    continue
                until = min(until, time.monotonic() + self.patience_s)
                await somebody([each.model.gate for each in teachers], until, self.patience_s)
            except BudgetSpent as spent:
                teachers.remove(teacher)
                if not teachers or spent.agent != teacher.name or not teacher.leaves_when_spent:
                    raise
                await self.failures.record(where, about, spent)
            else:
                return found and Conclusion(text=found[0], usage=found[1], cost=teacher.cost(found[1]))
