"""Does every part of COMPACT and QR-Distill help? Two small students, taught by the real actors, on the proving ground.

Four small teachers sample whole traces of questions; two of them are good at each family of operations (`claims_ground`). Two
students with a tokenizer each, trained from scratch and poor at some operations, learn from four accepted ones of every question:
all weights, the same questions, updates and trajectories in every row (`claims_training` says what cannot be equal). Settings
were chosen on seed 0, which has other questions; each seed has training questions, samples, order and noise of its own.

    single teacher          the one that solves most of other questions; of these it solves about two thirds, which are gone over
                            more often
    uniform                 all teachers, plain cross-entropy
    uniform, sound          the same questions with rationales that are right in every step: what a perfect judge would leave
    COMPACT                 weighs a question's rationales; then without one of the three scores, and without any
    QR-Distill              a router and peers; then without the one or the other, with a router that draws its routes (as few
                            trajectories, not chosen), and without the answer check (one trace of each teacher, right or wrong,
                            with its own answer)
    full                    both

    test      share of greedy answers that are right, mean of both students; 95% interval: bootstrap over seeds and questions
    longer, unseen, mixed   out of domain: 6 and 7 operations; another phrasing; operations of all families in one question
    forgotten               how much less is right after than before, of what no training question asks for
    less                    the test share less that of the row it is compared with, on the same questions and seeds; out:
                            the same, of the three sets out of domain together
    learnt                  trajectories that a student learns in all, with repetition: a router sends it a part of them; and in
                            how many updates

The second table corrupts a share of all rationales: wrong in the middle, right again at the end by a second error.
    told apart              by alpha and each score: how often the sound one of two rationales of one question has the better
                            number, in the first and in the last third of the updates; .5 is chance
    share                   the unsound ones' mean weight, 1 being as much as the others have

What this ground cannot show: its language has no thinking words, so adaptability counts all words alike; after right reasoning
the answer is a copy, so the consistency loss finds nothing to do (1e-8); and an unsound step is one that a student that half
knows the operations thinks unlikely, which is what the difficulty measures.

    python benchmarks/distill_claims.py [--seeds 1 2 3] [--training 200] [--questions 150] [--only NAME ...] [--processes 2]
                                        [--runs FOLDER] [--json FILE] [--plot FILE.svg]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from claims_ground import MOST, Taught, asked, lessons, misled
from claims_plot import plot
from claims_students import STUDENTS, students
from claims_training import Condition, Found, Settings, distilled, marks
from machine import device
from proving_ground import build
from proving_ground.build import CACHE

from configs.training import Compatibility
from orchestrator.intervals import interval
from store.types import content_id

OUT = ("longer", "unseen", "mixed")
RATES = (0.1, 0.3, 0.5)
SHARED = ("uniform", "COMPACT", "COMPACT, no consensus", "COMPACT, no adaptability", "COMPACT, no difficulty")
"""Also taught from corrupted rationales."""
BASE = "untaught"
TRACES = CACHE.with_name("traces")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A condition, and the row that it is compared with."""

    condition: Condition
    less: str | None


def rows() -> list[Row]:
    """The first table."""
    weighed = Compatibility()
    without = {
        "consensus": Compatibility(consensus=0),
        "adaptability": Compatibility(adaptability=0),
        "difficulty": Compatibility(difficulty=0),
        "scores": Compatibility(consensus=0, adaptability=0, difficulty=0),
    }
    return [
        Row(condition=Condition(name="single teacher", data="single"), less="uniform"),
        Row(condition=Condition(name="uniform"), less=None),
        Row(condition=Condition(name="uniform, sound", data="sound"), less="uniform"),
        Row(condition=Condition(name="COMPACT", compatibility=weighed), less="uniform"),
        *(
            Row(condition=Condition(name=f"COMPACT, no {part}", compatibility=each), less="COMPACT")
            for part, each in without.items()
        ),
        Row(condition=Condition(name="QR-Distill", router="learns", peers=True), less="uniform"),
        Row(condition=Condition(name="QR-Distill, no router", peers=True), less="QR-Distill"),
        Row(condition=Condition(name="QR-Distill, random router", router="random", peers=True), less="QR-Distill"),
        Row(condition=Condition(name="QR-Distill, no peers", router="learns"), less="QR-Distill"),
        Row(
            condition=Condition(name="QR-Distill, no filter", data="unfiltered", own=True, router="learns", peers=True),
            less="QR-Distill",
        ),
        Row(condition=Condition(name="full", compatibility=weighed, router="learns", peers=True), less="uniform"),
    ]


def corrupted_rows() -> list[Row]:
    """The second table; its first rows are of the first."""
    known = {row.condition.name: row for row in rows()}
    return [
        Row(
            condition=Condition(name=f"{name}, {rate:.0%}", compatibility=known[name].condition.compatibility, misled=rate),
            less=f"{known[name].less}, {rate:.0%}" if known[name].less else None,
        )
        for rate in RATES
        for name in SHARED
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One condition with one seed, in a process of its own; no condition: the students as they are."""

    condition: Condition | None
    seed: int
    training: int
    questions: int
    settings: Settings
    runs: Path | None


def done(task: Task) -> Found:
    """Teach and ask, or read what was found before."""
    torch.set_num_threads(1)  # models this small wait for a second thread more than they gain by it
    identity = content_id(*map(repr, (task.condition, task.seed, task.training, task.questions, task.settings, STUDENTS)))
    file = None if task.runs is None else task.runs / f"{identity[:16]}.json"
    if file is not None and file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    found = taught(task)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found), encoding="utf-8")
    return found


def taught(task: Task) -> Found:
    """Do it."""
    bases, sets = students(tell=lambda _: None), asked(task.seed, task.questions)
    if task.condition is None:
        found = {name: marks(base, sets) for name, base in bases.items()}
        return Found(marks=found, told_apart={}, passes=0.0, updates=0, seconds=0.0)
    ground = build(tell=lambda _: None)
    learnt = lessons(ground, task.seed, task.training, TRACES).by_data
    passes = task.settings.epochs * sum(len(each.traces) for each in learnt["accepted"])
    data = learnt[task.condition.data]
    if task.condition.misled:
        data = misled(data, task.condition.misled, task.seed)
    with tempfile.TemporaryDirectory() as scratch:
        return distilled(
            task.condition,
            data,
            passes,
            settings=task.settings,
            seed=task.seed,
            bases=bases,
            sets=sets,
            folder=Path(scratch) / "run",
        )


def prepared(seed: int, training: int) -> str:
    """Sample what a seed needs, unless it is kept; what came of it."""
    torch.set_num_threads(1)
    made = lessons(build(tell=lambda _: None), seed, training, TRACES)
    told = [f"{name} {len(each)} questions, {shares(each)}" for name, each in made.by_data.items()]
    return f"seed {seed}: single teacher {made.best}; " + "; ".join(told)


def shares(taught: Sequence[Taught]) -> str:
    """How many traces, and how many of them are sound."""
    traces = [trace for each in taught for trace in each.traces]
    return f"{len(traces)} traces, {statistics.mean(trace.sound for trace in traces):.0%} sound"


Measured = dict[str, list[Found]]
"""Of each condition, by seed."""


def means(runs: Sequence[Found], names: Sequence[str]) -> np.ndarray:
    """The mean of the students for each question of some sets: R x Q."""
    return np.array(
        [
            np.mean([[mark for name in names for mark in by_set[name]] for by_set in each["marks"].values()], axis=0)
            for each in runs
        ]
    )


def share(values: np.ndarray) -> str:
    """A mean with its interval."""
    low, high = interval(values)
    return f"{values.mean():6.1%} [{low:6.1%},{high:6.1%}]"


HEAD = (
    f"{'':30} {'test':22} {'longer':>6} {'unseen':>6} {'mixed':>6} {'forgotten':22} "
    f"{'less, test':22} {'less, out':22} {'learnt':>6} {'in':>4} {'CPU s':>5}"
)


def told(name: str, less: str | None, found: Measured) -> str:
    """A row of the table."""
    runs, none = found[name], " " * 22
    out = " ".join(f"{means(runs, [each]).mean():6.1%}" for each in OUT)
    forgotten = share(means(found[BASE], ["kept"]) - means(runs, ["kept"]))
    differences = [none, none]
    if less in found:
        differences = [share(means(runs, names) - means(found[less], names)) for names in (["test"], OUT)]
    passes, updates, seconds = (statistics.mean(each[key] for each in runs) for key in ("passes", "updates", "seconds"))
    cost = f"{passes:6.0f} {updates:4.0f} {seconds:5.0f}"
    return f"{name:30} {share(means(runs, ['test']))} {out} {forgotten} {' '.join(differences)}  {cost}"


def weights_told(name: str, runs: Sequence[Found]) -> str:
    """How well a condition tells sound from unsound rationales, early and late."""
    columns = ("alpha", "adaptability", "consensus", "difficulty", "share")

    def value(third: str, column: str) -> str:
        values = [each["told_apart"][third][column] for each in runs if column in each["told_apart"].get(third, {})]
        return f"{statistics.mean(values):.2f}" if values else "   -"

    return f"{name:30} " + " ".join(f"{value('early', column):>5} {value('late', column)}  " for column in columns)


def measured(tasks: Mapping[tuple[str, int], Task], seeds: Sequence[int], processes: int) -> Measured:
    """Every condition with every seed."""
    found: dict[tuple[str, int], Found] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for line in pool.map(prepared, seeds, [task.training for task in list(tasks.values())[:1]] * len(seeds)):
            print(line, flush=True)
        waiting = {pool.submit(done, task): key for key, task in tasks.items()}
        try:
            for number, future in enumerate(as_completed(waiting), start=1):
                key = waiting[future]
                found[key] = future.result()
                right = means([found[key]], ["test"]).mean()
                told = f"{number} of {len(tasks)}: {key[0]}, seed {key[1]}: {right:.1%}, {found[key]['seconds']:.0f} s"
                print(told, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what failed is told now, and not after all the others
            raise
    return {name: [found[name, seed] for seed in seeds] for name in dict.fromkeys(name for name, _ in tasks)}


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = Settings()
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="0 is the one that settings are chosen on")
    parser.add_argument("--training", type=int, default=200, help="questions that are taught")
    parser.add_argument("--questions", type=int, default=150, help=f"of each set that is asked, up to {MOST}")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="conditions whose name begins so")
    parser.add_argument("--epochs", type=int, default=usual.epochs)
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate)
    parser.add_argument("--router-rate", type=float, default=usual.router_rate)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=Path, help="keep what is found here, and go on with what is here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.questions > MOST:
        parser.error(f"--questions: accepted are up to {MOST}")
    return options


def main() -> None:
    """Measure and print."""
    options = parsed()
    settings = Settings(epochs=options.epochs, learning_rate=options.learning_rate, router_rate=options.router_rate)
    wanted = [
        row for row in (*rows(), *corrupted_rows()) if any(row.condition.name.startswith(each) for each in options.only or [""])
    ]
    clean = [row for row in wanted if not row.condition.misled]
    build()
    students()
    conditions = {BASE: None} | {row.condition.name: row.condition for row in wanted}
    tasks = {
        (name, seed): Task(
            condition=condition,
            seed=seed,
            training=options.training,
            questions=options.questions,
            settings=settings,
            runs=options.runs,
        )
        for name, condition in conditions.items()
        for seed in options.seeds
    }
    found = measured(tasks, options.seeds, options.processes)
    if options.json:
        options.json.write_text(json.dumps({"settings": asdict(settings), "seeds": options.seeds, "found": found}, indent=1))
    if options.plot:
        plot({name: means(runs, ["test"]) for name, runs in found.items()}, SHARED, RATES, options.plot)
    print(
        f"\n{device()}; {options.training} training questions, {options.questions} of each set; seeds {options.seeds}; {settings}"
    )
    print("\n".join([HEAD, told(BASE, None, found), *(told(row.condition.name, row.less, found) for row in clean)]))
    if corrupted := [row for row in wanted if row.condition.misled]:
        print(f"\ncorrupted rationales\n{HEAD}")
        print("\n".join(told(row.condition.name, row.less, found) for row in corrupted))
    weighed = [row.condition.name for row in wanted if any(each["told_apart"].get("late") for each in found[row.condition.name])]
    if weighed:
        columns = ("alpha", "adaptability", "consensus", "difficulty", "share")
        print(f"\n{'told apart, early and late':30} " + " ".join(f"{each:>12}" for each in columns))
        print("\n".join(weights_told(name, found[name]) for name in weighed))


if __name__ == "__main__":
    main()
