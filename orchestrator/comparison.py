"""Accuracies side by side: each student before and after it has learnt, by set of questions, beside the teachers.

Of one run, or of several of the same recipe (other seeds). Invariant: every figure comes from the attempts and the splits of the
stores; a difference is paired by question. Not covered: the intervals (`intervals.py`), who is measured (`accuracies.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.table import Table

from configs.load import ConfigError
from configs.load import differences as differences_of
from configs.schema import HELD_OUT, RunConfig
from orchestrator.accuracies import after, before, of_teacher
from orchestrator.intervals import Estimate, Means, differences, estimate, means
from store.splits import set_of
from store.store import Store
from store.types import Attempt

_KINDS: tuple[Literal["greedy", "sampled"], ...] = ("greedy", "sampled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model's accuracy on one set. None: not measured. A teacher learns nothing, and has a `before` only; `best`: no teacher
    has a higher one."""

    model: str
    role: Literal["student", "teacher"]
    set: str
    answers: Literal["greedy", "sampled"]
    before: Estimate | None
    after: Estimate | None = None
    difference: Estimate | None = None
    best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run has measured: the set of each held-out question, and all attempts by the name that they are kept under."""

    sets: Mapping[str, str]
    attempts: Mapping[str, Sequence[Attempt]]

    def means(self, model: str, held_out: str, *, sampled: bool) -> tuple[Means, int]:
        """Of the model's answers to one set, by question; and how many answers to each."""
        answers = self.attempts.get(model, ())
        return means((each for each in answers if self.sets.get(each.question) == held_out), sampled=sampled)


def _kept_under(config: RunConfig) -> list[str]:
    """The names of the students' attempts."""
    return [name for student in config.students for name in (before(student.name), after(student.name))]


async def measured(config: RunConfig, store: Store) -> Measured:
    """Read it all."""
    sets = {question: set_of(split) for question, split in (await store.held_out()).items()}
    names = _kept_under(config) + [of_teacher(teacher.name) for teacher in config.teachers]
    return Measured(sets=sets, attempts={name: await store.attempts(name) for name in names})


def rows(config: RunConfig, runs: Sequence[Measured]) -> list[Row]:
    """All that was measured in `runs` of one recipe, the first of which has this `config`: by model, set and kind of answer.

    What one of the runs has not measured is left out.
    """
    if config.evaluation is None:
        return []
    found: list[Row] = []
    teachers: list[Row] = []
    for held_out in (HELD_OUT, *config.evaluation.others):
        for kind in _KINDS:
            found += [_student(student.name, runs, held_out, kind) for student in config.students]
            asked = [_teacher(teacher.name, runs, held_out, kind) for teacher in config.teachers]
            most = max((row.before.mean for row in asked if row.before), default=None)
            teachers += [replace(row, best=bool(row.before and row.before.mean == most)) for row in asked]
    found.sort(key=lambda row: [student.name for student in config.students].index(row.model))
    teachers.sort(key=lambda row: [teacher.name for teacher in config.teachers].index(row.model))
    return [row for row in (*found, *teachers) if row.before or row.after]


def _student(name: str, runs: Sequence[Measured], held_out: str, kind: Literal["greedy", "sampled"]) -> Row:
    sampled = kind == "sampled"
    was = [run.means(before(name), held_out, sampled=sampled) for run in runs]
    has_become = [run.means(after(name), held_out, sampled=sampled) for run in runs]
    samples = max(count for _, count in (*was, *has_become))
    return Row(
        model=name,
        role="student",
        set=held_out,
        answers=kind,
        before=estimate([each for each, _ in was], samples),
        after=estimate([each for each, _ in has_become], samples),
        difference=estimate([differences(b[0], a[0]) for a, b in zip(was, has_become, strict=True)], samples),
    )


def _teacher(name: str, runs: Sequence[Measured], held_out: str, kind: Literal["greedy", "sampled"]) -> Row:
    found = [run.means(of_teacher(name), held_out, sampled=kind == "sampled") for run in runs]
    accuracy = estimate([each for each, _ in found], max(count for _, count in found))
    return Row(model=name, role="teacher", set=held_out, answers=kind, before=accuracy)


def row_of(told: Mapping[str, Any]) -> Row:
    """The row that `dataclasses.asdict` has made a part of a JSON object."""
    measures = {key: Estimate(**told[key]) if told[key] else None for key in ("before", "after", "difference")}
    return Row(**{**told, **measures})


def check_comparable(runs: Mapping[str, tuple[RunConfig, Measured]]) -> None:
    """Raise `ConfigError`, naming the run, unless all have measured the same students in the same way."""
    for name, (config, found) in runs.items():
        if config.evaluation is None:
            raise ConfigError(f"{name}: measured nothing: its configuration has no `evaluation` part")
        if not any(found.attempts.values()):
            raise ConfigError(f"{name}: measured nothing yet: there is no answer to a held-out question")
    (first, (config, found)), *others = runs.items()
    for name, (other, has) in others:
        names, its = (", ".join(student.name for student in each.students) for each in (config, other))
        if names != its:
            raise ConfigError(f"{name}: its students are called {its}, and those of {first} {names}; they must be the same")
        keys = [key for key in differences_of(config, other) if key.startswith("evaluation.")]
        if changed := "; ".join(key for key in keys if not key.startswith("evaluation.engine")):
            raise ConfigError(f"{name}: measures something else than {first} does: {changed}")
        for model in _kept_under(config):
            if bool(found.attempts[model]) != bool(has.attempts[model]):
                lacks, there = (name, first) if found.attempts[model] else (first, name)
                raise ConfigError(f"{lacks}: has no answers of {model}, and {there} has; let it come to its end, or leave it out")


def table(found: Sequence[Row]) -> Table:
    """For people: a line for each row; columns that would say nothing are left out."""
    several = len({row.model for row in found if row.role == "teacher"}) > 1
    lines = [_line(row, several) for row in found]
    telling = [name for name, silent in _SILENT.items() if {line[name] for line in lines} != {silent}]
    title = "accuracy, with 95% intervals" + ("; the difference is paired by question" if "difference" in telling else "")
    shown = Table(title=title, title_justify="left")
    for name in telling:
        shown.add_column("accuracy" if name == "before" and "after" not in telling else name)
    for line in lines:
        shown.add_row(*(line[name] for name in telling))
    return shown


_SILENT = {
    "model": "",
    "set": HELD_OUT,
    "answers": "",
    "before": "",
    "after": "",
    "difference": "",
    "questions": "",
    "runs": "1",
}
"""A column that says just this says nothing."""


def _line(row: Row, several: bool) -> dict[str, str]:
    one = row.before or row.after
    assert one
    return {
        "model": f"teacher {row.model}{', best' if row.best and several else ''}" if row.role == "teacher" else row.model,
        "set": row.set,
        "answers": row.answers if row.answers == "greedy" else f"sampled (n={one.samples})",
        "before": percent(row.before),
        "after": percent(row.after),
        "difference": _points(row.difference),
        "questions": str(one.items),
        "runs": str(one.runs),
    }


def percent(value: Estimate | None) -> str:
    """An accuracy, in percent."""
    return f"{value.mean:.1%} [{100 * value.low:.1f}, {100 * value.high:.1f}]" if value else ""


def _points(value: Estimate | None) -> str:
    """A difference of two, in percentage points."""
    return f"{100 * value.mean:+.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]" if value else ""
