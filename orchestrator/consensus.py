"""What a question's trajectories say together: their graph, the answers that they cluster on, and who stands apart.

    nodes        trajectories
    edges        cosine of two texts, times whether both give the same answer (1 or 0; no answer agrees with none)
    centrality   weighted PageRank, 1 is the average. The question is a node too, with an edge of 1 to each trajectory [ours]:
                 PageRank alone sees only how a node's edges compare with one another, so that two trajectories which share
                 an answer by chance are as central as ten that reason alike. Right by luck against sound, on the proving
                 ground's training questions: AUC .89 with it, .68 to .72 without
    leader       the answer with the most trajectories, among equals that of the most alike ones, then the first by alphabet

`misleading`, right by luck: accepted, but of little centrality, and without a neighbour that reasons alike (methods part 4).
The leader is the majority's [ours]: on the proving ground's training questions no rule that weighs likeness or teachers
did better than counting (`benchmarks/consensus.py`).

Invariant: which trajectories there are decides every number, to the last bit; the order in which they came decides none.
Not covered: texts' likeness (`agents.embedder`), which answers are equal (the caller's `groups`), files (`graphs.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import networkx as nx
import numpy as np

from agents.embedder import Embedder
from configs import sift
from store.types import Cluster, Consensus, Standing, Trajectory

Groups: TypeAlias = Callable[[Sequence[str]], Awaitable[list[int]]]
"""A number for each answer; equal answers have equal numbers."""

AT_ONCE = 32
"""Nodes whose PageRank takes no longer than to hand it to a thread and back: 3 ms."""
DIGITS = 9
"""Numbers are rounded to so many, past which the order of a sum shows: like trajectories then have like numbers."""


class ConsensusGraph:
    """The graph of one question. It grows: only texts and answers that are new are read."""

    def __init__(self, question: str, config: sift.Consensus, embedder: Embedder, groups: Groups) -> None:
        self.question = question
        self._config = config
        self._embedder = embedder
        self._groups = groups
        self._trajectories: dict[str, Trajectory] = {}
        self._group_of: dict[str, int] = {}
        self._edges = np.zeros((0, 0))
        self._centralities = np.zeros(0)
        self._turn = asyncio.Lock()

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """All of them, by id."""
        return tuple(self._trajectories.values())

    async def add(self, trajectories: Iterable[Trajectory]) -> None:
        """Let these join; one that is there already changes nothing. What it raises leaves the graph as it was."""
        async with self._turn:
            several = {each.id: each for each in trajectories if each.id not in self._trajectories}
            if several:
                await self._join(several)

    async def _join(self, several: Mapping[str, Trajectory]) -> None:
        assert all(each.question == self.question for each in several.values()), "trajectories of another question"
        joined = dict(sorted((self._trajectories | dict(several)).items()))
        group_of = await self._grouped(joined.values())
        similarities = await self._embedder.similarities([each.text for each in joined.values()])
        groups = [None if each.answer is None else group_of[each.answer] for each in joined.values()]
        edges = edge_weights(similarities, groups)
        few = len(edges) <= AT_ONCE
        central = centralities(edges) if few else await asyncio.to_thread(centralities, edges)
        self._trajectories, self._group_of, self._edges, self._centralities = joined, group_of, edges, central

    def consensus(
        self, *, accepted: Collection[str] = (), target: str | None = None, target_support: float | None = None
    ) -> Consensus:
        """Everything as it stands now; `accepted` are the ids that passed the answer check, `target` what stands in for gold."""
        clusters = self._clusters()
        support = {key: cluster.support for cluster in clusters for key in cluster.trajectories}
        nearest = self._edges.max(axis=1, initial=0.0)
        standings = tuple(
            Standing(
                trajectory=key,
                centrality=float(centrality),
                nearest=float(near),
                support=support.get(key),
                misleading=key in accepted and is_lone(float(centrality), float(near), self._config),
            )
            for key, centrality, near in zip(self._trajectories, self._centralities, nearest, strict=True)
        )
        return Consensus(
            question=self.question,
            embedder=self._embedder.name,
            clusters=clusters,
            standings=standings,
            edges=self._listed(),
            target=target,
            target_support=target_support,
        )

    async def _grouped(self, trajectories: Iterable[Trajectory]) -> dict[str, int]:
        """The group of each answer; asked for anew only when there is a new answer."""
        answers = sorted({each.answer for each in trajectories if each.answer is not None})
        if answers == list(self._group_of):
            return self._group_of
        return dict(zip(answers, await self._groups(answers), strict=True))

    def _group(self, trajectory: Trajectory) -> int | None:
        return None if trajectory.answer is None else self._group_of[trajectory.answer]

    def _clusters(self) -> tuple[Cluster, ...]:
        everyone = self.trajectories
        members: dict[int, list[int]] = {}
        for place, each in enumerate(everyone):
            if (group := self._group(each)) is not None:
                members.setdefault(group, []).append(place)
        found = [cluster_of(everyone, places, self._edges[np.ix_(places, places)]) for places in members.values()]
        return tuple(sorted(found, key=lambda cluster: (-cluster.strength, cluster.answer)))

    def _listed(self) -> tuple[tuple[str, str, float], ...]:
        keys = list(self._trajectories)
        rows, columns = np.nonzero(np.triu(self._edges, 1))
        weights = self._edges[rows, columns].tolist()
        return tuple((keys[i], keys[j], weight) for i, j, weight in zip(rows, columns, weights, strict=True))


def cluster_of(everyone: Sequence[Trajectory], places: Sequence[int], edges: np.ndarray) -> Cluster:
    """Those of `everyone` at `places`, which give one answer and have these edges [n, n]."""
    several = [everyone[place] for place in places]
    teachers, all_teachers = ({name for each in group for name in each.teachers} for group in (several, everyone))
    return Cluster(
        answer=most_frequent([each.answer for each in several if each.answer is not None]),
        trajectories=tuple(each.id for each in several),
        support=len(several) / len(everyone),
        teachers=len(teachers) / len(all_teachers) if all_teachers else 0.0,
        strength=round(strength(edges), DIGITS),
    )


def edge_weights(similarities: np.ndarray, groups: Sequence[int | None]) -> np.ndarray:
    """Similarity where two different nodes give the same answer, else 0 [N, N]."""
    numbers = np.array([-1 if group is None else group for group in groups])
    agree = (numbers[:, None] == numbers) & (numbers >= 0)
    np.fill_diagonal(agree, False)
    return np.where(agree, similarities, 0.0).round(DIGITS)


def centralities(edges: np.ndarray) -> np.ndarray:
    """Weighted PageRank of the nodes and of their question, which has an edge of 1 to each; times N over the nodes' sum [N]."""
    size = len(edges)
    if not edges.any():
        return np.ones(size)
    rows, columns = np.nonzero(np.triu(edges, 1))
    graph = nx.Graph()
    graph.add_nodes_from(range(size))
    graph.add_weighted_edges_from(zip(rows.tolist(), columns.tolist(), edges[rows, columns].tolist(), strict=True))
    graph.add_weighted_edges_from((node, "question", 1.0) for node in range(size))
    ranked = nx.pagerank(graph, max_iter=300, tol=1e-12)  # an iteration leaves .85 of the error
    ranks = np.array([ranked[node] for node in range(size)])
    return (ranks * (size / ranks.sum())).round(DIGITS)


def strength(edges: np.ndarray) -> float:
    """How many nodes [n, n], and how alike they are: half the mean similarity of two, so that it decides between equals only."""
    size = len(edges)
    return size + (float(edges.sum()) / (size * (size - 1)) / 2 if size > 1 else 0.0)


def is_lone(centrality: float, nearest: float, config: sift.Consensus) -> bool:
    """Whether nobody reasons like it: below `min_centrality`, and no neighbour above `min_similarity`."""
    return centrality < config.min_centrality and nearest <= config.min_similarity


def most_frequent(answers: Sequence[str]) -> str:
    """The form that is written most; of equals, the first by alphabet."""
    return min(Counter(answers).items(), key=lambda counted: (-counted[1], counted[0]))[0]


def target_of(consensus: Consensus, min_support: float) -> tuple[str, float] | None:
    """The answer that may stand in for a gold one, with its support: the leader's, if so large a share of trajectories gives it.

    None when it is one trajectory's alone, which agrees with nobody, or when another answer has as many [ours].
    """
    if not consensus.clusters:
        return None
    leader, *others = consensus.clusters
    tied = any(len(other.trajectories) == len(leader.trajectories) for other in others)
    if leader.support < min_support or len(leader.trajectories) < 2 or tied:
        return None
    return leader.answer, leader.support
