"""What stands on the proving ground, and the door to it: `build()` trains what is missing, and says where everything is.

    from proving_ground import build
    ground = build()                                  # minutes the first time, nothing after that
    config = {"name": "mine", **ground.asked("train", count=100), **ground.agents(prover="weak")}

Invariant: the same `Plan` is the same folders with the same bytes. Not covered: figures (`measure`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from . import models
from .cache import facts, identity, is_kept, kept
from .language import Problem
from .models import Recipe
from .questions import Sizes, problems, write
from .rows import Skill

CACHE = Path("~/.cache/peripatos/proving-ground").expanduser()

TEACHERS = (
    Recipe(name="whole", tokenizer="whole", skill=Skill(poor=("swap", "lift", "fold"), voice=0), updates=1100),
    Recipe(name="digits", tokenizer="digits", skill=Skill(poor=("add", "swap", "halve"), voice=1), updates=1400),
    Recipe(name="mixed", tokenizer="mixed", skill=Skill(poor=("subtract", "mirror", "lift", "fold"), voice=2), updates=1100),
    Recipe(name="spelled", tokenizer="spelled", skill=Skill(poor=("add", "multiply", "mirror", "halve"), voice=0), updates=1200),
)
"""Every kind of operation has two or three teachers that are good at it, and none is good at more than five of the eight."""
PROVERS = (
    Recipe(name="strong", tokenizer="trailing", skill=Skill(branches_from=0.12), layers=4, updates=3000),
    Recipe(name="weak", tokenizer="trailing", skill=Skill(branches_from=0.4), layers=2, width=64, updates=800),
)
ASKED = Sizes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides what is built."""

    seed: int = 0
    teachers: tuple[Recipe, ...] = TEACHERS
    provers: tuple[Recipe, ...] = PROVERS
    sizes: Sizes = ASKED

    def seeded(self, recipe: Recipe) -> Recipe:
        """`recipe` with this plan's seed: two seeds are two different houses of models."""
        return replace(recipe, seed=self.seed)


def tiny(seed: int = 0) -> Plan:
    """All parts in seconds, and none of them any good: for tests of what surrounds the models."""
    few: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "updates": 4, "batch": 4}
    return Plan(
        seed=seed,
        teachers=tuple(replace(recipe, **few) for recipe in TEACHERS),
        provers=tuple(replace(recipe, **few) for recipe in PROVERS),
        sizes=Sizes(train=24, test=12, longer=6, unseen=6),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where everything is: folders of models by name, in the plan's order; question files by set."""

    plan: Plan
    teachers: dict[str, Path]
    provers: dict[str, Path]
    questions: dict[str, Path]
    trained: int
    """How many models this call had to train."""

    def problems(self, name: str) -> list[Problem]:
        """The problems behind the questions of a set, in the file's order."""
        return problems(self.plan.sizes, self.plan.seed)[name]

    def agents(
        self, *, teachers: Iterable[str] | None = None, prover: str = "strong", temperature: float = 0.6
    ) -> dict[str, Any]:
        """`engines`, `teachers` and `prover` of a run's configuration."""
        names = list(self.teachers) if teachers is None else list(teachers)
        folders = {name: self.teachers[name] for name in names} | {f"prover-{prover}": self.provers[prover]}
        return {
            "engines": {name: engine(folder) for name, folder in folders.items()},
            "teachers": [{"name": name, "engine": name, "temperature": temperature} for name in names],
            "prover": {"engine": f"prover-{prover}"},
            "asking": {"answer_prefix": "The final answer is "},
        }

    def asked(self, name: str, *, count: int | None = None, skip: int = 0) -> dict[str, Any]:
        """`questions` of a run's configuration: a set, or `count` of it."""
        return {"questions": [{"kind": "file", "path": str(self.questions[name]), "count": count, "skip": skip}]}


def engine(folder: Path) -> dict[str, Any]:
    """One engine of a run's configuration. In float32 on the CPU everywhere, so that figures can be compared."""
    return {"kind": "transformers", "model": str(folder), "device": "cpu", "dtype": "float32", "prefix_cache_mb": 64}


def build(
    plan: Plan | None = None, folder: Path = CACHE, *, processes: int | None = None, tell: Callable[[str], Any] = print
) -> Ground:
    """Train and write what is missing in `folder`, in as many processes as there are cores unless `processes` says otherwise."""
    plan = plan or Plan()
    recipes = [plan.seeded(recipe) for recipe in (*plan.teachers, *plan.provers)]
    places = [folder / f"{recipe.name}-{identity(asdict(recipe))}" for recipe in recipes]
    missing = [(recipe, place) for recipe, place in zip(recipes, places, strict=True) if not is_kept(place)]
    _train(missing, processes or os.cpu_count() or 1, tell)
    asked = folder / f"questions-{identity({'sizes': asdict(plan.sizes), 'seed': plan.seed})}"
    sets = problems(plan.sizes, plan.seed)
    kept(asked, partial(write, sets))
    made = {recipe.name: place for recipe, place in zip(recipes, places, strict=True)}
    named(folder / f"seed-{plan.seed}", {**made, "questions": asked})
    return Ground(
        plan=plan,
        teachers={recipe.name: made[recipe.name] for recipe in plan.teachers},
        provers={recipe.name: made[recipe.name] for recipe in plan.provers},
        questions={name: asked / f"{name}.jsonl" for name in sets},
        trained=len(missing),
    )


def named(folder: Path, places: dict[str, Path]) -> None:
    """Links without hashes, for configurations: the newest build has the name."""
    folder.mkdir(exist_ok=True)
    for name, place in places.items():
        draft = folder / f".{name}.{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(place.resolve())
        draft.replace(folder / name)


def _train(missing: Sequence[tuple[Recipe, Path]], processes: int, tell: Callable[[str], Any]) -> None:
    """The longest training first, so that no process waits long for the last one."""
    ordered = sorted(missing, key=lambda each: -each[0].updates * each[0].layers * each[0].width)
    if missing:
        tell(f"training {', '.join(recipe.name for recipe, _ in ordered)} in {ordered[0][1].parent}")
    if processes == 1 or len(ordered) < 2:
        for recipe, place in ordered:
            tell(_made(recipe, place))
        return
    # spawned, not forked: torch's threads do not survive a fork
    with ProcessPoolExecutor(min(processes, len(ordered)), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_made, recipe, place) for recipe, place in ordered]):
            tell(done.result())


def _made(recipe: Recipe, place: Path) -> str:
    kept(place, partial(models.train, recipe))
    return f"{recipe.name}: {facts(place)['cpu_seconds']:.0f} s of CPU"
