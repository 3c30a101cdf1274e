"""A consensus as a networkx graph, and that as a file: GraphML for graph editors, node-link data for programs.

Invariant: what a model wrote never makes a file unreadable: a character that the form has no place for is replaced by one that
is seen (NUL by its control picture), and everything else comes back as it was. Equal consensus, equal bytes.
Not covered: how the numbers came about (`consensus.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx

from store.judged import Judged
from store.types import Consensus

_NOT_XML = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 forbids or discourages, and the carriage return, which a reader would turn into a line feed."""


def to_graph(consensus: Consensus, judged: Sequence[Judged]) -> nx.Graph:
    """Nodes are trajectories, edges have their similarity as `weight`; what is not known is None."""
    by_id = {each.trajectory.id: each for each in judged}
    leading = set(consensus.clusters[0].trajectories) if consensus.clusters else set[str]()
    graph = nx.Graph(
        question=consensus.question,
        embedder=consensus.embedder,
        target=consensus.target,
        target_support=consensus.target_support,
    )
    for standing in consensus.standings:
        each, verdict = by_id[standing.trajectory].trajectory, by_id[standing.trajectory].verdict
        graph.add_node(
            each.id,
            teachers=list(each.teachers),
            origin=each.origin,
            style=each.style,
            score=each.score,
            answer=each.answer,
            verdict=verdict and verdict.outcome.value,
            reason=verdict and verdict.reason,
            centrality=standing.centrality,
            nearest=standing.nearest,
            support=standing.support,
            misleading=standing.misleading,
            leading=each.id in leading,
        )
    graph.add_weighted_edges_from(consensus.edges)
    return graph


def together(graphs: Sequence[nx.Graph]) -> nx.Graph:
    """The graphs of several questions as one, each node with its question and the target that stands in for a gold answer."""
    whole = nx.Graph()
    for graph in graphs:
        told = {key: graph.graph[key] for key in ("question", "target", "target_support")}
        whole.add_nodes_from((node, values | told) for node, values in graph.nodes(data=True))
        whole.add_edges_from(graph.edges(data=True))
    return whole


def graphml(graph: nx.Graph) -> str:
    """The graph as GraphML; an attribute that is None is left out, a list is its values, joined."""
    plain = nx.Graph(**_known(graph.graph))
    plain.add_nodes_from((_xml(node), _known(values)) for node, values in graph.nodes(data=True))
    plain.add_edges_from((_xml(a), _xml(b), _known(values)) for a, b, values in graph.edges(data=True))
    return "\n".join(["<?xml version='1.0' encoding='utf-8'?>", *nx.generate_graphml(plain)]) + "\n"


def node_link(graph: nx.Graph) -> dict[str, Any]:
    """The graph as what JSON can hold, as `networkx.node_link_graph(..., edges="edges")` reads it."""
    return nx.node_link_data(graph, edges="edges")


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that have a value, in a form that GraphML has."""
    joined = {key: ", ".join(value) if isinstance(value, list) else value for key, value in values.items()}
    return {key: _xml(value) if isinstance(value, str) else value for key, value in joined.items() if value is not None}


def _xml(text: str) -> str:
    return _NOT_XML.sub(_seen, text)


def _seen(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
