"""A run's folder: who holds it, its resolved configuration, and where everything lies.

    config.yaml   the resolved configuration       peripatos.db  the store
    log.jsonl     structlog events                 students/     adapters and checkpoints
    lock          held by the living process       export/       the data
    servers/      what managed servers print       prompts/      the first prompt of each teacher
    exchange/     what students tell each other, while they learn

Invariant: one living process per folder; a folder is never resumed with another configuration.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from configs.load import ConfigError, differences, dump, load
from configs.schema import RunConfig
from store.store import StoreError, open_store

_LOOKS = 5
_LOOK_S = 0.05


class FolderError(Exception):
    """The run folder cannot be used: the environment's fault; the message is one line."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The places inside a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def database(self) -> Path:
        """The store."""
        return self.root / "peripatos.db"

    @property
    def log(self) -> Path:
        """Structured events, one JSON object a line."""
        return self.root / "log.jsonl"

    @property
    def messages(self) -> Path:
        """The exported trajectories."""
        return self.exported("messages.jsonl")

    def exported(self, name: str) -> Path:
        """Where an export goes when it is not said where."""
        return self.root / "export" / name

    @property
    def servers(self) -> Path:
        """What managed servers print, a file each."""
        return self.root / "servers"

    @property
    def prompts(self) -> Path:
        """The first prompt of each teacher as it is sent, a file each."""
        return self.root / "prompts"

    @property
    def exchange(self) -> Path:
        """What students tell each other."""
        return self.root / "exchange"

    def student(self, name: str) -> Path:
        """A student's directory."""
        return self.root / "students" / name


def folder_of(config: RunConfig) -> Folder:
    """Where this run is kept."""
    return Folder((config.run_dir or Path("runs") / config.name).absolute())


@contextmanager
def held(config: RunConfig) -> Iterator[Folder]:
    """Make or take over the run's folder, for this process alone.

    Raises `ConfigError` when it belongs to another configuration or to a living process, `FolderError` when it cannot be written.
    """
    folder = folder_of(config)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise FolderError(f"{folder.root}: cannot be used as a run folder: {error.strerror}") from error
    try:
        _take(lock, folder)
        _keep_config(folder, config)
        yield folder
    finally:
        os.close(lock)


def _take(lock: int, folder: Folder) -> None:
    try:
        _lock(lock)
    except OSError as error:
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise FolderError(f"{folder.root}: cannot be locked: {error.strerror}") from error
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        raise ConfigError(
            f"{folder.root}: in use by a living process (pid {holder}); stop it, or choose another run_dir"
        ) from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except OSError as error:
        raise FolderError(f"{folder.root}: cannot be written: {error.strerror}") from error


def _lock(lock: int) -> None:
    """Take the lock, looking a few times: `status` holds it for an instant."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_LOOK_S)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _keep_config(folder: Folder, config: RunConfig) -> None:
    """Refuse a changed configuration; otherwise keep the resolved one, whole or not at all."""
    changed = differences(load(str(folder.config)), config) if folder.config.exists() else []
    if changed and _asked_nothing(folder):  # it stopped at a mistake, which has been put right
        for suffix in ("", "-wal", "-shm"):
            folder.database.with_name(folder.database.name + suffix).unlink(missing_ok=True)
    elif changed:
        shown = "; ".join(changed[:8]) + ("; ..." if len(changed) > 8 else "")
        raise ConfigError(f"{folder.root}: holds a run with another configuration: {shown}; choose another run_dir or name")
    write_whole(folder.config, dump(config))


def _asked_nothing(folder: Folder) -> bool:
    """Whether no call was made for the run in `folder`, so that there is nothing to lose."""

    async def counts() -> dict[str, int]:
        async with open_store(folder.database, create=False, read_only=True) as store:
            return await store.counts()

    if not folder.database.exists():
        return True
    try:
        return not {name.partition(".")[0] for name in asyncio.run(counts())} & {"calls", "failures", "attempts", "reports"}
    except StoreError:
        return False


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises `FolderError`."""
    draft = path.with_name(path.name + ".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise FolderError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yield where to write what is then the file at `path`, whole, or not at all. Raises `FolderError`.

    Each process has a draft of its own: a user may export while the run itself does.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror or error}") from error
