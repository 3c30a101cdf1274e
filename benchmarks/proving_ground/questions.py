"""The sets of questions: one file each, as `questions: {kind: file, path: ...}` reads them, and the same as problems.

    train, test   chains of the lengths that are asked in the domain
    longer        longer chains
    unseen        a phrasing that no model was trained on

Invariant: deterministic from a seed, and no problem is in two sets, nor in any model's training text.
Not covered: what models are trained on (`rows`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .language import FRAMES, UNSEEN, Frame, Problem, draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many questions, and how long their chains are."""

    train: int = 1000
    test: int = 900
    longer: int = 200
    unseen: int = 200
    lengths: tuple[int, ...] = (3, 4, 5)
    longer_lengths: tuple[int, ...] = (6, 7)


def problems(sizes: Sizes, seed: int) -> dict[str, list[Problem]]:
    """All sets by name."""
    chance, taken = random.Random(f"questions {seed}"), set[str]()

    def some(count: int, lengths: Sequence[int], frames: Sequence[Frame]) -> list[Problem]:
        found: list[Problem] = []
        while len(found) < count:
            problem = draw(chance, lengths[len(found) % len(lengths)], reserved=True, frames=frames)
            if problem.key not in taken:
                taken.add(problem.key)
                found.append(problem)
        return found

    return {
        "train": some(sizes.train, sizes.lengths, FRAMES),
        "test": some(sizes.test, sizes.lengths, FRAMES),
        "longer": some(sizes.longer, sizes.longer_lengths, FRAMES),
        "unseen": some(sizes.unseen, sizes.lengths, (UNSEEN,)),
    }


def write(sets: dict[str, list[Problem]], folder: Path) -> dict[str, Any]:
    """One JSONL file for each set; `values` are the right results of the steps."""
    for name, each in sets.items():
        lines = [json.dumps({"question": p.text, "answer": str(p.answer), "values": p.values}) for p in each]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: len(each) for name, each in sets.items()}
