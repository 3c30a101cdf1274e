"""Keys and values of past token prefixes: a radix tree, bounded in bytes, the least recently used leaves leave first.

Invariant: a node's states belong to exactly the tokens on the path from the root to it, and belong to nobody else's memory.
Not covered: rows that still run (`agents.engines.batching` matches against those itself).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tokens = NDArray[np.int64]
KEEP = 0.9
"""Share of the limit that is left after an eviction, so that not every insertion evicts."""


def num_common(left: Tokens, right: Tokens) -> int:
    """Length of the longest common prefix."""
    length = min(len(left), len(right))
    differ = left[:length] != right[:length]
    return int(differ.argmax()) if differ.any() else length


@dataclass(slots=True, eq=False)
class Node:
    """Some tokens after its parent's, with their states [2, L, K, T, D]."""

    tokens: Tokens
    states: Tensor
    parent: Node | None
    used: int
    children: dict[int, Node] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Size of the states."""
        return self.states.numel() * self.states.element_size()


class Prefixes:
    """The store. Not thread-safe: the engine's worker owns it."""

    def __init__(self, limit_bytes: int) -> None:
        self.num_bytes = 0
        self._limit_bytes = limit_bytes
        self._clock = 0
        self._root = Node(np.empty(0, np.int64), torch.empty(0), None, 0)

    def match(self, tokens: Tokens) -> tuple[int, list[Tensor]]:
        """The longest stored prefix of `tokens`: its length, and its states in pieces of [2, L, K, T, D]."""
        self._clock += 1
        length, pieces = 0, []
        for node, taken in self._walk(tokens):
            node.used = self._clock
            pieces.append(node.states[:, :, :, :taken])
            length += taken
        return length, pieces

    def insert(self, tokens: Tokens, read: Callable[[int, int], Tensor]) -> None:
        """Store `tokens`; `read(start, stop)` gives a copy of the states of those that are not here yet."""
        self._clock += 1
        parent, length = self._root, 0
        for node, taken in self._walk(tokens):
            node.used = self._clock
            parent = self._split(node, taken) if taken < len(node.tokens) else node
            length += taken
        if length == len(tokens) or not self._limit_bytes:
            return
        child = Node(tokens[length:].copy(), read(length, len(tokens)), parent, self._clock)
        parent.children[int(tokens[length])] = child
        self.num_bytes += child.num_bytes
        if self.num_bytes > self._limit_bytes:
            self._evict()

    def _walk(self, tokens: Tokens) -> list[tuple[Node, int]]:
        """The nodes along `tokens`, and how many tokens of each match; only the last may match in part."""
        path: list[tuple[Node, int]] = []
        node, at = self._root, 0
        while at < len(tokens) and (child := node.children.get(int(tokens[at]))) is not None:
            taken = num_common(child.tokens, tokens[at:])
            path.append((child, taken))
            if taken < len(child.tokens):
                break
            node, at = child, at + taken
        return path

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two; both get memory of their own. Returns the upper one."""
        assert node.parent is not None
        upper = Node(node.tokens[:at].copy(), node.states[:, :, :, :at].clone(), node.parent, node.used)
        node.parent.children[int(upper.tokens[0])] = upper
        node.tokens, node.states, node.parent = node.tokens[at:].copy(), node.states[:, :, :, at:].clone(), upper
        upper.children[int(node.tokens[0])] = node
        return upper

    def _evict(self) -> None:
        while self.num_bytes > self._limit_bytes * KEEP:
            for leaf in sorted(self._leaves(), key=lambda node: node.used):
                self._remove(leaf)
                if self.num_bytes <= self._limit_bytes * KEEP:
                    break

    def _remove(self, leaf: Node) -> None:
        assert leaf.parent is not None
        del leaf.parent.children[int(leaf.tokens[0])]
        self.num_bytes -= leaf.num_bytes

    def _leaves(self) -> list[Node]:
        leaves, queue = [], list(self._root.children.values())
        while queue:
            node = queue.pop()
            queue.extend(node.children.values())
            if not node.children:
                leaves.append(node)
        return leaves
