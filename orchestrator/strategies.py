"""How the tree of a question is searched: one small strategy each, behind one interface (methods part 1). Pure.

    strategy      asks for                             scores a candidate by               keeps
    beam          the next step of every open beam     the answer's log-probs              the best B
    greedy        the same                             the same                            the best one
    binary        the same                             its share of right short answers    the best B
    mcts          the next step of one leaf, by UCB    the answer's log-probs after a      every step, and of the
                                                       rollout to the end                  finished the best B
    curation      whole traces                         the answer's log-probs              the best B
    random        whole traces                         the same, and chooses by chance     B of them
    longest       whole traces                         the same, and chooses by length     the longest B
    integration   whole traces, then one from them     the same                            the one

Invariant: what is asked next is a function of the tree and of how many rounds there were, so that a question can be walked
again from its root, its calls answered by the ledger. Whole traces are one node each.
Not covered: how the asked is asked and scored (`proposals.py`, `scoring.py`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from agents.teacher import Writes
from configs.schema import Search, Style
from orchestrator.search import Tree, advance, frontier, node_of, pruned, spent
from store.types import Advance, Candidate, Node, NodeState, Score, content_id

Scoring = Literal["perplexity", "answers", "rollout"]
Scored = Sequence[tuple[Candidate, Score]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to one teacher: to go on from `beam` (None: the root), maybe in a style. `draw` tells equal requests apart."""

    beam: str | None
    teacher: str
    samples: int
    writes: Writes = "step"
    draw: int = 0
    style: Style | None = None


class Strategy(Protocol):
    """What all of them offer. `resumes`: it goes on from the tree that the store has; others walk again from the root."""

    @property
    def resumes(self) -> bool:
        """Whether it goes on from a tree."""
        ...

    @property
    def scoring(self) -> Scoring:
        """How candidates are scored."""
        ...

    def asks(self, tree: Tree, num_rounds: int) -> list[Ask]:
        """What to ask after `num_rounds` rounds; nothing: the search has ended."""
        ...

    def advance(self, tree: Tree, asks: Sequence[Ask], scored: Scored) -> Advance:
        """The tree's change, when what was asked has been scored."""
        ...

    def value(self, node: Node) -> float:
        """What finished hypotheses are ordered by, the highest first."""
        ...


def strategy_of(search: Search, *, run: str, teachers: Sequence[str]) -> Strategy:
    """The strategy that a configuration names, for the run with this id and its teachers in order."""
    names = tuple(teachers)
    match search.strategy:
        case "beam":
            return Steps(search=search, run=run, teachers=names)
        case "greedy":
            return Steps(search=search.model_copy(update={"beam": 1}), run=run, teachers=names)
        case "binary":
            return Steps(search=search, run=run, teachers=names, scoring="answers")
        case "mcts":
            return Rollouts(search=search, run=run, teachers=names)
        case "curation":
            return Traces(search=search, run=run, teachers=names)
        case "random":
            return Random(search=search, run=run, teachers=names)
        case "longest":
            return Longest(search=search, run=run, teachers=names)
        case "integration":
            return Integration(search=search, run=run, teachers=names)
        case "none":
            raise ValueError("a run without a search has no strategy")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What each of them is made of; see `Strategy`."""

    search: Search
    run: str
    teachers: tuple[str, ...]
    scoring: Scoring = "perplexity"
    resumes: bool = False

    def value(self, node: Node) -> float:
        """The score."""
        return node.score.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps(_Common):
    """Beam search over steps (CoRD, Eq. 3-4); with a beam of one, greedy search."""

    resumes: bool = True

    def asks(self, tree: Tree, num_rounds: int) -> list[Ask]:
        """Every teacher, for every open beam."""
        beams = frontier(tree, self.search)
        return [Ask(beam=beam, teacher=name, samples=self.search.samples) for beam in beams for name in self.teachers]

    def advance(self, tree: Tree, asks: Sequence[Ask], scored: Scored) -> Advance:
        """The best B go on."""
        beams = list(dict.fromkeys(ask.beam for ask in asks))
        return advance(tree, beams, scored, search=self.search, run=self.run, teachers=self.teachers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces(_Common):
    """Whole traces, chosen from by `value`: all at once, or, up to `max_question_tokens`, one after the other."""

    def asks(self, tree: Tree, num_rounds: int) -> list[Ask]:
        """Each teacher's share; with a cap on tokens, one trace of each, or of all in turn, while there is room."""
        search = self.search
        if search.max_question_tokens is None:
            return shares(search, self.teachers) if num_rounds == 0 else []
        if num_rounds == search.traces or spent(tree) >= search.max_question_tokens:
            return []
        names = self.teachers if search.traces_of == "each" else (self.teachers[num_rounds % len(self.teachers)],)
        return [Ask(beam=None, teacher=name, samples=1, writes="rest", draw=num_rounds) for name in names]

    def advance(self, tree: Tree, asks: Sequence[Ask], scored: Scored) -> Advance:
        """The best B by `value` stay."""
        return advance(tree, (), scored, search=self.search, run=self.run, teachers=self.teachers, value=self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Random(Traces):
    """Whole traces, of which one is chosen by chance."""

    def value(self, node: Node) -> float:
        """A number from the node's id."""
        return int(content_id("random", node.id)[:13], 16) / 16**13


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest(Traces):
    """Whole traces, of which the longest is chosen."""

    def value(self, node: Node) -> float:
        """Its tokens."""
        return node.usage.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Integration(_Common):
    """Whole traces, and then one reasoning that a teacher makes from all of them; when that fails, the traces stand."""

    def asks(self, tree: Tree, num_rounds: int) -> list[Ask]:
        """First the traces, then the one from all of them."""
        if num_rounds == 0:
            return shares(self.search, self.teachers)
        integrator = self.search.integrator or self.teachers[0]
        return [Ask(beam=None, teacher=integrator, samples=1, writes="merged")] if num_rounds == 1 and tree.nodes else []

    def advance(self, tree: Tree, asks: Sequence[Ask], scored: Scored) -> Advance:
        """Every trace stays until there is the one from all of them."""
        merges = bool(scored) and all(ask.writes == "merged" for ask in asks)
        width = len(scored) if merges else len(scored) + len(tree.nodes)
        search = self.search.model_copy(update={"beam": max(1, width)})
        known = replace(tree, nodes={}) if merges else tree
        change = advance(known, (), scored, search=search, run=self.run, teachers=self.teachers)
        left = [pruned(node, "one reasoning was made from all of them") for node in tree.in_state(NodeState.FINISHED) if merges]
        return replace(change, pruned=(*change.pruned, *left))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts(_Common):
    """Monte Carlo tree search over steps: a step is worth what the reasonings that went on from it were worth at their end.

    Each round expands the leaf that upper confidence bounds lead to (UCT, Kocsis and Szepesvari 2006): every teacher proposes
    its next step, each of which is written to its end once, by its author. A step's visits are the finished hypotheses below
    it, its value their mean score.
    """

    search: Search
    run: str
    teachers: tuple[str, ...]
    scoring: Scoring = "rollout"
    resumes: bool = False

    def asks(self, tree: Tree, num_rounds: int) -> list[Ask]:
        """Every teacher, for one leaf, while there are rounds, tokens and leaves."""
        search = self.search
        if num_rounds == search.iterations or (search.max_question_tokens and spent(tree) >= search.max_question_tokens):
            return []
        if num_rounds == 0:
            return [Ask(beam=None, teacher=name, samples=search.samples) for name in self.teachers]
        leaf = _Visits(tree, search).leaf()
        return [Ask(beam=leaf, teacher=name, samples=search.samples) for name in self.teachers] if leaf else []

    def advance(self, tree: Tree, asks: Sequence[Ask], scored: Scored) -> Advance:
        """All steps stay; of the finished hypotheses the best B do."""
        expanded = tuple(dict.fromkeys(ask.beam for ask in asks if ask.beam is not None))
        grown, new = tree, []
        for candidate, score in sorted(scored, key=lambda pair: pair[0].step.index):
            new.append(node_of(grown, candidate, score, self.search, self.run))
            grown = grown.grown(Advance(question=tree.question.id, kept=(new[-1],)))
        finished = [node for node in new if node.state is NodeState.FINISHED]
        pool = sorted([*tree.in_state(NodeState.FINISHED), *finished], key=lambda node: (-node.score.value, node.depth, node.id))
        ranked = [replace(node, rank=rank) for rank, node in enumerate(pool)]
        return Advance(
            question=tree.question.id,
            expanded=expanded,
            kept=tuple(node for node in new if node.state is NodeState.OPEN),
            finished=tuple(ranked[: self.search.beam]),
            pruned=tuple(
                pruned(node, f"place {node.rank + 1} of {len(ranked)} finished, {self.search.beam} are kept")
                for node in ranked[self.search.beam :]
            ),
        )


class _Visits:
    """What a Monte Carlo tree knows of each step: how many hypotheses went on from it to their end, and how good they were."""

    def __init__(self, tree: Tree, search: Search) -> None:
        self._search = search
        self._children: dict[str | None, list[Node]] = defaultdict(list)
        for node in tree.nodes.values():
            self._children[node.parent].append(node)
        self._num: dict[str | None, int] = {}
        self._sum: dict[str | None, float] = {}
        self._alive: dict[str | None, bool] = {}
        nodes = sorted(tree.nodes.values(), key=lambda node: -node.depth)
        for node in [*nodes, None]:
            self._count(node)

    def _count(self, node: Node | None) -> None:
        id = node.id if node else None
        below = self._children[id]
        if node and node.state in (NodeState.FINISHED, NodeState.PRUNED):
            self._num[id], self._sum[id], self._alive[id] = 1, node.score.value, False
            return
        self._num[id] = sum(self._num[each.id] for each in below)
        self._sum[id] = sum(self._sum[each.id] for each in below)
        if node and node.state is NodeState.OPEN:
            self._alive[id] = node.depth < self._search.max_steps
        else:
            self._alive[id] = any(self._alive[each.id] for each in below)

    def leaf(self) -> str | None:
        """The unexpanded step that upper confidence bounds lead to; None when there is none."""
        at: str | None = None
        while alive := [each for each in self._children[at] if self._alive[each.id]]:
            num = self._num[at]
            at = max(alive, key=lambda each: (self._bound(each.id, num), each.id)).id
        return at

    def _bound(self, id: str, num_all: int) -> float:
        if not (num := self._num[id]):
            return math.inf
        return self._sum[id] / num + self._search.exploration * math.sqrt(math.log(num_all) / num)


def shares(search: Search, teachers: Sequence[str]) -> list[Ask]:
    """`traces` whole traces of each teacher, or of all together, the first ones writing one more."""
    num = len(teachers)
    each = [search.traces if search.traces_of == "each" else (search.traces - index + num - 1) // num for index in range(num)]
    asked = zip(teachers, each, strict=True)
    return [Ask(beam=None, teacher=name, samples=share, writes="rest") for name, share in asked if share > 0]
