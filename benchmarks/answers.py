"""Claim: the answer check takes fewer than 1 wrong answer in 1,000 for right, and refuses fewer than 1 right one in 100.

Texts with a known gold answer, right and wrong by construction (`answer_pairs.py`, `answer_trees.py`, `answer_word_pairs.py`),
through the whole check: finding the answer in the text, then equality. On the mathematics, math-verify by itself (its own
search of the text, then its `verify`) has the same pairs.

    python benchmarks/answers.py --data ../shared/data --json answers.json

Every failure of ours is printed. Speed: `pure` is extraction and comparison where no child process is asked, `symbolic` a
pair that goes to one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import answer_pairs
import answer_trees
import answer_word_pairs
from answer_pairs import Pair
from machine import device
from math_verify import parse as read_mathematics
from math_verify import verify

from orchestrator.answers.answer import compare, find_answer
from orchestrator.answers.checker import Checker, open_checker
from store.types import Question

MOST_FALSE_ACCEPTS, MOST_FALSE_REJECTS = 0.001, 0.01


@dataclass
class Row:
    """One line of the table."""

    group: str
    right: int = 0
    wrong: int = 0
    false_accepts: int = 0
    false_rejects: int = 0
    peer_false_accepts: int | None = None
    peer_false_rejects: int | None = None

    def add(self, pair: Pair, accepted: bool, peer: bool | None) -> None:
        """Count one pair."""
        self.right, self.wrong = self.right + pair.right, self.wrong + (not pair.right)
        self.false_accepts += accepted and not pair.right
        self.false_rejects += pair.right and not accepted
        if peer is not None:
            self.peer_false_accepts = (self.peer_false_accepts or 0) + (peer and not pair.right)
            self.peer_false_rejects = (self.peer_false_rejects or 0) + (pair.right and not peer)


def make_pairs(data: Path, seed: int, count: int) -> list[Pair]:
    """All pairs; `count` sets how many of each sort."""
    chance = Random(seed)
    return [
        *answer_pairs.number_pairs(data, chance, count),
        *answer_pairs.unit_pairs(chance, count // 4),
        *answer_pairs.expression_pairs(chance, count // 2),
        *answer_trees.tree_pairs(chance, count // 4),
        *answer_word_pairs.choice_pairs(data, chance, max(1, count // 500)),
        *answer_word_pairs.boolean_pairs(data, chance, max(1, count // 500)),
        *answer_word_pairs.entailment_pairs(chance, count // 4),
        *answer_word_pairs.span_pairs(data, chance, count // 4),
    ]


async def accepted(checker: Checker, pair: Pair) -> bool:
    """Our ruling, from the text on."""
    found = find_answer(pair.text, pair.kind, pair.choices)
    if found is None:
        return False
    question = Question(id="", text="", answer=pair.gold, kind=pair.kind, choices=pair.choices)
    return (await checker.check(question, found.answer, pair.gold)).right


def accepted_by_peer(pair: Pair) -> bool | None:
    """math-verify's ruling, as its documentation has it used; None for what is no mathematics."""
    if pair.kind != "math":
        return None
    gold = f"${pair.gold}$" if pair.group.startswith(("expression", "tree")) else pair.gold
    return bool(verify(read_mathematics(gold), read_mathematics(pair.text)))


async def rulings(pairs: Sequence[Pair]) -> tuple[list[bool], dict[str, float]]:
    """Our rulings, and the checks a second of both sorts of pair."""
    plain, started = [], time.perf_counter()
    for pair in pairs:
        found = find_answer(pair.text, pair.kind, pair.choices)
        plain.append(compare(found.answer, pair.gold, pair.kind, pair.choices) if found else False)
    pure = len(pairs) / (time.perf_counter() - started)
    async with open_checker() as checker:
        await checker.same(r"\sqrt{8}", r"2\sqrt{2}", "math")  # a child is up
        ruled, seconds = [], 0.0
        for pair, at_once in zip(pairs, plain, strict=True):
            started = time.perf_counter()
            ruled.append(await accepted(checker, pair))
            seconds += time.perf_counter() - started if at_once is None else 0
    symbolic = plain.count(None)
    return ruled, {"pure": pure, "symbolic": symbolic / seconds if symbolic else 0.0, "symbolic_pairs": symbolic}


def show(rows: Sequence[Row]) -> None:
    """The table."""
    print(f"{'group':22} {'right':>6} {'wrong':>6} {'false accepts':>16} {'false rejects':>16}   math-verify alone")
    for row in rows:
        ours = f"{share(row.false_accepts, row.wrong):>16} {share(row.false_rejects, row.right):>16}"
        peer = ""
        if row.peer_false_accepts is not None and row.peer_false_rejects is not None:
            peer = f"{share(row.peer_false_accepts, row.wrong):>16} {share(row.peer_false_rejects, row.right):>16}"
        print(f"{row.group:22} {row.right:6} {row.wrong:6} {ours} {peer}")


def share(count: int, whole: int) -> str:
    """A count with its share."""
    return f"{count} ({count / whole:.2%})" if whole else "-"


def main(arguments: argparse.Namespace) -> int:
    """Check every pair, print the failures and the table, write the JSON."""
    logging.disable(logging.WARNING)
    pairs = make_pairs(arguments.data, arguments.seed, arguments.count)
    ruled, speed = asyncio.run(rulings(pairs))
    started = time.perf_counter()
    peers = [accepted_by_peer(pair) if arguments.peer else None for pair in pairs]
    speed["math_verify"] = sum(peer is not None for peer in peers) / (time.perf_counter() - started)
    rows: dict[str, Row] = {}
    whole, mathematics = Row("all"), Row("all mathematics")
    for pair, ours, peer in zip(pairs, ruled, peers, strict=True):
        for row in (rows.setdefault(pair.group, Row(pair.group)), whole, *([mathematics] if pair.kind == "math" else [])):
            row.add(pair, ours, None if row is whole else peer)
        if ours != pair.right:
            print(f"{'FALSE ACCEPT' if ours else 'false reject'} {pair.group}: gold {pair.gold!r}, text {pair.text[-160:]!r}")
    print(f"\n{len(pairs)} pairs, seed {arguments.seed}, {device()}")
    show([*rows.values(), mathematics, whole])
    print(f"checks a second: {speed['pure']:.0f} pure, {speed['symbolic']:.0f} symbolic; math-verify {speed['math_verify']:.0f}")
    good = whole.false_accepts < MOST_FALSE_ACCEPTS * whole.wrong and whole.false_rejects < MOST_FALSE_REJECTS * whole.right
    print(f"false accepts under 0.1 % and false rejects under 1 %: {'yes' if good else 'NO'}")
    if arguments.json:
        report = {"device": device(), "seed": arguments.seed, "pairs": len(pairs), "speed": speed, "good": good}
        arguments.json.write_text(
            json.dumps({**report, "rows": [asdict(r) for r in [*rows.values(), mathematics, whole]]}, indent=2)
        )
    return 0 if good else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--no-peer", dest="peer", action="store_false")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main(parse()))
