"""A store of a large run, written through the store's own door: what `inspector_scale.py` looks at.

Every question has a tree and four trajectories, as a beam search leaves them; one has a tree of its own size. Texts are as long
as those of a small model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from configs.load import dump, load
from orchestrator.folder import Folder
from store.store import Store, open_store
from store.types import (
    Advance,
    Call,
    Failure,
    Node,
    NodeState,
    Outcome,
    Question,
    QuestionState,
    Ruling,
    Score,
    Step,
    Trajectory,
    Usage,
    Verdict,
    content_id,
)

TEACHERS = ("ann", "bob", "cy")
WORDS = "There are 14 cups on the table and Sue brings 8 more of them, so that we have to add: 14 + 8 = 22. "
BIG = content_id("question", "big")


def config_of(folder: Path) -> Folder:
    """The folder of a run whose configuration is the shipped recipe without models."""
    config = load("scripted", [f"run_dir={folder}"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    return Folder(folder)


async def build(folder: Folder, num_questions: int, num_nodes: int, biggest: int, num_calls: int) -> None:
    """A finished run: so many questions and nodes in all, of which `biggest` are in one tree, and some calls a question."""
    config = load(str(folder.config))
    async with open_store(folder.database) as store:
        await store.begin_run("scale", config.name, dump(config))
        ids = [BIG, *(content_id("question", str(number)) for number in range(num_questions - 1))]
        await store.add_questions(
            [
                Question(id=id, text=f"{WORDS} How many cups is {number}?", answer="22", kind="math")
                for number, id in enumerate(ids)
            ],
            split="train",
        )
        each = (num_nodes - biggest) // max(1, num_questions - 1)
        for some in _batched(ids, 64):
            async with asyncio.TaskGroup() as group:
                for id in some:
                    group.create_task(_solve(store, id, biggest if id == BIG else each, num_calls))
        await store.end_run("finished")


def _batched(ids: list[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(ids), size):
        yield ids[first : first + size]


async def _solve(store: Store, question: str, num_nodes: int, num_calls: int) -> None:
    nodes = tree(question, num_nodes)
    await store.record_advance(Advance(question=question, pruned=tuple(nodes)))
    await store.record_calls([_call(question, number) for number in range(num_calls)])
    leaves = [node for node in nodes if node.state is NodeState.FINISHED][:4]
    found = [_trajectory(question, node, place) for place, node in enumerate(leaves)]
    solved = int(question, 16) % 4 > 0
    outcomes = [Outcome.ACCEPTED if solved and place < 2 else Outcome.WRONG_ANSWER for place in range(len(found))]
    await store.settle_question(
        question,
        QuestionState.SOLVED if solved else QuestionState.UNSOLVED,
        "2 of 4 trajectories accepted" if solved else "no trajectory accepted: 4 wrong answer",
        found,
        [Verdict(trajectory=t.id, outcome=o, reason="22 is 22", target="gold") for t, o in zip(found, outcomes, strict=True)],
        [],
        rulings=[Ruling(trajectory=t.id, judge="strict", ruled="valid", reason="every step holds") for t in found[:1]],
    )
    if int(question, 16) % 50 == 0:
        await store.record_failure(
            Failure(id=f"f{question}", where="teacher bob", kind="TimedOut", message="no answer", tries=3, subject=question)
        )


def tree(question: str, num_nodes: int) -> list[Node]:
    """So many nodes, four children a parent, down to where they are enough."""
    nodes: list[Node] = []
    parents: list[Node | None] = [None]
    while len(nodes) < num_nodes:
        layer: list[Node] = []
        for parent in parents:
            for place in range(4):
                if len(nodes) + len(layer) < num_nodes:
                    layer.append(_node(question, parent, place, len(nodes) + len(layer)))
        nodes += layer
        parents = [node for node in layer if node.rank < 2] or list(layer)
    return nodes


def _node(question: str, parent: Node | None, place: int, number: int) -> Node:
    depth = parent.depth + 1 if parent else 1
    author = TEACHERS[number % len(TEACHERS)]
    state = (NodeState.FINISHED, NodeState.KEPT, NodeState.PRUNED, NodeState.PRUNED)[place]
    return Node(
        id=content_id("node", question, number),
        question=question,
        parent=parent.id if parent else None,
        depth=depth,
        rank=place,
        step=Step(index=depth, title=WORDS[:40], text=f"### Step {depth}. {WORDS * 3}", author=author, finish="step"),
        authors=(author,),
        usage=Usage(prompt=120, completion=60),
        score=Score(value=(number % 97) / 97, logprobs=(-0.1, -0.2, -0.3), prover="prover"),
        state=state,
        reason="" if place < 2 else "outside the beam of 4",
    )


def _trajectory(question: str, node: Node, place: int) -> Trajectory:
    return Trajectory(
        id=content_id("trajectory", node.id),
        question=question,
        nodes=(node.id,),
        teachers=(node.step.author,),
        text=WORDS * 12,
        conclusion="The final answer is 22.",
        answer="22",
        origin="search",
        score=node.score.value,
        best=place == 0,
        usage=Usage(prompt=400, completion=200),
    )


def _call(question: str, number: int) -> Call:
    return Call(
        id=content_id("call", question, number),
        subject=question,
        agent=TEACHERS[number % len(TEACHERS)],
        engine="scripted",
        purpose="propose",
        request={"turns": "t", "prefix": WORDS * 2, "seed": number},
        response={"completions": [{"text": WORDS * 3}]},
        usage=Usage(prompt=120, completion=60),
        latency_s=0.05 * (number + 1),
    )
