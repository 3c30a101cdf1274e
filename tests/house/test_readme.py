"""What README.md tells people to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from configs.load import recipes
from configs.schema import RunConfig

ROOT = Path(__file__).parents[2]


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def code() -> str:
    """The text inside fences and back-ticks."""
    return "\n".join(re.findall(r"```[^\n]*\n(.*?)```", readme(), re.DOTALL) + re.findall(r"`([^`\n]+)`", readme()))


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = set(re.findall(r"(?:^|[\s;&|])make ([a-z][a-z-]*)", code(), re.MULTILINE))
    assert told
    assert told <= targets


def test_its_commands_and_recipes_exist() -> None:
    told = re.findall(r"(?:peripatos|python -m orchestrator) ([a-z]+)(?: ([a-z][a-z_]*)\b(?![/.]))?", code())
    assert told
    named = {command for command, _ in told}
    assert named <= {"run", "status", "inspect", "pause", "resume", "set", "requeue", "export", "evaluate", "recipes", "doctor"}
    named = {name for command, name in told if command in {"run", "evaluate", "doctor"} and name}
    assert named <= set(recipes())


def test_the_folders_and_files_it_names_exist() -> None:
    told = set(re.findall(r"\b((?:agents|configs|orchestrator|store|trainers|tests|benchmarks)/[\w./-]*)", readme()))
    assert {f"{name}/" for name in ("agents", "configs", "orchestrator", "store", "trainers", "tests", "benchmarks")} <= told
    assert not [path for path in told if not (ROOT / path.rstrip(".")).exists()]


def test_the_scripts_and_plots_of_what_was_measured_exist() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    scripts = set(re.findall(r"benchmarks/(\w+\.py)", measured))
    plots = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", measured))
    assert len(scripts) > 15
    assert len(plots) == 2
    assert not [name for name in scripts | plots if not (ROOT / "benchmarks" / name).is_file()]


def test_its_configurations_are_accepted() -> None:
    scripted = {"kind": "scripted"}
    least = {
        "name": "walk",
        "questions": [{"kind": "word_problems", "count": 1}],
        "engines": {"near": scripted, "far": scripted | {"seed": 1}},
        "teachers": [{"name": "ann", "engine": "near"}],
        "prover": {"engine": "near"},
    }
    blocks = re.findall(r"```yaml\n(.*?)```", readme(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        RunConfig.model_validate(least | yaml.safe_load(block))
