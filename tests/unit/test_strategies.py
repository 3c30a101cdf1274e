"""Every search of methods.md, part 1, as properties of its strategy: pure, with teachers and provers that are drawn."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs import schema
from configs.schema import RunConfig, Search
from orchestrator.exports.preferences import preferences
from orchestrator.search import Tree, best, closing, latecomers, merged, node_id, plant, spent
from orchestrator.strategies import Ask, Strategy, strategy_of
from store.types import Advance, Candidate, Finish, Node, NodeState, Question, Score, Step, Usage

QUESTION = Question(id="q", text="What?", answer="1", kind="math")
TEACHERS = ("ann", "bob", "cy")
NAMES = tuple(name for name in get_args(schema.Strategy) if name != "none")
WHOLE = ("curation", "random", "longest")


class World:
    """Teachers and a prover who are drawn from `seed`: the same request gets the same answer."""

    def __init__(self, seed: int, *, failing: float = 0.0, repeating: float = 0.1) -> None:
        self.seed, self.failing, self.repeating, self.ties = seed, failing, repeating, True

    def chance(self, *key: object) -> random.Random:
        return random.Random(repr((self.seed, *key)))

    def candidates(self, tree: Tree, ask: Ask) -> list[Candidate]:
        depth = len(tree.steps(ask.beam)) + 1
        found = []
        for sample in range(ask.samples):
            chance = self.chance(ask.beam, ask.teacher, ask.writes, ask.draw, sample)
            if chance.random() < self.failing:
                continue
            author = "all" if chance.random() < self.repeating else ask.teacher
            finish: Finish = "closed" if ask.writes != "step" or chance.random() < 0.1 * depth else "step"
            text = f"{author} {ask.writes} {chance.randrange(50)} {finish}"
            step = Step(index=depth, title=text, text=text, author=ask.teacher, finish=finish)
            usage = Usage(completion=chance.randrange(1, 20))
            found.append(Candidate(parent=ask.beam, step=step, usage=usage, authors=(ask.teacher,)))
        return found

    def score(self, *key: object) -> Score:
        fine = self.chance("fine", *key).random()
        value = self.chance("score", *key).choice([0.1, 0.25, 0.5, 0.75, fine]) if self.ties else fine
        return Score(value=value, logprobs=(math.log(value),), prover="prover")

    def scored(self, tree: Tree, candidates: list[Candidate], strategy: Strategy) -> list[tuple[Candidate, Score]]:
        found = []
        for candidate in candidates:
            if strategy.scoring == "rollout" and candidate.step.finish != "closed":
                parent = node_id(tree.question, candidate, "run")
                step = Step(index=candidate.step.index + 1, title="", text=f"the end of {parent}", author="ann", finish="closed")
                end = Candidate(parent=parent, step=step, usage=Usage(completion=7), authors=candidate.authors)
                score = self.score(parent)
                found += [(candidate, score), (end, score)]
            else:
                found.append((candidate, self.score(candidate.parent, candidate.step.text)))
        return found


def walked(search: Search, world: World, teachers: tuple[str, ...] = TEACHERS) -> list[tuple[Tree, list[Ask]]]:
    """The trees of a search, each with what is asked next, up to its end."""
    strategy = strategy_of(search, run="run", teachers=teachers)
    tree, found = plant(QUESTION), []
    for num_rounds in itertools.count():
        assert num_rounds < 300
        asks = strategy.asks(tree, num_rounds)
        found.append((tree, asks))
        if not asks:
            return found
        candidates = merged([each for ask in asks for each in world.candidates(tree, ask)])
        scored = world.scored(tree, candidates, strategy)
        if not scored and not tree.nodes:
            return found
        tree = tree.grown(strategy.advance(tree, asks, scored))
    raise AssertionError


def ended(search: Search, world: World, teachers: tuple[str, ...] = TEACHERS) -> tuple[Tree, list[Node]]:
    """The last tree and its best hypotheses."""
    tree = walked(search, world, teachers)[-1][0]
    return tree.grown(closing(tree)), best(tree, strategy_of(search, run="run", teachers=teachers).value)


def searching(name: str, **more: Any) -> Search:
    depth = {} if name in (*WHOLE, "integration") else {"max_steps": 6}
    return Search.model_validate({"strategy": name} | depth | more)


worlds = st.builds(World, st.integers(0, 10**6), failing=st.sampled_from([0.0, 0.2, 0.9]), repeating=st.sampled_from([0.0, 0.5]))


@pytest.mark.parametrize("name", NAMES)
@given(worlds)
def test_every_search_ends_and_every_node_has_its_place(name: str, world: World) -> None:
    trees = [tree for tree, _ in walked(searching(name), world)]
    for before, after in itertools.pairwise(trees):
        assert before.nodes.keys() <= after.nodes.keys()
        gone = [id for id, node in before.nodes.items() if node.state is NodeState.PRUNED]
        assert all(after.nodes[id].state is NodeState.PRUNED for id in gone)
    tree, kept = ended(searching(name), world)
    assert {node.state for node in tree.nodes.values()} <= {NodeState.KEPT, NodeState.PRUNED, NodeState.FINISHED}
    assert {node.id for node in kept} == {node.id for node in tree.in_state(NodeState.FINISHED)}
    assert all(node.parent is None or node.parent in tree.nodes for node in tree.nodes.values())
    assert len(kept) <= {"greedy": 1}.get(name, 4 if name != "integration" else len(tree.nodes))


@pytest.mark.parametrize("name", NAMES)
@given(worlds)
def test_a_search_walked_again_asks_the_same(name: str, world: World) -> None:
    assert walked(searching(name), world) == walked(searching(name), world)


@given(worlds)
def test_greedy_is_a_beam_of_one(world: World) -> None:
    assert ended(searching("greedy"), world) == ended(searching("beam", beam=1), world)


@given(worlds)
def test_one_teacher_and_a_beam_of_one_is_that_teachers_own_sampling(world: World) -> None:
    tree, _ = ended(searching("beam", beam=1), world, ("bob",))
    path, beam = [], None
    for _ in range(6):
        if not (found := world.candidates(tree, Ask(beam=beam, teacher="bob", samples=1))):
            break
        beam = node_id(QUESTION, found[0], "run")
        path.append(beam)
        if found[0].step.finish == "closed":
            break
    assert set(tree.nodes) == set(path)


@given(worlds, st.permutations(TEACHERS), st.sampled_from(["beam", "greedy", "binary", "curation", "longest"]))
def test_permuting_teachers_changes_ties_only(world: World, order: list[str], name: str) -> None:
    world.repeating, world.ties = 0.0, False
    trees = [ended(searching(name), world, tuple(names))[0] for names in (TEACHERS, order)]
    every = {node.id: _worth(name, node) for tree in trees for node in tree.nodes.values()}
    if len(set(every.values())) == len(every):  # no ties, also between the children of different beams
        assert trees[0] == trees[1]


@given(worlds, st.permutations(TEACHERS), st.integers(1, 4))
def test_permuting_teachers_changes_ties_only_also_when_some_are_late(world: World, order: list[str], width: int) -> None:
    world.repeating, world.ties = 0.0, False
    trees = [walked_with_late_ones(searching("beam", beam=width), world, tuple(names)) for names in (TEACHERS, order)]
    every = {node.id: node.score.value for tree in trees for node in tree.nodes.values()}
    if len(set(every.values())) == len(every):
        ranks = [{node.id: node.rank for node in tree.nodes.values() if node.state is not NodeState.LATE} for tree in trees]
        assert ranks[0] == ranks[1]
        states = [{node.id: node.state for node in tree.nodes.values()} for tree in trees]
        assert states[0] == states[1]


def walked_with_late_ones(search: Search, world: World, teachers: tuple[str, ...]) -> Tree:
    """The tree of a beam search in which some proposals come a step late, the same ones whoever is asked first."""
    strategy = strategy_of(search, run="run", teachers=teachers)
    tree, late = plant(QUESTION), list[Candidate]()
    for num_rounds in range(300):
        if not (asks := strategy.asks(tree, num_rounds)):
            break
        coming = {ask: world.chance("late", ask.beam, ask.teacher).random() < 0.4 for ask in asks}
        in_time = merged([each for ask in asks for each in world.candidates(tree, ask) if not coming[ask]])
        tree = tree.grown(latecomers(tree, world.scored(tree, merged(late), strategy), search=search, run="run"))
        late = [each for ask in asks for each in world.candidates(tree, ask) if coming[ask]]
        scored = world.scored(tree, in_time, strategy)
        if not scored and not tree.nodes:
            break
        tree = tree.grown(strategy.advance(tree, asks, scored))
    return tree.grown(latecomers(tree, world.scored(tree, merged(late), strategy), search=search, run="run"))


def test_some_do_come_late_in_such_a_walk() -> None:
    trees = [walked_with_late_ones(searching("beam"), World(seed), TEACHERS) for seed in range(20)]
    late = [node for tree in trees for node in tree.nodes.values() if node.state is NodeState.LATE]
    assert late
    assert any(node.depth > 2 for tree in trees for node in tree.nodes.values())


def _worth(name: str, node: Node) -> float:
    return node.usage.completion if name == "longest" else node.score.value


@given(worlds, st.integers(1, 6), st.integers(1, 4))
def test_whole_traces_are_chosen_by_score_by_length_or_by_chance(world: World, traces: int, width: int) -> None:
    for name in WHOLE:
        tree, kept = ended(searching(name, traces=traces, beam=width), world)
        worth = [_worth(name, node) for node in tree.nodes.values()]
        if name != "random":
            assert [_worth(name, node) for node in kept] == sorted(worth, reverse=True)[:width]
        assert len(kept) == min(width, len(worth))


def test_chance_looks_at_no_score_and_takes_every_place() -> None:
    places = Counter()
    for seed in range(300):
        tree, kept = ended(searching("random", traces=2), World(seed, repeating=0.0), ("ann", "bob"))
        scores = sorted((node.score.value, node.id) for node in tree.nodes.values())
        places[len(scores), [id for _, id in scores].index(kept[0].id)] += 1
    of_four = [places[4, place] for place in range(4)]
    assert min(of_four) > 0.15 * sum(of_four)


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from(["each", "all"]))
def test_traces_are_shared_evenly(traces: int, num_teachers: int, whose: str) -> None:
    names = [f"t{index}" for index in range(num_teachers)]
    asks = strategy_of(searching("curation", traces=traces, traces_of=whose), run="run", teachers=names).asks(plant(QUESTION), 0)
    assert sum(ask.samples for ask in asks) == traces * (num_teachers if whose == "each" else 1)
    written = Counter(dict.fromkeys(names, 0)) | Counter({ask.teacher: ask.samples for ask in asks})
    assert max(written.values()) - min(written[name] for name in names) <= 1


@given(worlds, st.integers(1, 100), st.sampled_from(["each", "all"]))
def test_traces_are_written_up_to_a_cap_on_tokens(world: World, cap: int, whose: str) -> None:
    trees = walked(searching("curation", traces=20, traces_of=whose, max_question_tokens=cap), world)
    for tree, asks in trees[:-1]:
        assert spent(tree) < cap
        assert len(asks) == (3 if whose == "each" else 1)
    asked = [ask for _, asks in trees for ask in asks]
    assert len({(ask.teacher, ask.draw) for ask in asked}) == len(asked)  # no trace is drawn twice
    assert len(trees) == 21 or spent(trees[-1][0]) >= cap or not trees[-1][0].nodes


@given(worlds)
def test_an_integrated_reasoning_takes_the_place_of_the_traces(world: World) -> None:
    trees = walked(searching("integration", traces=2, integrator="bob"), world)
    traces = trees[1][0] if len(trees) > 1 else trees[0][0]
    assert not any(ask.writes == "merged" for ask in trees[0][1])
    if len(trees) > 2:
        assert [(ask.teacher, ask.writes) for ask in trees[1][1]] == [("bob", "merged")]
        new = trees[2][0].nodes.keys() - traces.nodes.keys()
        finished = {node.id for node in trees[2][0].in_state(NodeState.FINISHED)}
        assert finished == (new or traces.nodes.keys())


@given(worlds, st.integers(1, 12), st.sampled_from([0.0, 0.7, 5.0]))
def test_rollouts_expand_a_new_leaf_each_round_and_the_most_promising_one(world: World, iterations: int, weight: float) -> None:
    trees = walked(searching("mcts", iterations=iterations, exploration=weight), world)
    expanded = [asks[0].beam for _, asks in trees if asks]
    assert len(expanded) == len(set(expanded)) <= iterations
    for tree, asks in trees[1:]:
        if asks:
            leaf = asks[0].beam
            assert leaf and tree.nodes[leaf].state is NodeState.OPEN
            assert len({ask.beam for ask in asks}) == 1
    tree = trees[-1][0]
    ends = [node for node in tree.nodes.values() if node.state in (NodeState.FINISHED, NodeState.PRUNED)]
    best = max((node.score.value for node in ends), default=None)
    assert ([node.score.value for node in tree.in_state(NodeState.FINISHED)] or [None])[0] == best


def test_rollouts_follow_what_was_good() -> None:
    strategy = strategy_of(searching("mcts", exploration=0.0), run="run", teachers=("ann", "bob"))
    values = {"ann": 0.2, "bob": 0.9}
    first = [Ask(beam=None, teacher=name, samples=1) for name in values]
    scored = []
    for name, value in values.items():
        step = Step(index=1, title=name, text=name, author=name, finish="step")
        candidate = Candidate(parent=None, step=step, usage=Usage(), authors=(name,))
        end = Step(index=2, title="", text="end", author=name, finish="closed")
        score = Score(value=value, logprobs=(), prover="prover")
        parent = node_id(QUESTION, candidate, "run")
        scored += [(candidate, score), (Candidate(parent=parent, step=end, usage=Usage(), authors=(name,)), score)]
    tree = plant(QUESTION).grown(strategy.advance(plant(QUESTION), first, scored))
    (leaf,) = {ask.beam for ask in strategy.asks(tree, 1)}
    assert leaf and tree.nodes[leaf].step.text == "bob"
    nothing = tree.grown(strategy.advance(tree, strategy.asks(tree, 1), []))
    (leaf,) = {ask.beam for ask in strategy.asks(nothing, 2)}
    assert leaf and nothing.nodes[leaf].step.text == "ann"  # a step after which nothing came is left
    assert strategy.asks(nothing.grown(Advance(question="q", expanded=(leaf,))), 3) == []


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"strategy": "bream"}, "'beam', 'greedy'"),
        ({"strategy": "greedy", "beam": 2}, "beam: strategy 'greedy' does not read it; those that do: beam, binary"),
        (
            {"strategy": "curation", "quorum": 1},
            "quorum: strategy 'curation' does not read it; those that do: beam, binary, gr",
        ),
        ({"strategy": "beam", "traces": 2}, "traces: strategy 'beam' does not read it"),
        ({"strategy": "mcts", "step_deadline_s": 1.0}, "step_deadline_s: strategy 'mcts'"),
        ({"strategy": "random", "iterations": 3}, "iterations: strategy 'random' does not read it; those that do: mcts"),
        ({"strategy": "integration", "max_question_tokens": 9}, "max_question_tokens: strategy 'integration'"),
        ({"strategy": "integration", "integrator": "dan"}, "no teacher is called 'dan'; teachers: ann, bob"),
        ({"quorum": 3}, "search.quorum: 3 of 2 teachers; accepted: 1 to 2"),
        ({"segmentation": "sentence"}, "'header', 'line_break' or 'cue'"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(search: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=None) as error:
        RunConfig.model_validate(
            {
                "name": "x",
                "questions": [{"kind": "word_problems", "count": 1}],
                "engines": {"scripted": {"kind": "scripted"}},
                "teachers": [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "scripted"}],
                "prover": {"engine": "scripted"},
                "search": search,
            }
        )
    assert told in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_that_is_written_down_whole_can_be_read_again(name: str) -> None:
    search = searching(name)
    assert Search.model_validate(search.model_dump()) == search


@pytest.mark.parametrize("name", NAMES)
@given(worlds)
def test_a_preference_is_a_kept_step_and_a_pruned_sibling_that_scored_lower(name: str, world: World) -> None:
    tree, _ = ended(searching(name), world)
    found = preferences(tree)
    told = {(each.chosen.id, each.rejected.id) for each in found}
    assert len(told) == len(found)
    for each in found:
        assert each.chosen.parent == each.rejected.parent
        assert 0 < each.margin <= 1
    kept, pruned = (NodeState.KEPT, NodeState.FINISHED), (NodeState.PRUNED,)
    for chosen, rejected in itertools.permutations(tree.nodes.values(), 2):
        compete = chosen.parent == rejected.parent and chosen.state in kept and rejected.state in pruned
        assert ((chosen.id, rejected.id) in told) == (compete and chosen.score.value > rejected.score.value)
