"""Where structlog's events go: one JSON object a line in the run's folder.

Invariant: nothing is printed by library code. A log that cannot be written (a full disk) never stops a run: the store's
own error does.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import structlog

from orchestrator.folder import FolderError


class _Whole:
    """A file that takes a line at a time and gives up quietly when the disk is full."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


@contextlib.contextmanager
def logging_to(path: Path, level: str) -> Iterator[None]:
    """Send events of at least `level` to `path` while this is open. Raises `FolderError` when it cannot be opened."""
    try:
        opened = path.open("a", encoding="utf-8")
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror}") from error
    with opened as file:
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
            logger_factory=structlog.WriteLoggerFactory(_Whole(file)),  # type: ignore[arg-type]  # it needs write and flush only
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.reset_defaults()
