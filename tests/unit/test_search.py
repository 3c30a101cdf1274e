"""The checks of methods.md, part 1, as properties of the pure search."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.prover import predictive_perplexity
from configs.schema import Search
from orchestrator.search import Tree, advance, best, closing, frontier, latecomers, merged, plant
from store.types import Advance, Candidate, Node, NodeState, Question, Score, Step, Usage

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
@settings(deadline=None)  # a busy machine may stall
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
    value, mean = predictive_perplexity(logprobs), math.fsum(logprobs) / len(logprobs)
    assert 0 <= value <= 1
    assert value == 1 or mean < 0
    assert value < 1 or mean > -1e-15  # what is less than a float can tell is none


def test_ids_tell_parents_and_texts_apart() -> None:
    search = Search(beam=4)
    tree = walk(search, [[("ann", 0.5, "step"), ("bob", 0.4, "step")]] * 2)[-1]
    nodes: list[Node] = list(tree.nodes.values())
    assert len({node.id for node in nodes}) == 6
    with pytest.raises(AttributeError):
        replace(nodes[0]).rank = 3  # type: ignore[misc]


# Late proposals (methods, "Beyond the paper", quorum)


def two_beams(search: Search) -> Tree:
    """Open: "a" at 0.5 and "b" at 0.4."""
    return grow(plant(QUESTION), [(candidate(None, 1, "a"), score(0.5)), (candidate(None, 1, "b"), score(0.4))], search)


def join(tree: Tree, scored: list[tuple[Candidate, Score]], search: Search) -> Tree:
    return tree.grown(latecomers(tree, scored, search=search, run="r"))


def texts(nodes: Iterable[Node]) -> list[str]:
    return [node.step.text for node in nodes]


def test_a_proposal_that_comes_late_is_a_late_node_and_is_not_expanded_yet() -> None:
    search = Search(beam=2)
    tree = two_beams(search)
    after = join(
        tree, [(candidate(None, 1, "c", "cy"), score(0.9)), (candidate(None, 1, "d", "cy", "closed"), score(0.8))], search
    )
    assert texts(after.in_state(NodeState.LATE)) == ["c", "d"]
    assert frontier(after, search) == frontier(tree, search)
    assert best(after) == []
    assert {id: node for id, node in after.nodes.items() if node.state is not NodeState.LATE} == tree.nodes


def test_a_late_step_that_is_there_already_is_pruned_and_keeps_its_author() -> None:
    search = Search(beam=2)
    tree = two_beams(search)
    again, closed = candidate(None, 1, " a\n", "cy"), candidate(None, 1, "a", "cy", finish="closed")
    after = join(tree, [(again, score(0.5)), (closed, score(0.5))], search)
    (pruned,) = after.in_state(NodeState.PRUNED)
    assert (pruned.step.text, pruned.authors) == (" a\n", ("cy",))
    assert texts(after.in_state(NodeState.LATE)) == ["a"], "to close the reasoning is another step"
    assert join(after, [(again, score(0.5)), (closed, score(0.5))], search) == after, "nothing is there twice"


def test_the_next_prune_takes_a_late_node_that_scores_best_and_prunes_the_others() -> None:
    search = Search(beam=2)
    tree = two_beams(search)
    beams = frontier(tree, search)
    tree = join(
        tree, [(candidate(None, 1, "late", "cy"), score(0.9)), (candidate(None, 1, "too late", "cy"), score(0.1))], search
    )
    change = advance(
        tree,
        beams,
        [(candidate(beams[0], 2, "x"), score(0.6)), (candidate(beams[1], 2, "y"), score(0.2))],
        search=search,
        run="r",
        teachers=TEACHERS,
    )
    assert texts(change.kept) == ["late", "x"]
    assert texts(change.pruned) == ["y", "too late"]
    after = tree.grown(change)
    assert after.in_state(NodeState.LATE) == []
    assert [after.nodes[id].depth for id in frontier(after, search) if id] == [1, 2]
    assert {after.nodes[id].state for id in beams if id} == {NodeState.KEPT}


def test_a_late_node_that_closed_its_reasoning_is_finished_then() -> None:
    search = Search(beam=2, max_think_tokens=8)
    tree = grow(plant(QUESTION), [(candidate(None, 1, "a", tokens=2), score(0.5))], search)
    late = [
        (candidate(None, 1, "closed", "bob", "closed"), score(0.9)),
        (candidate(None, 1, "spent", "cy", tokens=8), score(0.8)),
    ]
    tree = grow(join(tree, late, search), [(candidate(frontier(tree, search)[0], 2, "x"), score(0.2))], search)
    assert texts(best(tree)) == ["closed", "spent"]
    assert frontier(tree, search) == []


def test_a_late_node_may_be_all_that_is_left_to_go_on_with() -> None:
    search = Search(beam=2)
    tree = two_beams(search)
    tree = grow(join(tree, [(candidate(None, 1, "late", "cy"), score(0.01))], search), [], search)
    assert [tree.nodes[id].step.text for id in frontier(tree, search) if id] == ["late"]


def test_late_nodes_alone_are_no_first_step_and_the_same_step_again_is_no_second_node() -> None:
    """A run that was cut off between the two: the first step is proposed again, and not decided by what was late."""
    search = Search(beam=3)
    tree = join(plant(QUESTION), [(candidate(None, 1, "late", "cy"), score(0.3))], search)
    assert frontier(tree, search) == [None]
    scored = [(candidate(None, 1, "a"), score(0.5)), (candidate(None, 1, "late", "cy"), score(0.3))]
    change = advance(tree, [None], scored, search=search, run="r", teachers=TEACHERS)
    assert texts(change.kept) == ["a", "late"]
    assert set(tree.nodes) <= set(tree.grown(change).nodes) == {node.id for node in change.kept}


def test_at_the_end_what_is_late_stays_so() -> None:
    search = Search(beam=2)
    tree = join(two_beams(search), [(candidate(None, 1, "late", "cy"), score(0.9))], search)
    after = tree.grown(closing(tree))
    assert {node.step.text: node.state for node in after.nodes.values()} == {
        "a": NodeState.PRUNED,
        "b": NodeState.PRUNED,
        "late": NodeState.LATE,
    }


@given(st.integers(1, 5), st.lists(proposals, max_size=4))
def test_without_late_nodes_nothing_changes(width: int, rounds: list[list[tuple[str, float, str]]]) -> None:
    search = Search(beam=width)
    for tree in walk(search, rounds):
        assert latecomers(tree, [], search=search, run="r") == Advance(question=QUESTION.id)
        assert join(tree, [], search) == tree
        assert tree.in_state(NodeState.LATE) == []


Round = list[tuple[str, float, str, bool]]
rounds_with_late_ones = st.lists(
    st.lists(
        st.tuples(st.sampled_from(TEACHERS), values, st.sampled_from(["step", "closed"]), st.booleans()), min_size=1, max_size=6
    ),
    min_size=1,
    max_size=4,
)


def walk_with_late_ones(
    search: Search, rounds: list[Round], teachers: tuple[str, ...] = TEACHERS, reread: bool = False
) -> tuple[list[Tree], int]:
    """Trees of a search in which some proposals of a step come when the next one is decided, the first one of each aside; how
    many were made in all."""
    trees, late, made = [plant(QUESTION)], [], 0
    for proposed in rounds:
        beams = frontier(trees[-1], search)
        if not beams:
            break
        scored: dict[bool, list[tuple[Candidate, Score]]] = {False: [], True: []}
        for beam, (index, (author, value, finish, is_late)) in itertools.product(beams, enumerate(proposed)):
            depth = trees[-1].nodes[beam].depth + 1 if beam else 1
            scored[is_late and index > 0].append((candidate(beam, depth, f"{beam} {index}", author, finish), score(value)))
            made += 1
        trees.append(join(trees[-1], late, search))
        if reread:
            trees.append(plant(QUESTION, reversed(list(trees[-1].nodes.values()))))
        trees.append(trees[-1].grown(advance(trees[-1], beams, scored[False], search=search, run="r", teachers=teachers)))
        late = scored[True]
    trees.append(join(trees[-1], late, search))
    return trees, made


@given(st.integers(1, 5), rounds_with_late_ones)
@settings(deadline=None)  # a busy machine may stall
def test_every_proposal_is_a_node_for_ever_and_the_beam_is_never_wider_than_b(width: int, rounds: list[Round]) -> None:
    search = Search(beam=width)
    trees, made = walk_with_late_ones(search, rounds)
    for before, after in itertools.pairwise(trees):
        assert set(before.nodes) <= set(after.nodes)
        assert len([n for n in after.nodes.values() if n.state in {NodeState.OPEN, NodeState.FINISHED}]) <= width
    assert len(trees[-1].nodes) == made


@given(st.integers(1, 5), rounds_with_late_ones)
@settings(deadline=None)  # a busy machine may stall
def test_a_prune_keeps_no_worse_than_it_prunes_whether_late_or_not(width: int, rounds: list[Round]) -> None:
    trees, _ = walk_with_late_ones(Search(beam=width), rounds)
    for before, after in itertools.pairwise(trees):
        fell = [
            node.score.value
            for node in after.in_state(NodeState.PRUNED)
            if node.id not in before.nodes or before.nodes[node.id].state in {NodeState.LATE, NodeState.FINISHED}
        ]
        living = [node.score.value for state in (NodeState.OPEN, NodeState.FINISHED) for node in after.in_state(state)]
        if fell:
            assert max(fell) <= min(living)


@given(
    st.permutations(TEACHERS),
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(TEACHERS), st.sampled_from(["step", "closed"]), st.booleans()), min_size=1, max_size=4
        ),
        min_size=1,
        max_size=3,
    ),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)  # a busy machine may stall
def test_permuting_teachers_changes_ties_only_with_late_ones_too(
    order: list[str], drawn: list[list[tuple[str, str, bool]]], chance: random.Random
) -> None:
    different = iter(chance.sample(range(1, 10**6), 100))
    search = Search(beam=2)
    rounds = [[(author, next(different) / 10**6, finish, late) for author, finish, late in proposed] for proposed in drawn]
    assert walk_with_late_ones(search, rounds, tuple(order))[0][-1] == walk_with_late_ones(search, rounds)[0][-1]


@given(st.integers(1, 4), rounds_with_late_ones)
@settings(deadline=None)  # a busy machine may stall
def test_a_tree_read_back_with_late_nodes_goes_on_the_same(width: int, rounds: list[Round]) -> None:
    search = Search(beam=width)
    (*_, tree), _ = walk_with_late_ones(search, rounds)
    (*_, again), _ = walk_with_late_ones(search, rounds, reread=True)
    assert again == tree
    assert frontier(again, search) == frontier(tree, search)
    assert best(again) == best(tree)
