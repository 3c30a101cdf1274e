"""Who may know whom, how long a file may be, and what it may not be called."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agents", "configs", "orchestrator", "store", "trainers")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}

BELOW = {
    "orchestrator": {"agents", "trainers", "store", "configs"},
    "agents": {"store", "configs"},
    "trainers": {"store", "configs"},
    "store": set(),
    "configs": set(),
}
"""Who knows whom: all of our packages that a package may import, beside itself."""


def imported(path: Path) -> set[str]:
    """The top names of all imports in a file, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_the_linter_of_imports_keeps_its_contracts() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_is_under_a_contract_and_shipped() -> None:
    assert set(SETTINGS["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)
    (layers,) = [c["layers"] for c in SETTINGS["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    assert {name for layer in layers for name in layer.split(" | ")} == set(PACKAGES)
    assert set(SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES)
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert with_code == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way_wherever_they_stand(package: str) -> None:
    allowed = {package, *BELOW[package]}
    wrong = {
        str(path.relative_to(ROOT)): sorted(names)
        for path in FILES
        if path.is_relative_to(ROOT / package) and (names := (imported(path) & {*PACKAGES, "tests", "benchmarks"}) - allowed)
    }
    assert not wrong


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES}


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
        for path in FILES
        if "migrations" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    }
    assert not long


def test_modules_are_named_after_what_they_hold() -> None:
    assert not [path for path in FILES if NAMELESS & {*path.with_suffix("").parts}]


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        path for path in FILES if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_every_package_carries_the_mark_that_tells_it_from_others() -> None:
    for name in PACKAGES:
        assert "Part of Peripatos" in (ROOT / name / "__init__.py").read_text(encoding="utf-8")
