"""The consensus graph: what its numbers must be whatever the texts, and that its files can be read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.embedder import open_embedder
from configs.sift import Consensus as Config
from orchestrator.answers.answer import same_answer
from orchestrator.consensus import ConsensusGraph, target_of
from orchestrator.exports.export import json_line
from orchestrator.exports.graphs import graphml, node_link, to_graph
from store.judged import Judged
from store.types import Consensus, Outcome, Question, Standing, Trajectory, Usage, Verdict

ALIKE = "Take 5 apples and add 3 apples, which makes 8 apples in all."


async def groups(answers: Sequence[str]) -> list[int]:
    """The number of the first answer that is the same."""
    firsts: list[str] = []
    found: list[int] = []
    for answer in answers:
        same = [at for at, first in enumerate(firsts) if answer == first or same_answer(answer, first, "math")]
        if not same:
            firsts.append(answer)
        found.append(same[0] if same else len(firsts) - 1)
    return found


def trajectory(key: str, text: str, answer: str | None, *teachers: str) -> Trajectory:
    return Trajectory(
        id=key,
        question="q",
        nodes=(),
        teachers=teachers or ("ann",),
        text=text,
        conclusion="",
        answer=answer,
        origin="style",
        score=None,
        best=False,
        usage=Usage(),
    )


async def built(*batches: Sequence[Trajectory], config: Config | None = None) -> ConsensusGraph:
    config = config or Config()
    async with open_embedder(config) as embedder:
        graph = ConsensusGraph("q", config, embedder, groups)
        for batch in batches:
            await graph.add(batch)
        return graph


def consensus(*batches: Sequence[Trajectory], accepted: Sequence[str] = (), config: Config | None = None) -> Consensus:
    return asyncio.run(built(*batches, config=config)).consensus(accepted=accepted)


def standing(found: Consensus, key: str) -> Standing:
    return next(each for each in found.standings if each.trajectory == key)


words = st.sampled_from(["add", "3", "to", "5", "half", "of", "8", "", "!", "Add", "minus"])
some = st.lists(
    st.tuples(
        st.lists(words, max_size=6).map(" ".join),
        st.sampled_from(["8", "8.0", "8 apples", "12", "no idea", None]),
        st.lists(st.sampled_from(["ann", "bob", "eve"]), min_size=1, max_size=2, unique=True),
    ),
    max_size=8,
)


@settings(max_examples=40)
@given(some, st.randoms(use_true_random=False), st.integers(0, 8))
def test_the_order_of_arrival_decides_nothing(drawn: list[tuple[str, str | None, list[str]]], chance, cut: int) -> None:
    trajectories = [trajectory(f"t{at}", text, answer, *teachers) for at, (text, answer, teachers) in enumerate(drawn)]
    shuffled = chance.sample(trajectories, len(trajectories))
    accepted = [each.id for each in trajectories]
    at_once = consensus(trajectories, accepted=accepted)
    assert consensus(shuffled[:cut], shuffled[cut:], accepted=accepted) == at_once


@settings(max_examples=40)
@given(some)
def test_numbers_are_in_their_bounds(drawn: list[tuple[str, str | None, list[str]]]) -> None:
    trajectories = [trajectory(f"t{at}", text, answer, *teachers) for at, (text, answer, teachers) in enumerate(drawn)]
    found = consensus(trajectories)
    assert [each.trajectory for each in found.standings] == sorted(each.id for each in trajectories)
    assert sum(each.centrality for each in found.standings) == pytest.approx(len(trajectories), abs=1e-6)
    assert all(0 <= each.nearest <= 1 and not each.misleading for each in found.standings)
    assert sum(each.support for each in found.clusters) == pytest.approx(
        sum(each.answer is not None for each in trajectories) / max(1, len(trajectories))
    )
    assert all(0 < each.support <= 1 and 0 < each.teachers <= 1 for each in found.clusters)
    assert [each.strength for each in found.clusters] == sorted((each.strength for each in found.clusters), reverse=True)
    answers = {each.id: each.answer for each in trajectories}
    assert all(a < b and 0 < weight <= 1 and None not in (answers[a], answers[b]) for a, b, weight in found.edges)


def test_identical_trajectories_share_support_and_centrality() -> None:
    several = [trajectory(f"same{at}", ALIKE, "8") for at in range(3)]
    found = consensus([*several, trajectory("other", "5 and 3: 8.", "8"), trajectory("wrong", "5 minus 3 is 2.", "2")])
    standings = [standing(found, each.id) for each in several]
    assert len({(each.support, each.centrality, each.nearest) for each in standings}) == 1
    assert (standings[0].support, standings[0].nearest) == (0.8, 1.0)


def test_the_odd_one_of_five_does_not_lead() -> None:
    five = [trajectory(f"t{at}", f"Way {at}: 5 plus 3.", "8") for at in range(4)] + [trajectory("odd", ALIKE, "9")]
    found = consensus(five)
    assert [(each.answer, each.support) for each in found.clusters] == [("8", 0.8), ("9", 0.2)]
    assert target_of(found, 0.5) == ("8", 0.8)
    assert target_of(found, 0.9) is None


def test_votes_decide_before_likeness_and_likeness_before_the_alphabet() -> None:
    alike = [trajectory(f"b{at}", ALIKE, "9") for at in range(2)]
    unlike = [trajectory("a0", "Halve 16.", "8"), trajectory("a1", "Count fingers up to eight", "8")]
    assert consensus(alike + unlike).clusters[0].answer == "9"
    assert consensus([*alike, *unlike, trajectory("a2", "Guess", "8")]).clusters[0].answer == "8"
    assert [each.answer for each in consensus([replace(each, text=ALIKE) for each in alike + unlike]).clusters] == ["8", "9"]


def test_answers_in_different_forms_are_one_cluster_under_its_most_frequent_form() -> None:
    forms = ("8 apples", "8", "8 apples", "8.0", "8.0")
    found = consensus([trajectory(f"t{at}", ALIKE, form) for at, form in enumerate(forms)])
    assert [(each.answer, each.support) for each in found.clusters] == [("8 apples", 1.0)]


def test_a_teacher_counts_once_and_a_trajectory_of_two_counts_for_both() -> None:
    found = consensus(
        [trajectory("a", ALIKE, "8", "ann", "bob"), trajectory("b", "5 3 8", "8", "ann"), trajectory("c", "no", "9", "eve")]
    )
    assert [(each.answer, each.teachers) for each in found.clusters] == [("8", pytest.approx(2 / 3)), ("9", pytest.approx(1 / 3))]


def test_a_lone_accepted_trajectory_that_reasons_unlike_the_others_is_misleading() -> None:
    several = [trajectory(f"t{at}", ALIKE + f" Check {at}.", "8") for at in range(4)]
    lucky = trajectory("lucky", "Eleven minus two is nine; my horse has one leg fewer.", "8")
    found = consensus([*several, lucky], accepted=[*(each.id for each in several), "lucky"])
    assert [each.trajectory for each in found.standings if each.misleading] == ["lucky"]
    assert not any(each.misleading for each in consensus([*several, lucky]).standings), "nothing was accepted"
    lenient = Config(min_centrality=0.0)
    assert not any(each.misleading for each in consensus([*several, lucky], accepted=["lucky"], config=lenient).standings)


def test_one_trajectory_is_average_and_no_consensus() -> None:
    found = consensus([trajectory("only", ALIKE, "8")], accepted=["only"])
    assert found.standings == (Standing(trajectory="only", centrality=1.0, nearest=0.0, support=1.0, misleading=False),)
    assert target_of(found, 0.5) is None, "an answer that nobody shares is nobody's consensus"


def test_nothing_at_all_and_no_answers_at_all() -> None:
    assert consensus([]).clusters == ()
    found = consensus([trajectory(f"t{at}", ALIKE, None) for at in range(3)])
    assert (found.clusters, found.edges, target_of(found, 0.0)) == ((), (), None)
    assert {(each.centrality, each.support) for each in found.standings} == {(1.0, None)}


def test_a_tie_is_no_target() -> None:
    found = consensus([trajectory(f"t{at}", ALIKE, "8" if at % 2 else "9") for at in range(4)])
    assert found.clusters[0].answer == "8"
    assert target_of(found, 0.5) is None


def test_what_is_known_is_not_asked_again() -> None:
    asked: list[list[str]] = []

    async def counted(answers: Sequence[str]) -> list[int]:
        asked.append(list(answers))
        return await groups(answers)

    class Known:
        name = "ones"

        async def similarities(self, texts: Sequence[str]) -> np.ndarray:
            return np.ones((len(texts), len(texts)))

    async def grown() -> ConsensusGraph:
        graph = ConsensusGraph("q", Config(), Known(), counted)
        for at, answer in enumerate(["8", "8", "9", "8", None]):
            await graph.add([trajectory(f"t{at}", "", answer), trajectory("t0", "", "8")])
        return graph

    assert len(asyncio.run(grown()).trajectories) == 5
    assert asked == [["8"], ["8", "9"]]


def test_a_failure_leaves_the_graph_as_it_was() -> None:
    async def failing(answers: Sequence[str]) -> list[int]:
        if "9" in answers:
            raise TimeoutError
        return await groups(answers)

    async def tried() -> ConsensusGraph:
        async with open_embedder(Config()) as embedder:
            graph = ConsensusGraph("q", Config(), embedder, failing)
            await graph.add([trajectory("a", ALIKE, "8")])
            with pytest.raises(TimeoutError):
                await graph.add([trajectory("b", ALIKE, "9")])
            return graph

    assert [each.trajectory for each in asyncio.run(tried()).consensus().standings] == ["a"]


def test_two_hundred_trajectories_take_a_moment() -> None:
    """A second is the aim, on a machine that does nothing else (`benchmarks/consensus_cost.py`)."""
    many = [trajectory(f"t{at:03}", f"{ALIKE} Case {at % 50}. " * 5, str(at % 3), f"teacher{at % 4}") for at in range(200)]
    begun = time.perf_counter()
    assert len(consensus(many).edges) == 2 * 67 * 66 // 2 + 66 * 65 // 2
    assert time.perf_counter() - begun < 5


# ---------------------------------------------------------------------------------------------------------------- files

NASTY = "a\x00b\x1f\x7f<&>\"']]> \ud800 \ufffe \r\n\t é 🙂 "


def drawn_graph(text: str) -> nx.Graph:
    several = [
        trajectory("t0", ALIKE, text, "ann", text),
        replace(trajectory("t1", ALIKE, text), score=0.5, style="plain"),
        trajectory("t2", ALIKE, None),
    ]
    verdict = Verdict(trajectory="t0", outcome=Outcome.ACCEPTED, reason=text)
    found = asyncio.run(built(several)).consensus(accepted=["t0"], target=text, target_support=0.5)
    return to_graph(found, [judged(each, verdict if each.id == "t0" else None) for each in several])


def judged(trajectory: Trajectory, verdict: Verdict | None) -> Judged:
    asked = Question(id="q", text="?", answer=None, kind="math")
    return Judged(asked, trajectory, verdict, [], [], None, None, None, 0)


def linked(graph: nx.Graph) -> Any:
    """As it comes back from its file."""
    return nx.node_link_graph(json.loads(json_line(node_link(graph)).encode()), edges="edges")


@given(st.text(alphabet=st.characters(), min_size=1, max_size=20) | st.just(NASTY))
@settings(max_examples=60)
def test_any_text_gives_files_that_can_be_read(text: str) -> None:
    graph = drawn_graph(text)
    again = nx.parse_graphml(graphml(graph))
    assert again.nodes["t1"]["score"] == 0.5
    assert again.nodes["t0"]["leading"] is True
    assert "answer" not in again.nodes["t2"]
    assert again.edges["t0", "t1"]["weight"] == 1.0
    read = linked(graph)
    assert read.nodes["t0"]["teachers"] == ["ann", read.graph["target"]]
    assert read.nodes["t2"]["answer"] is None
    assert read.edges["t0", "t1"] == graph.edges["t0", "t1"]


def test_text_that_a_file_can_hold_comes_back_as_it_was() -> None:
    text = "x < 3 & y > \"2\"\n\t'é' 🙂"
    graph = drawn_graph(text)
    assert nx.parse_graphml(graphml(graph)).nodes["t0"]["answer"] == text
    assert linked(drawn_graph("\x00\r")).nodes["t0"]["answer"] == "\x00\r"


def test_what_a_file_cannot_hold_is_seen() -> None:
    answer = nx.parse_graphml(graphml(drawn_graph(NASTY))).nodes["t0"]["answer"]
    assert answer == "a␀b␟␡<&>\"']]> \ufffd \ufffd ␍\n\t é 🙂 "
    assert linked(drawn_graph(NASTY)).nodes["t0"]["answer"] == NASTY.replace("\ud800", "\ufffd")


def test_the_same_consensus_is_the_same_file() -> None:
    assert graphml(drawn_graph("8")) == graphml(drawn_graph("8"))
    assert json_line(node_link(drawn_graph("8"))) == json_line(node_link(drawn_graph("8")))
