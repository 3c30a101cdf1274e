"""One SQLite file: opening it, bringing it to the newest revision, running statements, naming what went wrong.

Invariant: every connection speaks WAL with `synchronous=FULL`, so a commit that returned survives the loss of power; a
file is used only at the revision this code knows. Statements are built with SQLAlchemy from the tables and compiled once
to SQL text; the driver runs the text itself: 3 us a row against 16 us through `Connection.execute` (measured).
Not covered: who writes when (`writer.py`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ClauseElement
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from store.migrations import HEAD

Mode = Literal["create", "write", "read"]

BUSY_S = 30.0
"""How long to wait for a lock of another process."""

_LOOK_S = 0.001

_DIALECT = sqlite.dialect(paramstyle="named")
_BROKEN = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
}


class StoreError(Exception):
    """The store cannot do what was asked; the message is one line for the user."""


class StoreFull(StoreError):
    """The disk took no more. Nothing is half-written; no later write is accepted."""


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """The one line that tells the user what `error` means."""
    if _is_full(error):
        return StoreFull(f"{path}: {error}: free some space, then run the same command again")
    return StoreError(f"{path}: {error}")


def is_lasting(error: sqlite3.Error) -> bool:
    """Whether `error` lies in the file or its disk, so that later writes would meet it too."""
    return _is_full(error) or _code(error) in _BROKEN


def is_locked(error: BaseException) -> bool:
    """Whether another process held the database for too long."""
    return _code(error.__cause__) == sqlite3.SQLITE_BUSY


def _is_full(error: sqlite3.Error) -> bool:
    return _code(error) == sqlite3.SQLITE_FULL or _extended_code(error) == sqlite3.SQLITE_IOERR_SHMSIZE


def _code(error: BaseException | None) -> int:
    return _extended_code(error) & 0xFF


def _extended_code(error: BaseException | None) -> int:
    return getattr(error, "sqlite_errorcode", 0)  # the driver's own errors have none


@functools.cache
def _compiled(statement: ClauseElement) -> tuple[str, dict[str, Any]]:
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), {name: value for name, value in (compiled.params or {}).items() if value is not None}


def execute(cursor: sqlite3.Cursor, statement: ClauseElement, params: Mapping[str, Any]) -> sqlite3.Cursor:
    """Run one of the store's constant statements; its SQL text is compiled the first time."""
    text, defaults = _compiled(statement)
    return cursor.execute(text, {**defaults, **params} if defaults else params)


def connect(path: Path, mode: Mode) -> sqlite3.Connection:
    """A connection in autocommit, with this store's settings. Raises `StoreError`."""
    try:
        connection = sqlite3.connect(_uri(path, mode), uri=True, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_S * 1000)}")
        connection.execute(f"PRAGMA query_only={int(mode == 'read')}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def _uri(path: Path, mode: Mode) -> str:
    uri = path.absolute().as_uri()
    if mode == "create":
        return f"{uri}?mode=rwc"
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return f"{uri}?mode=rw"  # a reader too must be able to take part in the write-ahead log
    wal = path.with_name(path.name + "-wal")
    return f"{uri}?mode=ro" if wal.exists() else f"{uri}?mode=ro&immutable=1"


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, lock_within_s: float | None = None) -> Iterator[sqlite3.Cursor]:
    """Commit at the end, roll back on any error; with `lock_within_s`, begin by taking the write lock."""
    with contextlib.closing(connection.cursor()) as cursor:
        if lock_within_s is None:
            cursor.execute("BEGIN")
        else:
            _lock(cursor, lock_within_s)
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                if connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    cursor.execute("ROLLBACK")
            raise


def _lock(cursor: sqlite3.Cursor, within_s: float) -> None:
    """Take the write lock as soon as another process lets go of it.

    SQLite's own waiting looks every 100 ms in the end, and misses the short gaps of a busy writer: up to 0.6 s (measured).
    """
    cursor.execute("PRAGMA busy_timeout=0")
    deadline = time.monotonic() + within_s
    while True:
        try:
            cursor.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_S * random.uniform(0.5, 1.5))


def prepare(path: Path, mode: Mode) -> None:
    """Make sure that `path` is a store of this code's revision, migrating it if it may be written. Raises `StoreError`."""
    if mode != "create" and not path.is_file():
        raise StoreError(f"{path}: there is no store here")
    try:
        if mode == "create":
            path.parent.mkdir(parents=True, exist_ok=True)
        if mode != "read" and path.exists() and not os.access(path, os.W_OK):
            raise StoreError(f"{path}: may be read but not written")
        with contextlib.closing(connect(path, mode)) as connection:
            _to_head(path, connection, mode)
    except sqlite3.Error as error:
        raise store_error(path, error) from error
    except DBAPIError as error:
        raise store_error(path, error.orig) if isinstance(error.orig, sqlite3.Error) else error from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error


def holds_run(path: Path) -> bool:
    """Whether a run has begun in the store at `path`: of any revision, and while another process is making it."""
    if not path.is_file():
        return False
    try:
        with contextlib.closing(connect(path, "read")) as connection:
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'run'").fetchone()
            return bool(made and connection.execute("SELECT 1 FROM run").fetchone())
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def _to_head(path: Path, connection: sqlite3.Connection, mode: Mode) -> None:
    if _revision(path, connection) == HEAD:
        return
    if mode == "read":
        raise StoreError(f"{path}: made by an older Peripatos; running its configuration again brings it to revision {HEAD}")
    connection.execute("PRAGMA journal_mode=WAL")  # stays with the file
    from store.migrations.upgrade import upgrade  # alembic costs 0.25 s, and most openings need no migration

    upgrade(connection)


def _revision(path: Path, connection: sqlite3.Connection) -> str | None:
    """The revision of a store, None of an empty file. Raises `StoreError` for anything else."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "alembic_version" not in tables or "event" not in tables:
        raise StoreError(f"{path}: a database, but not a Peripatos store")
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    if revision is None or revision > HEAD:
        raise StoreError(f"{path}: revision {revision} was written by a newer Peripatos; this one knows up to {HEAD}")
    return revision
