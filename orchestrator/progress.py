"""What a person sees while a run runs: a panel on a terminal, plain lines elsewhere; always on stderr.

Invariant: showing never changes, delays or fails a run. Not covered: the log (structlog writes it), the summary (`summary.py`).
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from store.types import Advance, Node, Question, QuestionState

_WIDTH = 96


class Progress(Protocol):
    """Whoever wants to know how a run is doing."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage stands at `done` of `total`."""
        ...

    def note(self, text: str) -> None:
        """Something worth one line."""
        ...

    def stepped(self, question: Question, advance: Advance) -> None:
        """A question's tree has grown."""
        ...

    def settled(self, question: Question, state: QuestionState, reason: str) -> None:
        """A question has come to its end."""
        ...


class Lines:
    """Plain lines, at most a few a second for stages that move fast."""

    def __init__(self) -> None:
        self._shown: dict[str, float] = {}

    def stage(self, name: str, done: int, total: int) -> None:
        """A line when a stage begins, ends, and every few seconds between."""
        now = time.monotonic()
        if done in {0, total} or now - self._shown.get(name, 0.0) > 5.0:
            self._shown[name] = now
            self.note(f"{name} {done}/{total}")

    def note(self, text: str) -> None:
        """One line, if anybody listens."""
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or not there at all (2>&-)
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def stepped(self, question: Question, advance: Advance) -> None:
        """Nothing: a line a step would be too many."""

    def settled(self, question: Question, state: QuestionState, reason: str) -> None:
        """A line a question."""
        self.note(f"  {state.value:8} {question.id[:8]} {visible(reason)}")


class PanelView:
    """Bars of the stages above the latest steps of the best beams."""

    def __init__(self, console: Console) -> None:
        bars = (TextColumn("{task.description:16}"), BarColumn(bar_width=40), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*bars, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._recent: deque[Text] = deque(maxlen=12)
        self._live = Live(self, console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> PanelView:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def __rich__(self) -> Group:
        return Group(self._bars, Panel(Group(*self._recent), title="the walk", title_align="left", width=_WIDTH + 4))

    def stage(self, name: str, done: int, total: int) -> None:
        """Move a stage's bar."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total)

    def note(self, text: str) -> None:
        """A line in the panel."""
        self._recent.append(Text(text[:_WIDTH], style="bold"))

    def stepped(self, question: Question, advance: Advance) -> None:
        """The best step that was kept: its score, its author, its words."""
        if node := min((*advance.kept, *advance.finished), key=lambda node: node.rank, default=None):
            self._recent.append(_shown(question, node))

    def settled(self, question: Question, state: QuestionState, reason: str) -> None:
        """A line a question."""
        style = "green" if state is QuestionState.SOLVED else "red"
        self._recent.append(Text(f"{question.id[:6]} {state.value}: {visible(reason)}"[:_WIDTH], style=style))


def visible(text: str) -> str:
    """One line of what a model wrote: nothing in it steers a terminal."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _shown(question: Question, node: Node) -> Text:
    line = f"{question.id[:6]} {node.score.value:.2f} {'+'.join(node.authors)}: {visible(node.step.text)}"
    return Text(line[:_WIDTH], style="dim")


@contextmanager
def showing() -> Iterator[Progress]:
    """The panel when stderr is a terminal, plain lines otherwise."""
    console = Console(stderr=True)
    if console.is_terminal:
        with PanelView(console) as panel:
            yield panel
    else:
        yield Lines()
