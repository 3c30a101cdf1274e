"""What the quickstart recipe achieves, over several seeds: does CoRD solve more, and does the student get better?

Share of the training questions whose chosen trajectory has the right answer, on the same questions and the same model:
  greedy      one sample of the first teacher at temperature 0
  curation    whole traces of the three teachers in turn, until they have cost as many generated tokens as CoRD's tree of that
              question did; each scored once at its end (CoRD, Eq. 3), the best one chosen
  CoRD        tau*, the finished beam with the highest score; "any" is a question with at least one accepted trajectory
All three see the gold answer only through the score, which is how CoRD makes training data. Then the student's accuracy on
64 held-out questions before and after. Differences are paired: the same questions on both sides. Intervals: 95%, bootstrap
over questions, all seeds together.

    python benchmarks/quickstart_effect.py [--seeds 1 2 3] [--json FILE] [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import prompts
from agents.prover import predictive_perplexity
from agents.roster import Roster, open_roster
from configs.load import load
from configs.schema import RunConfig
from orchestrator.answers.answer import extract, same_answer
from orchestrator.daemon import Draining
from orchestrator.folder import held
from orchestrator.intervals import interval
from orchestrator.logs import logging_to
from orchestrator.progress import Lines
from orchestrator.run import run
from store.reasoning import THINK_OPEN
from store.store import open_store
from store.types import Outcome, Question, content_id

WHOLE_TRACE_TOKENS = 128

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A whole trace: whether its answer is right, its score, its generated tokens."""

    right: bool
    score: float
    tokens: int


async def trace(roster: Roster, question: Question, teacher: int, temperature: float, draw: int) -> Trace:
    """One whole trace of one teacher, scored at its end."""
    asked, asking = roster.teachers[teacher], roster.teachers[teacher].asking
    (completion,) = await asked.model.engine.generate(
        prompts.propose(question, [], asking),
        max_tokens=WHOLE_TRACE_TOKENS,
        stop=("\nuser",),
        temperature=temperature,
        top_p=0.95,
        seed=int(content_id("curation", question.id, teacher, draw)[:15], 16),
    )
    thought, _, conclusion = completion.text.partition("</think>")
    context = prompts.conclude(question, f"### Step 1.{thought}".rstrip(), asking)
    assert context.prefix.startswith(THINK_OPEN)
    scored = await asked.model.engine.answer_logprobs(context, question.answer or "")
    answer = extract(conclusion, question.kind, question.choices) if conclusion else None
    right = answer is not None and same_answer(answer, question.answer or "", question.kind, question.choices)
    return Trace(right=right, score=predictive_perplexity(scored.values), tokens=completion.usage.completion)


async def curation(roster: Roster, question: Question, budget: int) -> bool:
    """Whole traces up to `budget` generated tokens, at least one; whether the best-scored is right."""
    traces: list[Trace] = []
    while not traces or sum(each.tokens for each in traces) < budget:
        teacher = len(traces) % len(roster.teachers)
        temperature = (0.5, 0.6, 0.7)[teacher % 3]
        traces.append(await trace(roster, question, teacher, temperature, len(traces)))
    return max(traces, key=lambda each: each.score).right


async def one_seed(config: RunConfig) -> dict[str, Any]:
    """The whole recipe, then the baselines on its questions."""
    with held(config) as folder, logging_to(folder.log, "warning"):
        summary = await run(config, folder, Lines(), Draining())
        async with open_store(folder.database) as store, open_roster(config) as roster:
            placed = await store.questions("train", limit=10_000)
            found: dict[str, list[bool]] = {"greedy": [], "curation": [], "CoRD": [], "CoRD any": []}
            budgets = []
            for each in placed:
                calls = await store.calls(each.question.id)
                budgets.append(sum(call.usage.completion for call in calls.values()))
                judged = await store.trajectories(each.question.id)
                accepted = [trajectory for trajectory, verdict in judged if verdict and verdict.outcome is Outcome.ACCEPTED]
                found["CoRD"].append(any(trajectory.best for trajectory in accepted))
                found["CoRD any"].append(bool(accepted))
            questions = [each.question for each in placed]
            async with asyncio.TaskGroup() as group:
                greedy = [group.create_task(trace(roster, question, 0, 0.0, 0)) for question in questions]
            found["greedy"] = [task.result().right for task in greedy]
            async with asyncio.TaskGroup() as group:
                curated = [group.create_task(curation(roster, q, b)) for q, b in zip(questions, budgets, strict=True)]
            found["curation"] = [task.result() for task in curated]
            accuracies = {}
            for when in ("before", "after"):
                attempts = await store.attempts(f"{config.students[0].name}@{when}")
                accuracies[when] = [[a.question, a.sample, a.correct] for a in attempts]
    return {"seed": config.seed, "solved": found, "tokens": budgets, "attempts": accuracies, "seconds": summary["seconds"]}


def shown(name: str, per_seed: list[Floats]) -> str:
    """A row: mean, interval, and the seeds one by one."""
    values = np.concatenate(per_seed)
    low, high = interval(values)
    return f"{name:26} {np.mean(values):6.1%} [{low:6.1%}, {high:6.1%}]  " + "  ".join(f"{np.mean(v):6.1%}" for v in per_seed)


def table(results: list[dict[str, Any]]) -> str:
    """All rows."""
    lines = [f"{'':26} {'all':>6}  {'95% interval':16} " + "  ".join(f"seed {result['seed']}" for result in results)]
    solved = {name: [np.array(result["solved"][name], float) for result in results] for name in results[0]["solved"]}
    lines += [shown(name, per_seed) for name, per_seed in solved.items()]
    lines.append(shown("CoRD less curation", _less(solved["CoRD"], solved["curation"])))
    for kind in ("greedy", "sampled"):
        before, after = ([_question_means(result["attempts"][when], kind) for result in results] for when in ("before", "after"))
        lines.append(shown(f"student before, {kind}", before))
        lines.append(shown(f"student after, {kind}", after))
        lines.append(shown(f"after less before, {kind}", _less(after, before)))
    tokens = statistics.mean(token for result in results for token in result["tokens"])
    lines.append(
        f"generated tokens a question (CoRD = curation): {tokens:.0f}; seconds a run: {[round(r['seconds']) for r in results]}"
    )
    return "\n".join(lines)


def _less(these: list[Floats], those: list[Floats]) -> list[Floats]:
    return [one - other for one, other in zip(these, those, strict=True)]


def _question_means(attempts: list[list[Any]], kind: str) -> Floats:
    marks: dict[str, list[float]] = {}
    for question, sample, correct in attempts:
        if (sample > 0) == (kind == "sampled"):
            marks.setdefault(question, []).append(float(correct))
    return np.array([statistics.mean(marks[question]) for question in sorted(marks)])


def seeded(seed: int, overrides: list[str], folder: Path) -> RunConfig:
    """The recipe with every seed set: search, questions, held-out questions, student."""
    seeds = [f"seed={seed}", f"questions.0.seed={seed}", f"evaluation.questions.seed={1000 + seed}"]
    return load("quickstart", [*seeds, f"run_dir={folder / str(seed)}", *overrides])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, help="keep the runs here, and go on with those that are here")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.runs or Path(scratch)).absolute()
        results = [asyncio.run(one_seed(seeded(seed, options.set, folder))) for seed in options.seeds]
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
