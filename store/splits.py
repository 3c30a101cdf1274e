"""What a question is there for: to learn from ("train"), or to measure with ("held_out", and "held_out:NAME" for other sets).

Invariant: a question has one split, that of the first who adds it; so sets are disjoint, and what is learnt is in none of them.
"""

from __future__ import annotations

Split = str
"""`TRAIN`, or what `split_of` gives."""

TRAIN: Split = "train"
MAIN = "held_out"
"""The main set of held-out questions; its split is called the same."""

_AFTER = f"{MAIN};"
FIRST_AND_AFTER = (MAIN, _AFTER)
"""All splits of held-out questions are at or above the first and below the second: ";" comes next to ":"."""


def split_of(held_out: str) -> Split:
    """The split of a set of held-out questions."""
    return MAIN if held_out == MAIN else f"{MAIN}:{held_out}"


def set_of(split: Split) -> str:
    """The set whose split it is."""
    return split.removeprefix(f"{MAIN}:")
