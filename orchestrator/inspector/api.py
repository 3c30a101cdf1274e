"""Every view's data, as JSON: what the page shows, a script can read.

Invariant: lists come in pages, found by key; a page's `next` is the next one's `after`. Reading changes nothing. Not covered:
who may ask (`guard.py`), what is asked of the run (`verbs.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from configs.schema import RunConfig
from orchestrator.comparison import Row, measured, rows
from orchestrator.controls import configured
from orchestrator.folder import Folder
from orchestrator.inspector.feed import Feed
from orchestrator.inspector.overview import gates, overview
from orchestrator.inspector.prompt import prompt_of
from orchestrator.inspector.shapes import GateLine, Mistake, Prompt, RunView
from orchestrator.summary import summarise
from store import pace, pages, training_pages
from store.control import Control
from store.lines import (
    CallLine,
    CallWhole,
    FailureLine,
    Graph,
    HistoryLine,
    LessonLine,
    MetricsLine,
    NodeLine,
    NodeWhole,
    Page,
    QuestionLine,
    QuestionWhole,
    TrajectoryLine,
    TrajectoryWhole,
    WeightLine,
)
from store.reasoning import closed_reasoning, joined, open_reasoning
from store.store import Store
from store.types import Event, Outcome, QuestionState

P = ParamSpec("P")
T = TypeVar("T")

MOST = 500
"""Items of a page."""
VIEW_S = 0.4
"""For so long one look at the run serves all who ask."""


@dataclass(kw_only=True)
class Inspected:
    """The run that is looked at. `config` is what it began with; `now` has what was set since."""

    config: RunConfig
    folder: Folder
    store: Store
    feed: Feed
    controls: bool
    _accuracy: tuple[int, list[Row]] = (-1, [])
    _view: tuple[float, RunView] | None = None
    _summary: tuple[int, dict[str, Any]] = (-1, {})
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _measuring: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def page(self, read: Callable[Concatenate[Any, P], T], *about: P.args, **which: P.kwargs) -> T:
        """What a function of `store.pages` reads."""
        return await self.store.page(read, *about, **which)

    async def effective(self) -> RunConfig:
        """The configuration with what was set."""
        return configured(self.config, await self.store.controls())[0]

    async def view(self) -> RunView:
        """The run at a glance; many who ask at once get one answer."""
        async with self._looking:
            if self._view is None or time.monotonic() - self._view[0] > VIEW_S:
                found = await self._overview()
                self._view = time.monotonic(), found
            return self._view[1]

    async def _overview(self) -> RunView:
        activity = await self.page(pace.now)
        run = await self.store.run()
        if activity is None or run is None:
            raise HTTPException(503, "no run has begun in this store yet")
        return overview(await self.effective(), activity, run.id, time.time(), controls=self.controls)

    async def summary(self) -> dict[str, Any]:
        """What `peripatos status --json` prints; made again only when something has happened."""
        async with self._measuring:
            if (seq := await self.store.last_event()) != self._summary[0]:
                self._summary = seq, await summarise(self.config, self.folder, self.store)
            return self._summary[1]

    async def accuracy(self) -> list[Row]:
        """What was measured; the intervals are computed again only when there are more answers."""
        async with self._measuring:
            counts = await self.store.counts()
            answers = sum(value for name, value in counts.items() if name.startswith("attempts."))
            if answers != self._accuracy[0]:
                found = await measured(self.config, self.store) if self.config.evaluation else None
                self._accuracy = answers, await asyncio.to_thread(rows, self.config, [found]) if found else []
            return self._accuracy[1]


def _inspected(request: Request) -> Inspected:
    return request.app.state.inspected


Of = Annotated[Inspected, Depends(_inspected)]
After = Annotated[int | None, Query(ge=-1, lt=2**62, description="the `next` of the page before; none: the first page")]
Limit = Annotated[int, Query(ge=1, le=MOST)]
Text = Annotated[str | None, Query(max_length=200, description="found in the text; letters of ASCII in either case")]
CountName = Annotated[str, Field(max_length=200)]
Id = Annotated[str, Path(max_length=64)]
Name = Annotated[str, Path(max_length=64)]

api = APIRouter(prefix="/api")
REFUSALS: dict[int | str, dict[str, Any]] = {number: {"model": Mistake} for number in (401, 403, 503)}
"""What may come back from anywhere: no token, a wrong host, a store that cannot be read."""
_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Mistake}}


def text_of(kind: str) -> dict[int | str, dict[str, Any]]:
    """An answer that is text of a kind."""
    return {200: {"content": {kind: {"schema": {"type": "string"}}}}}


def _there(found: T | None, what: str) -> T:
    if found is None:
        raise HTTPException(404, f"no {what} of this id is in the store")
    return found


# The run


@api.get("/run", tags=["run"])
async def run(of: Of) -> RunView:
    """The run at a glance: state, counts by stage, pace, money, agents, failures, what a person should see at once."""
    return await of.view()


@api.get("/summary", tags=["run"])
async def summary(of: Of) -> dict[str, Any]:
    """What `peripatos status --json` prints."""
    return await of.summary()


@api.get("/config", tags=["run"])
async def config(of: Of) -> dict[str, Any]:
    """The resolved configuration, with what was set since."""
    return (await of.effective()).model_dump(mode="json")


@api.get("/counts", tags=["run"])
async def counts(of: Of) -> dict[str, int]:
    """All running counts, by name."""
    return await of.store.counts()


@api.get("/history", tags=["run"])
async def history(
    of: Of,
    name: Annotated[list[CountName], Query(max_length=50, description="counts by name, such as questions.solved")],
    since: Annotated[float, Query(ge=0, le=2**40, description="seconds since the epoch")] = 0,
    points: Annotated[int, Query(ge=1, le=1000)] = 120,
) -> list[HistoryLine]:
    """By how much counts grew, in equal spans of whole minutes."""
    return await of.page(pace.history, name, since, points)


@api.get("/accuracy", tags=["students"])
async def accuracy(of: Of) -> list[Row]:
    """Accuracies on held-out questions: students before and after, teachers as a reference; with 95% intervals."""
    return await of.accuracy()


# Questions and their trees


@api.get("/questions", tags=["questions"])
async def questions(
    of: Of,
    split: Annotated[str, Query(max_length=80)] = "train",
    state: Annotated[list[QuestionState] | None, Query(max_length=4)] = None,
    text: Text = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[QuestionLine]:
    """The questions of a split, in order."""
    states = [each.value for each in state or ()]
    return await of.page(pages.questions, split=split, states=states, text=text, after=after, limit=limit)


@api.get("/questions/{id}", tags=["questions"], responses=_MISSING)
async def question(of: Of, id: Id) -> QuestionWhole:
    """One question."""
    return _there(await of.page(pages.question, id), "question")


@api.get("/questions/{id}/tree", tags=["questions"])
async def tree(of: Of, id: Id, after: After = None, limit: Limit = 500) -> Page[NodeLine]:
    """Its nodes, kept and pruned, a parent before its children."""
    return await of.page(pages.tree, id, after, limit)


@api.get("/questions/{id}/calls", tags=["questions"])
async def calls(of: Of, id: Id, after: After = None, limit: Limit = 100) -> Page[CallLine]:
    """The calls about it, in the order of their ends."""
    return await of.page(pages.calls, id, after, limit)


@api.get("/questions/{id}/consensus", tags=["questions"], responses=_MISSING)
async def consensus(of: Of, id: Id) -> Graph:
    """The graph of its trajectories: edges, clusters of answers, support, what looks right by luck."""
    return _there(await of.page(pages.graph, id), "consensus")


@api.get("/nodes/{id}", tags=["questions"], responses=_MISSING)
async def node(of: Of, id: Id) -> NodeWhole:
    """One node, with its words and the log-probs of the answer after it."""
    found = _there(await of.page(pages.node, id), "node")
    scored = await of.page(pages.calls_with, found.question, "score", prefixes(of.config, found.steps)[1], [found.prover])
    whole = await of.page(pages.call, scored[0].id) if scored else None
    tokens = whole.response.get("tokens", []) if whole else []
    return replace(found, tokens=tokens if len(tokens) == len(found.logprobs) else [])


@api.get("/nodes/{id}/calls", tags=["questions"], responses=_MISSING)
async def node_calls(of: Of, id: Id) -> list[CallLine]:
    """The calls that proposed a node's step, and the one that scored it, as far as they were single requests."""
    found = _there(await of.page(pages.node, id), "node")
    proposed, scored = prefixes(of.config, found.steps)
    asked = await of.page(pages.calls_with, found.question, "propose", proposed, found.line.authors)
    return asked + await of.page(pages.calls_with, found.question, "score", scored, [found.prover])


def prefixes(config: RunConfig, steps: Sequence[str]) -> tuple[str, str]:
    """What the call that proposed the last of these steps continued, and the one that scored it."""
    segmentation = config.search.segmentation
    proving = (config.prover and config.prover.asking) or config.asking
    scored = closed_reasoning(joined(steps, segmentation), proving.answer_prefix)
    return open_reasoning(steps[:-1], segmentation), scored


@api.get("/calls/{id}", tags=["questions"], responses=_MISSING)
async def call(of: Of, id: Id) -> CallWhole:
    """One call: the request (whole turns by their hash) and the response."""
    return _there(await of.page(pages.call, id), "call")


@api.get("/calls/{id}/prompt", tags=["questions"], responses=_MISSING)
async def prompt(of: Of, id: Id) -> Prompt:
    """The prompt of a call as it was sent."""
    found = _there(await of.page(pages.call, id), "call")
    about = _there(await of.store.question(found.line.subject), "question")
    judged = [each for each, _ in await of.store.trajectories(found.line.subject)] if found.line.purpose == "judge" else []
    return prompt_of(of.config, about[0], found, judged)


# Trajectories


@api.get("/trajectories", tags=["trajectories"])
async def trajectories(
    of: Of,
    question: Annotated[str | None, Query(max_length=64)] = None,
    teacher: Annotated[str | None, Query(max_length=64)] = None,
    verdict: Annotated[list[Outcome] | None, Query(max_length=7)] = None,
    least: Annotated[float | None, Query(ge=0, le=1, description="least score")] = None,
    most: Annotated[float | None, Query(ge=0, le=1, description="highest score")] = None,
    text: Text = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[TrajectoryLine]:
    """Trajectories, newest first."""
    return await of.page(
        pages.trajectories,
        question=question,
        teacher=teacher,
        outcomes=[each.value for each in verdict or ()],
        least=least,
        most=most,
        text=text,
        after=after,
        limit=limit,
    )


@api.get("/trajectories/{id}", tags=["trajectories"], responses=_MISSING)
async def trajectory(of: Of, id: Id) -> TrajectoryWhole:
    """One trajectory: its words, verdict, rulings, standing, and whose lesson it is."""
    return _there(await of.page(pages.trajectory, id, [each.name for each in of.config.students]), "trajectory")


# Students


@api.get("/students/{name}/metrics", tags=["students"])
async def metrics(
    of: Of, name: Name, every: Annotated[int, Query(ge=1, le=10**6)] = 1, after: After = None, limit: Limit = 500
) -> Page[MetricsLine]:
    """A student's losses and rates by update; `every`: only updates whose number it divides."""
    return await of.page(training_pages.metrics, name, after, every, limit)


@api.get("/students/{name}/weights", tags=["students"])
async def weights(of: Of, name: Name, after: After = None) -> Page[WeightLine]:
    """The mean alpha (COMPACT, Eq. 7) that a student gave each teacher, by update."""
    return await of.page(training_pages.weights, name, after)


@api.get("/students/{name}/lessons", tags=["students"])
async def lessons(
    of: Of, name: Name, gate: Annotated[int | None, Query(ge=0, le=1)] = None, after: After = None, limit: Limit = 50
) -> Page[LessonLine]:
    """What a student was given, and what not, with the gate's probability and what it reported last; newest first."""
    return await of.page(training_pages.lessons, name, gate, after, limit)


@api.get("/gates", tags=["students"])
async def student_gates(of: Of) -> list[GateLine]:
    """How each student's gates stood, by round and style."""
    return gates(await of.store.counts())


# What happened


@api.get("/failures", tags=["events"])
async def failures(
    of: Of,
    kind: Annotated[str | None, Query(max_length=64)] = None,
    subject: Annotated[str | None, Query(max_length=64)] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[FailureLine]:
    """Failures, newest first."""
    return await of.page(pages.failures, kind=kind, subject=subject, after=after, limit=limit)


@api.get("/events", tags=["events"])
async def events(of: Of, after: After = None, limit: Limit = 100) -> Page[Event]:
    """Every change of the store, in the order of commits."""
    found = await of.store.events(max(0, after or 0), limit)
    return Page(items=found, next=found[-1].seq if len(found) == limit else None)


@api.get("/controls", tags=["events"])
async def controls(of: Of, after: After = None, limit: Limit = 100) -> Page[Control]:
    """What was asked of the run: by whom, when, and what came of it."""
    found = await of.store.controls(max(0, after or 0), limit)
    return Page(items=found, next=found[-1].id if len(found) == limit else None)


@api.get("/stream", tags=["events"], response_class=StreamingResponse, responses=text_of("text/event-stream"))
async def stream(
    of: Of,
    request: Request,
    after: Annotated[int | None, Query(ge=0, lt=2**62, description="the last number that was seen")] = None,
) -> StreamingResponse:
    """Server-sent events: what changed since, and whenever something does. `Last-Event-ID` goes before `after`."""
    last = request.headers.get("last-event-id", "")
    seen = int(last) if last.isdecimal() and len(last) < 19 else after

    async def told() -> AsyncIterator[str]:
        async for each in of.feed.follow(seen):
            yield each

    return StreamingResponse(told(), media_type="text/event-stream", headers={"cache-control": "no-cache"})
