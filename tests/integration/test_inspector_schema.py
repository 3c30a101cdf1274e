"""The API is what its OpenAPI document says: complete, bounded, kept to whatever is asked and whatever texts lie in the store."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import schemathesis
from fastapi import APIRouter
from inspected import (
    PULSE,
    STUDENTS,
    TEACHERS,
    TOKEN,
    Row,
    Site,
    beat,
    begin,
    calls,
    changed,
    controlled,
    fill,
    make,
    node,
    question,
    rows,
    sampled,
    served,
    ticking,
    within,
)
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.schemas import BaseSchema

from configs.schema import Http
from orchestrator import inspector
from store.pages import TITLE
from store.store import Store
from store.types import (
    Advance,
    Failure,
    Metrics,
    Outcome,
    Question,
    QuestionState,
    Ruling,
    Verdict,
)

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
ENDLESS = "/api/stream"


async def nothing(store: Store) -> None:
    """No run has begun."""


async def begun(store: Store) -> None:
    await begin(store, 0)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with controlled(make(tmp_path_factory.mktemp("filled"), fill, clock=ticking())) as site:
        yield site


@pytest.fixture(scope="module")
def document(filled: Site) -> Row:
    return filled.get("/api/openapi.json")


def operations(document: Row) -> Iterator[tuple[str, str, Row]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


# The document


def test_every_route_is_in_the_document_and_nothing_else_is(document: Row) -> None:
    modules = [importlib.import_module(f"{inspector.__name__}.{each.name}") for each in pkgutil.iter_modules(inspector.__path__)]
    routers = {id(each): each for module in modules for each in vars(module).values() if isinstance(each, APIRouter)}
    there = {(route.path, method) for router in routers.values() for route in router.routes for method in route.methods}
    assert {(path, method) for path, method, _ in operations(document)} == there
    assert {path for path, _ in there} >= {"/healthz", "/readyz", "/metrics", "/status", "/api/run", "/api/control", ENDLESS}


def test_everything_in_the_document_says_what_it_is_and_gives_a_schema(document: Row) -> None:
    names = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert set(names.values()) == {1}
    told = ("summary", "description", "tags")
    wordless = [(path, key) for path, _, operation in operations(document) for key in told if not operation.get(key)]
    assert not wordless
    shapeless = [
        (path, status, kind)
        for path, _, operation in operations(document)
        for status, response in operation["responses"].items()
        for kind, content in (response.get("content") or {"none": {}}).items()
        if not content.get("schema")
    ]
    assert not shapeless


def loose(schema: Row, document: Row, where: str) -> list[str]:
    """What is not bounded in a schema of something that is asked."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return loose(document["components"]["schemas"][name], document, where)
    if "anyOf" in schema:
        return [each for one in schema["anyOf"] for each in loose(one, document, where)]
    if "enum" in schema or "const" in schema or schema.get("type") in ("null", "boolean"):
        return []
    match schema.get("type"):
        case "string":
            return [] if "maxLength" in schema else [f"{where}: a text of any length"]
        case "integer" | "number":
            ends = ({"minimum", "exclusiveMinimum"} & schema.keys(), {"maximum", "exclusiveMaximum"} & schema.keys())
            return [] if all(ends) else [f"{where}: any number"]
        case "array":
            found = loose(schema["items"], document, f"{where}[]")
            return found if "maxItems" in schema else [f"{where}: so many as one likes", *found]
        case "object":
            inside = schema.get("properties", {}).items()
            found = [each for name, one in inside for each in loose(one, document, f"{where}.{name}")]
            return found if schema.get("additionalProperties") is False else [f"{where}: any keys", *found]
    return [f"{where}: anything"]


def test_everything_that_can_be_asked_is_bounded(document: Row) -> None:
    found = []
    for path, _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            found += loose(parameter["schema"], document, f"{path} {parameter['name']}")
        for content in operation.get("requestBody", {}).get("content", {}).values():
            found += loose(content["schema"], document, f"{path} body")
    assert not found


def test_the_document_does_not_say_more_than_it_must(document: Row) -> None:
    """No server's address, no path of this machine, and no page that would load scripts from elsewhere."""
    assert "servers" not in document
    assert document["info"]["title"] == "Peripatos inspector"


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/api/docs"])
def test_there_is_one_document_and_no_page_about_it(filled: Site, path: str) -> None:
    assert filled.answer(path).status_code == 404


# What is refused, too, is as the document says


def is_documented(site: Site, document: Row, status: int, paths: Iterable[str], **rest: Any) -> None:
    """Ask for everything: the answer at these paths has this status, with one line, and the document knows it."""
    undocumented = set()
    for path, method, operation in operations(document):
        if path not in paths:
            continue
        body = {"json": {"verb": "resume"}} if method == "POST" else {}
        answer = site.answer(path.format(id="nobody", name="small"), method, params={"name": "x"}, **body, **rest)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), (path, answer.text)
        assert len(answer.json()["detail"].splitlines()) == 1
        if str(status) not in operation["responses"]:
            undocumented.add(path)
    assert not undocumented


def test_an_answer_to_another_host_is_in_the_document(filled: Site, document: Row) -> None:
    is_documented(filled, document, 403, document["paths"], headers={"host": "evil.example"})


def test_an_answer_without_a_token_is_in_the_document(filled: Site, document: Row) -> None:
    paths = document["paths"].keys() - {"/healthz", "/readyz"}
    with served(filled.folder, http=Http(host="0.0.0.0", token="TOKEN"), token=TOKEN, controls=True) as closed:
        is_documented(closed, document, 401, paths)


def test_an_answer_before_a_run_has_begun_is_in_the_document(tmp_path: Path, document: Row) -> None:
    with controlled(make(tmp_path, nothing)) as site:
        is_documented(site, document, 503, {"/api/run", "/readyz", "/metrics"})


def test_an_answer_over_a_store_that_cannot_be_read_is_in_the_document(tmp_path: Path, document: Row) -> None:
    folder = make(tmp_path, begun)
    tables = ("question", "node", "trajectory", "call", "consensus", "failure", "route", "report", "metrics", "event", "control")
    with controlled(folder) as site:
        changed(folder, *(f"ALTER TABLE {table} RENAME TO gone_{table}" for table in (*tables, "count", "history", "run")))
        paths = document["paths"].keys() - {"/healthz", ENDLESS, "/api/control"}
        is_documented(site, document, 503, paths)
        assert site.answer("/api/questions").json()["detail"].endswith("no such table: question")
        assert site.answer("/healthz").status_code == 200


# Whatever is asked


def described(site: Site, *, all_of_it: bool = True) -> BaseSchema:
    """The API as schemathesis sees it, without what is endless; not `all_of_it`: only the edges of what may be asked."""
    off = {"enabled": False}
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "base-url": site.url,
            "headers": AUTHORIZED,
            "continue-on-failure": True,
            "generation": {"max-examples": 10, "deterministic": True, "no-shrink": True, "database": "none"},
            "phases": {
                "stateful": off,
                "fuzzing": {"enabled": all_of_it},
                "coverage": {"generation": {"mode": "all" if all_of_it else "positive"}},
            },
            # what no route of ours answers, the page's files do, which lie at the root
            "checks": {"unsupported_method": off, "allow_header_conformance": off},
            # which teachers, questions and keys there are is no matter of a schema
            "operations": [{"include-path": "/api/control", "checks": {"positive_data_acceptance": off}}],
        }
    )
    return schemathesis.openapi.from_url(f"{site.url}/api/openapi.json", config=config, headers=AUTHORIZED).exclude(path=ENDLESS)


@pytest.mark.parametrize(("holds", "all_of_it"), [(begun, False), (fill, True)])
def test_whatever_is_asked_the_answer_is_as_the_document_says_and_no_error(tmp_path: Path, holds: Any, all_of_it: bool) -> None:
    wrong, asked = [], Counter()
    with controlled(make(tmp_path, holds, clock=ticking())) as site:
        for event in from_schema(described(site, all_of_it=all_of_it)).execute():
            assert not isinstance(event, events.NonFatalError | events.FatalError), event
            if isinstance(event, events.ScenarioFinished):
                asked[event.label] += len(event.recorder.interactions)
                found = [check.failure_info for checks in event.recorder.checks.values() for check in checks]
                wrong += [(event.label, each.failure.title, each.failure.message, each.code_sample) for each in found if each]
        assert not wrong
        there = operations(site.get("/api/openapi.json"))
        assert set(asked) == {f"{method} {path}" for path, method, _ in there if path != ENDLESS}
        assert sum(asked.values()) > (1000 if all_of_it else 100)
        assert site.get("/api/run")["balance"]


def ask(schema: BaseSchema, path: str, **parts: Any) -> Row:
    """Ask once, check the answer against the document; its JSON."""
    answer = schema[path]["GET"].Case(**parts).call_and_validate(headers=AUTHORIZED)
    assert answer.status_code == 200
    return answer.json()


def ask_of_all(site: Site, every: int = 1) -> None:
    """Ask for each thing that is in the store, and check the answers against the document."""
    schema = described(site)
    of = {"questions": "question", "nodes": "node", "calls": "call", "trajectories": "trajectory"}
    graphs = {row["question"] for row in rows(site.folder, "consensus")}
    for path in schema:
        if "{name}" in path:
            for name in STUDENTS:
                ask(schema, path, path_parameters={"name": name})
        elif "{id}" in path:
            for row in rows(site.folder, of[path.split("/")[2]])[::every]:
                if not path.endswith("/consensus") or row["id"] in graphs:
                    ask(schema, path, path_parameters={"id": row["id"]})
        elif path == "/api/history":
            ask(schema, path, query={"name": ["questions.solved", "tokens.prompt"]})
        elif path not in ("/api/control", "/metrics", ENDLESS):
            ask(schema, path)


def test_what_is_told_of_everything_in_the_store_is_as_the_document_says(filled: Site) -> None:
    beat(filled.folder)
    ask_of_all(filled, every=7)


# Whatever lies in the store


HOSTILE = (
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "javascript:alert(1)", "{{ 7*7 }} ${7*7} <%= 7 %>", "%_%"),
    *("\x1b[2J\x1b]0;owned\x07\x9b31m", "\u202ekcab\u2066\u2069\u200f", "\ufffe\uffff\U0010ffff\u2028\ufeff", "a\x00b", "\x00"),
    *("e\u0301 \u00e9 \U0001f468\u200d\U0001f469", "]]>&lt;&#x3c;\"'`\\", "\r\n\t\v\f\x7f\x85", "'; DROP TABLE question; --"),
    *("data: x\n\nevent: evil\ndata: {}", '"}],"x":[{"', "../../etc/passwd", "NaN", "long " * 200_000, " " * 130 + "after", ""),
)


def hostile(text: str, number: int) -> Question:
    given = {"text": text, "answer": text, "choices": (text,), "aliases": (text, text), "context": text, "source": text}
    return replace(question(number), **given, meta={text: [text]})


async def hold_hostile(store: Store) -> None:
    """A question for each text, with the text wherever one can be."""
    await store.begin_run("run", "walk", "name: walk")
    await store.add_questions([hostile(text, number) for number, text in enumerate(HOSTILE)], split="train")
    for number, text in enumerate(HOSTILE):
        about = hostile(text, number)
        await store.record_advance(Advance(question=about.id, kept=(node(f"n{number}", about, text, title=text, author=text),)))
        told = {"conclusion": text, "answer": text, "teachers": (text,), "nodes": (f"n{number}",), "best": True}
        made = sampled(about, f"t{number}", text, **told)
        ruling = Ruling(trajectory=made.id, judge="al", ruled="valid", reason=text, details={text: text})
        verdict = Verdict(trajectory=made.id, outcome=Outcome.UNSOUND, reason=text)
        await store.settle_question(about.id, QuestionState.UNSOLVED, text, [made], [verdict], [], rulings=[ruling])
        failed = Failure(id=f"f{number}", where=text, kind=text, message=text, tries=1, subject=about.id, request=text)
        await store.record_failure(failed)
        called = replace(calls(about, Random(1))[0], id=f"c{number}", response={"text": text})
        await store.record_calls([replace(called, request={"prefix": text, text: text})])
        await store.ask("pause", text[:200], text, was=text, by=text)
        await store.record_training([], [Metrics(student="small", update=number + 1, values={text: 0.5})])


@pytest.fixture(scope="module")
def hostiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with controlled(make(tmp_path_factory.mktemp("hostile"), hold_hostile)) as site:
        yield site


NUMBERED = pytest.mark.parametrize("number", range(len(HOSTILE)), ids=lambda number: ascii(HOSTILE[number])[1:25])


@NUMBERED
def test_a_text_comes_back_as_it_was_written(hostiles: Site, number: int) -> None:
    text, about = HOSTILE[number], hostile(HOSTILE[number], number)
    found = hostiles.get(f"/api/questions/{about.id}")
    assert (found["line"]["text"], found["line"]["answer"], found["line"]["reason"]) == (text, text, text)
    assert (found["choices"], found["aliases"], found["context"], found["source"]) == ([text], [text, text], text, text)
    assert found["meta"] == {text: [text]}
    found = hostiles.get(f"/api/nodes/n{number}")
    assert (found["text"], found["steps"], found["line"]["author"], found["line"]["authors"]) == (text, [text], text, [text])
    found = hostiles.get(f"/api/trajectories/t{number}")
    assert (found["text"], found["conclusion"], found["line"]["answer"], found["line"]["teachers"]) == (text, text, text, [text])
    assert found["line"]["reason"] == text
    (ruling,) = found["rulings"]
    assert (ruling["reason"], ruling["details"]) == (text, {text: text})
    found = hostiles.get(f"/api/calls/c{number}")
    assert (found["request"], found["response"]) == ({"prefix": text, text: text}, {"text": text})
    assert hostiles.get(f"/api/calls/c{number}/prompt") == {"turns": [], "prefix": text}
    (found,) = hostiles.all("/api/failures", subject=about.id)
    assert (found["where"], found["kind"], found["message"]) == (text, text, text)
    found = hostiles.get("/api/controls", after=number, limit=1)["items"][0]
    assert (found["subject"], found["value"], found["was"], found["by"]) == (text[:200], text, text, text)
    found = hostiles.get("/api/students/small/metrics", after=number, limit=1)["items"][0]
    assert found["values"] == {text: 0.5}


@NUMBERED
def test_a_title_and_an_opening_are_how_the_text_begins(hostiles: Site, number: int) -> None:
    text, about = HOSTILE[number], hostile(HOSTILE[number], number)
    (line,) = hostiles.all(f"/api/questions/{about.id}/tree")
    assert line["title"] == text[:TITLE]
    assert hostiles.get(f"/api/trajectories/t{number}")["line"]["opening"] == text[:TITLE]


@NUMBERED
def test_a_search_takes_every_character_as_itself(hostiles: Site, number: int) -> None:
    wanted = HOSTILE[number][:200]
    expected = [row["id"] for row in rows(hostiles.folder, "question") if within(wanted, row["text"])]
    assert f"{question(number).id}" in expected
    assert [each["id"] for each in hostiles.all("/api/questions", text=wanted, limit=7)] == expected
    expected = [row["id"] for row in rows(hostiles.folder, "trajectory") if within(wanted, row["text"], row["conclusion"])]
    assert [each["id"] for each in hostiles.all("/api/trajectories", text=wanted, limit=7)] == expected[::-1]


def test_the_view_of_the_run_holds_hostile_texts_as_they_are(hostiles: Site) -> None:
    beat(hostiles.folder, {**PULSE, "notes": [{"at": 0.0, "text": text} for text in HOSTILE], "paused": {"": HOSTILE[0]}})
    view = hostiles.settled_view()
    assert [each["text"] for each in view["notes"]] == list(HOSTILE)
    assert view["failures"] == dict.fromkeys(HOSTILE, 1)
    assert f"the run is paused by {HOSTILE[0]}" in [each["text"] for each in view["alerts"]]


def test_no_answer_can_be_taken_for_a_page(hostiles: Site) -> None:
    schema = hostiles.get("/api/openapi.json")
    for path, method, operation in operations(schema):
        if method == "GET" and path not in (ENDLESS, "/metrics"):
            answer = hostiles.answer(path.format(id=question(0).id, name="small"), params={"name": "x"})
            assert answer.headers["content-type"] == "application/json", path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert operation["responses"]
    for path in ("/api/<script>alert(1)</script>", "/<script>alert(1)</script>", "/api/questions?limit=<script>"):
        answer = hostiles.answer(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_is_told_of_hostile_texts_is_as_the_document_says(hostiles: Site) -> None:
    ask_of_all(hostiles)


INFINITE = (math.inf, -math.inf, math.nan)


def test_numbers_that_are_none_are_told_as_null_and_the_document_says_so(tmp_path: Path) -> None:
    """A log-prob of minus infinity and a loss that is not a number are measurements; JSON has no word for them."""
    about = question(0)

    async def work(store: Store) -> None:
        await begin(store, 1)
        scored = node("n1", about, "So.")
        scored = replace(scored, score=replace(scored.score, logprobs=(-0.5, *INFINITE)))
        await store.record_advance(Advance(question=about.id, kept=(scored,)))
        call = replace(calls(about, Random(1))[0], id="c1", request={"prefix": "", "temperature": math.inf})
        await store.record_calls([replace(call, response={"logprobs": [-0.5, *INFINITE]})])
        values = {"loss": math.nan, "norm": math.inf, "rate": 0.5}
        await store.record_training([], [Metrics(student="small", update=1, values=values)])

    with served(make(tmp_path, work)) as site:
        ask_of_all(site)
        assert site.get("/api/nodes/n1")["logprobs"] == [-0.5, None, None, None]
        found = site.get("/api/calls/c1")
        assert (found["request"]["temperature"], found["response"]) == (None, {"logprobs": [-0.5, None, None, None]})
        (found,) = site.get("/api/students/small/metrics")["items"]
        assert found["values"] == {"loss": None, "norm": None, "rate": 0.5}


# For Prometheus


def exposed(site: Site) -> dict[str, dict[str, float]]:
    """The samples by name, and by the value of their label."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    answer = site.answer("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            (label,) = sample.labels.values() or ("",)
            assert label not in found[sample.name], "told twice"
            found[sample.name][label] = sample.value
    return found


def is_as_the_view(site: Site) -> None:
    view = site.settled_view()
    agents = {each["name"]: each for each in view["agents"]}
    engines = {each["name"]: each for each in view["engines"]}
    expected = {
        "peripatos_run_state": {view["state"]: 1},
        "peripatos_questions": view["questions"],
        "peripatos_nodes": view["nodes"],
        "peripatos_trajectories": view["trajectories"],
        "peripatos_tokens_total": view["tokens"],
        "peripatos_failures_total": view["failures"],
        "peripatos_calls_total": {name: each["calls"] for name, each in agents.items()},
        "peripatos_spent_tokens_total": {name: each["tokens"] for name, each in agents.items()},
        "peripatos_spent_usd_total": {name: each["usd"] for name, each in agents.items()},
        "peripatos_agent_asked": {name: each["state"] == "asked" for name, each in agents.items()},
        "peripatos_engine_in_flight": {name: each["in_flight"] for name, each in engines.items()},
        "peripatos_engine_waiting": {name: each["waiting"] for name, each in engines.items()},
        "peripatos_updates_total": {each["name"]: each["updates"] for each in view["students"]},
        "peripatos_balance": {"": view["balance"]},
        "peripatos_watchers": {"": 0},
        **({"peripatos_last_solved_timestamp_seconds": {"": view["solved_at"]}} if view["solved_at"] else {}),
    }
    assert exposed(site) == {name: samples for name, samples in expected.items() if samples}


def test_what_prometheus_reads_is_the_view_of_the_run(filled: Site) -> None:
    beat(filled.folder)
    is_as_the_view(filled)
    assert {"ann", "bob", "cy"} == set(TEACHERS)
    assert exposed(filled)["peripatos_questions"]["solved"] > 0


def test_what_prometheus_reads_of_a_run_without_anything_is_complete_too(tmp_path: Path) -> None:
    with served(make(tmp_path, begun)) as site:
        is_as_the_view(site)
        assert set(exposed(site)["peripatos_questions"].values()) == {0}


def test_what_prometheus_reads_holds_hostile_labels_as_they_are(hostiles: Site) -> None:
    beat(hostiles.folder)
    is_as_the_view(hostiles)
