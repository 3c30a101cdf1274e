"""A run's store with some of everything, and the inspector over it: a real server on a real socket, asked over HTTP.

`fill` writes through the store's door, at a clock that goes from 25 minutes ago on; `served` is the inspector's own application,
in a thread of ours; `rows` reads a table as it lies there, in the order of arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import sqlite3
import string
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import httpx
import recount
import uvicorn
from sqlmodel import SQLModel
from starlette.types import ASGIApp

from agents import prompts
from agents.ledger import turns_hash
from configs.load import dump
from configs.schema import Asking, Http, RunConfig
from orchestrator.folder import Folder
from orchestrator.inspector.process import bound
from orchestrator.inspector.server import application
from store.store import Store, open_store
from store.types import (
    Advance,
    Attempt,
    Call,
    Checkpoint,
    Cluster,
    Consensus,
    Failure,
    Metrics,
    Node,
    NodeState,
    Outcome,
    Question,
    QuestionState,
    Report,
    Route,
    Ruled,
    Ruling,
    Score,
    Standing,
    Step,
    Trajectory,
    Usage,
    Verdict,
    content_id,
)

TOKEN = "a token that nobody guesses"
TEACHERS = ("ann", "bob", "cy")
STUDENTS = ("small", "tiny")
JUDGES = ("al", "jo")
RULED: tuple[Ruled, ...] = get_args(Ruled)
NUM_QUESTIONS = 48
NUM_SETTLED = 30
NUM_UPDATES = 24

Row = dict[str, Any]


# The run


def configured(**keys: Any) -> RunConfig:
    """Three teachers, a prover, two judges, two students, held-out questions; other `keys` over it."""
    values = {
        "name": "walk",
        "questions": [{"kind": "word_problems", "count": NUM_QUESTIONS, "seed": 1}],
        "engines": {"one": {"kind": "scripted"}, "other": {"kind": "scripted", "seed": 1}},
        "asking": {"system": "Think.", "examples": [{"question": "One?", "steps": ["It is one."], "answer": "1"}]},
        "teachers": [
            {"name": "ann", "engine": "one"},
            {"name": "bob", "engine": "other", "budget": {"usd": 2}, "asking": {"system": "Bob."}},
            {"name": "cy", "engine": "other"},
        ],
        "prover": {"engine": "one"},
        "judges": [{"name": "al", "engine": "one"}, {"name": "jo", "engine": "other"}],
        "students": [{"name": name, "model": f"models/{name}"} for name in STUDENTS],
        "sampling": {"styles": ["plain", "backward"]},
        "evaluation": {"questions": {"kind": "word_problems", "count": 4, "split": "held_out"}, "teachers": True},
        "target": {"accepted": 100},
        "budget": {"usd": 30, "tokens": 10**6},
        **keys,
    }
    return RunConfig.model_validate(values)


def folder_at(root: Path, config: RunConfig) -> Folder:
    """A run's folder with its configuration, and no store yet."""
    folder = Folder(root)
    root.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(dump(config), encoding="utf-8")
    return folder


def make(root: Path, work: Callable[[Store], Any], config: RunConfig | None = None, **options: Any) -> Folder:
    """A run's folder whose store `work` has written."""
    folder = folder_at(root, config or configured())
    written(folder, work, **options)
    return folder


def written(folder: Folder, work: Callable[[Store], Any], **options: Any) -> Any:
    """What `work` gives, done through the door of the folder's store."""

    async def main() -> Any:
        async with open_store(folder.database, **options) as store:
            return await work(store)

    return asyncio.run(main())


def ticking(since_s: float = 1420.0, step_s: float = 5.8) -> Callable[[], float]:
    """A clock that is `since_s` behind and goes on by `step_s` at each look, up to now."""
    ticks = itertools.count(time.time() - since_s, step_s)
    return lambda: min(time.time(), next(ticks))


async def begin(store: Store, num_questions: int = NUM_QUESTIONS) -> None:
    """A run that has questions, and no more."""
    await store.begin_run("run", "walk", "name: walk")
    await store.add_questions([question(number) for number in range(num_questions)], split="train")


async def fill(store: Store) -> None:
    """Some of everything: solved, unsolved, leased and pending questions, and what belongs to each."""
    chance = random.Random(11)
    await begin(store)
    await store.add_questions([question(number, "held out") for number in range(4)], split="held_out")
    await store.add_stage_seconds("search", 12.5)
    for number in range(NUM_SETTLED):
        await settle(store, number, chance)
        await store.record_failure(failure(number))
    for number in range(NUM_SETTLED, 37):
        await store.record_failure(failure(number))
    await learn(store, chance)
    await attempt(store, chance)
    for number in range(NUM_SETTLED, NUM_SETTLED + 3):
        await store.lease_question("run", 3600)
        await store.record_calls(calls(question(number), chance))


PULSE = {
    "pid": 77,
    "paused": {"bob": "jo <b>"},
    "stages": {"search": {"seconds": 3.5, "done": NUM_SETTLED, "total": NUM_QUESTIONS}},
    "students": {"small": {"of": 40, "final": None}},
    "engines": {
        "one": {"in_flight": 3, "limit": 8, "waiting": 1, "parked": None, "gone": None},
        "other": {"in_flight": 0, "limit": 8, "waiting": 0, "parked": "it is down", "gone": None},
    },
    "questions": 8,
    "notes": [{"at": 1.0, "text": "engine other: it is down"}],
}
"""What a living process tells of itself."""


def question(number: int, of: str = "train") -> Question:
    """Every third has no gold answer; texts repeat words in both cases, so that a search finds some."""
    kinds = ("math", "choice", "open")
    words = ("Apples", "PEARS", "100%_sure", 'quo"ted', "Äpfel", "straße", "plums")
    return Question(
        id=content_id(of, number),
        text=f"Question {number} of {of}: how many {words[number % 7]} and {words[number % 4]} are {number * 7 % 13}?",
        answer=None if number % 3 == 2 else str(number % 5),
        kind=kinds[number % 3],  # pyright: ignore[reportArgumentType]
        choices=("1", "2", "3") if number % 3 == 1 else (),
        aliases=("one",) if number % 6 == 0 else (),
        context="A basket." if number % 4 == 0 else None,
        source="a.jsonl",
        meta={"level": [number]},
    )


def node(key: str, about: Question, text: str, *, parent: str | None = None, title: str = "", author: str = "ann") -> Node:
    """A node that was kept."""
    return Node(
        id=key,
        question=about.id,
        parent=parent,
        depth=2 if parent else 1,
        rank=0,
        step=Step(index=2 if parent else 1, title=title, text=text, author=author, finish="step"),
        authors=(author,),
        usage=Usage(prompt=3, completion=2),
        score=Score(value=0.5, logprobs=(-0.5,), prover="prover"),
        state=NodeState.KEPT,
    )


def sampled(about: Question, key: str, text: str = "So.", **more: Any) -> Trajectory:
    """A trajectory without a tree."""
    made = Trajectory(
        id=key,
        question=about.id,
        nodes=(),
        teachers=("ann",),
        text=text,
        conclusion="I am SURE.",
        answer=None,
        origin="style",
        score=None,
        best=False,
        usage=Usage(prompt=30, completion=9),
        style="plain",
    )
    return replace(made, **more)


def nodes_of(about: Question, chance: random.Random) -> tuple[list[Advance], list[tuple[Node, ...]]]:
    """A tree of a few rounds, and its finished paths, best first."""
    asked = "gold" if about.answer is not None else "consensus"

    def made(round_: int, rank: int, state: NodeState, parent: Node | None) -> Node:
        author = chance.choice(TEACHERS)
        step = Step(
            index=round_ + 1,
            title=f"Think {round_}.{rank}",
            text=f"### Step {round_ + 1}. Think {round_}.{rank}",
            author=author,
            finish="closed" if state is NodeState.FINISHED else "step",
        )
        value = round(chance.random(), 6)
        return Node(
            id=content_id("node", about.id, round_, rank),
            question=about.id,
            parent=parent.id if parent else None,
            depth=round_ + 1,
            rank=rank,
            step=step,
            authors=tuple(dict.fromkeys((author, chance.choice(TEACHERS)))),
            usage=Usage(prompt=chance.randint(10, 50), completion=chance.randint(1, 20)),
            score=Score(value=value, logprobs=(-value, -0.5), prover="prover", target=asked),
            state=state,
            cost=0.001 if author == "bob" else None,
            reason="out of the beam" if state is NodeState.PRUNED else "",
        )

    beam: list[tuple[Node, ...]] = [()]
    advances = []
    for round_ in range(chance.randint(1, 4)):
        expanded = tuple(path[-1].id for path in beam if path)
        kept = [made(round_, rank, NodeState.OPEN, path[-1] if path else None) for rank, path in enumerate((beam * 2)[:2])]
        pruned = [made(round_, 2 + rank, NodeState.PRUNED, path[-1] if path else None) for rank, path in enumerate(beam)]
        beam = [(*path, node) for path, node in zip((beam * 2)[:2], kept, strict=True)]
        advances.append(Advance(question=about.id, expanded=expanded, kept=tuple(kept), pruned=tuple(pruned)))
    last = [made(len(advances), rank, NodeState.FINISHED, path[-1]) for rank, path in enumerate(beam)]
    finished = sorted(zip(beam, last, strict=True), key=lambda each: -each[1].score.value)
    expanded = tuple(path[-1].id for path in beam)
    advances.append(Advance(question=about.id, expanded=expanded, finished=tuple(last)))
    return advances, [(*path, node) for path, node in finished]


def trajectories_of(about: Question, paths: Iterable[tuple[Node, ...]], chance: random.Random) -> list[Trajectory]:
    """The finished paths of a tree, the first of them the best, and two that were sampled."""
    target = "gold" if about.answer is not None else "consensus"
    found = [
        Trajectory(
            id=content_id("trajectory", path[-1].id),
            question=about.id,
            nodes=tuple(each.id for each in path),
            teachers=tuple(dict.fromkeys(each.step.author for each in path)),
            text="\n".join(each.step.text for each in path),
            conclusion=f"The final answer is {index}.",
            answer=str(index),
            origin="search",
            score=path[-1].score.value,
            best=index == 0,
            usage=Usage(prompt=30, completion=chance.randint(1, 90)),
            where="statement",
            target=target,
            cost=0.25,
        )
        for index, path in enumerate(paths)
    ]
    for style in ("plain", "backward"):
        made = sampled(
            about,
            content_id("trajectory", about.id, style),
            f"In {style.upper()} words: {about.text} " + "long " * 40,
            teachers=(chance.choice(TEACHERS),),
            score=None if style == "plain" else round(chance.random(), 3),
            usage=Usage(prompt=30, completion=chance.randint(1, 90)),
            style=style,
        )
        found.append(made)
    return found


def calls(about: Question, chance: random.Random) -> list[Call]:
    """Who was asked about a question: every teacher for its first step, then the prover."""
    config, found = configured(), []
    for name in (*TEACHERS, "prover"):
        asking = next((each.asking for each in config.teachers if each.name == name and each.asking), config.asking)
        found.append(_call(about, name, asking, chance))
    return found


def _call(about: Question, agent: str, asking: Asking, chance: random.Random) -> Call:
    prompt = prompts.propose(about, (), asking)
    scored = agent == "prover"
    reused = agent == "cy" and chance.random() < 0.3
    return Call(
        id=content_id("call", about.id, agent),
        subject=about.id,
        agent=agent,
        engine="one" if agent in ("ann", "prover") else "other",
        purpose="score" if scored else "propose",
        request={"turns": turns_hash(prompt.messages), "prefix": prompt.prefix, "n": 1},
        response={"logprobs": [-0.5]} if scored else {"completions": [{"text": f"as {agent} says, 思考", "finish": "end"}]},
        usage=Usage(prompt=chance.randint(10, 99), completion=chance.randint(1, 40), cached=chance.randint(0, 9)),
        latency_s=0.0 if reused else round(2 ** chance.uniform(-9, 3), 4),
        cost=0.0 if reused else round(chance.random() / 100, 6) if agent == "bob" else None,
        reused=reused,
    )


def verdicts_of(about: Question, found: list[Trajectory], solved: bool, chance: random.Random) -> list[Verdict]:
    """One each: accepted ones only where the question is solved."""
    others = [each for each in Outcome if each is not Outcome.ACCEPTED]
    outcomes = [Outcome.ACCEPTED if solved and not index else chance.choice(others) for index, _ in enumerate(found)]
    if solved:
        outcomes[-1] = Outcome.ACCEPTED
    target = "gold" if about.answer is not None else "consensus"
    return [
        Verdict(
            trajectory=each.id,
            outcome=outcome,
            reason=f"it is {outcome}",
            target=None if outcome is Outcome.UNDECIDED else target,
        )
        for each, outcome in zip(found, outcomes, strict=True)
    ]


def consensus_of(about: Question, found: list[Trajectory]) -> Consensus:
    """A graph in which the first two agree, and the last one is right by luck."""
    ids = sorted(each.id for each in found)
    return Consensus(
        question=about.id,
        embedder="tf-idf",
        clusters=(Cluster(answer="0", trajectories=tuple(ids[:2]), support=0.5, teachers=0.75, strength=0.5),),
        standings=tuple(
            Standing(trajectory=id, centrality=1.0, nearest=0.5, support=0.5 if id in ids[:2] else None, misleading=id == ids[-1])
            for id in ids
        ),
        edges=((ids[0], ids[1], 0.5),),
        target=None if about.answer is not None else "0",
        target_support=None if about.answer is not None else 0.5,
    )


async def settle(store: Store, number: int, chance: random.Random, *, state: QuestionState | None = None) -> None:
    """Search a question to its end: solved, or, every third, unsolved."""
    about = question(number)
    await store.record_calls(calls(about, chance))
    advances, paths = nodes_of(about, chance)
    for advance in advances[:-1]:
        await store.record_advance(advance)
    state = state or (QuestionState.UNSOLVED if number % 3 == 1 else QuestionState.SOLVED)
    found = trajectories_of(about, paths, chance)
    verdicts = verdicts_of(about, found, state is QuestionState.SOLVED, chance)
    reasons = ("no right answer: 4 were wrong", "no answer has enough support: 30% of 90%", "nobody answered")
    await store.settle_question(
        about.id,
        state,
        "one is right" if state is QuestionState.SOLVED else reasons[number % 7 % 3],
        found,
        verdicts,
        [
            Route(id=content_id("route", each.trajectory, name), trajectory=each.trajectory, student=name, round=-1)
            for each in verdicts
            if each.outcome is Outcome.ACCEPTED
            for name in STUDENTS
        ],
        advances[-1],
        [
            Ruling(
                trajectory=each.id, judge=judge, ruled=chance.choice(("valid", "invalid", "unreadable")), reason=f"says {judge}"
            )
            for each in found[:2]
            for judge in JUDGES
        ],
        consensus_of(about, found) if number % 2 == 0 else None,
    )


def failure(number: int) -> Failure:
    """About a few questions and students, of a few kinds."""
    kinds = ("Overlong", "Refused", "Quarantined", "Diverged", "TimedOut")
    subject = STUDENTS[number % 2] if number % 5 == 3 else question(number % 7).id
    return Failure(
        id=content_id("failure", number),
        where=("search", "train")[number % 5 == 3],
        kind=kinds[number % 5],
        message=f"failure {number}: it did not work",
        tries=1 + number % 3,
        subject=subject,
        request="key" if number % 5 == 2 else "",
    )


async def learn(store: Store, chance: random.Random) -> None:
    """Rounds of routes with gates, reports of some updates on them, metrics, a checkpoint."""
    lessons = [each.trajectory.id for each in await store.judged(limit=10_000, accepted_only=True)]
    for number in range(2):
        gates = [(each, name, chance.randint(0, 1)) for each in lessons for name in STUDENTS]
        await store.record_routes(
            [
                Route(
                    id=content_id("route", each, name, number),
                    trajectory=each,
                    student=name,
                    round=number,
                    gate=gate,
                    probability=round(chance.random(), 4),
                )
                for each, name, gate in gates
            ]
        )
    for update in range(1, NUM_UPDATES + 1):
        for name in STUDENTS:
            seen = chance.sample(lessons, 6)
            reports = [
                Report(
                    student=name,
                    trajectory=each,
                    update=update,
                    cross_entropy=round(chance.uniform(0.5, 3), 6),
                    routed=place % 4 != 3,
                    alpha=None if place == 2 else round(chance.random(), 6),
                    adaptability=round(chance.random(), 6),
                    peer=None if name == "tiny" else 0.25,
                )
                for place, each in enumerate(seen)
            ]
            metrics = Metrics(student=name, update=update, values={"loss": round(2 / update, 6), "rate": 0.001})
            checkpoint = Checkpoint(student=name, update=update, directory=f"{name}/{update}", config_hash="c", final=False)
            await store.record_training(reports, [metrics], checkpoint if update % 10 == 0 else None)


async def attempt(store: Store, chance: random.Random) -> None:
    """Everybody's answers to the held-out questions."""
    models = [f"{name}@{when}" for name in STUDENTS for when in ("before", "after")] + [f"teacher:{name}" for name in TEACHERS]
    for model in models:
        await store.record_attempts(
            [
                Attempt(
                    id=content_id("attempt", model, number, sample),
                    model=model,
                    question=question(number, "held out").id,
                    sample=sample,
                    text="so it is 1",
                    answer="1",
                    correct=chance.random() < 0.5,
                    usage=Usage(prompt=3, completion=2),
                )
                for number in range(4)
                for sample in range(3)
            ]
        )


def beat(folder: Folder, state: Mapping[str, Any] | None = None) -> None:
    """A process that lives now tells of itself."""
    written(folder, lambda store: store.beat("run", state or PULSE))


# What lies there


def rows(folder: Folder, table: str) -> list[Row]:
    """A table in the order of arrival; `place` is its number in it."""
    with contextlib.closing(sqlite3.connect(folder.database)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT rowid AS place, * FROM [{table}] ORDER BY rowid")]


def changed(folder: Folder, *statements: str) -> None:
    """Write past the store's door: many rows, or wrong ones."""
    with contextlib.closing(sqlite3.connect(folder.database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def counts_in(folder: Folder) -> Counter[str]:
    """The running counts that are not zero."""
    return Counter({row["name"]: row["value"] for row in rows(folder, "count") if row["value"]})


def recounted(folder: Folder) -> Counter[str]:
    """What the counts must be, from the rows alone."""
    return +recount.recounted({name: rows(folder, name) for name in SQLModel.metadata.tables})


def within(wanted: str | None, *texts: str) -> bool:
    """Whether one of the texts holds what is wanted, letters of ASCII in either case; nothing wanted: yes."""
    return wanted is None or any(small(wanted) in small(text) for text in texts)


def small(text: str) -> str:
    """Letters of ASCII as small ones."""
    return text.translate(SMALL)


SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


# The server


@dataclass(frozen=True, slots=True)
class Site:
    """A served run, and how it is asked: with the headers of `client`, which follows no redirect."""

    folder: Folder
    config: RunConfig
    url: str
    client: httpx.Client = field(repr=False)

    @property
    def port(self) -> int:
        """Where it listens."""
        return httpx.URL(self.url).port or 0

    def answer(self, path: str, method: str = "GET", **rest: Any) -> httpx.Response:
        """What comes back, whatever it is."""
        return self.client.request(method, path, **rest)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a good answer; a parameter that is None is left out."""
        url = httpx.URL(path).copy_merge_params({name: value for name, value in query.items() if value is not None})
        found = self.answer(str(url))
        assert found.status_code == 200, (found.status_code, found.text)
        assert found.headers["content-type"] == "application/json"
        return found.json()

    def get_with_token(self, path: str) -> Any:
        """The JSON of a good answer to who has the token."""
        found = self.answer(path, headers={"authorization": f"Bearer {TOKEN}"})
        assert found.status_code == 200, found.text
        return found.json()

    def pages(self, path: str, **query: Any) -> Iterator[list[Any]]:
        """The items of every page, from the first one to the end, which there must be."""
        after: int | None = query.pop("after", None)
        seen = {after}
        while True:
            page = self.get(path, after=after, **query)
            assert page.keys() == {"items", "next"}
            assert len(page["items"]) <= query.get("limit", 1000)
            yield page["items"]
            if (after := page["next"]) is None:
                return
            assert after not in seen, "pages that go round"
            seen.add(after)

    def all(self, path: str, **query: Any) -> list[Any]:
        """All items, page by page."""
        return [item for items in self.pages(path, **query) for item in items]

    def settled_view(self) -> Mapping[str, Any]:
        """The run's view, of a moment at which no minute begins, and newer than what was served before."""
        time.sleep(0.5)
        while (view := self.get("/api/run"))["now"] % 60 < 1:
            time.sleep(0.5)
        return view


@contextmanager
def listening(app: ASGIApp, http: Http, *, beside_run: bool = True) -> Iterator[int]:
    """An application behind a real socket, in a thread; its port. `beside_run`: a socket that was taken over, as a child does."""
    opened = socket.socket(fileno=bound(http).detach()) if beside_run else bound(http)
    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "on", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **settings))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])), name="inspector")
    port = opened.getsockname()[1]
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
        opened.close()
        assert not thread.is_alive()


@contextmanager
def served(
    folder: Folder,
    config: RunConfig | None = None,
    *,
    http: Http | None = None,
    token: str | None = None,
    controls: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """The inspector over a run's folder; `headers` go with every request of the client."""
    config, http = config or configured(), http or Http()
    app = application(config, folder, http=http, token=token, controls=controls)
    with listening(app, http) as port:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False) as client:
            yield Site(folder, config, url, client)


@contextmanager
def controlled(folder: Folder, config: RunConfig | None = None) -> Iterator[Site]:
    """The inspector as it is beside a living run: it takes what the right token asks, and the client has it."""
    with served(folder, config, token=TOKEN, controls=True, headers={"authorization": f"Bearer {TOKEN}"}) as site:
        yield site


# Those who watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One server-sent event."""

    event: str
    id: int
    data: Mapping[str, Any]


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[Told]:
    """The server-sent events in lines of text, as a browser reads them."""
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield Told(event=fields["event"], id=int(fields["id"]), data=json.loads(fields["data"]))
            fields = {}


@asynccontextmanager
async def watching(site: Site, after: int | None = None, *, last: int | None = None) -> AsyncIterator[AsyncIterator[Told]]:
    """What a page is told that says where it was: by `after` in the address, or by `Last-Event-ID`."""
    headers = {} if last is None else {"last-event-id": str(last)}
    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(base_url=site.url, timeout=20, trust_env=False) as client,
        client.stream("GET", "/api/stream", params={} if after is None else {"after": after}, headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_of(answer.aiter_lines())
