"""What the papers' claims are tested on: questions, and teachers' rationales.

A question's operations come from one of three families; in each of them two of the four teachers are good. One kind of
operation is in none: the students (`claims_students`) know it, are never taught it, and may forget it.

    test      as the training questions                    mixed     operations of all families in one question, which no
    longer    chains of 6 and 7 operations                           teacher is good at
    unseen    in a phrasing that nobody was trained on     kept      what the students know and are not taught

Invariant: deterministic from the seed; no question of one set is in another, and what is trained on is never asked (but for
`kept`, which asks for what the students have seen). Not covered: training (`claims_training`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from proving_ground import Ground
from proving_ground.language import FRAMES, KINDS, UNSEEN, Frame, Problem, draw
from sampled_traces import Sampled, Trace, corrupted, sampled_of

FAMILIES = (("subtract", "multiply", "mirror"), ("add", "multiply", "halve"), ("subtract", "lift", "fold"))
KEPT = ("swap", "mirror")
"""Of these two, `swap` is in no training question."""
RATIONALES = 4
"""Of a question: with two, the consensus scores are always equal."""
DRAWS = 8
"""Samples of each teacher for each question, at `TEMPERATURE`."""
TEMPERATURE = 1.0
"""At .6 a teacher writes each question in two or three ways at most: too few different rationales."""
SPARE = 1.7
"""Questions that are sampled for each one that is taught: of the others too few chains are sound."""
CALIBRATION = 60
"""Questions on which the single teacher is chosen, and which are not used again."""

MOST = 250
"""Questions of each set that is measured on."""
SETS = ("test", "longer", "unseen", "mixed", "kept")
Data = Literal["accepted", "single", "unfiltered", "sound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A question with the traces that are learnt."""

    problem: Problem
    traces: tuple[Trace, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """The same questions with several choices of traces; `best` is the single teacher."""

    best: str
    by_data: dict[Data, list[Taught]]


def asked(seed: int, count: int) -> dict[str, list[Problem]]:
    """The sets that are measured on, `count` questions each: the same for all seeds but 0, on which settings are chosen."""
    return {name: problems[:count] for name, problems in _sets(seed == 0).items()}


@cache
def _sets(tuning: bool) -> dict[str, list[Problem]]:
    chance = random.Random("claims tuning" if tuning else "claims")
    taken = {problem.key for problems in _sets(False).values() for problem in problems} if tuning else set[str]()
    every = tuple({kind: None for family in FAMILIES for kind in family})
    return {
        "test": _some(chance, taken, MOST, (3, 4, 5), FAMILIES),
        "longer": _some(chance, taken, MOST, (6, 7), FAMILIES),
        "unseen": _some(chance, taken, MOST, (3, 4, 5), FAMILIES, frames=(UNSEEN,)),
        "mixed": _some(chance, taken, MOST, (3, 4, 5), (every,)),
        "kept": _some(chance, set(), MOST, (2, 3), (KEPT,), reserved=False),
    }


def lessons(ground: Ground, seed: int, count: int, folder: Path) -> Lessons:
    """What `count` questions teach: those with enough sound rationales."""
    chance = random.Random(f"claims lessons {seed}")
    asked_for = {problem.key for problems in asked(seed, MOST).values() for problem in problems}
    problems = _some(chance, asked_for, CALIBRATION + round(SPARE * count), (3, 4, 5), FAMILIES)
    every = sampled_of(ground, problems, seed=seed, num=DRAWS, temperature=TEMPERATURE, folder=folder)
    best = _best(ground, every[:CALIBRATION])
    by_data: dict[Data, list[Taught]] = {"accepted": [], "single": [], "unfiltered": [], "sound": []}
    for each in every[CALIBRATION:]:
        chosen = _choices(chance, each.drawn(DRAWS), best)
        if len(by_data["sound"]) < count and all(len(chosen[name]) == RATIONALES for name in chosen if name != "single"):
            for name, traces in chosen.items():
                if traces:
                    by_data[name].append(Taught(problem=each.problem, traces=tuple(traces)))
    if len(by_data["sound"]) < count:
        raise ValueError(f"only {len(by_data['sound'])} of {len(problems)} questions have enough rationales; set SPARE higher")
    return Lessons(best=best, by_data=by_data)


def _best(ground: Ground, sampled: Sequence[Sampled]) -> str:
    """The teacher that is right most often."""
    right = {name: sum(t.right for each in sampled for t in each.drawn(DRAWS) if t.teacher == name) for name in ground.teachers}
    return max(right, key=lambda name: right[name])


def _choices(chance: random.Random, several: Sequence[Trace], best: str) -> dict[Data, list[Trace]]:
    """What is learnt of a question, of the traces of all teachers or of the best alone."""
    by_teacher = {trace.teacher: [other for other in several if other.teacher == trace.teacher] for trace in several}
    any_of = [chance.choice(traces) for traces in by_teacher.values()]
    return {
        "accepted": _chosen(chance, [trace for trace in several if trace.right]),
        "single": _chosen(chance, [trace for trace in several if trace.right and trace.teacher == best]),
        "unfiltered": [trace for trace in any_of if trace.answer is not None],
        "sound": _chosen(chance, [trace for trace in several if trace.right and trace.sound]),
    }


def misled(taught: Sequence[Taught], rate: float, seed: int) -> list[Taught]:
    """A share of all rationales is made wrong in the middle and right again by a second error; sound ones, drawn at random."""
    chance = random.Random(f"claims misled {seed} {rate}")
    sound = [(at, place) for at, each in enumerate(taught) for place, trace in enumerate(each.traces) if trace.sound]
    total = sum(len(each.traces) for each in taught)
    hit = set(chance.sample(sound, min(len(sound), round(rate * total))))
    return [
        replace(
            each,
            traces=tuple(
                corrupted(chance, each.problem, trace) if (at, place) in hit else trace for place, trace in enumerate(each.traces)
            ),
        )
        for at, each in enumerate(taught)
    ]


def _some(
    chance: random.Random,
    taken: set[str],
    count: int,
    lengths: Sequence[int],
    families: Sequence[Sequence[str]],
    *,
    frames: Sequence[Frame] = FRAMES,
    reserved: bool = True,
) -> list[Problem]:
    """New problems, lengths and families in turn."""
    found: list[Problem] = []
    while len(found) < count:
        family = families[len(found) // len(lengths) % len(families)]
        weights = [float(kind in family) for kind in KINDS]
        problem = draw(chance, lengths[len(found) % len(lengths)], reserved=reserved, frames=frames, weights=weights)
        if problem.key not in taken:
            taken.add(problem.key)
            found.append(problem)
    return found


def _chosen(chance: random.Random, traces: Sequence[Trace]) -> list[Trace]:
    """Different texts, from as many teachers as there are, in random order."""
    shuffled = list({trace.text: trace for trace in chance.sample(traces, len(traces))}.values())
    rounds: dict[str, int] = {}
    turns: list[tuple[int, int]] = []
    for place, trace in enumerate(shuffled):
        turns.append((rounds.setdefault(trace.teacher, 0), place))
        rounds[trace.teacher] += 1
    return [shuffled[place] for _, place in sorted(turns)[:RATIONALES]]
