"""Step preferences: of the candidates of one beam, one that was kept against one that was pruned (ours: methods part 1). Pure.

Invariant: both are siblings that competed at one prune, and the chosen one scored higher. Not covered: late steps, which
competed with others' children.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from orchestrator.search import Tree
from store.types import Node, NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two next steps of the same reasoning."""

    chosen: Node
    rejected: Node

    @property
    def margin(self) -> float:
        """By how much the chosen step's score is higher, above 0."""
        return self.chosen.score.value - self.rejected.score.value


def preferences(tree: Tree) -> list[Preference]:
    """Every kept step against every pruned sibling, in the order of the tree, the greater margin first."""
    siblings: dict[str | None, list[Node]] = defaultdict(list)
    for node in sorted(tree.nodes.values(), key=lambda node: (node.depth, node.parent or "", node.id)):
        siblings[node.parent].append(node)
    found: list[Preference] = []
    for nodes in siblings.values():
        kept = [node for node in nodes if node.state in (NodeState.KEPT, NodeState.FINISHED)]
        pruned = [node for node in nodes if node.state is NodeState.PRUNED]
        pairs = [Preference(chosen=chosen, rejected=rejected) for chosen in kept for rejected in pruned]
        found += sorted((pair for pair in pairs if pair.margin > 0), key=lambda pair: -pair.margin)
    return found
