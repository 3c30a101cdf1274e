"""Nothing is asked of a network: not at import, not by a run whose engines are on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

WITHOUT_SOCKETS = """if True:
    import sys

    def refuse(event, arguments):
        asked = event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.bind", "socket.sendto"}
        if asked or event == "socket.__new__" and arguments[1] != 1:  # 1: AF_UNIX, which an event loop wakes itself with
            raise SystemExit(f"{event} {arguments}")

    sys.addaudithook(refuse)
"""


def python(script: str, cwd: Path, *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", script]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


IMPORT_ALL = """if True:
    import importlib, importlib.abc

    class Heavy(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name in {"torch", "transformers", "peft", "safetensors", "gguf", "huggingface_hub", "accelerate", "litellm"}:
                raise ModuleNotFoundError("kept away", name=name)

    sys.meta_path.insert(0, Heavy())
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.msg != "kept away":
                raise
"""


def test_importing_any_module_opens_no_socket(tmp_path: Path) -> None:
    packages = ("agents", "configs", "orchestrator", "store", "trainers")
    files = [path.relative_to(ROOT) for name in packages for path in (ROOT / name).rglob("*.py")]
    modules = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    names = sorted(name for name in modules if "__main__" not in name and ".migrations." not in name)
    assert len(names) > 40
    done = python(f"{WITHOUT_SOCKETS}    names = {names!r}\n{IMPORT_ALL.removeprefix('if True:')}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_scripted_run_opens_no_socket_and_needs_no_network(tmp_path: Path) -> None:
    run = "from orchestrator.cli import entry\nsys.exit(entry(['run', 'scripted', '--set', 'questions.0.count=3']))"
    alone: tuple[str, ...] = ()
    if os.geteuid() == 0 and shutil.which("unshare"):
        alone = ("unshare", "--net")
    done = python(WITHOUT_SOCKETS + run, tmp_path, *alone)
    if alone and "unshare failed" in done.stderr:
        pytest.skip(f"a network namespace of one's own cannot be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "search 3/3" in done.stderr
