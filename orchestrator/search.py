"""The search of one question's tree, as pure functions over nouns (CoRD, Eq. 3-4; methods part 1).

    frontier(tree)  -> the open beams that are to be expanded
    merged(...)     -> candidates without duplicates
    advance(...)    -> the Advance: new nodes and the new beam
    tree.grown(...) -> the tree after it
    best(tree)      -> the finished beams, tau* first

Invariant: nothing here waits, draws or looks at a clock; the tree is a function of the Advances, which the store keeps, so
that a tree read back from the store is the tree that was left. Not covered: who proposes and scores (`solve.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.steps import folded
from configs.schema import Search
from store.types import Advance, Candidate, Node, NodeState, Question, Score, content_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """All nodes ever proposed for one question, by id; no nodes at all is a tree that has only its root, the question."""

    question: Question
    nodes: Mapping[str, Node]

    def grown(self, advance: Advance) -> Tree:
        """The tree after `advance`."""
        expanded = {id: replace(self.nodes[id], state=NodeState.KEPT) for id in advance.expanded}
        changed = {node.id: node for node in (*advance.kept, *advance.pruned, *advance.late, *advance.finished)}
        return replace(self, nodes={**self.nodes, **expanded, **changed})

    def in_state(self, state: NodeState) -> list[Node]:
        """The nodes in `state`, best first."""
        return sorted(
            (node for node in self.nodes.values() if node.state is state), key=lambda node: (node.rank, node.depth, node.id)
        )

    def path(self, node: str | None) -> list[Node]:
        """The nodes from the first step to `node`; of None, the root, none."""
        path: list[Node] = []
        while node is not None:
            path.append(self.nodes[node])
            node = path[-1].parent
        return path[::-1]

    def steps(self, node: str | None) -> list[str]:
        """The texts of the steps from the first one to `node`."""
        return [each.step.text for each in self.path(node)]

    def think_tokens(self, node: str | None) -> int:
        """Generated tokens on the way to `node`."""
        return sum(each.usage.completion for each in self.path(node))


def plant(question: Question, nodes: Iterable[Node] = ()) -> Tree:
    """The tree of `question`, with the nodes that the store has of it."""
    return Tree(question=question, nodes={node.id: node for node in nodes})


def frontier(tree: Tree, search: Search) -> list[str | None]:
    """The beams to expand now, best first: ids of nodes, or [None] for the root. Empty: the search has ended."""
    if all(node.state is NodeState.LATE for node in tree.nodes.values()):  # the first step is not decided yet
        return [None]
    open_nodes = tree.in_state(NodeState.OPEN)
    if search.max_question_tokens is not None and spent(tree) >= search.max_question_tokens:
        return []
    return [node.id for node in open_nodes if node.depth < search.max_steps]


def spent(tree: Tree) -> int:
    """Generated tokens of the whole tree."""
    return sum(node.usage.completion for node in tree.nodes.values())


def merged(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One candidate for each different step of a beam, every author noted; usage is the first one's."""
    found: dict[tuple[str | None, str, bool], Candidate] = {}
    for candidate in candidates:
        key = (candidate.parent, folded(candidate.step.text), candidate.step.finish == "closed")
        if earlier := found.get(key):
            authors = tuple(dict.fromkeys((*earlier.authors, *candidate.authors)))
            candidate = replace(earlier, authors=authors)
        found[key] = candidate
    return list(found.values())


def advance(
    tree: Tree,
    beams: Sequence[str | None],
    scored: Sequence[tuple[Candidate, Score]],
    *,
    search: Search,
    run: str,
    teachers: Sequence[str],
    value: Callable[[Node], float] = lambda node: node.score.value,
) -> Advance:
    """Keep the best B of the new candidates, of those that came late for an earlier step, and of the hypotheses that
    finished earlier (CoRD, Eq. 4; the late ones are ours). The higher `value` is the better one.

    Ties: what finished earlier, then the lower index in `teachers`, then the better beam.
    A candidate that closed its reasoning, or spent its beam's think budget, is finished and is not expanded.
    """
    order = {name: index for index, name in enumerate(teachers)}
    places = {beam: index for index, beam in enumerate(beams)}
    new = [node_of(tree, candidate, score, search, run) for candidate, score in scored]
    earlier = tree.in_state(NodeState.FINISHED)
    again = {node.id for node in new}  # a first step that was cut off while late ones came in
    late = [replace(node, state=_state(tree, node, search)) for node in tree.in_state(NodeState.LATE) if node.id not in again]

    def preference(node: Node) -> tuple[float, int, int, int, str]:
        return (-value(node), node.depth, order[node.step.author], places.get(node.parent, 0), node.id)

    pool = sorted([*earlier, *late, *new], key=preference)
    ranked = [replace(node, rank=rank) for rank, node in enumerate(pool)]
    beam, rest = ranked[: search.beam], ranked[search.beam :]
    return Advance(
        question=tree.question.id,
        expanded=tuple(beam for beam in beams if beam is not None),
        kept=tuple(node for node in beam if node.state is NodeState.OPEN),
        finished=tuple(node for node in beam if node.state is NodeState.FINISHED),
        pruned=tuple(pruned(node, f"place {node.rank + 1} of {len(pool)}, {len(beam)} are kept") for node in rest),
    )


def latecomers(tree: Tree, scored: Sequence[tuple[Candidate, Score]], *, search: Search, run: str) -> Advance:
    """The nodes of proposals that came after their step was decided: LATE until the next advance, and PRUNED at once when
    the same step is there already."""
    nodes = [node_of(tree, candidate, score, search, run) for candidate, score in scored]
    known = {(node.parent, folded(node.step.text), node.step.finish == "closed") for node in tree.nodes.values()}
    rank = len(tree.nodes)
    new = [replace(node, rank=rank + place) for place, node in enumerate(nodes) if node.id not in tree.nodes]
    again = [node for node in new if (node.parent, folded(node.step.text), node.step.finish == "closed") in known]
    return Advance(
        question=tree.question.id,
        late=tuple(replace(node, state=NodeState.LATE) for node in new if node not in again),
        pruned=tuple(pruned(node, "came late, and the same step was there already") for node in again),
    )


def best(tree: Tree, value: Callable[[Node], float] = lambda node: node.score.value) -> list[Node]:
    """The finished beams, tau* first: highest `value`, and of equal ones the one that finished earlier."""
    return sorted(tree.in_state(NodeState.FINISHED), key=lambda node: (-value(node), node.depth, node.rank, node.id))


def closing(tree: Tree) -> Advance:
    """The last Advance of a tree: beams that are still open when the search ends are pruned; what was late stays so."""
    left = tree.in_state(NodeState.OPEN)
    return Advance(question=tree.question.id, pruned=tuple(pruned(node, "open when the search ended") for node in left))


def pruned(node: Node, reason: str) -> Node:
    """`node`, pruned for this reason."""
    return replace(node, state=NodeState.PRUNED, reason=reason)


def node_id(question: Question, candidate: Candidate, run: str) -> str:
    """The id of the node that `candidate` becomes."""
    closed = candidate.step.finish == "closed"
    return content_id("node", run, question.id, candidate.parent, candidate.authors[0], folded(candidate.step.text), closed)


def node_of(tree: Tree, candidate: Candidate, score: Score, search: Search, run: str) -> Node:
    """The node that `candidate` becomes: OPEN, or FINISHED when there is nothing more to write."""
    node = Node(
        id=node_id(tree.question, candidate, run),
        question=tree.question.id,
        parent=candidate.parent,
        depth=candidate.step.index,
        rank=0,
        step=candidate.step,
        authors=candidate.authors,
        usage=candidate.usage,
        score=score,
        state=NodeState.OPEN,
        cost=candidate.cost,
    )
    return replace(node, state=_state(tree, node, search))


def _state(tree: Tree, node: Node, search: Search) -> NodeState:
    """FINISHED for a node that closed its reasoning, or spent its beam's think budget."""
    spent = tree.think_tokens(node.parent) + node.usage.completion >= search.max_think_tokens
    return NodeState.FINISHED if node.step.finish == "closed" or spent else NodeState.OPEN
