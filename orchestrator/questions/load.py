"""Files, data sets and the generator of word problems -> questions.

Invariant: every row of a source is accounted for: it is a question, or a `BadRow` with its place and the reason. One bad row
is data; a source without a single good row is a mistake, told in one line. Questions of a source have different ids.
Blocking: call it from a thread. Not covered: the same question in two sources (same id: the store keeps it once).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from configs.schema import File, Source, WordProblems
from orchestrator.questions.formats import ACCEPTED, BadValue, question
from orchestrator.questions.rows import BadRow, QuestionsError, Row, read_rows
from orchestrator.questions.word_problems import TooFewProblems, word_problems
from store.types import Question

__all__ = ["BadRow", "LoadedQuestions", "QuestionsError", "load_questions"]


@dataclass(frozen=True, slots=True)
class LoadedQuestions:
    """The questions of a source, in its order, and the rows that are none."""

    questions: tuple[Question, ...]
    bad: tuple[BadRow, ...] = ()


def load_questions(source: Source, base: Path) -> LoadedQuestions:
    """Return the questions of `source`; relative paths start at `base`. Raises QuestionsError.

    `skip` and `count` are about rows, bad ones included, so that two windows of one file that do not overlap never share a row.
    """
    if isinstance(source, WordProblems):
        try:
            return LoadedQuestions(word_problems(source))
        except TooFewProblems as error:
            raise QuestionsError(str(error)) from error
    return _from_rows(source, base)


def _from_rows(source: File, base: Path) -> LoadedQuestions:
    questions: dict[str, Question] = {}
    bad: list[BadRow] = []
    stop = None if source.count is None else source.skip + source.count
    for row in islice(read_rows(source.path, base), source.skip, stop):
        item = _question_or_bad(row, source)
        if isinstance(item, Question) and item.id in questions:
            item = BadRow(item.meta["row"], f"duplicate of {questions[item.id].meta['row']}")
        if isinstance(item, Question):
            questions[item.id] = item
        else:
            bad.append(item)
    if not questions:
        raise QuestionsError(_no_questions(source, bad))
    return LoadedQuestions(tuple(questions.values()), tuple(bad))


def _question_or_bad(row: Row | BadRow, source: File) -> Question | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        return question(row, source)
    except BadValue as error:
        return BadRow(row.where, str(error))


def _no_questions(source: File, bad: list[BadRow]) -> str:
    accepted = f"format {source.format!r} accepts: {ACCEPTED[source.format]}"
    if not bad:
        return f"{source.path}: no rows{f' after skipping {source.skip}' if source.skip else ''}; {accepted}"
    rows = "its only row cannot" if len(bad) == 1 else f"none of {len(bad)} rows can"
    return f"{source.path}: {rows} be used; first {bad[0].where}: {bad[0].reason}; {accepted}"
