"""Claims: a run's speed and memory do not depend on how many questions it has, nor its start on how many nodes it has made.

Scripted teachers and prover, which answer at once: everything measured is ours. Each row is a run of its own process, `python -m
orchestrator run`, of so many questions:

    nodes/s      scored steps that were made durable
    MiB at 1/4   the process's memory when a quarter of the questions was settled, and at the end
    again s      the same command on the finished run: from its start to its end
    resume s     the same command on a run of so many nodes of which half the questions are pending: from its start until it
                 searches. The rows are copied to `--nodes` nodes before that

Targets: nodes/s and MiB as at the smallest run; resume under 5 s with 1,000,000 nodes.

    python benchmarks/search_scale.py [--questions 100 1000 10000] [--nodes 100000 1000000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from machine import device

NAME = "scale"
SEARCHING = re.compile(r"^search (\d+)/(\d+)")


def write_config(folder: Path, num_questions: int) -> None:
    """A run of word problems, made as fast as we can."""
    config = {
        "name": NAME,
        "questions": [{"kind": "word_problems", "count": num_questions, "seed": 1, "largest": 1000}],
        "engines": {"scripted": {"kind": "scripted", "skill": 0.6}},
        "teachers": [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "scripted"}],
        "prover": {"engine": "scripted"},
        "search": {"beam": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def start(folder: Path) -> subprocess.Popen[str]:
    """The run's process."""
    command = [sys.executable, "-m", "orchestrator", "run", "run.yaml"]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def mebibytes(process: subprocess.Popen[str]) -> float:
    """Resident memory of a living process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def ended(process: subprocess.Popen[str]) -> None:
    """Wait for a good end."""
    assert process.stderr
    told = process.stderr.read()
    if process.wait():
        raise RuntimeError(told)


def one_run(folder: Path, num_questions: int) -> dict[str, float]:
    """Take a run to its end, and once more."""
    write_config(folder, num_questions)
    memory: list[float] = []
    with start(folder) as process:
        assert process.stderr
        for line in process.stderr:
            if (found := SEARCHING.match(line)) and int(found[1]) >= len(memory) * num_questions / 4:
                memory.append(mebibytes(process))
        if process.wait():
            raise RuntimeError("the run failed; its log is in the run's folder")
    begun = time.perf_counter()
    with start(folder) as process:
        ended(process)
    again_s = time.perf_counter() - begun
    with sqlite3.connect(folder / "runs" / NAME / "peripatos.db") as database:
        (num_nodes,) = database.execute("SELECT count(*) FROM node").fetchone()
        (search_s,) = database.execute("SELECT seconds FROM stage WHERE name = 'search'").fetchone()
    database.close()
    return {
        "questions": num_questions,
        "nodes": num_nodes,
        "nodes_a_second": num_nodes / search_s,
        "quarter_mib": memory[min(1, len(memory) - 1)],
        "end_mib": memory[-1],
        "again_s": again_s,
    }


def multiply(database_file: Path, num_nodes: int) -> int:
    """Copy nodes, with ids of their own, until there are so many at least; half of the questions are pending again."""
    database = sqlite3.connect(database_file, isolation_level=None)
    columns = [row[1] for row in database.execute("PRAGMA table_info(node)")]
    database.execute("PRAGMA synchronous=OFF")
    (have,) = database.execute("SELECT count(*) FROM node").fetchone()
    (first,) = database.execute("SELECT count(*) FROM node WHERE length(id) = 32").fetchone()
    copied = ", ".join("id || '-' || ?" if name == "id" else "NULL" if name == "parent" else name for name in columns)
    number = 0
    while have < num_nodes:
        number += 1
        most = min(first, num_nodes - have)
        database.execute(
            f"INSERT INTO node ({', '.join(columns)}) SELECT {copied} FROM (SELECT * FROM node WHERE length(id) = 32) LIMIT ?",
            (f"{num_nodes}-{number}", most),
        )
        have += most
    (half,) = database.execute("SELECT count(*) / 2 FROM question WHERE split = 'train'").fetchone()
    database.execute("UPDATE question SET state = 'pending' WHERE split = 'train' AND position >= ?", (half,))
    (pending,) = database.execute("SELECT count(*) FROM question WHERE state = 'pending'").fetchone()
    database.execute("UPDATE count SET value = ? WHERE name = 'questions.pending'", (pending,))
    for state in ("solved", "unsolved"):
        (num,) = database.execute("SELECT count(*) FROM question WHERE state = ?", (state,)).fetchone()
        database.execute("UPDATE count SET value = ? WHERE name = ?", (num, f"questions.{state}"))
    database.close()
    return have


def resume(folder: Path) -> float:
    """Seconds from the start of the command until it searches; then the process is killed."""
    begun = time.perf_counter()
    with start(folder) as process:
        assert process.stderr
        for line in process.stderr:
            if SEARCHING.match(line):
                seconds = time.perf_counter() - begun
                process.send_signal(signal.SIGKILL)
                return seconds
    raise RuntimeError("it did not search")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--nodes", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"runs": [], "resumed": []}
    print(device())
    print(f"{'questions':>9} {'nodes':>8} {'nodes/s':>8} {'MiB at 1/4':>11} {'at the end':>11} {'again s':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for num in options.questions:
            folder = Path(scratch) / str(num)
            folder.mkdir()
            row = one_run(folder, num)
            found["runs"].append(row)
            print(
                "{questions:9} {nodes:8} {nodes_a_second:8.0f} {quarter_mib:11.0f} {end_mib:11.0f} {again_s:8.2f}".format(**row)
            )
        last = Path(scratch) / str(options.questions[-1])
        print(f"\n{'nodes':>9} {'resume s':>9}")
        for num in sorted(options.nodes):
            have = multiply(last / "runs" / NAME / "peripatos.db", num)
            found["resumed"].append({"nodes": have, "resume_s": resume(last)})
            print("{nodes:9} {resume_s:9.2f}".format(**found["resumed"][-1]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
