"""The store as a file: opening, migrating, refusing, and what the one writer promises."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlmodel import SQLModel
from test_store import call, stored

from store.migrations import HEAD
from store.migrations.upgrade import config
from store.store import Store, StoreError, StoreFull, open_store
from store.types import Call, Usage

ROOT = Path(__file__).parents[2]


async def nothing(store: Store) -> None:
    """Only open."""


def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    stored(tmp_path, nothing)
    engine = create_engine(f"sqlite:///{tmp_path / 'run.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    engine.dispose()
    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD


def test_the_store_works_from_wherever_it_is_installed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "store", tmp_path / "100% lib" / "store", ignore=shutil.ignore_patterns("__pycache__"))
    script = """if True:
        import asyncio, sys
        from pathlib import Path
        from store.store import open_store
        assert "100% lib" in sys.modules["store"].__file__
        async def main():
            async with open_store(Path("here/run.db")) as store:
                assert await store.counts() == {}
        asyncio.run(main())
    """
    environment = {"PYTHONPATH": str(tmp_path / "100% lib"), "PATH": ""}
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "here" / "run.db").is_file()


def test_reopening_needs_no_alembic_and_no_time(tmp_path: Path) -> None:
    stored(tmp_path, nothing)
    started = time.perf_counter()
    stored(tmp_path, nothing)
    assert time.perf_counter() - started < 0.1
    script = f"""if True:
        import asyncio, sys
        from pathlib import Path
        from store.store import open_store
        async def main():
            async with open_store(Path({str(tmp_path / "run.db")!r})) as store:
                await store.counts()
        asyncio.run(main())
        assert "alembic" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)


def test_two_processes_may_create_it_at_once(tmp_path: Path) -> None:
    script = f"""if True:
        import asyncio
        from pathlib import Path
        from store.store import open_store
        async def main():
            async with open_store(Path({str(tmp_path / "run.db")!r})) as store:
                await store.begin_run("r", "n", "c")
        asyncio.run(main())
    """
    makers = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}) for _ in range(3)]
    assert [maker.wait() for maker in makers] == [0, 0, 0]
    assert [event.kind for event in stored(tmp_path, Store.events)] == ["run_running"]


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipe (name TEXT)")


def newer(path: Path) -> None:
    stored(path.parent, nothing)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")


def torn(path: Path) -> None:
    stored(path.parent, nothing)
    path.write_bytes(path.read_bytes()[:10_000])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda path: path.write_text("not a database, though longer than a header of SQLite, which is 100 bytes" * 9),
            "not a data",
        ),
        (foreign, "not a Peripatos store"),
        (newer, "revision 0999 was written by a newer Peripatos"),
        (torn, "malformed"),
        (lambda path: path.mkdir(), "unable to open|no store here"),
    ],
    ids=["text", "foreign", "newer", "torn", "folder"],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_not_a_store_is_refused_in_one_line(tmp_path: Path, make, says: str, read_only: bool) -> None:
    path = tmp_path / "run.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=says) as caught:
        stored(tmp_path, nothing, read_only=read_only)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_missing_store_is_not_made_by_a_reader(tmp_path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}, {"create": False, "read_only": True}):
        with pytest.raises(StoreError, match="there is no store here"):
            stored(tmp_path, nothing, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_group_is_one_transaction_and_resolves_after_it_in_order(tmp_path: Path) -> None:
    order: list[int] = []

    async def work(store: Store) -> None:
        with closing(sqlite3.connect(tmp_path / "run.db")) as other:

            async def one(key: int) -> None:
                await store.record_calls([call(f"c{key}")])
                order.append(key)
                assert other.execute("SELECT 1 FROM call WHERE id = ?", [f"c{key}"]).fetchone()

            async with asyncio.TaskGroup() as group:
                for key in range(500):
                    group.create_task(one(key))
        times = {event.time for event in await store.events()}
        assert len(await store.calls("q0")) == 500
        assert len(times) <= 20

    ticks = itertools.count()
    stored(tmp_path, work, clock=lambda: float(next(ticks)))  # the clock is read once a transaction
    assert order == list(range(500))


@pytest.mark.parametrize(
    "bad",
    [
        call("\ud800"),
        replace(call("c"), subject=None),
        replace(call("c"), subject=[]),
        replace(call("c"), usage=Usage(prompt=2**70)),
    ],
    ids=["no text", "null", "no column's type", "too large"],
)
def test_a_bad_write_fails_alone(tmp_path: Path, bad: Call) -> None:
    async def work(store: Store) -> None:
        async def one(key: int) -> str:
            try:
                await store.record_calls([call(f"c{key}"), bad if key % 10 == 3 else call(f"d{key}")])
            except (StoreError, UnicodeEncodeError, OverflowError):
                return "refused"
            return "kept"

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(key)) for key in range(50)]
        assert [task.result() for task in tasks] == ["refused" if key % 10 == 3 else "kept" for key in range(50)]
        assert set(await store.calls("q0")) == {f"{name}{key}" for key in range(50) if key % 10 != 3 for name in "cd"}
        assert (await store.counts())["calls.score"] == 90

    stored(tmp_path, work)


def test_a_cancelled_task_does_not_break_the_writer(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for turn in range(20):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(store.record_calls([call(f"c{turn}-{key}")])) for key in range(20)]
                for _ in range(turn % 4):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
            assert all(task.done() for task in tasks)
        kept = set(await store.calls("q0"))
        assert kept >= {f"c{turn}-{key}" for turn in range(20) for key in range(1, 20, 2)}
        assert (await store.counts())["calls.score"] == len(kept)

    stored(tmp_path, work)


def test_a_lock_held_too_long_fails_what_waits_for_it_and_no_more(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        with closing(sqlite3.connect(tmp_path / "run.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    for key in range(5):
                        group.create_task(store.record_calls([call(f"c{key}")]))
            assert caught.group_contains(StoreError, match="database is locked")
            other.execute("ROLLBACK")
        await store.record_calls([call("later")])
        assert set(await store.calls("q0")) == {"later"}

    stored(tmp_path, work, busy_s=0.05)


def test_more_writes_than_the_queue_holds(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        async with asyncio.TaskGroup() as group:
            for key in range(3000):
                group.create_task(store.record_calls([call(f"c{key}")]))
        assert (await store.counts())["calls.score"] == 3000

    stored(tmp_path, work)


def test_after_closing_nothing_is_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store(tmp_path / "run.db") as store:
            pass
        with pytest.raises(StoreError, match="closed"):
            await store.record_calls([call("c")])

    asyncio.run(main())


async def fill(store: Store) -> list[str]:
    """Write in groups until it fails; what was acknowledged."""
    acknowledged: list[str] = []

    async def one(key: str) -> None:
        await store.record_calls([call(key + end) for end in "ab"])
        acknowledged.append(key)

    with pytest.raises(ExceptionGroup) as caught:
        for turn in range(10_000):
            async with asyncio.TaskGroup() as group:
                for key in range(32):
                    group.create_task(one(f"c{turn}-{key}"))
    assert caught.group_contains(StoreFull, match="full")
    assert not caught.group_contains(BaseException, match="^(?!.*full)")
    for _ in range(3):
        with pytest.raises(StoreFull, match="full") as again:
            await store.record_calls([call("later")])
        assert "\n" not in str(again.value)
    return acknowledged


def only_what_was_acknowledged(path: Path, acknowledged: list[str]) -> None:
    async def work(store: Store) -> None:
        assert set(await store.calls("q0")) == {key + end for key in acknowledged for end in "ab"}
        assert len(acknowledged) * 2 == (await store.counts())["calls.score"] == len(await store.events(limit=10**6))

    stored(path, work, create=False, read_only=True)


def test_a_full_database_refuses_this_and_every_later_write(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        await store._write(lambda tx: tx.rows(text("PRAGMA max_page_count = 200"), {}))
        return await fill(store)

    only_what_was_acknowledged(tmp_path, stored(tmp_path, work))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a 2 MB tmpfs cannot be mounted here: {getattr(error, 'stderr', error)}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_refuses_this_and_every_later_write(small_disk: Path) -> None:
    acknowledged = stored(small_disk, fill)
    assert acknowledged
    only_what_was_acknowledged(small_disk, acknowledged)


def test_a_disk_that_may_only_be_read_can_be_read(small_disk: Path) -> None:
    stored(small_disk, lambda store: store.record_calls([call("c")]))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert set(stored(small_disk, lambda store: store.calls("q0"), read_only=True)) == {"c"}
    with pytest.raises(StoreError, match="may be read but not written"):
        stored(small_disk, lambda store: store.record_calls([call("d")]))
