"""Two small students that could do what is asked, and do half of it wrong: `python benchmarks/claims_students.py` trains them,
and everything else that the small recipes ask for.

First a model learns the whole language from right chains, with tokens of its own; then, in the form in which students learn and
by the trainer that teaches them, chains in which some kinds of operation go wrong nine times in ten. What they once knew is
what rationales can bring back: a few hundred questions teach no table of a thousand results from nothing. (Trained on wrong
results from the start, a student gained 4 points from 600 questions of right chains, and lost as much of what it knew.)

Invariant: the same recipe gives the same folder, kept by hash as the teachers are. Not covered: what they then learn.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from claims_ground import Taught
from claims_training import Condition, Settings, Training
from proving_ground import Plan, build
from proving_ground.build import CACHE, named
from proving_ground.cache import identity, kept
from proving_ground.language import VOICES, draw
from proving_ground.models import Recipe
from proving_ground.rows import LENGTHS, WEIGHTS, Skill, steps, values
from proving_ground.tokens import ANSWER
from sampled_traces import Trace

_ONCE = Settings(epochs=1, batch=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """A student's first training, and the kinds of operation that it then learns to get wrong."""

    recipe: Recipe
    poor: tuple[str, ...]
    rate: float = 0.9
    chains: int = 3000
    settings: Settings = _ONCE


STUDENTS = (
    Habit(
        recipe=Recipe(name="ann", tokenizer="trailing", skill=Skill(voice=0), layers=2, width=96, updates=1500),
        poor=("add", "multiply", "fold"),
    ),
    Habit(
        recipe=Recipe(name="ben", tokenizer="mixed", skill=Skill(voice=1), layers=2, width=96, updates=1800),
        poor=("subtract", "halve", "lift"),
    ),
)
"""A third the size of a teacher; each is poor at a kind of every family, and none at what the other is poor at. (With every digit
and blank a token of its own, a student of this size knew 41% of the answers at first, and 1% when it had been taught.)"""


def students(habits: tuple[Habit, ...] = STUDENTS, folder: Path = CACHE, tell: Callable[[str], Any] = print) -> dict[str, Path]:
    """Their folders, trained if they are not there."""
    plan = Plan(teachers=tuple(each.recipe for each in habits), provers=())
    whole = build(plan, folder, tell=tell).teachers
    taught = {each.recipe.name: _habituated(each, whole[each.recipe.name], folder) for each in habits}
    named(folder / f"seed-{plan.seed}", taught)
    return taught


def _habituated(habit: Habit, whole: Path, folder: Path) -> Path:
    name = f"student-{habit.recipe.name}-{identity({'habit': asdict(habit), 'of': whole.name})}"
    return kept(folder / name, partial(_spoil, habit, whole))


def _spoil(habit: Habit, whole: Path, folder: Path) -> dict[str, Any]:
    """Teach the habit, and save."""
    name, taught = habit.recipe.name, _chains(habit)
    with tempfile.TemporaryDirectory() as scratch:
        training = Training(Condition(name="habit", own=True), habit.settings, 0, {name: whole}, Path(scratch))
        asyncio.run(training.teach(taught, len(taught)))
        shutil.copytree(training.final(name), folder, dirs_exist_ok=True)
    return {"habit": asdict(habit)}


def _chains(habit: Habit) -> list[Taught]:
    """One trace of each problem, in the student's voice."""
    chance, found = random.Random(f"habit {habit.recipe.name}"), dict[str, Taught]()
    while len(found) < habit.chains:
        problem = draw(chance, chance.choices(LENGTHS, WEIGHTS)[0], reserved=False)
        own = habit.recipe.skill.voice
        voices = [own if chance.random() < 0.7 else chance.randrange(VOICES) for _ in problem.operations]
        wrong = [each.kind in habit.poor and chance.random() < habit.rate for each in problem.operations]
        told = values(chance, problem, wrong)
        trace = Trace(
            teacher=habit.recipe.name,
            draw=1,
            text="\n".join(steps(problem, told, voices)),
            conclusion=f"{ANSWER}{told[-1]}.",
            answer=str(told[-1]),
            right=told[-1] == problem.answer,
            sound=not any(wrong),
        )
        found.setdefault(problem.key, Taught(problem=problem, traces=(trace,)))
    return list(found.values())


def main() -> None:
    """The whole proving ground, and the students on it."""
    build()
    for name, place in students().items():
        print(f"{name}: {place}")


if __name__ == "__main__":
    main()
