"""Our import names are generic: a folder of the same name in the way is told in one line, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def recipes(cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "recipes"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["agents", "configs", "store", "trainers"])
def test_another_package_of_our_name_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text('"""Somebody else\'s."""\n')
    done = recipes(tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"peripatos: the import name {name!r} belongs to {tmp_path / name}")
    assert not done.stdout


def test_a_mere_folder_of_our_name_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "store").mkdir()
    done = recipes(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
