"""What a question's consensus costs, against its number of trajectories, with TF-IDF.

    once       all trajectories join at once, and the consensus is drawn: the median of several runs, each from nothing
    one by one they join one after the other, and the consensus is drawn after each: what a run does; the median of as many
    last       of these, the last one's
    MiB        most memory that was allocated on the way, when they join at once
    limit      scikit-learn's TfidfVectorizer and the product of its rows alone: no graph, no clusters, nothing kept

Texts are made: so many words, of which one in five is drawn anew from 500 and the rest is the question's; a fourth of the
trajectories gives each of four answers (`--answers`; with one answer all edges are there, which costs most).

    python benchmarks/consensus_cost.py [--trajectories 10 50 100 200 400] [--words 80 800] [--answers 4 1] [--runs 5]
                                        [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import device
from sklearn.feature_extraction.text import TfidfVectorizer

from agents.embedder import open_embedder
from configs.sift import Consensus
from orchestrator.consensus import ConsensusGraph
from store.types import Trajectory, Usage

QUESTION = "cost"
SHARE_ANEW = 0.2


async def groups(answers: Sequence[str]) -> list[int]:
    """Answers here are equal when they are written alike."""
    return [answers.index(answer) for answer in answers]


def made(num: int, num_words: int, num_answers: int) -> list[Trajectory]:
    """The trajectories of one question."""
    chance = random.Random(f"{num} {num_words} {num_answers}")
    shared = [f"word{chance.randrange(500)}" for _ in range(num_words)]

    def text() -> str:
        return " ".join(f"word{chance.randrange(500)}" if chance.random() < SHARE_ANEW else word for word in shared)

    return [
        Trajectory(
            id=f"{at:06}",
            question=QUESTION,
            nodes=(),
            teachers=(f"teacher{at % 4}",),
            text=text(),
            conclusion="",
            answer=str(at // 4 % num_answers),
            origin="style",
            score=None,
            best=False,
            usage=Usage(),
        )
        for at in range(num)
    ]


async def joined(batches: Sequence[Sequence[Trajectory]]) -> list[float]:
    """Seconds of each batch, its consensus included; opening the embedder is not counted."""
    seconds: list[float] = []
    async with open_embedder(Consensus()) as embedder:
        graph = ConsensusGraph(QUESTION, Consensus(), embedder, groups)
        for batch in batches:
            begun = time.perf_counter()
            await graph.add(batch)
            graph.consensus()
            seconds.append(time.perf_counter() - begun)
    return seconds


def limit(trajectories: Sequence[Trajectory]) -> float:
    """Seconds of the matrix alone."""
    begun = time.perf_counter()
    rows = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True).fit_transform([each.text for each in trajectories])
    (rows @ rows.T).toarray()
    return time.perf_counter() - begun


def allocated(trajectories: Sequence[Trajectory]) -> float:
    """MiB at the peak."""
    tracemalloc.start()
    asyncio.run(joined([trajectories]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def measured(num: int, num_words: int, num_answers: int, runs: int) -> dict[str, Any]:
    """One row."""
    trajectories = made(num, num_words, num_answers)
    singly = [asyncio.run(joined([[each] for each in trajectories])) for _ in range(runs)]
    return {
        "words": num_words,
        "answers": num_answers,
        "trajectories": num,
        "once_s": statistics.median(asyncio.run(joined([trajectories]))[0] for _ in range(runs)),
        "one_by_one_s": statistics.median(sum(each) for each in singly),
        "last_s": statistics.median(each[-1] for each in singly),
        "mib": allocated(trajectories),
        "limit_s": statistics.median(limit(trajectories) for _ in range(runs)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, nargs="+", default=[10, 50, 100, 200, 400])
    parser.add_argument("--words", type=int, nargs="+", default=[80, 800])
    parser.add_argument("--answers", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    asyncio.run(joined([made(10, 10, 1)]))  # libraries are imported once
    print(f"{device()}; medians of {options.runs}")
    keys = ("words", "answers", "trajectories", "once s", "one by one s", "last s", "MiB", "limit s")
    print(" ".join(f"{key:>12}" for key in keys))
    rows: list[dict[str, Any]] = []
    for words in options.words:
        for answers in options.answers:
            for num in options.trajectories:
                row = measured(num, words, answers, options.runs)
                rows.append(row)
                form = "{words:12} {answers:12} {trajectories:12} {once_s:12.3f} {one_by_one_s:12.2f} {last_s:12.3f} {mib:12.1f}"
                print((form + " {limit_s:12.3f}").format(**row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
