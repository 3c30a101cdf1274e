"""Reading the rows of a file or a data set of the hub: where each row stands, and its columns.

Invariant: a row that cannot be read is yielded as a `BadRow` with its place and the reason, and the rows after it are still
read; only what spoils the whole file raises `QuestionsError`, one line that names the file and what would be accepted.
Rows are yielded one by one; only `.json` is held in memory as a whole. Not covered: compressed files, other encodings than UTF-8.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCEPTED_FILES = "accepted: a .jsonl, .json, .csv or .parquet file, or hf:owner/name[/config][:split]"
NEEDS_DATA = "needs the extra `data`: pip install 'peripatos[data]'"


class QuestionsError(Exception):
    """A source of questions cannot be used at all; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of one row, and where it stands: "file.jsonl:12" or "file.parquet: row 12"."""

    where: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out, and why."""

    where: str
    reason: str


def read_rows(name: str, base: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of `name`, a file relative to `base` or `hf:...`, in order. Raises QuestionsError."""
    if name.startswith("hf:"):
        yield from _hub(name)
        return
    try:
        path = base / Path(name).expanduser()
        yield from _reader(path, name)(path, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~someone without a home
        reason = error.strerror if isinstance(error, OSError) else None
        raise QuestionsError(f"{name}: cannot be read: {reason or one_line(error)}") from error


def _reader(path: Path, name: str) -> Callable[[Path, str], Iterator[Row | BadRow]]:
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if not path.exists():
        raise QuestionsError(f"{name}: no such file (looked for {path})")
    if not path.is_file() or path.suffix.lower() not in readers:
        raise QuestionsError(f"{name}: {'a folder' if path.is_dir() else 'not a kind of file that is read'}; {ACCEPTED_FILES}")
    return readers[path.suffix.lower()]


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _row(where: str, value: object) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(where, value)
    return BadRow(where, f"not an object with columns but {type(value).__name__}")


def _jsonl(path: Path, name: str) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:  # as bytes: one broken character spoils its line only
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if text:
                yield _json_line(f"{name}:{number}", text)


def _json_line(where: str, line: bytes) -> Row | BadRow:
    try:
        return _row(where, json.loads(line.decode()))
    except UnicodeDecodeError as error:
        return BadRow(where, f"not UTF-8 at byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return BadRow(where, f"broken JSON at character {error.pos + 1}: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return BadRow(where, f"JSON that cannot be read: {one_line(error)}")


def _json(path: Path, name: str) -> Iterator[Row | BadRow]:
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise QuestionsError(f"{name}: not UTF-8 at byte {error.start + 1}; accepted: UTF-8") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # lines of JSON under the name .json
            yield from _jsonl(path, name)
            return
        raise QuestionsError(f"{name}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise QuestionsError(f"{name}: JSON that cannot be read: {one_line(error)}") from error
    for number, value in enumerate(_only_list(document, name), start=1):
        yield _row(f"{name}: row {number}", value)


def _only_list(document: object, name: str) -> list[Any]:
    accepted = "accepted: a list of objects, or an object that holds one such list"
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise QuestionsError(f"{name}: {type(document).__name__} at the top; {accepted}")
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    if len(lists) != 1:
        raise QuestionsError(f"{name}: an object with {len(lists) or 'no'} lists ({', '.join(lists) or 'none'}); {accepted}")
    return next(iter(lists.values()))


def _csv(path: Path, name: str) -> Iterator[Row | BadRow]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        while True:
            start = max(reader.line_num, 1) + 1
            try:
                columns = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(f"{name}:{start}", f"broken CSV: {one_line(error)}")
                continue
            yield _csv_row(f"{name}:{start}", columns)


def _csv_row(where: str, columns: dict[str | Any, str | Any]) -> Row | BadRow:
    if None in columns:
        return BadRow(where, "more cells than the first line has columns")
    if any("\udc80" <= character <= "\udcff" for cell in columns.values() for character in cell or ""):
        return BadRow(where, "not UTF-8")
    return Row(where, columns)


def _parquet(path: Path, name: str) -> Iterator[Row | BadRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise QuestionsError(f"{name}: a parquet file {NEEDS_DATA}") from error
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for columns in batch.to_pylist():
                number += 1
                yield Row(f"{name}: row {number}", columns)
    except (pyarrow.ArrowException, ValueError) as error:
        raise QuestionsError(f"{name}: broken parquet after row {number}: {one_line(error)}") from error


def _hub(name: str) -> Iterator[Row | BadRow]:
    data_set, _, split = name.removeprefix("hf:").partition(":")
    owner, _, rest = data_set.partition("/")
    rest, _, config = rest.partition("/")
    if not owner or not rest:
        raise QuestionsError(f"{name}: not the id of a data set; {ACCEPTED_FILES}")
    try:
        import datasets
    except ImportError as error:
        raise QuestionsError(f"{name}: a data set of the hub {NEEDS_DATA}") from error
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(f"{owner}/{rest}", config or None, split=split or "train")
    except Exception as error:  # the hub's client, its HTTP client and the file system each raise their own
        raise QuestionsError(f"{name}: not to be had from the hub or its cache: {one_line(error)}") from error
    for number, columns in enumerate(rows, start=1):
        yield _row(f"{name}: row {number}", columns)
