"""Parquet files of declared columns, a row group at a time.

Invariant: the types are the declared ones whatever the rows hold, also in a file without rows; what waits in memory is one
row group. Not covered: reading (`orchestrator.questions.rows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from orchestrator.exports.columns import Columns, Type, writable
from orchestrator.folder import drafted
from orchestrator.questions.rows import NEEDS_DATA

MOST_ROWS = 1000
MOST_CHARACTERS = 16_000_000
"""A row group ends where either is reached."""


class ParquetFile:
    """What `parquet_file` gives."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        self.num_rows = 0

    def write(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self._rows.append(writable(row))
        self._characters += _characters(row)
        self.num_rows += 1
        if len(self._rows) >= MOST_ROWS or self._characters >= MOST_CHARACTERS:
            self.end_group()

    def end_group(self) -> None:
        """Write what waits."""
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows, self._characters = [], 0


@contextmanager
def parquet_file(path: Path, columns: Columns) -> Iterator[ParquetFile]:
    """Open a file for rows of `columns`; it is there at the end, whole, or not at all. Raises `FolderError`."""
    import pyarrow.parquet

    schema = arrow_schema(columns)
    with (
        drafted(path) as draft,
        draft.open("wb") as sink,
        pyarrow.parquet.ParquetWriter(sink, schema, compression="zstd") as writer,
    ):
        file = ParquetFile(writer, schema)
        yield file
        file.end_group()


def check_parquet(form: str) -> None:
    """Find out whether parquet can be written here. Raises `ConfigError`, which names the extra."""
    try:
        import pyarrow.parquet  # noqa: F401  # asked for, not used
    except ImportError as error:
        raise ConfigError(f"--format {form}: {NEEDS_DATA}") from error


def arrow_schema(columns: Columns) -> Any:
    """The columns as a schema of pyarrow."""
    import pyarrow

    return pyarrow.schema([(name, _arrow(column.type)) for name, column in columns.items()])


def _arrow(type: Type) -> Any:
    import pyarrow

    if isinstance(type, list):
        return pyarrow.list_(_arrow(type[0]))
    if isinstance(type, dict):
        return pyarrow.struct([(name, _arrow(part)) for name, part in type.items()])
    plain = {"text": pyarrow.string(), "integer": pyarrow.int64(), "number": pyarrow.float64(), "truth": pyarrow.bool_()}
    return plain[type]


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0
