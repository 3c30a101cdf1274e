"""The questions of every source, into the store.

Invariant: a row that is no question, or has no gold answer to score with, is counted and named, and stops nothing;
a configuration that yields no question at all is a mistake. Not covered: reading files (`questions.py`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from configs.schema import RunConfig
from orchestrator.progress import Progress
from orchestrator.questions import LoadedQuestions, QuestionsError, load_questions
from store.store import Store
from store.types import Question

log = structlog.get_logger()

_SHOWN = 10
_LOGGED = 1000


async def gather(config: RunConfig, store: Store, progress: Progress) -> None:
    """Add what is not in the store yet. Raises `QuestionsError` when a source is unusable or nothing can be asked."""
    num_taken = 0
    for source in config.questions:
        loaded = await asyncio.to_thread(load_questions, source, Path.cwd())
        taken, left_out = _sorted_out(loaded)
        for row in left_out[:_SHOWN]:
            progress.note(f"left out: {row}")
        if left_out:
            progress.note(f"left out {len(left_out)} rows, took {len(taken)}; log.jsonl names up to {_LOGGED} of them")
            log.warning("rows_left_out", count=len(left_out), rows=left_out[:_LOGGED])
        await store.add_questions(taken, split="train")
        num_taken += len(taken)
    if not num_taken:
        raise QuestionsError("questions: none has a gold answer, and the prover scores with it; name its column in `fields`")


def _sorted_out(loaded: LoadedQuestions) -> tuple[list[Question], list[str]]:
    """The questions that can be asked, and a line for each row that cannot."""
    taken = [question for question in loaded.questions if question.answer is not None]
    bad = [f"{row.where}: {row.reason}" for row in loaded.bad]
    unanswered = [f"{question.source}: no gold answer to score with" for question in loaded.questions if question.answer is None]
    return taken, bad + unanswered
