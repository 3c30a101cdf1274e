"""Which search finds the right reasoning, at equal generated tokens? Every strategy on the proving ground (methods part 1).

Small teachers trained from scratch, each good at some kinds of step and poor at others, with different tokenizers; a strong and a
weak prover (`proving_ground`). Every row is a run of the real system on the same test questions. The beam is run first; what it
wrote on average is then what the others may write (`search.max_question_tokens`, or as many samples).

    right        share of the questions whose chosen trajectory has the right answer; 95% interval, bootstrap over questions
    less beam    the same less the beam's on the same questions and seed, paired
    perplexity   predictive perplexity of the gold answer after the chosen trajectory, by the strong prover (CoRD, Eq. 3)
    tokens       generated a question: steps, answers, and short answers of `binary`; prover's scoring generates none
    seconds      of the search stage for all questions

`integration` is left out: these models have never seen a prompt that quotes other reasonings.

    python benchmarks/search_strategies.py [--questions 300] [--seeds 1 2 3] [--parts strategies beams teachers provers]
                                           [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import device
from proving_ground import Ground, build
from solving import Silent

from agents import prompts
from agents.prover import predictive_perplexity
from agents.roster import open_model
from configs.schema import RunConfig
from orchestrator.daemon import Draining
from orchestrator.evaluate import interval
from orchestrator.folder import held
from orchestrator.logs import logging_to
from orchestrator.run import run
from store.store import open_store
from store.types import Outcome

BEAM = {"strategy": "beam", "beam": 4}
BOUNDS = {"max_think_tokens": 320, "max_answer_tokens": 16}
STEPS = {"max_step_tokens": 48, "max_steps": 12}
THIRDS = ("early", "middle", "late")
PARTS = ("strategies", "beams", "teachers", "provers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run to be made. `tokens`: how many times the beam's mean it may write; None: as many as it does."""

    name: str
    search: dict[str, Any]
    teachers: tuple[str, ...] | None = None
    prover: str = "strong"
    tokens: float | None = None


def rows(parts: Sequence[str], teachers: tuple[str, ...]) -> list[Row]:
    """What is run, after the beam."""
    whole = {"traces": 4096, "traces_of": "all"}
    found: list[Row] = []
    if "strategies" in parts:
        found += [
            Row(name=f"{each}, one trace", search={"strategy": "curation", "traces": 1}, teachers=(each,)) for each in teachers
        ]
        found += [
            Row(name="greedy, 4 samples", search={"strategy": "greedy", "samples": 4}),
            Row(name="binary", search={"strategy": "binary", "beam": 4, "answers": 4}),
            Row(name="mcts", search={"strategy": "mcts", "iterations": 1000}, tokens=1.0),
            Row(name="mcts, twice the tokens", search={"strategy": "mcts", "iterations": 1000}, tokens=2.0),
            Row(name="curation", search={"strategy": "curation", **whole}, tokens=1.0),
            Row(name="random", search={"strategy": "random", **whole}, tokens=1.0),
            Row(name="longest", search={"strategy": "longest", **whole}, tokens=1.0),
        ]
    if "beams" in parts:
        found += [Row(name=f"beam {width}", search={"strategy": "beam", "beam": width}) for width in (1, 2, 8)]
    if "teachers" in parts:
        found += [Row(name=f"beam 4, {num} teachers", search=BEAM, teachers=teachers[:num]) for num in range(1, len(teachers))]
    if "provers" in parts:
        found.append(Row(name="beam 4, weak prover", search=BEAM, prover="weak"))
    return found


def configured(ground: Ground, row: Row, seed: int, count: int, cap: int | None, folder: Path) -> RunConfig:
    """The run of one row."""
    whole = row.search["strategy"] in ("curation", "random", "longest")
    search = {**row.search, **BOUNDS, **({} if whole else STEPS)} | ({"max_question_tokens": cap} if cap else {})
    return RunConfig.model_validate(
        {
            "name": "search",
            "seed": seed,
            "run_dir": folder,
            **ground.asked("test", count=count),
            **ground.agents(teachers=row.teachers, prover=row.prover),
            "search": search,
            "limits": {"questions": 64},
        }
    )


async def one_run(ground: Ground, config: RunConfig) -> dict[str, Any]:
    """What came of it, a value for each question in the file's order."""
    found: dict[str, Any] = {"right": [], "tokens": [], "perplexity": [], "winners": {third: Counter() for third in THIRDS}}
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


def told(name: str, runs: Sequence[dict[str, Any]], beams: Sequence[dict[str, Any]]) -> str:
    """A row of the table, all seeds together."""
    right = np.concatenate([np.array(each["right"], float) for each in runs])
    less = right - np.concatenate([np.array(each["right"], float) for each in beams])
    (low, high), (least, most) = interval(right), interval(less)
    perplexity, tokens = ([value for each in runs for value in each[key]] for key in ("perplexity", "tokens"))
    seconds = statistics.median(each["seconds"] for each in runs)
    return (
        f"{name:26} {right.mean():6.1%} [{low:5.1%}, {high:5.1%}]  {less.mean():+6.1%} [{least:+6.1%}, {most:+6.1%}] "
        f"{statistics.mean(perplexity):10.3f} {statistics.mean(tokens):7.0f} {seconds:8.0f}"
    )


def winners(runs: Sequence[dict[str, Any]], teachers: Sequence[str]) -> list[str]:
    """Whose steps the chosen trajectories are made of."""
    lines = [f"{'steps of the chosen, by':26} " + " ".join(f"{name:>8}" for name in teachers)]
    for third in THIRDS:
        counted = sum((each["winners"][third] for each in runs), Counter())
        lines.append(f"{third:26} " + " ".join(f"{counted[name] / max(1, counted.total()):8.1%}" for name in teachers))
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ground = build()
    teachers = tuple(ground.teachers)
    found: dict[str, list[dict[str, Any]]] = {}

    def measure(row: Row, mean: float | None) -> None:
        runs = []
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                cap = round(row.tokens * mean) if row.tokens and mean else None
                config = configured(ground, row, seed, options.questions, cap, Path(scratch) / "run")
                runs.append(asyncio.run(one_run(ground, config)))
        found[row.name] = runs
        print(told(row.name, runs, found["beam 4"]), flush=True)

    print(f"{device()}; {options.questions} questions, seeds {options.seeds}, teachers {', '.join(teachers)}")
    print(f"{'':26} {'right':>6} {'':15}  {'less beam':>6} {'':15} {'perplexity':>10} {'tokens':>7} {'seconds':>8}")
    measure(Row(name="beam 4", search=BEAM), None)
    mean = statistics.mean(value for each in found["beam 4"] for value in each["tokens"])
    for row in rows(options.parts, teachers):
        measure(row, mean)
    print("\n" + "\n".join(winners(found["beam 4"], teachers)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
