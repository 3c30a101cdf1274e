"""The checks of methods.md, part 1, as properties of the pure search."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.prover import predictive_perplexity
from configs.schema import Search
from orchestrator.search import Tree, advance, best, closing, frontier, merged, plant
from store.types import Candidate, Node, NodeState, Question, Score, Step, Usage

QUESTION = Question(id="q", text="What?", answer="1", kind="math")
TEACHERS = ("ann", "bob", "cy")


def candidate(parent: str | None, depth: int, text: str, author: str = "ann", finish: str = "step", tokens: int = 5) -> Candidate:
    step = Step(index=depth, title=text, text=text, author=author, finish=finish)  # type: ignore[arg-type]
    return Candidate(parent=parent, step=step, usage=Usage(completion=tokens), authors=(author,))


def score(value: float) -> Score:
    return Score(value=value, logprobs=(math.log(value) if value else -math.inf,), prover="prover")


def grow(tree: Tree, scored: list[tuple[Candidate, Score]], search: Search, teachers: tuple[str, ...] = TEACHERS) -> Tree:
    return tree.grown(advance(tree, frontier(tree, search), scored, search=search, run="r", teachers=teachers))


values = st.floats(min_value=0, max_value=1, allow_nan=False)
proposals = st.lists(
    st.tuples(st.sampled_from(TEACHERS), values, st.sampled_from(["step", "closed", "capped"])), min_size=1, max_size=6
)


def walk(search: Search, rounds: list[list[tuple[str, float, str]]]) -> list[Tree]:
    """Trees of a search in which every beam gets the same proposals, told apart by their text."""
    trees = [plant(QUESTION)]
    for depth, proposed in enumerate(rounds, start=1):
        beams = frontier(trees[-1], search)
        if not beams:
            break
        candidates = [
            (candidate(beam, depth, f"{beam} {depth} {index}", author, finish), score(value))
            for beam in beams
            for index, (author, value, finish) in enumerate(proposed)
        ]
        trees.append(grow(trees[-1], candidates, search))
    return trees


@given(st.integers(1, 5), st.lists(proposals, max_size=4))
def test_a_beam_is_never_wider_than_b_and_nothing_vanishes(width: int, rounds: list[list[tuple[str, float, str]]]) -> None:
    search = Search(beam=width)
    trees = walk(search, rounds)
    for before, after in itertools.pairwise(trees):
        living = [n for n in after.nodes.values() if n.state in {NodeState.OPEN, NodeState.FINISHED}]
        assert len(living) <= width
        assert set(before.nodes) <= set(after.nodes)
        assert all(after.nodes[id].state is not NodeState.OPEN for id in frontier(before, search) if id)


@given(st.integers(1, 5), st.lists(proposals, min_size=1, max_size=4))
def test_what_is_kept_is_no_worse_than_what_is_pruned(width: int, rounds: list[list[tuple[str, float, str]]]) -> None:
    search = Search(beam=width)
    tree = plant(QUESTION)
    for depth, proposed in enumerate(rounds, start=1):
        beams = frontier(tree, search)
        if not beams:
            break
        scored = [
            (candidate(beam, depth, f"{beam} {i}", author, finish), score(value))
            for beam in beams
            for i, (author, value, finish) in enumerate(proposed)
        ]
        change = advance(tree, beams, scored, search=search, run="r", teachers=TEACHERS)
        kept = [node.score.value for node in (*change.kept, *change.finished)]
        assert all(node.score.value <= min(kept) for node in change.pruned)
        assert len({node.id for node in (*change.kept, *change.finished, *change.pruned)}) == len(scored) + len(
            tree.in_state(NodeState.FINISHED)
        )
        tree = tree.grown(change)


@given(
    st.permutations(TEACHERS),
    st.lists(st.tuples(st.sampled_from(TEACHERS), st.integers(0, 10**6)), min_size=1, unique_by=lambda p: p[1]),
)
def test_permuting_teachers_changes_ties_only(order: list[str], proposed: list[tuple[str, int]]) -> None:
    search = Search(beam=2)
    scored = [(candidate(None, 1, f"s{value}", author), score(value / 10**6)) for author, value in proposed]
    tree = plant(QUESTION)
    assert grow(tree, scored, search, tuple(order)) == grow(tree, scored, search)


def test_ties_go_to_the_lower_teacher_and_then_to_the_better_beam() -> None:
    search = Search(beam=2)
    first = grow(plant(QUESTION), [(candidate(None, 1, "a"), score(0.5)), (candidate(None, 1, "b"), score(0.4))], search)
    beams = frontier(first, search)
    assert [first.nodes[id].step.text for id in beams if id] == ["a", "b"]
    proposed = [candidate(beam, 2, f"{beam} {author}", author) for beam in reversed(beams) for author in ("bob", "ann")]
    kept = advance(first, beams, [(c, score(0.3)) for c in proposed], search=search, run="r", teachers=TEACHERS).kept
    assert [(node.step.author, node.parent) for node in kept] == [("ann", beams[0]), ("ann", beams[1])]


def test_beam_one_is_greedy() -> None:
    search = Search(beam=1)
    rounds = [
        [("ann", 0.2, "step"), ("bob", 0.9, "step")],
        [("ann", 0.1, "step"), ("bob", 0.05, "closed")],
        [("cy", 0.3, "closed")],
    ]
    tree = walk(search, rounds)[-1]
    assert [node.score.value for node in tree.path(best(tree)[0].id)] == [0.9, 0.1, 0.3]


def test_a_finished_beam_keeps_its_score_competes_and_is_not_expanded() -> None:
    search = Search(beam=2)
    tree = grow(
        plant(QUESTION),
        [(candidate(None, 1, "done", finish="closed"), score(0.6)), (candidate(None, 1, "on"), score(0.5))],
        search,
    )
    (beam,) = frontier(tree, search)
    assert beam is not None
    assert tree.nodes[beam].step.text == "on"
    worse = grow(tree, [(candidate(beam, 2, "x"), score(0.2)), (candidate(beam, 2, "y"), score(0.1))], search)
    assert [node.step.text for node in best(worse)] == ["done"]
    better = grow(tree, [(candidate(beam, 2, "x"), score(0.8)), (candidate(beam, 2, "y"), score(0.7))], search)
    assert best(better) == []
    assert {node.step.text for node in better.in_state(NodeState.PRUNED)} == {"done"}


def test_the_earlier_of_two_equal_finishes_is_the_best() -> None:
    search = Search(beam=2)
    tree = walk(search, [[("ann", 0.5, "closed"), ("bob", 0.5, "step")], [("ann", 0.5, "closed")]])[-1]
    assert [node.depth for node in best(tree)] == [1, 2]


def test_a_spent_think_budget_closes_a_beam() -> None:
    search = Search(beam=1, max_think_tokens=8)
    tree = grow(plant(QUESTION), [(candidate(None, 1, "a", tokens=5), score(0.5))], search)
    assert len(frontier(tree, search)) == 1
    tree = grow(tree, [(candidate(frontier(tree, search)[0], 2, "b", tokens=3), score(0.5))], search)
    assert frontier(tree, search) == []
    assert [node.step.text for node in best(tree)] == ["b"]


def test_max_steps_ends_a_search_that_nobody_closes() -> None:
    search = Search(beam=2, max_steps=3)
    tree = walk(search, [[("ann", 0.5, "step")]] * 10)[-1]
    assert max(node.depth for node in tree.nodes.values()) == 3
    assert best(tree) == []
    assert not tree.grown(closing(tree)).in_state(NodeState.OPEN)


def test_question_budget_ends_a_search() -> None:
    search = Search(beam=1, max_question_tokens=12)
    tree = walk(search, [[("ann", 0.5, "step")]] * 10)[-1]
    assert len(tree.nodes) == 3


def test_equal_steps_are_merged_and_every_author_is_noted() -> None:
    same = [
        candidate(None, 1, "add  1\n to 2", "ann"),
        candidate(None, 1, "add 1 to 2", "bob"),
        candidate(None, 1, "other", "cy"),
    ]
    closed = candidate(None, 1, "add 1 to 2", "cy", finish="closed")
    assert [c.authors for c in merged([*same, closed])] == [("ann", "bob"), ("cy",), ("cy",)]


@given(st.integers(1, 4), st.lists(proposals, min_size=1, max_size=4))
def test_a_tree_read_back_from_its_nodes_goes_on_the_same(width: int, rounds: list[list[tuple[str, float, str]]]) -> None:
    search = Search(beam=width)
    tree = walk(search, rounds)[-1]
    again = plant(QUESTION, reversed(list(tree.nodes.values())))
    assert frontier(again, search) == frontier(tree, search)
    assert best(again) == best(tree)


@given(st.lists(st.floats(max_value=0, min_value=-700), min_size=1))
def test_a_score_lies_between_zero_and_one(logprobs: list[float]) -> None:
    assert 0 <= predictive_perplexity(logprobs) <= 1
    assert (predictive_perplexity(logprobs) == 1) == (math.fsum(logprobs) / len(logprobs) > -1e-16)


def test_ids_tell_parents_and_texts_apart() -> None:
    search = Search(beam=4)
    tree = walk(search, [[("ann", 0.5, "step"), ("bob", 0.4, "step")]] * 2)[-1]
    nodes: list[Node] = list(tree.nodes.values())
    assert len({node.id for node in nodes}) == 6
    with pytest.raises(AttributeError):
        replace(nodes[0]).rank = 3  # type: ignore[misc]
