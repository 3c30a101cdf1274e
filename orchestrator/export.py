"""A run's data as files that others can train on.

    messages      JSONL, one accepted trajectory a line, with its scores and teachers beside the text
    preferences   JSONL, one pair of sibling steps a line: one that was kept, one that was pruned, with scores and margin
    nodes         JSONL, one step that was ever proposed a line: by whom, its score, what became of it and why, what it cost

Invariant: a file is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.folder import FolderError
from orchestrator.preferences import Preference, preferences
from orchestrator.search import Tree, plant
from store.reasoning import THINK_CLOSE, THINK_OPEN, Segmentation, joined, response, user_text
from store.store import Store
from store.types import Node, Question, QuestionState, Trajectory, Verdict

_PAGE = 256


async def export_messages(store: Store, path: Path, *, system: str | None = None, best_only: bool = False) -> int:
    """Write the accepted trajectories to `path`; how many were written. Raises `FolderError`."""
    rows = (
        _row(question, trajectory, verdict, nodes, system)
        async for question, trajectory, verdict, nodes in _accepted(store)
        if trajectory.best or not best_only
    )
    return await _written(path, rows)


async def export_preferences(
    store: Store, path: Path, *, system: str | None = None, segmentation: Segmentation = "header"
) -> int:
    """Write the step preferences of the settled questions to `path`; how many were written. Raises `FolderError`."""
    rows = (
        _pair(tree, preference, system, segmentation)
        async for tree in _trees(store, settled=True)
        for preference in preferences(tree)
    )
    return await _written(path, rows)


async def export_nodes(store: Store, path: Path) -> int:
    """Write every step of every tree to `path`; how many were written. Raises `FolderError`."""
    return await _written(path, (_step(node) async for tree in _trees(store) for node in tree.nodes.values()))


async def _written(path: Path, rows: AsyncIterator[dict[str, Any]]) -> int:
    draft = path.with_name(path.name + ".draft")
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            async for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise FolderError(f"{path}: cannot be written: {error.strerror}") from error
    return written


async def _accepted(store: Store) -> AsyncIterator[tuple[Question, Trajectory, Verdict, list[Node]]]:
    cursor = (-1, "")
    while page := await store.accepted(after=cursor, limit=_PAGE):
        for accepted in page:
            yield accepted.question, accepted.trajectory, accepted.verdict, accepted.nodes
        cursor = page[-1].cursor


async def _trees(store: Store, *, settled: bool = False) -> AsyncIterator[Tree]:
    position = -1
    while page := await store.questions("train", after=position, limit=_PAGE):
        for placed in page:
            if not settled or placed.state in (QuestionState.SOLVED, QuestionState.UNSOLVED):
                yield plant(placed.question, await store.tree(placed.question.id))
        position = page[-1].position


def _step(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "question": node.question,
        "parent": node.parent,
        "depth": node.depth,
        "text": node.step.text,
        "finish": node.step.finish,
        "authors": list(node.authors),
        "score": node.score.value,
        "prover": node.score.prover,
        "target": node.score.target,
        "state": node.state.value,
        "rank": node.rank,
        "reason": node.reason,
        "tokens": {"prompt": node.usage.prompt, "cached": node.usage.cached, "completion": node.usage.completion},
        "cost": node.cost,
    }


def _pair(tree: Tree, preference: Preference, system: str | None, segmentation: Segmentation) -> dict[str, Any]:
    """In the conversational form that trainers of preferences read: both sides repeat the steps that they share."""
    question, parent = tree.question, preference.chosen.parent
    turns = [{"role": "system", "content": system}] if system else []

    def side(node: Node) -> list[dict[str, str]]:
        text = THINK_OPEN + joined([*tree.steps(parent), node.step.text], segmentation)
        closing = THINK_CLOSE.rstrip() if node.step.finish == "closed" else ""
        return [{"role": "assistant", "content": text + closing}]

    return {
        "question": question.id,
        "source": question.source,
        "prompt": [*turns, {"role": "user", "content": user_text(question)}],
        "chosen": side(preference.chosen),
        "rejected": side(preference.rejected),
        "shared": joined(tree.steps(parent), segmentation),
        "step": preference.chosen.depth,
        "chosen_score": preference.chosen.score.value,
        "rejected_score": preference.rejected.score.value,
        "margin": preference.margin,
        "chosen_authors": list(preference.chosen.authors),
        "rejected_authors": list(preference.rejected.authors),
    }


def _row(question: Question, trajectory: Trajectory, verdict: Verdict, nodes: list[Node], system: str | None) -> dict[str, Any]:
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": user_text(question)})
    turns.append({"role": "assistant", "content": response(trajectory.text, trajectory.conclusion)})
    return {
        "id": trajectory.id,
        "messages": turns,
        "question": question.id,
        "source": question.source,
        "kind": question.kind,
        "gold": question.answer,
        "answer": trajectory.answer,
        "verdict": verdict.outcome.value,
        "origin": trajectory.origin,
        "best": trajectory.best,
        "score": trajectory.score,
        "teachers": list(trajectory.teachers),
        "steps": [{"text": node.step.text, "authors": list(node.authors), "score": node.score.value} for node in nodes],
    }
