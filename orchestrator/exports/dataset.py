"""A run's data as a folder that `datasets.load_dataset` and the hub understand.

    README.md                  the card (`card.py`)
    data/sft.parquet           the rows of `messages`
    data/preferences.parquet   the rows of `preferences`
    data/pairs.parquet         the rows of `pairs`; each of the three only if it has rows

Invariant: the folder is there whole or not at all; it replaces an earlier export and nothing else; what the card counts is
what was read while the rows were written. Not covered: sending it anywhere; a kill in the instant between two renames, which
leaves the earlier export beside its place, under a name that ends in `.old`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from configs.load import ConfigError
from configs.schema import RunConfig
from orchestrator.exports import pages
from orchestrator.exports.card import MARK, Figures, card
from orchestrator.exports.columns import MESSAGES, PAIRS, PREFERENCES, Columns
from orchestrator.exports.pairs import paired
from orchestrator.exports.parquet import ParquetFile, parquet_file
from orchestrator.exports.preferences import preferences
from orchestrator.exports.rows import messages_row, pair_row, preference_row
from orchestrator.folder import FolderError
from orchestrator.search import plant
from store.store import Store
from store.types import Outcome, QuestionState

PARTS: dict[str, Columns] = {"sft": MESSAGES, "preferences": PREFERENCES, "pairs": PAIRS}
"""The configurations of the data set, the default one first."""


async def export_dataset(store: Store, config: RunConfig, path: Path, *, system: str | None, best_only: bool) -> str:
    """Write the folder; what was written, in words. Raises `ConfigError` if something else is there, `FolderError`."""
    figures = Figures()
    with _drafted_folder(path) as draft:
        with ExitStack() as opened:
            files = {name: opened.enter_context(parquet_file(_part(draft, name), columns)) for name, columns in PARTS.items()}
            await _write_trajectories(store, files, figures, system, best_only)
            await _write_preferences(store, files["preferences"], figures, config, system)
        figures.rows = {name: file.num_rows for name, file in files.items()}
        for name in [name for name, rows in figures.rows.items() if not rows]:
            _part(draft, name).unlink()
        run = await store.run()
        figures.counts = await store.counts()
        figures.is_finished = run is not None and run.state == "finished"
        (draft / "README.md").write_text(card(config, figures, best_only=best_only), encoding="utf-8")
    return "{sft} trajectories, {preferences} preferences, {pairs} pairs".format(**figures.rows)


def _part(folder: Path, name: str) -> Path:
    return folder / "data" / f"{name}.parquet"


async def _write_trajectories(
    store: Store, files: dict[str, ParquetFile], figures: Figures, system: str | None, best_only: bool
) -> None:
    async for together in pages.by_question(store):
        for judged in together:
            figures.judged(judged)
            accepted = judged.verdict is not None and judged.verdict.outcome is Outcome.ACCEPTED
            if accepted and (judged.trajectory.best or not best_only):
                figures.learnt(judged)
                files["sft"].write(messages_row(judged, system))
        for pair in paired(together):
            files["pairs"].write(pair_row(pair, system))


async def _write_preferences(store: Store, file: ParquetFile, figures: Figures, config: RunConfig, system: str | None) -> None:
    async for placed in pages.questions(store):
        figures.placed(placed)
        if placed.state in (QuestionState.SOLVED, QuestionState.UNSOLVED):
            tree = plant(placed.question, await store.tree(placed.question.id))
            for preference in preferences(tree):
                file.write(preference_row(tree, preference, system, config.search.segmentation))


@contextmanager
def _drafted_folder(path: Path) -> Iterator[Path]:
    """Yield where to write what is then the folder at `path`."""
    path = path.resolve()
    _check_replaceable(path)
    draft, old = (path.with_name(f"{path.name}.{os.getpid()}.{suffix}") for suffix in ("draft", "old"))
    try:
        try:
            (draft / "data").mkdir(parents=True)
            yield draft
            if path.exists():
                path.rename(old)
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror or error}") from error


def _check_replaceable(path: Path) -> None:
    """Only an earlier export may be replaced, or an empty folder: --to may be a slip of the finger."""
    try:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--to {path}: a file, where the format dataset writes a folder")
        foreign = next(_foreign(path), None) if path.exists() else None
    except OSError as error:
        raise FolderError(f"{path}: cannot be read: {error.strerror}") from error
    if foreign:
        raise ConfigError(f"--to {path}: a folder that holds something else ({foreign.name}); choose another, or empty it")


def _foreign(path: Path) -> Iterator[Path]:
    """What in a folder no export wrote; everything, if its card is none of ours."""
    card_is_ours = (path / "README.md").is_file() and MARK in (path / "README.md").read_text(errors="replace")
    for each in path.iterdir():
        if card_is_ours and each.name == "data" and each.is_dir():
            yield from (file for file in each.iterdir() if file not in {_part(path, name) for name in PARTS})
        elif not card_is_ours or each.name != "README.md":
            yield each
