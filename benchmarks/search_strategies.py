"""Which search finds the right reasoning, at equal generated tokens? Every strategy on the proving ground (methods part 1).

Small teachers trained from scratch, each good at some kinds of step and poor at others, with different tokenizers; a strong and a
weak prover (`proving_ground`). Every row is a run of the real system; each seed has test questions of its own. The beam of four
comes first: what it generated on average is what the others may (`search.max_question_tokens`, less what such a search overshoots
it by on training questions), or a multiple of it.

    right        share of the questions whose chosen trajectory has the right answer; 95% interval, bootstrap over questions
    less beam    the same less the beam's on the same questions and seed, paired
    perplexity   predictive perplexity of the gold answer after the chosen trajectory, by the strong prover (CoRD, Eq. 3)
    tokens       generated a question: steps, answers, and short answers of `binary`; prover's scoring generates none
    seconds      of the search stage a question, in runs of their own (`--timed` questions, one run at a time); the other runs
                 share a ledger, so that no call is made twice, and several of them run at once

`integration` is left out: these models have never seen a prompt that quotes other reasonings.

    python benchmarks/search_strategies.py [--questions 300] [--seeds 1 2 3] [--timed 60] [--processes 2]
                                           [--json FILE] [--plot FILE.svg]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import device
from proving_ground import Ground, Plan, build
from solving import Silent

from agents import prompts
from agents.prover import predictive_perplexity
from agents.roster import open_model
from configs.schema import RunConfig
from orchestrator.daemon import Draining
from orchestrator.folder import held
from orchestrator.intervals import interval
from orchestrator.logs import logging_to
from orchestrator.run import run
from store.store import open_store
from store.types import Outcome

BEAM = {"strategy": "beam", "beam": 4}
WHOLE = ("curation", "random", "longest")
BOUNDS = {"max_think_tokens": 320, "max_answer_tokens": 16}
STEPS = {"max_step_tokens": 48, "max_steps": 12}
TRACES = {"traces": 4096, "traces_of": "all"}
BEST = "digits"
"""The teacher that solves most alone, greedily (`python -m benchmarks.proving_ground`)."""
THIRDS = ("early", "middle", "late")
CALIBRATION = 40
"""Training questions on which the overshoot of a cap is measured."""

Found = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run to be made. `tokens`: how many times the beam's mean it may generate; None: as many as it does. Rows of one
    `line` are joined in the plot; `timed`: its seconds are measured."""

    name: str
    search: dict[str, Any]
    teachers: tuple[str, ...] | None = None
    prover: str = "strong"
    tokens: float | None = None
    line: str | None = None
    timed: bool = True


REFERENCE = Row(name="beam 4", search=BEAM, line="beam")


def rows(teachers: tuple[str, ...]) -> list[Row]:
    """What is run, after the beam of four."""

    def capped(strategy: str, times: float, **settings: Any) -> Row:
        name = strategy if times == 1 else f"{strategy}, {times:g} x tokens"
        line = None if strategy in ("random", "longest") else strategy
        search = {"strategy": strategy, **settings}
        return Row(name=name, search=search, tokens=times, line=line, timed=times in (1, 2))

    alone = [Row(name=f"{each}, one trace", search={"strategy": "curation", "traces": 1}, teachers=(each,)) for each in teachers]
    return [
        *alone,
        Row(name="greedy, 4 samples", search={"strategy": "greedy", "samples": 4}),
        Row(name="binary, beam 2", search={"strategy": "binary", "beam": 2, "answers": 4}, line="binary"),
        Row(name="binary, beam 4", search={"strategy": "binary", "beam": 4, "answers": 4}, line="binary"),
        *(capped("mcts", times, iterations=1000) for times in (2, 1)),
        *(capped("curation", times, **TRACES) for times in (2, 1, 0.5)),
        capped("random", 1, **TRACES),
        capped("longest", 1, **TRACES),
        *(
            Row(name=f"beam {width}{', which is greedy' * (width == 1)}", search=BEAM | {"beam": width}, line="beam")
            for width in (1, 2, 8)
        ),
        *(
            Row(
                name=f"beam 4, {'first ' if num > 1 else ''}{num} of the teachers",
                search=BEAM,
                teachers=teachers[:num],
                timed=False,
            )
            for num in range(1, len(teachers))
        ),
        Row(name=f"beam 4, 4 x {BEST}", search=BEAM | {"samples": 4}, teachers=(BEST,), timed=False),
        Row(name="beam 4, weak prover", search=BEAM, prover="weak", timed=False),
        Row(name="curation, weak prover", search={"strategy": "curation", **TRACES}, prover="weak", tokens=1, timed=False),
    ]


def configured(
    ground: Ground,
    row: Row,
    seed: int,
    asked: dict[str, Any],
    folder: Path,
    *,
    cap: int | None = None,
    ledger: Path | None = None,
) -> RunConfig:
    """The run of one row."""
    steps = {} if row.search["strategy"] in WHOLE else STEPS
    return RunConfig.model_validate(
        {
            "name": "search",
            "seed": seed,
            "run_dir": folder,
            "ledger": ledger,
            **asked,
            **ground.agents(teachers=row.teachers, prover=row.prover),
            "search": {**row.search, **BOUNDS, **steps} | ({"max_question_tokens": cap} if cap else {}),
            "limits": {"questions": 64},
        }
    )


async def one_run(ground: Ground, config: RunConfig) -> Found:
    """What came of it, a value for each question in the file's order."""
    found: Found = {"right": [], "tokens": [], "perplexity": [], "winners": {third: Counter() for third in THIRDS}}
    with held(config) as folder, logging_to(folder.log, "warning"):
        summary = await run(config, folder, Silent(), Draining())
        prover = RunConfig.model_validate(config.model_dump() | ground.agents(prover="strong")).engines["prover-strong"]
        async with open_store(folder.database) as store, open_model("strong", prover) as strong:
            for placed in await store.questions("train", limit=100_000):
                question = placed.question
                calls = (await store.calls(question.id)).values()
                found["tokens"].append(sum(call.usage.completion for call in calls))
                chosen = [(each, verdict) for each, verdict in await store.trajectories(question.id) if each.best]
                right = [verdict is not None and verdict.outcome is Outcome.ACCEPTED for _, verdict in chosen]
                found["right"].append(bool(right and right[0]))
                if chosen:
                    context = prompts.conclude(question, chosen[0][0].text, config.asking)
                    scored = await strong.engine.answer_logprobs(context, question.answer or "")
                    found["perplexity"].append(predictive_perplexity(scored.values))
                    nodes = {node.id: node for node in await store.tree(question.id)}
                    for place, node in enumerate(chosen[0][0].nodes):
                        third = THIRDS[min(2, 3 * place // len(chosen[0][0].nodes))]
                        found["winners"][third].update(nodes[node].authors[:1])
                else:
                    found["perplexity"].append(0.0)
    return found | {"seconds": summary["seconds_by_stage"]["search"], "failures": summary["failures"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run in a process of its own. `target`: mean tokens of a question, to be met by a cap that is looked for on the
    questions `calibration`, unless it is known."""

    row: Row
    seed: int
    asked: dict[str, Any]
    calibration: dict[str, Any]
    ledger: Path | None = None
    target: float | None = None
    cap: int | None = None


def done(task: Task) -> Found:
    """Run it."""
    torch.set_num_threads(1)  # models this small wait for a second thread more than they gain by it
    ground = build(tell=lambda _: None)

    def run_of(asked: dict[str, Any], cap: int | None) -> Found:
        with tempfile.TemporaryDirectory() as scratch:
            config = configured(ground, task.row, task.seed, asked, Path(scratch) / "run", cap=cap, ledger=task.ledger)
            return asyncio.run(one_run(ground, config))

    cap = task.cap
    if task.target and not cap:
        overshoot = statistics.mean(run_of(task.calibration, round(task.target))["tokens"]) - task.target
        cap = max(1, round(task.target - overshoot))
    return run_of(task.asked, cap) | {"cap": cap}


def averages(runs: Sequence[Found], key: str) -> float:
    """Over all questions of all seeds."""
    return statistics.mean(value for each in runs for value in each[key])


def told(name: str, runs: Sequence[Found], beams: Sequence[Found], seconds: float | None) -> str:
    """A row of the table, all seeds together."""
    right = np.concatenate([np.array(each["right"], float) for each in runs])
    less = right - np.concatenate([np.array(each["right"], float) for each in beams])
    (low, high), (least, most) = interval(right), interval(less)
    return (
        f"{name:32} {right.mean():6.1%} [{low:5.1%}, {high:5.1%}]  {less.mean():+6.1%} [{least:+6.1%}, {most:+6.1%}] "
        f"{averages(runs, 'perplexity'):10.3f} {averages(runs, 'tokens'):7.0f} {'' if seconds is None else f'{seconds:8.2f}'}"
    )


def winners(runs: Sequence[Found], teachers: Sequence[str]) -> list[str]:
    """Whose steps the chosen trajectories are made of."""
    lines = [f"{'steps of the chosen, by':26} " + " ".join(f"{name:>8}" for name in teachers)]
    for third in THIRDS:
        counted = sum((Counter(each["winners"][third]) for each in runs), Counter())
        lines.append(f"{third:26} " + " ".join(f"{counted[name] / max(1, counted.total()):8.1%}" for name in teachers))
    return lines


def plot(found: dict[str, list[Found]], lines: dict[str, list[str]], file: Path) -> None:
    """Share right against tokens: strategies as lines, single settings as points, with 95% intervals."""
    from matplotlib.figure import Figure  # only whoever draws needs it

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for marker, (line, names) in zip(cycle("os^Dvx+"), lines.items()):
        points = sorted((averages(found[name], "tokens"), name) for name in names)
        rights = [np.concatenate([np.array(each["right"], float) for each in found[name]]) for _, name in points]
        spans = [interval(right) for right in rights]
        middle = [right.mean() for right in rights]
        error = [
            [m - low for m, (low, _) in zip(middle, spans, strict=True)],
            [h - m for m, (_, h) in zip(middle, spans, strict=True)],
        ]
        axes.errorbar([tokens for tokens, _ in points], middle, yerr=error, marker=marker, capsize=3, label=line)
    axes.set(xlabel="generated tokens a question", ylabel="share of questions right", xlim=(0, None), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, metadata={"Date": None})


def drawn(all_rows: Sequence[Row]) -> dict[str, list[str]]:
    """What stands in the plot: names by line."""
    lines: dict[str, list[str]] = {}
    for row in all_rows:
        if row.line:
            lines.setdefault(row.line, []).append(row.name)
    return lines | {"greedy, 4 samples": ["greedy, 4 samples"], "random": ["random"], "longest": ["longest"]}


def measured(
    all_rows: Sequence[Row], seeds: Sequence[int], processes: int, task: Callable[[Row, int], Task], tell: Callable[[str], None]
) -> dict[str, list[Found]]:
    """Every row for every seed."""
    found: dict[str, list[Found]] = {row.name: [{}] * len(seeds) for row in all_rows}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(done, task(row, seed)): (row, place) for row in all_rows for place, seed in enumerate(seeds)}
        for number, future in enumerate(as_completed(waiting), start=1):
            row, place = waiting[future]
            found[row.name][place] = future.result()
            tell(f"{number} of {len(waiting)}: {row.name}, seed {seeds[place]}")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--timed", type=int, default=60, help="questions of the runs whose seconds are measured; 0: none")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    have = Plan().sizes.test
    if len(set(options.seeds)) < len(options.seeds) or len(options.seeds) * options.questions > have:
        parser.error(f"every seed has questions of its own, and there are {have}: accepted are {have // options.questions} seeds")
    ground = build()
    teachers = tuple(ground.teachers)
    others = rows(teachers)
    calibration = ground.asked("train", count=CALIBRATION)
    with tempfile.TemporaryDirectory() as scratch:

        def asked(seed: int, count: int) -> dict[str, Any]:
            return ground.asked("test", count=count, skip=options.seeds.index(seed) * options.questions)

        def task(row: Row, seed: int) -> Task:
            target = row.tokens * averages(found[REFERENCE.name], "tokens") if row.tokens else None
            ledger = Path(scratch) / f"ledger-{seed}.db"
            return Task(
                row=row, seed=seed, asked=asked(seed, options.questions), calibration=calibration, ledger=ledger, target=target
            )

        def timed(row: Row, seed: int) -> Task:
            cap = found[row.name][options.seeds.index(seed)]["cap"]
            return Task(row=row, seed=seed, asked=asked(seed, options.timed), calibration=calibration, cap=cap)

        found = measured([REFERENCE], options.seeds, options.processes, task, print)
        found |= measured(others, options.seeds, options.processes, task, print)
        clocked = [row for row in (REFERENCE, *others) if row.timed] if options.timed else []
        clocks = measured(clocked, options.seeds, 1, timed, lambda _: None)
    seconds = {name: statistics.median(each["seconds"] for each in runs) / options.timed for name, runs in clocks.items()}
    if options.json:
        options.json.write_text(json.dumps({"found": found, "seconds": seconds}, indent=1))
    if options.plot:
        plot(found, drawn((REFERENCE, *others)), options.plot)
    print(f"\n{device()}; {options.questions} questions for each of the seeds {options.seeds}; teachers {', '.join(teachers)}")
    print(f"{'':32} {'right':>6} {'':14}  {'less beam':>6} {'':16} {'perplexity':>10} {'tokens':>7} {'seconds':>8}")
    for row in (REFERENCE, *others):
        print(told(row.name, found[row.name], found[REFERENCE.name], seconds.get(row.name)))
    print("\n" + "\n".join(winners(found[REFERENCE.name], teachers)))


if __name__ == "__main__":
    main()
