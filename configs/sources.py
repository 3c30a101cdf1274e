"""Where questions come from: the keys of every kind of source.

Not covered: reading them (`orchestrator.questions.load`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.part import Part


class WordProblems(Part):
    """Seeded word problems from the shipped generator; two different `split`s never share a problem."""

    kind: Literal["word_problems"]
    """Chooses this source."""
    count: int = Field(ge=1, le=1_000_000)
    """How many questions."""
    seed: int = 0
    """Seed of the generator."""
    split: Literal["train", "held_out"] = "train"
    """Which half of all problems to draw from."""
    operations: tuple[Annotated[int, Field(ge=1, le=3)], ...] = (1, 2, 3)
    """Numbers of operations, drawn from evenly."""
    largest: int = Field(default=20, ge=10, le=1000)
    """The largest number that a problem mentions."""


class Fields(Part):
    """Which column holds what; a dotted name reaches into nested objects."""

    question: str = "question"
    """Column of the question's text."""
    answer: str | None = "answer"
    """Column of the gold answer; None when there is none."""
    choices: str | None = None
    """Column of the list of options, of a choice question."""
    context: str | None = None
    """Column of text to be read before the question."""
    aliases: str | None = None
    """Column of a list of other answers that are as right as the gold one."""


class File(Part):
    """Questions from a JSONL, JSON, CSV or parquet file, or a data-set id of the hub."""

    kind: Literal["file"]
    """Chooses this source."""
    path: str
    """A file, or `hf:owner/name[:split]` for a data set of the hub or of its cache."""
    format: Literal["fields", "gsm8k", "svamp", "mawps", "bbh", "strategyqa"] = "fields"
    """A built-in format, or "fields": the columns are named in `fields`."""
    fields: Fields = Fields()
    """Columns, for `format: fields`."""
    answers: Literal["math", "choice", "boolean", "entailment", "span", "open"] = "math"
    """Kind of the answers, for `format: fields`: "math", a number or another expression; "choice", one of the options;
    "boolean", yes or no; "entailment", entailment, neutral or contradiction; "span", words or numbers of a text or table;
    "open", what only a judge can check."""
    count: int | None = Field(default=None, ge=1)
    """Take only this many, after `skip`."""
    skip: int = Field(default=0, ge=0)
    """Leave out this many rows at the start."""
    licence: str | None = None
    """The terms under which the questions may be used, as the data-set card tells them. Harmless: may differ on a resume."""


Source = Annotated[WordProblems | File, Field(discriminator="kind")]
