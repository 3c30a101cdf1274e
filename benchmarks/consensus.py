"""Is the consensus of several teachers right, with gold hidden? On the proving ground, whose chains can be checked step by step.

Every teacher samples whole traces of each question; nothing is selected by gold. Leaders and thresholds are looked at on training
questions; test questions, of so many seeds with questions of their own, are asked once.

    right    share of the questions whose answer is right; 95% interval, bootstrap over questions
    less     the same less the consensus's, paired. A majority with several leading answers is right by as much as one drawn from
             them is: nothing hangs on how ties are ended
    target   with support of at least so much: the share of questions that get a target, and how many of the targets are right

`merged`: equal texts are one trajectory of all their teachers, as search keeps them, so that nobody's repeats are votes.

    python benchmarks/consensus.py [--training 300] [--questions 200] [--seeds 1 2 3] [--traces FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import device
from proving_ground import Ground, Plan, build
from proving_ground.build import CACHE
from sampled_traces import Sampled, Trace, consensuses, sampled, trajectories

from orchestrator.answers.answer import same_answer
from orchestrator.consensus import target_of
from orchestrator.intervals import interval
from store.types import Cluster, Consensus

MOST = 8
"""Traces of each teacher that are sampled; tables are for the first few of them too."""
NUMS = (2, 4, 8)
SUPPORTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

Rule = Callable[[Cluster, Mapping[str, tuple[str, ...]], Mapping[frozenset[str], float]], tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question, as it was sampled and as it was agreed on."""

    asked: Sampled
    num: int
    consensus: Consensus
    teachers: Mapping[str, tuple[str, ...]]
    """Of each trajectory."""

    def is_right(self, answer: str) -> bool:
        """Whether it is the gold one."""
        return same_answer(answer, str(self.asked.problem.answer), "math")


def answered(questions: Sequence[Sampled], num: int, *, merged: bool = False) -> list[Answered]:
    """With `num` traces of each teacher."""
    drawn = [trajectories(each.drawn(num), merged=merged) for each in questions]
    return [
        Answered(asked=asked, num=num, consensus=consensus, teachers={key: whose.teachers for key, (whose, _) in several.items()})
        for asked, several, consensus in zip(questions, drawn, consensuses(drawn), strict=True)
    ]


def read(ground: Ground, name: str, count: int, skip: int, seed: int, folder: Path) -> list[Sampled]:
    """The traces of a set of questions."""
    return sampled(ground, name, count=count, skip=skip, seed=seed, num=MOST, folder=folder)


# ----------------------------------------------------------------------------------------------------------------- leaders


def _edges(cluster: Cluster, edges: Mapping[frozenset[str], float]) -> float:
    inside = cluster.trajectories
    return sum(edges.get(frozenset((a, b)), 0.0) for i, a in enumerate(inside) for b in inside[:i])


def _votes(cluster: Cluster, teachers: Mapping[str, tuple[str, ...]]) -> Counter[str]:
    return Counter(name for key in cluster.trajectories for name in teachers[key])


def _by_other_teachers(cluster: Cluster, teachers: Mapping[str, tuple[str, ...]], edges: Mapping[frozenset[str], float]) -> float:
    inside = cluster.trajectories
    pairs = [(a, b) for i, a in enumerate(inside) for b in inside[:i] if teachers[a] != teachers[b]]
    return sum(edges.get(frozenset(pair), 0.0) for pair in pairs)


RULES: dict[str, Rule] = {
    "votes, then likeness (ours)": lambda cluster, _, __: (cluster.strength,),
    "votes and all edges": lambda cluster, _, edges: (len(cluster.trajectories) + _edges(cluster, edges),),
    "votes and edges between teachers": lambda cluster, teachers, edges: (
        len(cluster.trajectories) + _by_other_teachers(cluster, teachers, edges),
    ),
    "mean edge, then votes": lambda cluster, _, edges: (
        _edges(cluster, edges) / len(cluster.trajectories),
        len(cluster.trajectories),
    ),
    "teachers, then votes": lambda cluster, _, __: (cluster.teachers, cluster.strength),
    "votes, then teachers": lambda cluster, _, __: (cluster.support, cluster.teachers, cluster.strength),
    "roots of each teacher's votes": lambda cluster, teachers, _: (
        sum(votes**0.5 for votes in _votes(cluster, teachers).values()),
    ),
    "logs of each teacher's votes": lambda cluster, teachers, _: (
        float(np.log1p(list(_votes(cluster, teachers).values())).sum()),
    ),
}
"""What a leader might be chosen by; ties go to the first by alphabet."""


def led(each: Answered, rule: Rule) -> float:
    """Whether the leader by this rule is right."""
    edges = {frozenset((a, b)): weight for a, b, weight in each.consensus.edges}
    ordered = sorted(each.consensus.clusters, key=lambda cluster: cluster.answer)
    if not ordered:
        return 0.0
    return float(each.is_right(max(ordered, key=lambda cluster: rule(cluster, each.teachers, edges)).answer))


# ----------------------------------------------------------------------------------------------------------------- answers


def consensus_right(each: Answered) -> float:
    """Whether the leading answer is right."""
    return float(bool(each.consensus.clusters) and each.is_right(each.consensus.clusters[0].answer))


def majority_right(each: Answered, traces: Sequence[Trace]) -> float:
    """Chance that one of the most frequent answers of these traces is right."""
    counted = Counter(trace.answer for trace in traces if trace.answer is not None)
    leading = [answer for answer, votes in counted.items() if votes == max(counted.values())]
    return statistics.mean(each.is_right(answer) for answer in leading) if leading else 0.0


def greedy_right(each: Answered, teacher: str) -> float:
    """Whether the teacher's greedy trace is right."""
    return float(next(trace.right for trace in each.asked.traces if trace.teacher == teacher and trace.draw == 0))


def own_right(each: Answered, teacher: str, num: int) -> float:
    """The same for the majority of a teacher's own traces."""
    return majority_right(each, [trace for trace in each.asked.drawn(num) if trace.teacher == teacher])


def compared(found: Sequence[Answered], merged: Sequence[Answered], best: str, best_sampling: str) -> dict[str, list[float]]:
    """Each way to answer, a value for each question."""
    num = found[0].num
    ways = {
        "consensus": [consensus_right(each) for each in found],
        "consensus, merged": [consensus_right(each) for each in merged],
        "majority of all": [majority_right(each, each.asked.drawn(num)) for each in found],
        f"{best}, greedy": [greedy_right(each, best) for each in found],
        f"{best_sampling}, majority of its {num}": [own_right(each, best_sampling, num) for each in found],
    }
    if num < MOST:
        ways[f"{best_sampling}, majority of its {MOST}"] = [own_right(each, best_sampling, MOST) for each in found]
    return ways | {"any trace is right": [float(any(trace.right for trace in each.asked.drawn(num))) for each in found]}


def told(name: str, right: Sequence[float], ours: Sequence[float]) -> str:
    """A row."""
    values, less = np.array(right), np.array(right) - np.array(ours)
    (low, high), (least, most) = interval(values), interval(less)
    return f"{name:34} {values.mean():6.1%} [{low:5.1%}, {high:5.1%}]  {less.mean():+6.1%} [{least:+6.1%}, {most:+6.1%}]"


# ----------------------------------------------------------------------------------------------------------------- targets


def targets(found: Sequence[Answered]) -> list[dict[str, float]]:
    """A row for each least support."""
    rows: list[dict[str, float]] = []
    for least in SUPPORTS:
        given = [(each, target) for each in found if (target := target_of(each.consensus, least))]
        right = np.array([each.is_right(target[0]) for each, target in given], float)
        low, high = interval(right) if len(right) else (0.0, 0.0)
        rows.append(
            {
                "least": least,
                "share": len(given) / len(found),
                "right": float(right.mean()) if len(right) else 0.0,
                "low": low,
                "high": high,
                "support": statistics.mean(target[1] for _, target in given) if given else 0.0,
            }
        )
    return rows


# ------------------------------------------------------------------------------------------------------------------ tables


def leaders(named: Mapping[str, Sequence[Answered]]) -> list[str]:
    """Every rule on every set."""
    lines = [f"{'leader by':34} " + " ".join(f"{name:>26}" for name in named)]
    for name, rule in RULES.items():
        cells = []
        for found in named.values():
            right = np.array([led(each, rule) for each in found])
            less = right - np.array([consensus_right(each) for each in found])
            low, high = interval(less)
            cells.append(f"{right.mean():6.1%} {less.mean():+6.1%} [{low:+5.1%},{high:+5.1%}]")
        lines.append(f"{name:34} " + " ".join(f"{cell:>26}" for cell in cells))
    return lines


def best_on(found: Sequence[Answered], teachers: Sequence[str]) -> tuple[str, str]:
    """The teacher that is best greedily, and by its own majority."""
    greedy = {name: statistics.mean(greedy_right(each, name) for each in found) for name in teachers}
    own = {name: statistics.mean(own_right(each, name, MOST) for each in found) for name in teachers}
    return max(greedy, key=lambda name: greedy[name]), max(own, key=lambda name: own[name])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, default=300)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
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
    figures: dict[str, Any] = {"right": {}, "targets": {}}
    print(f"{device()}; {options.training} training questions; {options.questions} test questions for each of {options.seeds}")
    trained, tested = ({num: answered(each, num) for num in NUMS} for each in (training, test))
    best, best_sampling = best_on(trained[MOST], list(ground.teachers))
    for num in NUMS:
        print(f"\n{num} traces of each of {len(ground.teachers)} teachers, test questions")
        print(f"{'':34} {'right':>6} {'':14}   {'less consensus':>14}")
        ways = compared(tested[num], answered(test, num, merged=True), best, best_sampling)
        figures["right"][num] = ways
        print("\n".join(told(name, right, ways["consensus"]) for name, right in ways.items()))
        by_seed = np.array(ways["consensus"]).reshape(len(options.seeds), -1).mean(axis=1)
        print(f"{'consensus, by seed':34} " + " ".join(f"{each:6.1%}" for each in by_seed))
    sets = {f"training, {num}": trained[num] for num in NUMS[1:]} | {f"test, {num}": tested[num] for num in NUMS[1:]}
    print("\n" + "\n".join(leaders(sets)))
    print(f"\n{'target':16} {'support >=':>10} {'questions':>10} {'right':>7} {'':15} {'mean support':>12}")
    for name, found in sets.items():
        figures["targets"][name] = targets(found)
        for row in figures["targets"][name]:
            form = "{least:10.1f} {share:10.1%} {right:7.1%} [{low:5.1%}, {high:6.1%}] {support:12.2f}"
            print(f"{name:16} " + form.format(**row))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
