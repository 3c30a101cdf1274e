"""The accepted trajectories as files that others can train on.

Invariant: a file is there whole or not at all. Format `messages`: JSONL, one trajectory a line, with its scores and
teachers beside the text.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.folder import FolderError
from store.reasoning import response, user_text
from store.store import Store
from store.types import Node, Question, Trajectory, Verdict

_PAGE = 256


async def export_messages(store: Store, path: Path, *, system: str | None = None, best_only: bool = False) -> int:
    """Write the accepted trajectories to `path`; how many were written. Raises `FolderError`."""
    draft = path.with_name(path.name + ".draft")
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            async for question, trajectory, verdict, nodes in _accepted(store):
                if trajectory.best or not best_only:
                    file.write(json.dumps(_row(question, trajectory, verdict, nodes, system), ensure_ascii=False) + "\n")
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
