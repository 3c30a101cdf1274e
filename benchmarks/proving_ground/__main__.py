"""Build the proving ground, and print what its models can do.

    python -m benchmarks.proving_ground [--folder FOLDER] [--seed 0] [--questions 300] [--json FILE]

greedy    share of the test questions that a whole greedy trace answers rightly, with a 95% interval (bootstrap over questions)
by kind   single greedy steps after a right beginning: right value, and an end of the reasoning where it should be
mixture   test questions solved when each step is written, greedily, by the teacher that is best at its kind of operation
told      how often a prover scores a right chain above the same one with a slip, by how many steps are still missing
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.intervals import interval

from .build import CACHE, Ground, Plan, build
from .cache import facts
from .language import KINDS
from .measure import Stepped, answered, mixed, opened, stepped, told_apart

MISSING = (0, 1, 2)


def share(marks: Sequence[bool]) -> str:
    """A share with its interval."""
    low, high = interval(np.array(marks, float))
    return f"{statistics.mean(marks):6.1%} [{low:5.1%}, {high:5.1%}]"


def by_kind(found: Sequence[Stepped]) -> dict[str, float]:
    """How often a step of each kind was right."""
    return {kind: statistics.mean([each.right for each in found if each.kind == kind] or [False]) for kind in KINDS}


async def measured(ground: Ground, count: int) -> dict[str, Any]:
    """Every figure, on the first `count` questions of each set."""
    test, longer, unseen = (ground.problems(name)[:count] for name in ("test", "longer", "unseen"))
    figures: dict[str, Any] = {"teachers": {}, "provers": {}}
    async with AsyncExitStack() as stack:
        models = await opened(stack, ground.teachers)
        for name, model in models.items():
            figures["teachers"][name] = {
                "greedy": await answered(model, test),
                "longer": await answered(model, longer),
                "unseen": await answered(model, unseen),
                "kinds": by_kind(await stepped(model, test)),
            }
        skills = {name: each["kinds"] for name, each in figures["teachers"].items()}
        best_at = {kind: max(skills, key=lambda name: skills[name][kind]) for kind in KINDS}
        figures["best at"] = best_at
        figures["mixture"] = {
            name: await mixed(models, best_at, each) for name, each in (("test", test), ("longer", longer), ("unseen", unseen))
        }
        for name, prover in (await opened(stack, ground.provers)).items():
            figures["provers"][name] = {missing: await told_apart(prover, test, missing) for missing in MISSING}
    return figures


def table(ground: Ground, figures: dict[str, Any]) -> str:
    """All rows."""
    lines = [f"{'model':9} {'parameters':>10} {'vocabulary':>10} {'CPU s':>7} {'loss':>5}"]
    for name, folder in (ground.teachers | ground.provers).items():
        made = facts(folder)
        size = f"{made['parameters']:10,} {made['vocabulary']:10} {made['cpu_seconds']:7.0f} {made['loss']:5.3f}"
        lines.append(f"{name:9} {size}")
    lines += [
        "",
        f"{'teacher':9} {'greedy, test':21} {'longer':>7} {'unseen':>7}   by kind: {' '.join(f'{kind:>8}' for kind in KINDS)}",
    ]
    for name, each in figures["teachers"].items():
        kinds = " ".join(f"{each['kinds'][kind]:8.0%}" for kind in KINDS)
        rest = " ".join(f"{statistics.mean(each[key]):7.1%}" for key in ("longer", "unseen"))
        lines.append(f"{name:9} {share(each['greedy']):21} {rest}            {kinds}")
    rest = " ".join(f"{statistics.mean(figures['mixture'][key]):7.1%}" for key in ("longer", "unseen"))
    best = " ".join(f"{figures['best at'][kind]:>8}" for kind in KINDS)
    lines.append(f"{'mixture':9} {share(figures['mixture']['test']):21} {rest}            {best}")
    lines += ["", f"{'prover':9} " + "  ".join(f"told, {missing} missing".ljust(21) for missing in MISSING)]
    lines += [f"{name:9} " + "  ".join(share(each[missing]) for missing in MISSING) for name, each in figures["provers"].items()]
    return "\n".join(lines)


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=CACHE, help=f"where models are kept (default: {CACHE})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=300, help="of each set")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ground = build(Plan(seed=options.seed), options.folder, processes=options.processes)
    torch.set_num_threads(1)  # models this small wait for a second thread more than they gain by it
    figures = asyncio.run(measured(ground, options.questions))
    print(table(ground, figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
