"""Does `misleading` find what is right by luck? On the proving ground, whose chains can be checked step by step.

Every teacher samples whole traces; those with the gold answer pass the answer check. One of them is truly misleading when a step
of its chain is wrong or missing. Flagged are those with a centrality below `min_centrality` and no neighbour above
`min_similarity`. Thresholds are chosen on training questions: the best F0.5, since a sound one that is flagged costs more than a
lucky one that is not, on average over the first three of these; test questions are asked once.

    natural      what the teachers wrote
    merged       the same, where equal texts are one trajectory of all their teachers, as search keeps them
    unanimous    the same without the trajectories of other answers, as on questions that are easy for everyone
    another's    so large a share of the sound traces got the reasoning of another question's sound trace
    corrupted    so large a share of them is wrong in the middle, and right again by a second error

    base         share of the accepted that are truly misleading: what flagging at random is right by
    precision    of the flagged; recall: of the truly misleading; F1, of both; 95% intervals, bootstrap over questions
    AUC          how well a number alone tells sound from misleading: the chance that it is higher for the sound one

    python benchmarks/misleading.py [--training 300] [--questions 200] [--seeds 1 2 3] [--num 4 8] [--traces FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from consensus import MOST, read
from machine import device
from proving_ground import Plan, build
from proving_ground.build import CACHE
from sampled_traces import Sampled, Trace, consensuses, corrupted, trajectories
from sklearn.metrics import roc_auc_score

from configs.sift import Consensus as Config
from orchestrator.consensus import is_lone

ANY = 1e9
"""A centrality that nobody reaches: likeness alone decides."""
CENTRALITIES = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, ANY)
SIMILARITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
CAUTIOUS = ((1.0, 0.4), (0.5, 0.5))
"""Looked at beside what is chosen, which fits these templates. Eight samples of SmolLM2-135M for each of 14 word problems were
alike by 0.26 to 0.44 on average; of 25 that shared an answer with another, 23 had no such neighbour above 0.6."""
CHOSEN_ON = ("natural", "merged", "unanimous")
RATES = (0.1, 0.3, 0.5)
RESAMPLES = 1000

Change = Callable[[random.Random, Sampled, Trace], Trace]
Thresholds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Accepted:
    """One trajectory with the gold answer: where it stands in its question's graph, and the truth."""

    centrality: float
    nearest: float
    alone: bool
    misleading: bool


Question = list[Accepted]


def accepted(questions: Sequence[Sampled], num: int, *, merged: bool = False) -> list[Question]:
    """Those of each question."""
    drawn = [trajectories(each.drawn(num), merged=merged) for each in questions]
    found: list[Question] = []
    for several, consensus in zip(drawn, consensuses(drawn), strict=True):
        right = {key: trace for key, (_, trace) in several.items() if trace.right}
        found.append(
            [
                Accepted(each.centrality, each.nearest, len(right) == 1, not right[each.trajectory].sound)
                for each in consensus.standings
                if each.trajectory in right
            ]
        )
    return found


def injected(questions: Sequence[Sampled], rate: float, change: Change) -> list[Sampled]:
    """The questions, where a share of the sound traces is changed."""
    chance = random.Random(f"injected {rate}")

    def changed(asked: Sampled, trace: Trace) -> Trace:
        return change(chance, asked, trace) if trace.sound and chance.random() < rate else trace

    return [replace(asked, traces=tuple(changed(asked, trace) for trace in asked.traces)) for asked in questions]


def from_another(questions: Sequence[Sampled]) -> Change:
    """Takes the reasoning of another question's sound trace."""
    sound = [(asked.problem.key, trace) for asked in questions for trace in asked.traces if trace.sound]

    def change(chance: random.Random, asked: Sampled, trace: Trace) -> Trace:
        while True:
            key, other = chance.choice(sound)
            if key != asked.problem.key:
                return replace(trace, text=other.text, sound=False)

    return change


def by_errors(chance: random.Random, asked: Sampled, trace: Trace) -> Trace:
    """Puts two errors in."""
    return corrupted(chance, asked.problem, trace)


# ----------------------------------------------------------------------------------------------------------------- figures


def counted(questions: Sequence[Question], flags: Callable[[Accepted], bool]) -> np.ndarray:
    """Of each question: flagged and misleading, flagged, misleading, accepted [N, 4]."""
    return np.array(
        [
            [
                sum(flags(each) and each.misleading for each in asked),
                sum(flags(each) for each in asked),
                sum(each.misleading for each in asked),
                len(asked),
            ]
            for asked in questions
        ],
        float,
    )


def ratios(sums: np.ndarray) -> np.ndarray:
    """Base rate, precision, recall, F1, share flagged [..., 5] of sums [..., 4]; NaN where nothing is flagged or misleading."""
    hits, flagged, misleading, total = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (misleading / total, hits / flagged, hits / misleading, 2 * hits / (flagged + misleading), flagged / total)
    return np.stack(found, axis=-1)


def bounds(counts: np.ndarray) -> np.ndarray:
    """95% interval of each ratio [2, 5]."""
    draws = np.random.default_rng(0).integers(0, len(counts), size=(RESAMPLES, len(counts)))
    drawn = np.nan_to_num(ratios(counts[draws].sum(axis=1)))  # where nothing is flagged, nothing of it is right
    return np.quantile(drawn, [0.025, 0.975], axis=0)


def thresholds(at: Thresholds) -> Callable[[Accepted], bool]:
    """The system's own rule at these thresholds."""
    config = Config(min_centrality=at[0], min_similarity=at[1])
    return lambda each: is_lone(each.centrality, each.nearest, config)


def weighed(questions: Sequence[Question], at: Thresholds) -> float:
    """F0.5 at these thresholds; 0 where nothing is flagged."""
    hits, flagged, misleading, _ = counted(questions, thresholds(at)).sum(axis=0)
    return float(1.25 * hits / (flagged + 0.25 * misleading))


def best(several: Sequence[Sequence[Question]]) -> Thresholds:
    """Of the best F0.5 on average; of equals the lowest."""
    pairs = [(centrality, similarity) for centrality in CENTRALITIES for similarity in SIMILARITIES]
    return max(pairs, key=lambda at: (sum(weighed(each, at) for each in several), -at[0], -at[1]))


def auc(questions: Sequence[Question]) -> dict[str, float]:
    """Of each number alone."""
    every = [each for asked in questions for each in asked]
    sound = [not each.misleading for each in every]
    if len(set(sound)) < 2:
        return {}
    columns = {"nearest": [each.nearest for each in every], "centrality": [each.centrality for each in every]}
    return {name: float(roc_auc_score(sound, values)) for name, values in columns.items()}


# ------------------------------------------------------------------------------------------------------------------ tables

HEAD = f"{'':44} {'base':>6} {'flagged':>7} {'precision':>9} {'':14} {'recall':>6} {'':14} {'F1':>5}"


def told(name: str, questions: Sequence[Question], flags: Callable[[Accepted], bool]) -> tuple[str, dict[str, Any]]:
    """A row, and its figures."""
    counts = counted(questions, flags)
    base, precision, recall, f1, flagged = ratios(counts.sum(axis=0))
    low, high = bounds(counts)
    line = (
        f"{name:44} {base:6.1%} {flagged:7.1%} {precision:9.1%} [{low[1]:5.1%},{high[1]:6.1%}] "
        f"{recall:6.1%} [{low[2]:5.1%},{high[2]:6.1%}] {f1:5.2f}"
    )
    return line, {"base": base, "flagged": flagged, "precision": precision, "recall": recall, "f1": f1}


def grid(questions: Sequence[Question], column: int) -> list[str]:
    """A ratio at every pair of thresholds."""
    lines = [f"{'min_centrality':>15} " + " ".join(f"{similarity:6.2f}" for similarity in SIMILARITIES) + "  min_similarity"]
    for centrality in CENTRALITIES:
        values = [
            ratios(counted(questions, thresholds((centrality, similarity))).sum(axis=0))[column] for similarity in SIMILARITIES
        ]
        lines.append(f"{centrality:15.2f} " + " ".join(f"{value:6.2f}" for value in values))
    return lines


def variants(questions: Sequence[Sampled], num: int) -> dict[str, list[Question]]:
    """Everything that is looked at."""
    another = from_another(questions)
    unanimous = [replace(each, traces=tuple(trace for trace in each.traces if trace.right)) for each in questions]
    found = {
        "natural": accepted(questions, num),
        "merged": accepted(questions, num, merged=True),
        "unanimous": accepted(unanimous, num),
    }
    for rate in RATES:
        found[f"another's, {rate:.0%}"] = accepted(injected(questions, rate, another), num)
        found[f"corrupted, {rate:.0%}"] = accepted(injected(questions, rate, by_errors), num)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, default=300)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--num", type=int, nargs="+", default=[4, MOST], help="traces of each teacher")
    parser.add_argument("--traces", type=Path, default=CACHE.with_name("traces"), help="where sampled traces are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    have = Plan().sizes.test
    if len(set(options.seeds)) < len(options.seeds) or len(options.seeds) * options.questions > have:
        parser.error(f"every seed has questions of its own, and there are {have}: accepted are {have // options.questions} seeds")
    torch.set_num_threads(1)  # models this small wait for a second thread more than they gain by it
    ground = build()
    training = read(ground, "train", options.training, 0, 0, options.traces)
    test = [
        each
        for place, seed in enumerate(options.seeds)
        for each in read(ground, "test", options.questions, place * options.questions, seed, options.traces)
    ]
    figures: dict[str, Any] = {}
    print(f"{device()}; {options.training} training questions; {options.questions} test questions for each of {options.seeds}")
    trained = {num: variants(training, num) for num in options.num}
    chosen = best([trained[num][name] for num in options.num for name in CHOSEN_ON])
    for num, name in ((num, name) for num in options.num for name in CHOSEN_ON):
        for column, ratio in ((1, "precision"), (2, "recall")):
            print(f"\n{ratio}, {name}, training questions, {num} traces of each teacher")
            print("\n".join(grid(trained[num][name], column)))
    print(f"\nchosen on them: min_centrality {chosen[0]}, min_similarity {chosen[1]}")
    ways: dict[str, Callable[[Accepted], bool]] = {
        f"{chosen[0]:g}, {chosen[1]:g}": thresholds(chosen),
        **{f"{at[0]:g}, {at[1]:g}": thresholds(at) for at in CAUTIOUS},
        "alone with its answer": lambda each: each.alone,
    }
    for num in options.num:
        print(f"\n{f'test questions, {num} traces of each teacher':44}{HEAD[44:]}")
        for variant, found in variants(test, num).items():
            print(f"{variant}; AUC " + ", ".join(f"{name} {value:.2f}" for name, value in auc(found).items()))
            for name, flags in ways.items():
                line, figures[f"{num}, {variant}, {name}"] = told(f"  {name}", found, flags)
                print(line)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
