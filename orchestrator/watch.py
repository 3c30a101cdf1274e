"""`peripatos status --watch`: the run and its latest tree in a terminal, read from the store, again and again.

Invariant: it changes nothing; it ends with the run, or at Ctrl-C. Not covered: the page (`orchestrator.inspector`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as Branches

from configs.schema import RunConfig
from orchestrator.controls import configured
from orchestrator.folder import Folder
from orchestrator.inspector.overview import overview
from orchestrator.inspector.shapes import RunView
from orchestrator.progress import visible
from store import pace, pages
from store.lines import NodeLine
from store.store import Store, StoreError, open_store

LOOK_S = 1.0
MOST_NODES = 200
_MOST_EVENTS = 500
_STYLES = {"kept": "green", "finished": "bold green", "open": "yellow", "pruned": "dim", "late": "dim italic"}


def watch(folder: Folder, config: RunConfig) -> int:
    """Show it on stdout: live on a terminal; elsewhere once, as it is now."""
    return asyncio.run(_watch(folder, config, Console()))


async def _watch(folder: Folder, config: RunConfig, console: Console) -> int:
    async with open_store(folder.database, create=False, read_only=True) as store:
        latest = _Latest(store)
        view, shown = await _look(store, config, latest, console.height)
        if not console.is_terminal:
            console.print(shown)
            return 0
        with Live(shown, console=console, screen=False, auto_refresh=False) as live:
            while view.state in ("running", "paused"):
                await asyncio.sleep(LOOK_S)
                view, shown = await _look(store, config, latest, console.height)
                live.update(shown, refresh=True)
    return 0


async def _look(store: Store, config: RunConfig, latest: _Latest, height: int) -> tuple[RunView, RenderableType]:
    activity, run = await store.page(pace.now), await store.run()
    if activity is None or run is None:
        raise StoreError("no run has begun in this store yet")
    effective = configured(config, await store.controls())[0]
    view = overview(effective, activity, run.id, time.time(), controls=False)
    question = await latest.question(activity.seq)
    parts = [_head(view), _agents(view)]
    if question:
        whole = await store.page(pages.question, question)
        nodes = (await store.page(pages.tree, question, None, MOST_NODES)).items
        if whole and nodes:
            room = max(8, height - 12 - len(view.agents) - len(view.alerts))
            parts.append(Panel(_tree(nodes, room), title=Text(visible(whole.line.text)[:90]), title_align="left"))
    return view, Group(*parts)


class _Latest:
    """Which question's tree has grown last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: int | None = None
        self._question: str | None = None

    async def question(self, seq: int) -> str | None:
        """The question of the newest advance, as far as the newest events tell."""
        after = max(seq - _MOST_EVENTS, self._seen or 0)
        for event in await self._store.events(after, _MOST_EVENTS):
            if event.kind == "advance":
                self._question = event.subject
        self._seen = seq
        return self._question


def _head(view: RunView) -> RenderableType:
    done = view.questions["solved"] + view.questions["unsolved"]
    total = sum(view.questions.values())
    working = [f"{stage.name} {stage.done}/{stage.total}" if stage.total else stage.name for stage in view.stages if stage.active]
    eta = f", {_span(view.eta_s)} left" if view.eta_s is not None else ""
    cap = f" of {view.cap_usd:g}" if view.cap_usd else ""
    lines = [
        Text.assemble((view.name, "bold"), f": {view.state}", f" ({', '.join(working)})" if working else ""),
        Text(
            f"questions {done}/{total}: {view.questions['solved']} solved, {view.questions['unsolved']} unsolved, "
            f"{view.questions['leased']} in work{eta}; {view.accepted} trajectories accepted"
        ),
        Text(
            f"{view.settled_per_minute:.1f} questions a minute, {view.tokens_per_s:.0f} tokens/s, {view.usd:.4f}{cap} dollars; "
            f"{sum(view.failures.values())} failures, {sum(view.recent_failures.values())} of them lately"
        ),
    ]
    lines += [Text(alert.text, style="bold red") for alert in view.alerts]
    return Group(*lines)


def _agents(view: RunView) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("agent", "role", "state", "calls", "p50", "p95", "won early", "middle", "late"):
        table.add_column(column, justify="left" if column in ("agent", "role", "state") else "right")
    for agent in view.agents:
        won = agent.won or {}
        table.add_row(
            agent.name,
            agent.role,
            f"{agent.state} {visible(agent.why)}"[:40].strip(),
            str(agent.calls),
            *(_seconds(value) for value in (agent.latency_p50_s, agent.latency_p95_s)),
            *(f"{won[third]:.0%}" if third in won else "" for third in ("early", "middle", "late")),
        )
    return table


def _tree(nodes: Sequence[NodeLine], room: int) -> RenderableType:
    """The newest nodes that fit, under their parents, by rank."""
    newest = {node.id for node in sorted(nodes, key=lambda node: node.place)[-room:]}
    by_id = {node.id: node for node in nodes}
    root = Branches("", hide_root=True)
    for node in nodes:
        if node.id in newest and node.parent and node.parent not in newest:
            newest |= _above(node, by_id)
    _grow(root, None, [node for node in nodes if node.id in newest])
    return root


def _above(node: NodeLine, by_id: dict[str, NodeLine]) -> set[str]:
    found: set[str] = set()
    while node.parent in by_id:
        node = by_id[node.parent]
        found.add(node.id)
    return found


def _grow(branch: Branches, parent: str | None, nodes: Iterable[NodeLine]) -> None:
    nodes = list(nodes)
    for node in sorted((each for each in nodes if each.parent == parent), key=lambda each: each.rank):
        label = Text(f"{node.score:.2f} {'+'.join(node.authors)} {node.state.value}: {visible(node.title)}"[:110])
        label.stylize(_STYLES[node.state.value])
        _grow(branch.add(label), node.id, nodes)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
