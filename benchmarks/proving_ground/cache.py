"""Folders that are made once: by the hash of everything that decides their content, and whole or not at all.

Invariant: a folder that `kept` returns is complete; one that a killed process left half made is made anew. Two processes
that want the same folder make it once: the second waits. Not covered: throwing old folders away.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

MADE = "made.json"
"""Written last: what the folder was made from, and what its maker has to say about it."""
_SOURCES = ("language.py", "models.py", "questions.py", "rows.py", "tokens.py")


def identity(configuration: dict[str, Any]) -> str:
    """A hash of a configuration, of the code that reads it, and of the libraries that compute."""
    sources = [code((Path(__file__).parent / name).read_text(encoding="utf-8")) for name in _SOURCES]
    known = json.dumps([configuration, sources, torch.__version__, transformers.__version__], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def code(source: str) -> str:
    """What a file does, without what it says of itself: its comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    return ast.dump(tree)


def is_kept(folder: Path) -> bool:
    """Whether `folder` is there and whole."""
    if not (folder / MADE).is_file():
        return False
    listed = json.loads((folder / MADE).read_text(encoding="utf-8"))["files"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in listed.items())


def kept(folder: Path, make: Callable[[Path], dict[str, Any]]) -> Path:
    """`folder`, made by `make` in a place beside it if it is not there yet; what `make` returns stands in `MADE`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process that dies lets go of it
        if not is_kept(folder):
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            part.mkdir()
            facts = make(part)
            files = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
            (part / MADE).write_text(json.dumps({**facts, "files": files}, indent=1), encoding="utf-8")
            os.replace(part, folder)
    return folder


def facts(folder: Path) -> dict[str, Any]:
    """What its maker had to say."""
    return json.loads((folder / MADE).read_text(encoding="utf-8"))
