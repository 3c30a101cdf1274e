"""Several processes, and processes that are killed: what was acknowledged is there, nothing is there by half or twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from recount import recounted
from test_store import question, stored

from store.store import Store

TESTS = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": f"{TESTS.parents[1]}:{TESTS}"}

WRITE_FOREVER = """if True:
    import asyncio, os, sys
    from pathlib import Path
    from store.store import open_store
    from store.types import Advance, NodeState, QuestionState
    from test_store import call, node, question, route, trajectory, verdict

    async def life(store, name):
        first, second = node(f"{name}a", of=name), node(f"{name}b", NodeState.FINISHED, parent=f"{name}a", of=name)
        await store.add_questions([question(name[1:])], split="train")
        await store.record_calls([call(f"{name}c", name), call(f"{name}d", name)])
        os.write(1, f"calls {name}\\n".encode())
        await store.record_advance(Advance(question=name, kept=(first,)))
        os.write(1, f"tree {name}\\n".encode())
        made = trajectory(f"{name}t", of=name)
        last = Advance(question=name, expanded=(first.id,), finished=(second,))
        await store.settle_question(name, QuestionState.SOLVED, "", [made], [verdict(made.id)], [route(made.id)], last)
        os.write(1, f"settled {name}\\n".encode())

    async def worker(store, worker):
        for turn in range(10**9):
            await life(store, f"q{sys.argv[2]}.{worker}.{turn}")

    async def main():
        async with open_store(Path(sys.argv[1])) as store:
            async with asyncio.TaskGroup() as group:
                for each in range(8):
                    group.create_task(worker(store, each))

    asyncio.run(main())
"""


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.chaos
def test_a_killed_writer_leaves_all_that_was_acknowledged_and_no_half(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged: list[tuple[str, str]] = []
    for life in range(6):
        writer = started(WRITE_FOREVER, str(tmp_path / "run.db"), str(life))
        assert writer.stdin and writer.stdout
        heard = [writer.stdout.readline()]
        time.sleep(chance.uniform(0, 0.4))
        writer.kill()
        heard += writer.stdout.readlines()
        assert writer.wait() == -9
        writer.stdout.close()
        writer.stdin.close()
        acknowledged += [(what, name) for what, _, name in (line.strip().partition(" ") for line in heard if line.endswith("\n"))]
        nothing_is_lost_or_half(tmp_path, acknowledged)
    assert len(acknowledged) > 100


def nothing_is_lost_or_half(folder: Path, acknowledged: list[tuple[str, str]]) -> None:
    async def work(store: Store) -> None:
        dump, counts = await store.dump(), await store.counts()
        calls = Counter(row["subject"] for row in dump["call"])
        nodes = Counter(row["question"] for row in dump["node"])
        states = {row["id"]: row["state"] for row in dump["question"]}
        kept = {row["question"] for row in dump["node"] if row["state"] == "kept"}
        settled = {name for name, state in states.items() if state == "solved"}
        by_kind = {kind: {name for what, name in acknowledged if what == kind} for kind in ("calls", "tree", "settled")}
        assert by_kind["calls"] <= calls.keys()
        assert by_kind["tree"] <= nodes.keys()
        assert by_kind["settled"] <= settled
        assert set(calls.values()) == {2}
        assert settled == kept == {name for name, number in nodes.items() if number == 2}
        for kind in ("trajectory", "verdict", "route"):
            assert len(dump[kind]) == len(settled)
        assert +Counter(counts) == +recounted(dump)
        events = Counter(row["kind"] for row in dump["event"])
        assert events["call"] == len(dump["call"])
        assert events["advance"] == len(nodes) + len(settled)
        assert events["question_solved"] == events["trajectory"] == len(settled)

    stored(folder, work)
    with closing(sqlite3.connect(folder / "run.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


LEASE_ALL = """if True:
    import asyncio, sys
    from pathlib import Path
    from store.store import open_store
    from test_store import call

    async def worker(store, owner):
        while (question := await store.lease_question(owner, 60)) is not None:
            print(question.id, flush=True)
            await store.record_calls([call(f"{question.id}-own", question.id), call("shared")])

    async def main():
        async with open_store(Path(sys.argv[1]), create=False) as store:
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            async with asyncio.TaskGroup() as group:
                for each in range(4):
                    group.create_task(worker(store, f"{sys.argv[2]}.{each}"))

    asyncio.run(main())
"""


def test_two_processes_write_and_never_lease_the_same_question(tmp_path: Path) -> None:
    names = [f"q{key}" for key in range(200)]
    stored(tmp_path, lambda store: store.add_questions([question(key) for key in range(200)], split="train"))
    workers = [started(LEASE_ALL, str(tmp_path / "run.db"), str(each)) for each in range(2)]
    assert [worker.stdout.readline() for worker in workers if worker.stdout] == ["ready\n"] * 2
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    leased = [worker.communicate()[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(leased[0] + leased[1]) == sorted(names)
    assert all(leased)

    async def work(store: Store) -> None:
        counts = await store.counts()
        assert (counts["questions.leased"], counts["questions.pending"], counts["calls.score"]) == (200, 0, 201)
        kinds = Counter(event.kind for event in await store.events(limit=10_000))
        assert kinds == {"question": 200, "question_leased": 200, "call": 201}
        assert await store.release_leases() == 200

    stored(tmp_path, work)
