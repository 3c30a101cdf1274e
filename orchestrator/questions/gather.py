"""The questions of every source, into the store: those to learn from, and those to measure with.

Invariant: a row that is no question is counted and named, and stops nothing; a configuration that yields no question at all is a
mistake. Questions without a gold answer are told of: they are aimed at a consensus. Not covered: reading files (`load.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from configs.schema import HELD_OUT, Evaluation, RunConfig
from orchestrator.progress import Progress
from orchestrator.questions.load import LoadedQuestions, QuestionsError, load_questions
from store.splits import split_of
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
        _tell_left_out(loaded, progress)
        if unknown := _without_gold(loaded.questions):
            least = config.consensus.min_support
            progress.note(
                f"{unknown} questions have no gold answer: what {least:.0%} of the sampled reasonings say stands in for it"
            )
        await store.add_questions(loaded.questions, split="train")
        num_taken += len(loaded.questions)
    if not num_taken:
        raise QuestionsError("questions: there is none")


async def gather_held_out(evaluation: Evaluation, store: Store, progress: Progress) -> None:
    """Add the questions to measure with, every set in its split, when those to learn from are in the store.

    Those without a gold answer are left out, and so are those that are learnt from, or that are in a set before. Raises
    `QuestionsError` when a source is unusable.
    """
    for name, source in {HELD_OUT: evaluation.questions, **evaluation.others}.items():
        loaded = await asyncio.to_thread(load_questions, source, Path.cwd())
        _tell_left_out(loaded, progress)
        marked = [question for question in loaded.questions if question.answer is not None]
        await store.add_questions(marked, split=split_of(name))
        splits = await store.held_out()
        learnt = sum(question.id not in splits for question in marked)
        shared = sum(splits.get(question.id, split_of(name)) != split_of(name) for question in marked)
        reasons = {
            "have no gold answer": len(loaded.questions) - len(marked),
            "are among the questions to learn from": learnt,
            "are in another set": shared,
        }
        for reason, count in reasons.items():
            if count:
                progress.note(f"left out {count} questions of {name}: they {reason}")


def _tell_left_out(loaded: LoadedQuestions, progress: Progress) -> None:
    """The rows that are no questions: the first ones in a line each, more in the log."""
    left_out = [f"{row.where}: {row.reason}" for row in loaded.bad]
    for row in left_out[:_SHOWN]:
        progress.note(f"left out: {row}")
    if left_out:
        progress.note(f"left out {len(left_out)} rows, took {len(loaded.questions)}; log.jsonl names up to {_LOGGED} of them")
        log.warning("rows_left_out", count=len(left_out), rows=left_out[:_LOGGED])


def _without_gold(questions: Sequence[Question]) -> int:
    return sum(question.answer is None and question.kind != "open" for question in questions)
