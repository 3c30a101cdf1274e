"""What exports hold: the formats, and every column of their rows with its type and what it says.

Invariant: the rows of a format have exactly its columns, whatever is in them, so that empty lists and nulls load everywhere.
Text is kept as it is, but for half characters (lone surrogates), which no file can hold: each becomes U+FFFD. Not covered:
what fills the columns (`rows.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

Format = Literal[
    "messages",
    "sharegpt",
    "alpaca",
    "preferences",
    "pairs",
    "nodes",
    "trajectories",
    "graphs",
    "graphml",
    "parquet",
    "dataset",
]
FORMATS: tuple[Format, ...] = get_args(Format)
WITH_BEST: tuple[Format, ...] = ("messages", "sharegpt", "alpaca", "parquet", "dataset")
"""Formats whose rows are accepted trajectories, so that only the best of each question can be asked for."""

Type = Literal["text", "integer", "number", "truth"] | list[Any] | dict[str, Any]
"""A list holds the type of its items, a dict those of its parts. Everything may be null."""


class Column(NamedTuple):
    """The type of a column, and what it says."""

    type: Type
    about: str


Columns = Mapping[str, Column]

_TURNS: Type = [{"role": "text", "content": "text"}]
_TARGET: Columns = {
    "target": Column("text", "what the answer was compared with: `gold`, or `consensus` where the teachers' own answer stood in"),
    "target_answer": Column("text", "that answer"),
    "target_support": Column("number", "for `consensus`: the share of the sampled trajectories that gave it"),
}

FACTS: Columns = {
    "id": Column("text", "the trajectory"),
    "question": Column("text", "the question"),
    "source": Column("text", "where the question comes from"),
    "kind": Column("text", "kind of its answer"),
    "gold": Column("text", "its gold answer; null: none"),
    "answer": Column("text", "the answer found in the trajectory"),
    "where": Column("text", "how it stood there: `statement`, `box`, or the `last` one that could be read"),
    **_TARGET,
    "verdict": Column("text", "what the sift decided"),
    "reason": Column("text", "why"),
    "origin": Column("text", "`search`: chosen step by step; `style`: sampled as a whole"),
    "style": Column("text", "the style that a sampled one was asked for"),
    "best": Column("truth", "whether it has the highest score of its question"),
    "score": Column("number", "predictive perplexity in [0, 1]: how likely the reasoning makes the answer"),
    "score_target": Column("text", "the answer that the score is about: `gold` or `consensus`"),
    "teachers": Column(["text"], "who wrote it"),
    "steps": Column(
        [{"text": "text", "authors": ["text"], "score": "number"}],
        "each step with its authors and the score up to it; a sampled trajectory is one step",
    ),
    "consensus": Column(
        {"support": "number", "centrality": "number", "nearest": "number", "misleading": "truth"},
        "where it stands among its question's trajectories: share that give its answer, PageRank (1 is the average), highest "
        "similarity to another one, whether it looks right by luck; null: not compared",
    ),
    "rulings": Column([{"judge": "text", "ruled": "text", "reason": "text"}], "what each judge said of it"),
    "tokens": Column({"prompt": "integer", "cached": "integer", "completion": "integer"}, "what writing it took"),
    "cost": Column("number", "the same in US dollars; null: not known"),
}
MESSAGES: Columns = {"messages": Column(_TURNS, "the conversation: what to train on"), **FACTS}

_SIDES: Columns = {
    "prompt": Column(_TURNS, "the conversation up to the answer"),
    "chosen": Column(_TURNS, "the better answer"),
    "rejected": Column(_TURNS, "the worse answer"),
}
PREFERENCES: Columns = {
    "question": FACTS["question"],
    "source": FACTS["source"],
    **_SIDES,
    "shared": Column("text", "the steps that both sides begin with"),
    "step": Column("integer", "the number of the step in which they differ"),
    "chosen_score": Column("number", "score of the step that was kept"),
    "rejected_score": Column("number", "score of the step that was pruned"),
    "margin": Column("number", "their difference, above 0"),
    "target": Column("text", "the answer that the scores are about: `gold` or `consensus`"),
    "chosen_authors": Column(["text"], "who proposed the step that was kept"),
    "rejected_authors": Column(["text"], "who proposed the step that was pruned"),
}


def _side(side: str) -> Columns:
    names = ("id", "answer", "verdict", "reason", "score", "teachers", "rulings", "consensus")
    return {f"{side}_{name}": FACTS[name] for name in names}


PAIRS: Columns = {
    **{name: FACTS[name] for name in ("question", "source", "kind", "gold")},
    **_SIDES,
    **_TARGET,
    "margin": Column("number", "by how much the chosen one's score is higher; null where one has none"),
    **_side("chosen"),
    **_side("rejected"),
}


def writable(value: Any) -> Any:
    """`value` with every half character in its texts replaced by U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {key: writable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [writable(inner) for inner in value]
    return value
