"""One question's life: from its text to trajectories with verdicts.

    sampled, if so configured or if nobody knows the answer ──▶ the aim: the gold answer, or the consensus of what was sampled
    ──▶ searched, step by step, towards the aim ──▶ sifted ──▶ while too few are accepted: sampled again ──▶ settled

    consumes     a leased question, and what the store has of its tree and calls
    produces     Advances, then trajectories, rulings, the consensus, verdicts and routes, in one last transaction
    waits for    teachers (`proposals.py`), prover, judges, store
    unblocked by their answers; a failed call is a Failure row and the others go on

Invariant: every change of the tree is durable before the next one is thought of, so that a kill loses only calls in flight.
Not covered: the search of its tree (`walk.py`), what is kept (`sift.py`), which question comes next (`workers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from agents.embedder import Embedder
from agents.ledger import Ledger, Terms
from agents.roster import Roster
from configs.schema import RunConfig
from orchestrator.aim import Aim, gold
from orchestrator.answers.checker import Checker
from orchestrator.conclusions import Conclusions
from orchestrator.consensus import ConsensusGraph, target_of
from orchestrator.failures import Failures
from orchestrator.progress import Progress
from orchestrator.quota import Quota
from orchestrator.routes import routes
from orchestrator.samples import Samples
from orchestrator.scoring import all_of
from orchestrator.search import Tree, best, closing, plant
from orchestrator.sift import Sift, counted, ordered, rationed
from orchestrator.terms import ledger_of
from orchestrator.walk import Drained, Walk
from store.store import Store
from store.types import Consensus, Outcome, Question, QuestionState, Trajectory, Verdict

__all__ = ["Drained", "Solver"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """What every question of a run is solved with. `draining` tells whether the run is about to end."""

    run: str
    config: RunConfig
    roster: Roster
    store: Store
    terms: Terms
    checker: Checker
    embedder: Embedder
    quota: Quota
    draining: Callable[[], bool]
    progress: Progress

    async def solve(self, question: Question) -> QuestionState:
        """Sample, search, conclude, sift, settle.

        Raises `Drained`, `Withheld` (a spent budget, a replay without a row), and `Broken` when nobody can be asked.
        """
        ledger = await ledger_of(question, self.store, self.terms)
        return await _Life(solver=self, question=question, ledger=ledger).live()


@dataclass(slots=True, kw_only=True)
class _Life:
    """One question on its way. `tree` is the last one that was searched; `found` all trajectories so far."""

    solver: Solver
    question: Question
    ledger: Ledger
    tree: Tree = field(init=False)
    found: list[Trajectory] = field(default_factory=list)
    aim: Aim | None = None
    _failures: Failures = field(init=False)
    _conclusions: Conclusions = field(init=False)
    _samples: Samples = field(init=False)
    _sift: Sift = field(init=False)
    _graph: ConsensusGraph = field(init=False)
    _searched: bool = False

    def __post_init__(self) -> None:
        own, question, ledger = self.solver, self.question, self.ledger
        self.tree = plant(question)
        self.aim = gold(question)
        self._failures = failures = Failures(store=own.store, question=question)
        self._conclusions = conclusions = Conclusions(
            roster=own.roster, ledger=ledger, failures=failures, patience_s=own.config.limits.patience_s
        )
        common = {"config": own.config, "roster": own.roster, "ledger": ledger, "failures": failures}
        self._samples = Samples(**common, run=own.run, conclusions=conclusions)
        self._sift = Sift(**common, checker=own.checker)
        self._graph = ConsensusGraph(question.id, own.config.consensus, own.embedder, self._groups)

    async def _groups(self, answers: Sequence[str]) -> list[int]:
        return await self.solver.checker.groups(answers, self.question.kind, self.question.choices)

    async def live(self) -> QuestionState:
        """All of it: as many attempts as it takes, or as there are."""
        config, samples_first = self.solver.config, self.solver.config.sampling is not None or self.aim is None
        if self.aim is None and (known := await self.solver.store.target(self.question.id)):
            self.aim = Aim(answer=known[0], target="consensus", support=known[1])
        verdicts: dict[str, Verdict] = {}
        graph = self._graph.consensus()
        for attempt in range(config.target.attempts):
            if attempt or samples_first:
                await self._sample(attempt)
            if self.aim and not self._searched and config.search.strategy != "none":
                await self._search(self.aim)
            verdicts, graph = await self._sifted()
            if _accepted(verdicts.values()) >= config.target.least:
                break
        return await self._settle(verdicts, graph)

    # Trajectories

    async def _sample(self, number: int) -> None:
        """A round of samples; where nobody knows the answer, they may agree on one."""
        if self._draining():
            raise Drained
        new = await self._samples.round(self.question, number)
        self.found += new
        await self._graph.add(new)
        if self.aim is None and self.question.kind != "open":
            await self._agree()

    async def _agree(self) -> None:
        """Take the consensus as aim, if there is one; for every life, since a sample that failed may be there in another."""
        if target := target_of(self._graph.consensus(), self.solver.config.consensus.min_support):
            await self.solver.store.set_target(self.question.id, *target)
            self.aim = Aim(answer=target[0], target="consensus", support=target[1])

    async def _search(self, aim: Aim) -> None:
        own = self.solver
        walk = Walk(
            run=own.run,
            config=own.config,
            roster=own.roster,
            store=own.store,
            ledger=self.ledger,
            failures=self._failures,
            conclusions=self._conclusions,
            checker=own.checker,
            aim=aim,
            draining=self._draining,
            progress=own.progress,
        )
        self.tree, new = await walk.search(self.question)
        self._searched = True
        self.found += new
        await self._graph.add(new)

    async def _sifted(self) -> tuple[dict[str, Verdict], Consensus]:
        self.found = await self._scored()
        checked = await self._sift.checked(self.question, self.found, self.aim)
        passed = [id for id, verdict in checked.items() if verdict.outcome is Outcome.ACCEPTED]
        graph = self._graph.consensus(accepted=passed if self.question.kind != "open" else ())  # open answers cannot agree
        if self.aim and self.aim.target == "consensus":
            graph = replace(graph, target=self.aim.answer, target_support=self.aim.support)
        return await self._sift.verdicts(self.question, self.found, checked, graph), graph

    async def _scored(self) -> list[Trajectory]:
        """What was found, the samples with scores too where the prover can give them."""
        config, prover, aim = self.solver.config, self.solver.roster.prover, self.aim
        if prover is None or aim is None or config.search.strategy == "binary":
            return self.found

        async def scored(each: Trajectory) -> Trajectory:
            if each.score is not None:
                return each
            asked = prover.score(self.ledger, self.question, each.text, aim.answer, aim.target)
            score = await self._failures.attempt(asked, "prover", each.id)
            return replace(each, score=score.value, target=aim.target) if score else each

        return await all_of([scored(each) for each in self.found])

    # The end

    async def _settle(self, verdicts: dict[str, Verdict], graph: Consensus) -> QuestionState:
        own, order = self.solver, ordered(self.found, graph)
        most = own.config.target.most
        verdicts = rationed(verdicts, order, most, f"the question has its {most}")
        async with own.quota.turn() as room:
            if own.quota.met:
                raise Drained
            verdicts = rationed(verdicts, order, room, "the run has what it wants")
            state, reason = self._outcome([verdicts[each.id] for each in order])
            await own.store.settle_question(
                self.question.id,
                state=state,
                reason=reason,
                trajectories=_with_best(self.found, order, verdicts),
                verdicts=[verdicts[each.id] for each in self.found],
                routes=routes(list(verdicts.values()), own.config),
                tree_update=closing(self.tree),
                rulings=[ruling for each in self.found for ruling in self._sift.rulings.get(each.id, ())],
                consensus=graph if self.found else None,
            )
            own.quota.add(_accepted(verdicts.values()))
        own.progress.settled(self.question, state, reason)
        log.info("question_settled", question=self.question.id, state=state.value, reason=reason, trajectories=len(verdicts))
        return state

    def _outcome(self, verdicts: Sequence[Verdict]) -> tuple[QuestionState, str]:
        """The question's last state, and why."""
        if accepted := _accepted(verdicts):
            return QuestionState.SOLVED, f"{accepted} of {len(verdicts)} trajectories accepted"
        if verdicts and self.aim is None and self.question.kind != "open":
            return QuestionState.UNSOLVED, f"no answer has enough support: {self._supports()}"
        if verdicts:
            return QuestionState.UNSOLVED, f"no trajectory accepted: {counted(verdicts)}; {verdicts[0].reason}"
        if not self.tree.nodes:
            return QuestionState.UNSOLVED, "every call failed, or every step was empty"
        if best(self.tree):
            return QuestionState.UNSOLVED, "no answer could be written: its calls failed"
        return QuestionState.UNSOLVED, "no reasoning was closed within the budgets"

    def _supports(self) -> str:
        leading = self._graph.consensus().clusters[:1]
        least = self.solver.config.consensus.min_support
        return f"{leading[0].answer} has {leading[0].support:.0%} of {least:.0%}" if leading else "there is none"

    def _draining(self) -> bool:
        return self.solver.draining() or self.solver.quota.met


def _accepted(verdicts: Iterable[Verdict]) -> int:
    return sum(verdict.outcome is Outcome.ACCEPTED for verdict in verdicts)


def _with_best(found: Sequence[Trajectory], order: Sequence[Trajectory], verdicts: dict[str, Verdict]) -> list[Trajectory]:
    """The trajectories; where no search has marked its best, the best accepted one is marked."""
    if any(each.best for each in found):
        return list(found)
    first = next((each for each in order if verdicts[each.id].outcome is Outcome.ACCEPTED), None)
    return [replace(each, best=each is first) for each in found]
