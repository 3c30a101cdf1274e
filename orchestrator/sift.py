"""What is kept of a question's trajectories: answer check, consensus, judges, and one verdict each (QR-Distill, methods part 2).

    trajectory ──▶ answer check ──▶ twice the same? right by luck? ──▶ judges ──▶ more than was asked for? ──▶ Verdict

Invariant: exactly one verdict for each trajectory, with its reason; nothing is deleted. What does not plainly pass is not
accepted: a tie of the judges decides nothing. Of trajectories that say the same, one is judged, and at most one is accepted.
Not covered: what is the same answer (`answers/`), the graph (`consensus.py`), one ruling (`agents.judge`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agents.ledger import Ledger
from agents.roster import Roster
from agents.steps import folded
from configs.schema import RunConfig
from orchestrator.aim import Aim
from orchestrator.answers.checker import Checker
from orchestrator.failures import Failures
from orchestrator.scoring import all_of
from store.types import Consensus, Outcome, Question, Ruling, Standing, Trajectory, Verdict, content_id

_SHOWN = 200
"""Characters of an answer that a reason repeats; the whole stands in its trajectory."""
_PLAIN = ("answer check", "symbolic equality")
"""What decides mostly, and needs no words in a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sift:
    """Sifts the trajectories of one question; what is known of one is not asked again."""

    config: RunConfig
    roster: Roster
    checker: Checker
    ledger: Ledger
    failures: Failures
    rulings: dict[str, list[Ruling]] = field(default_factory=dict)

    async def checked(self, question: Question, trajectories: Iterable[Trajectory], aim: Aim | None) -> dict[str, Verdict]:
        """What the answer check alone says: ACCEPTED, WRONG_ANSWER or UNDECIDED."""
        return {each.id: await self._checked(question, each, aim) for each in trajectories}

    async def _checked(self, question: Question, trajectory: Trajectory, aim: Aim | None) -> Verdict:
        def verdict(outcome: Outcome, reason: str) -> Verdict:
            return Verdict(trajectory=trajectory.id, outcome=outcome, reason=reason, target=aim and aim.target)

        if question.kind == "open":
            return replace(verdict(Outcome.ACCEPTED, "open answer"), target=None)
        if aim is None:
            return verdict(Outcome.UNDECIDED, "no gold answer, and no answer has the support to stand in for it")
        if trajectory.answer is None:
            return verdict(Outcome.WRONG_ANSWER, "no answer found")
        found = await self.checker.check(question, trajectory.answer, aim.answer, span_f1=self.config.span_f1)
        if found.right:
            consensus = f", with {_short(aim.told())}" if aim.target == "consensus" else ""
            return verdict(Outcome.ACCEPTED, found.how + consensus)
        told = "" if found.how in _PLAIN else f" ({found.how})"
        return verdict(Outcome.WRONG_ANSWER, f"{_short(trajectory.answer)} is not {_short(aim.told())}{told}")

    async def verdicts(
        self, question: Question, trajectories: Sequence[Trajectory], checked: Mapping[str, Verdict], graph: Consensus
    ) -> dict[str, Verdict]:
        """One verdict for each trajectory. Raises `Broken` and `Withheld` when the judges cannot be asked."""
        standings = {standing.trajectory: standing for standing in graph.standings}
        verdicts = dict(checked)
        if self.config.consensus.drop_misleading:
            verdicts |= {id: _by_luck(verdicts[id], standing) for id, standing in standings.items() if standing.misleading}
        order = self._judged_first(ordered(trajectories, graph))
        firsts = _firsts(each for each in order if verdicts[each.id].outcome is Outcome.ACCEPTED)
        if self.config.judges:
            await self._judge(question, [*firsts.values(), *self._audited(question, order, verdicts)])
            for first in firsts.values():
                verdicts[first.id] = self._ruled(question, verdicts[first.id], self.rulings[first.id])
        for each in trajectories:
            first = firsts.get(_said(each))
            if first and first is not each and verdicts[each.id].outcome is Outcome.ACCEPTED:
                verdicts[each.id] = _as(verdicts[each.id], verdicts[first.id])
        return verdicts

    # Judges

    async def _judge(self, question: Question, trajectories: Sequence[Trajectory]) -> None:
        """Ask every judge about every trajectory that it has not ruled on."""

        async def one(trajectory: Trajectory, at: int) -> Ruling | None:
            judge = self.roster.judges[at]
            asked = judge.rule(self.ledger, question, trajectory)
            return await self.failures.attempt(asked, f"judge {judge.name}", trajectory.id)

        new = [each for each in trajectories if each.id not in self.rulings]
        found = await all_of([one(each, at) for each in new for at in range(len(self.roster.judges))])
        for each in new:
            self.rulings[each.id] = []
        for ruling in found:
            if ruling:
                self.rulings[ruling.trajectory].append(ruling)

    def _judged_first(self, trajectories: Iterable[Trajectory]) -> list[Trajectory]:
        """Those that were judged in an earlier round come first, so that none that says the same is judged again."""
        return sorted(trajectories, key=lambda each: each.id not in self.rulings)

    def _audited(
        self, question: Question, trajectories: Sequence[Trajectory], verdicts: Mapping[str, Verdict]
    ) -> list[Trajectory]:
        """Some that the answer check refuses, to see how the judges agree with it; always the same ones."""
        wrong = [each for each in trajectories if verdicts[each.id].outcome is Outcome.WRONG_ANSWER and each.answer is not None]
        share = self.config.judging.audit * 16**8
        return [each for said, each in _firsts(wrong).items() if int(content_id("audit", question.id, *said)[:8], 16) < share]

    def _ruled(self, question: Question, passed: Verdict, rulings: Sequence[Ruling]) -> Verdict:
        """What the votes make of a trajectory that has passed all else."""
        votes = Counter(ruling.ruled for ruling in rulings)
        valid, invalid = votes["valid"], votes["invalid"]
        reason = next((f"{each.judge}: {each.reason}" for each in rulings if each.ruled == "invalid"), "")
        told = f"{valid} of {valid + invalid} judges say VALID"
        if not valid and not invalid:
            return replace(passed, outcome=Outcome.UNDECIDED, reason=f"{passed.reason}; no judge gave a ruling that can be read")
        refused = invalid > 0 if self.config.judging.rule == "unanimous" else invalid > valid
        if refused:
            return replace(passed, outcome=Outcome.UNSOUND, reason=f"{told}; {reason}")
        if invalid == valid:
            return replace(passed, outcome=Outcome.UNDECIDED, reason=f"the judges disagree: {told}; {reason}")
        return replace(passed, reason=told if question.kind == "open" else f"{passed.reason}; {told}")


def ordered(trajectories: Iterable[Trajectory], graph: Consensus) -> list[Trajectory]:
    """The best one first: tau*, then by score, then by centrality, then by id."""
    central = {standing.trajectory: standing.centrality for standing in graph.standings}

    def place(each: Trajectory) -> tuple[bool, float, float, str]:
        return not each.best, -(each.score if each.score is not None else -1.0), -central.get(each.id, 0.0), each.id

    return sorted(trajectories, key=place)


def rationed(verdicts: Mapping[str, Verdict], order: Sequence[Trajectory], most: int | None, wanted: str) -> dict[str, Verdict]:
    """The verdicts when only the first `most` of those accepted, in `order`, are `wanted`; None: all."""
    accepted = [each.id for each in order if verdicts[each.id].outcome is Outcome.ACCEPTED]
    surplus = accepted[most:] if most is not None else []
    return dict(verdicts) | {
        id: replace(verdicts[id], outcome=Outcome.SURPLUS, reason=f"{verdicts[id].reason}; {wanted}") for id in surplus
    }


def counted(verdicts: Iterable[Verdict]) -> str:
    """How many there are of each outcome, in words."""
    counts = Counter(verdict.outcome.value.replace("_", " ") for verdict in verdicts)
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _short(answer: str) -> str:
    return answer if len(answer) <= _SHOWN else f"{answer[:_SHOWN]} ..."


def _said(trajectory: Trajectory) -> tuple[str, str]:
    return folded(trajectory.text), folded(trajectory.conclusion)


def _firsts(trajectories: Iterable[Trajectory]) -> dict[tuple[str, str], Trajectory]:
    """Of those that say the same, the first one."""
    found: dict[tuple[str, str], Trajectory] = {}
    for each in trajectories:
        found.setdefault(_said(each), each)
    return found


def _as(verdict: Verdict, first: Verdict) -> Verdict:
    """The verdict of one that says what `first` is about."""
    outcome = Outcome.DUPLICATE if first.outcome is Outcome.ACCEPTED else first.outcome
    return replace(verdict, outcome=outcome, reason=f"the same as {first.trajectory}: {first.reason}")


def _by_luck(verdict: Verdict, standing: Standing) -> Verdict:
    if verdict.outcome is not Outcome.ACCEPTED:
        return verdict
    told = f"centrality {standing.centrality:.2f}, and its nearest neighbour has similarity {standing.nearest:.2f}"
    return replace(verdict, outcome=Outcome.MISLEADING, reason=f"right answer, but {told}")
