"""A run's data as files that others can train on: what goes where.

    messages      JSONL, one accepted trajectory a line as chat turns, with all that is known of it beside the text
    sharegpt      the same in ShareGPT's form
    alpaca        the same in Alpaca's form
    parquet       the lines of `messages` as one parquet file
    preferences   JSONL, one pair of sibling steps a line: one that was kept, one that was pruned, with scores and margin
    pairs         JSONL, one pair of whole trajectories of a question a line: an accepted one, a wrong or unsound one
    nodes         JSONL, one step that was ever proposed a line: by whom, its score, what became of it and why, what it cost
    trajectories  JSONL, every trajectory in the form of `messages`, accepted or not, with its verdict
    graphs        JSONL, the consensus graph of one question a line, as networkx's node-link data
    graphml       the same graphs as one GraphML file, for graph editors
    dataset       a folder that `datasets.load_dataset` and the hub understand, with a card (`dataset.py`)

Invariant: a file is there whole or not at all, and every line is one row, whatever is in its texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

from configs.load import ConfigError
from configs.schema import RunConfig
from orchestrator.exports import pages
from orchestrator.exports.columns import MESSAGES, WITH_BEST, Format, writable
from orchestrator.exports.dataset import export_dataset
from orchestrator.exports.pairs import paired
from orchestrator.exports.parquet import check_parquet, parquet_file
from orchestrator.exports.preferences import preferences
from orchestrator.exports.rows import Row, alpaca_row, messages_row, node_row, pair_row, preference_row, sharegpt_row
from orchestrator.folder import Folder, drafted
from store.store import Store

_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029]")
"""What JSON may leave as it is, and what ends a line or steers a terminal for some readers; inside JSON it is only in texts."""


def system_of(config: RunConfig) -> str | None:
    """The system prompt of whom the data is for."""
    return config.students[0].system if config.students else None


def place(folder: Folder, form: Format, to: str | None) -> Path:
    """Where an export goes. Raises `ConfigError` where something else lies that it must not replace."""
    names = {"parquet": "messages.parquet", "dataset": "dataset", "graphml": "graphs.graphml"}
    path = folder.exported(names.get(form, f"{form}.jsonl")) if to is None else Path(to).absolute()
    if path.is_symlink():
        path = path.resolve()
    if form != "dataset" and path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no plain file"
        raise ConfigError(f"--to {to or path}: {kind}, where the format {form} writes a file")
    if path.resolve() in {each.resolve() for each in (folder.config, folder.database, folder.log)}:
        raise ConfigError(f"--to {to}: the run needs this file itself; choose another")
    return path


def check_format(form: Format, *, best_only: bool) -> None:
    """Find before anything is written that an export cannot be made. Raises `ConfigError`."""
    if best_only and form not in WITH_BEST:
        raise ConfigError(f"--best: not for the format {form}; accepted with --format {', '.join(WITH_BEST)}")
    if form in ("parquet", "dataset"):
        check_parquet(form)


async def export(store: Store, config: RunConfig, form: Format, path: Path, *, best_only: bool = False) -> str:
    """Write what `form` says to `path`; what was written, in words. Raises `FolderError`."""
    system = system_of(config)
    if form == "dataset":
        return await export_dataset(store, config, path, system=system, best_only=best_only)
    if form == "parquet":
        with parquet_file(path, MESSAGES) as file:
            async for judged in pages.trajectories(store, accepted_only=True, best_only=best_only):
                file.write(messages_row(judged, system))
        return f"{file.num_rows} trajectories"
    if form == "graphml":
        return await _write_graphml(store, path)
    written = await _write_lines(path, _rows(store, config, form, system, best_only))
    return f"{written} {form if form in ('preferences', 'pairs', 'nodes', 'graphs') else 'trajectories'}"


async def export_messages(store: Store, path: Path, *, system: str | None = None) -> int:
    """Write the accepted trajectories to `path`; how many were written. Raises `FolderError`."""
    return await _write_lines(path, (messages_row(each, system) async for each in pages.trajectories(store, accepted_only=True)))


def _rows(store: Store, config: RunConfig, form: Format, system: str | None, best_only: bool) -> AsyncIterator[Row]:
    match form:
        case "nodes":
            return (node_row(node) async for tree in pages.trees(store) for node in tree.nodes.values())
        case "preferences":
            trees, segmentation = pages.trees(store, settled_only=True), config.search.segmentation
            return (preference_row(tree, each, system, segmentation) async for tree in trees for each in preferences(tree))
        case "pairs":
            return (pair_row(pair, system) async for together in pages.by_question(store) for pair in paired(together))
        case "graphs":
            from orchestrator.exports.graphs import node_link, to_graph  # networkx takes a while to import

            return (node_link(to_graph(consensus, judged)) async for consensus, judged in pages.consensuses(store))
        case _:
            shape = {"sharegpt": sharegpt_row, "alpaca": alpaca_row}.get(form, messages_row)
            wanted = pages.trajectories(store, accepted_only=form != "trajectories", best_only=best_only)
            return (shape(judged, system) async for judged in wanted)


async def _write_graphml(store: Store, path: Path) -> str:
    from orchestrator.exports.graphs import graphml, to_graph, together

    graphs = [to_graph(consensus, judged) async for consensus, judged in pages.consensuses(store)]
    with drafted(path) as draft:
        draft.write_text(graphml(together(graphs)), encoding="utf-8")
    return f"{len(graphs)} graphs"


async def _write_lines(path: Path, rows: AsyncIterator[Row]) -> int:
    written = 0
    with drafted(path) as draft, draft.open("w", encoding="utf-8") as file:
        async for row in rows:
            file.write(json_line(row))
            written += 1
    return written


def json_line(row: Row) -> str:
    """One line of JSON, and one only for every reader: all that could end it or steer a terminal is escaped."""
    line = json.dumps(writable(row), ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n"
