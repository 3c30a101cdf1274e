"""The card of an exported data set: what it is, who made it, under which terms, what it counts and what it cost. Pure.

Invariant: configured words and names of models are only ever text: every character of them that YAML, Markdown, HTML or a
terminal could read as more is written as its number. Counts are those of the rows that were written, and balance.
Not covered: which terms are allowed together; the card repeats what was configured.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from configs.engines import EngineConfig
from configs.load import identity
from configs.schema import RunConfig
from configs.sources import File, Source
from orchestrator.exports.columns import MESSAGES, PAIRS, PREFERENCES, Columns
from orchestrator.exports.licences import hub_licence
from store.store import Judged, Placed
from store.types import Outcome, QuestionState, content_id

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_ABOUT = {
    "sft": ("accepted trajectories as chat turns", MESSAGES),
    "preferences": ("steps: one that the beam kept against a sibling that it pruned", PREFERENCES),
    "pairs": ("whole trajectories of a question: an accepted one against a wrong or unsound one", PAIRS),
}
_MEANS_MORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])|[^\w .,/()+%-]")
"""What is not only a letter, a digit or a mark that means nothing; "_" means nothing inside a word."""
NOT_STATED = "not stated"
MARK = "tags:\n- peripatos\n"
"""What a card of ours has and no other."""
_COST_UNIT = 10**9


@dataclass(slots=True, kw_only=True)
class Figures:
    """What is counted while the rows are written."""

    questions: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    trajectories_of: Counter[str] = field(default_factory=Counter)
    steps_of: Counter[str] = field(default_factory=Counter)
    num_steps: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    is_finished: bool = False

    def placed(self, placed: Placed) -> None:
        """Count a question."""
        self.questions[placed.state.value] += 1
        self.sources[placed.question.source] += 1

    def judged(self, judged: Judged) -> None:
        """Count a trajectory."""
        self.verdicts[judged.verdict.outcome.value if judged.verdict else "no verdict"] += 1

    def learnt(self, judged: Judged) -> None:
        """Count a row of `sft`; a sampled trajectory is one step."""
        self.targets[(judged.verdict and judged.verdict.target) or "nothing, or not known"] += 1
        self.trajectories_of.update(set(judged.trajectory.teachers))
        authors = [node.authors for node in judged.nodes] or [judged.trajectory.teachers]
        self.num_steps += len(authors)
        for each in authors:
            self.steps_of.update(set(each))


def card(config: RunConfig, figures: Figures, *, best_only: bool = False) -> str:
    """The text of README.md."""
    parts = [
        f"---\n{yaml.safe_dump(_metadata(config, figures), sort_keys=False, width=10_000)}---",
        f"# {plain(config.name)}",
        _introduction(config, figures, best_only),
        "## Teachers",
        _teachers(config, figures),
        "## Prover and judges",
        _referees(config),
        "## Questions",
        _questions(config, figures),
        "## Counts",
        _counts(figures),
        "## What it took",
        _costs(figures.counts),
        "## How to train on it",
        _loading(figures),
        *_columns(figures),
        "## How it was made",
        _made(config, best_only),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: object) -> str:
    """`text` as one line that is nothing but text wherever Markdown puts it, also in a cell of a table."""
    return _MEANS_MORE.sub(_as_number, " ".join(str(text).split()))


def _as_number(found: re.Match[str]) -> str:
    is_unseen = unicodedata.category(found[0])[0] == "C"
    return "\ufffd" if is_unseen else f"&#{ord(found[0])};"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown; every cell is plain text."""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _metadata(config: RunConfig, figures: Figures) -> dict[str, Any]:
    """What the hub reads: no configured word but the run's name, whose letters are bounded, and a known licence."""
    licence = hub_licence([*(t.licence for t in config.teachers), *(s.licence for s in config.questions if isinstance(s, File))])
    files = [
        {
            "config_name": name,
            "data_files": [{"split": "train", "path": f"data/{name}.parquet"}],
            **({"default": True} if place == 0 else {}),
        }
        for place, name in enumerate(_written(figures))
    ]
    return {
        "pretty_name": config.name,
        **({"license": licence} if licence else {}),
        "task_categories": ["text-generation"],
        "size_categories": [_size(sum(figures.rows.values()))],
        "tags": ["peripatos", "reasoning", "distillation", "synthetic"],
        **({"configs": files} if files else {}),
    }


def _written(figures: Figures) -> list[str]:
    return [name for name in _ABOUT if figures.rows.get(name)]


def _size(rows: int) -> str:
    return next((name for most, name in _SIZES if rows < most), "n>10M")


def _licence(source: Source) -> str | None:
    """The terms of a source; None of one that is made here."""
    return (source.licence or NOT_STATED) if isinstance(source, File) else None


def _introduction(config: RunConfig, figures: Figures, best_only: bool) -> str:
    names = _written(figures)
    lines = [f"- `{name}`: {figures.rows[name]} rows; {_ABOUT[name][0]}" for name in names] or ["It has no rows."]
    if best_only and "sft" in names:
        lines.append("- `sft` holds only the best trajectory of each question")
    if not figures.is_finished:
        lines.append("\nThe run was not finished when this was exported.")
    made = (
        "Reasoning that several teacher models made together with Peripatos: every teacher proposes the next step, a prover "
        "scores each by how likely it makes the right answer, and what passes the checks is kept "
        "(CoRD, [arXiv:2605.02290](https://arxiv.org/abs/2605.02290); QR-Distill, "
        "[arXiv:2508.16861](https://arxiv.org/abs/2508.16861))."
    )
    return f"{made} Search: {config.search.strategy}.\n\n" + "\n".join(lines)


def _teachers(config: RunConfig, figures: Figures) -> str:
    rows = [
        (
            teacher.name,
            config.engines[teacher.engine].kind,
            model_of(config.engines[teacher.engine]),
            teacher.temperature,
            teacher.licence or NOT_STATED,
            _share(figures.trajectories_of[teacher.name], figures.rows.get("sft", 0)),
            _share(figures.steps_of[teacher.name], figures.num_steps),
        )
        for teacher in config.teachers
    ]
    head = ("teacher", "engine", "model", "temperature", "licence", "trajectories", "steps")
    note = "Shares are of the rows of `sft` and of their steps; several teachers may have written the same step."
    return f"{table(head, rows)}\n\n{note}"


def _referees(config: RunConfig) -> str:
    named = [("prover", config.prover)] if config.prover else []
    rows = [
        (role, each.name, config.engines[each.engine].kind, model_of(config.engines[each.engine]))
        for role, each in [*named, *(("judge", judge) for judge in config.judges)]
    ]
    missing = [f"No {role}." for role, there in (("prover", config.prover), ("judges", config.judges)) if not there]
    return "\n\n".join([*([table(("", "name", "engine", "model"), rows)] if rows else []), *missing])


def model_of(engine: EngineConfig) -> str:
    """How the model of an engine is called; of a folder on somebody's machine, its last part."""
    if engine.kind == "scripted":
        return "no model"
    return _public(engine.model)


def _public(name: str) -> str:
    return PurePath(name).name if name.startswith(("/", "~", ".")) else name


def _questions(config: RunConfig, figures: Figures) -> str:
    stated = {
        (source.path if isinstance(source, File) else source.kind): _licence(source) or "made by Peripatos"
        for source in config.questions
    }
    rows = [(_public(name), licence, figures.sources[name]) for name, licence in stated.items()]
    note = "A question that stands in two sources is counted in the first."
    return f"{table(('source', 'licence', 'questions'), rows)}\n\n{note}"


def _counts(figures: Figures) -> str:
    states = [(f"questions {state.value}", figures.questions[state.value]) for state in QuestionState]
    outcomes = [outcome.value for outcome in Outcome]
    verdicts = [(f"trajectories {name.replace('_', ' ')}", figures.verdicts[name]) for name in [*outcomes, "no verdict"]]
    targets = [(f"rows of sft compared with {name}", figures.targets[name]) for name in sorted(figures.targets)]
    rows = [
        ("questions", figures.questions.total()),
        *(each for each in states if each[1]),
        ("trajectories", figures.verdicts.total()),
        *(each for each in verdicts if each[1]),
        ("rows of sft", figures.rows.get("sft", 0)),
        *targets,
    ]
    return table(("", "number"), rows)


def _costs(counts: Mapping[str, int]) -> str:
    agents = sorted(name.removeprefix("spent.calls.") for name in counts if name.startswith("spent.calls."))
    spent = {agent: [counts.get(f"spent.{what}.{agent}", 0) for what in ("calls", "tokens", "billionths")] for agent in agents}
    whole = [sum(column) for column in zip(*spent.values(), strict=True)] or [0, 0, 0]
    rows = [
        (agent, calls, tokens, f"{billionths / _COST_UNIT:.4f}")
        for agent, (calls, tokens, billionths) in [*spent.items(), ("all of them", whole)]
    ]
    of_kinds = ", ".join(f"{counts.get(f'tokens.{kind}', 0)} {kind}" for kind in ("prompt", "cached", "completion"))
    note = f"Tokens: {of_kinds}. Calls without a known price, and those that an earlier run paid for, count as 0 dollars."
    return f"{table(('who', 'calls', 'tokens', 'US dollars'), rows)}\n\n{note}"


def _loading(figures: Figures) -> str:
    trained = {"sft": "SFTTrainer", "preferences": "DPOTrainer", "pairs": "DPOTrainer"}
    lines = [
        f'{trained[name]}(model=..., train_dataset=load_dataset(FOLDER, "{name}", split="train")).train()'
        for name in _written(figures)
    ]
    code = ["from datasets import load_dataset", "from trl import DPOTrainer, SFTTrainer", "", *lines]
    return "\n".join(["```python", *code, "```"])


def _columns(figures: Figures) -> list[str]:
    return [part for name in _written(figures) for part in (f"## Columns of `{name}`", _described(_ABOUT[name][1]))]


def _described(columns: Columns) -> str:
    return "\n".join(f"- `{name}`: {column.about}" for name, column in columns.items())


def _share(number: int, total: int) -> str:
    return f"{number} of {total} ({number / total:.0%})" if total else "0 of 0"


def _made(config: RunConfig, best_only: bool) -> str:
    command = "peripatos export RUN_DIR --format dataset" + (" --best" if best_only else "")
    key = content_id("run", identity(config))
    return f"```\n{command}\n```\n\nHash of the configuration: `{key}`. Seed: {config.seed}."
