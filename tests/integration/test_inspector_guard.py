"""Who may ask the inspector what: hosts, origins, tokens, what a page may load, files, and what is asked of the run."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from inspected import (
    NUM_QUESTIONS,
    NUM_SETTLED,
    TOKEN,
    Site,
    begin,
    calls,
    changed,
    controlled,
    counts_in,
    failure,
    fill,
    make,
    question,
    recounted,
    rows,
    sampled,
    served,
    settle,
    ticking,
    written,
)

from configs.schema import Http
from orchestrator.controls import settable
from orchestrator.folder import Folder
from orchestrator.inspector.server import STATIC
from store.store import Store
from store.types import Outcome, QuestionState, Route, Verdict

OPEN = {"/healthz", "/readyz"}
PAUSE = {"verb": "pause", "subject": "ann", "by": "jo"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return make(tmp_path_factory.mktemp("run"), fill, clock=ticking())


@pytest.fixture(scope="module")
def site(folder: Folder) -> Iterator[Site]:
    with served(folder) as found:
        yield found


@pytest.fixture(scope="module")
def closed(folder: Folder) -> Iterator[Site]:
    """One that others can reach; the client has no token."""
    with served(folder, http=Http(host="0.0.0.0", token="TOKEN"), token=TOKEN, controls=True) as found:
        yield found


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A run of a few questions that takes what is asked; the client has the token."""
    with controlled(make(tmp_path_factory.mktemp("mine"), lambda store: begin(store, 3))) as found:
        yield found


@contextmanager
def nothing_is_kept(site: Site) -> Iterator[None]:
    """Of all that is asked meanwhile."""
    before = rows(site.folder, "control"), rows(site.folder, "event"), site.get("/api/config")
    yield
    assert (rows(site.folder, "control"), rows(site.folder, "event"), site.get("/api/config")) == before


def raw(site: Site, target: str, *lines: str, version: str = "HTTP/1.1") -> tuple[int, Mapping[str, str], bytes]:
    """Ask for a target as it is spelled, with these header lines and no others."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        connection.sendall("\r\n".join([f"GET {target} {version}", *lines, "connection: close", "", ""]).encode("latin-1"))
        with http.client.HTTPResponse(connection, method="GET") as answer:
            answer.begin()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


# Hosts and origins


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
def test_the_names_of_this_machine_are_answered_with_any_port(site: Site, host: str) -> None:
    for name in (host, f"{host}:{site.port}", f"{host}:80"):
        assert site.answer("/api/counts", headers={"host": name}).status_code == 200, name


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.", "evil.example:80", "127.0.0.1@evil.example", "0", "2130706433"),
        *("[::1", "127.0.0.1, evil.example", "0.0.0.0", "run.example"),
    ],
)
@pytest.mark.parametrize("path", ["/api/run", "/", "/healthz", "/status", "/metrics", "/nowhere"])
def test_a_page_of_another_name_that_leads_here_is_refused(site: Site, host: str, path: str) -> None:
    answer = site.answer(path, headers={"host": host})
    assert answer.status_code == 403
    assert "http.hosts" in answer.json()["detail"]
    is_guarded(answer.headers)


def test_without_a_host_or_with_two_nothing_is_told(site: Site) -> None:
    assert raw(site, "/api/counts", version="HTTP/1.0")[0] == 403
    assert raw(site, "/api/counts")[0] == 400
    assert raw(site, "/api/counts", "host: 127.0.0.1", "host: evil.example")[0] in (400, 403)
    assert raw(site, "/api/counts", "host: evil.example", "host: 127.0.0.1")[0] in (400, 403)
    assert raw(site, "/api/counts", "host: 127.0.0.1")[0] == 200


def test_names_of_the_configuration_are_answered_too_in_either_case(folder: Folder) -> None:
    with served(folder, http=Http(hosts=("run.example", "Proxy.Example"))) as site:
        for host in ("run.example", "run.example:8443", "RUN.example", "proxy.example", "Proxy.Example", "127.0.0.1"):
            assert site.answer("/api/counts", headers={"host": host}).status_code == 200, host
        for host in ("x.run.example", "run.example.evil", "example"):
            assert site.answer("/api/counts", headers={"host": host}).status_code == 403, host


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1", "http://localhost:{}", "127.0.0.1:{}", ""),
        *("http://127.0.0.1.evil:{}", "http://[", "http://evil.example@127.0.0.1.evil:{}", "http://127.0.0.1:{}@evil.example"),
    ],
)
def test_a_page_of_another_site_can_neither_read_nor_ask(mine: Site, origin: str) -> None:
    headers = {"origin": origin.format(mine.port)}
    with nothing_is_kept(mine):
        answers = (
            mine.answer("/api/counts", headers=headers),
            mine.answer("/healthz", headers=headers),
            mine.answer("/api/control", "POST", json=PAUSE, headers=headers),
            mine.answer("/api/control", "OPTIONS", headers=headers | {"access-control-request-method": "POST"}),
        )
    for answer in answers:
        assert (answer.status_code, answer.json()) == (403, {"detail": "asked by a page of another origin"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        is_guarded(answer.headers)


def test_our_own_page_can_read_and_ask(mine: Site) -> None:
    for host in (f"127.0.0.1:{mine.port}", f"localhost:{mine.port}", f"[::1]:{mine.port}"):
        headers = {"origin": f"http://{host}", "host": host}
        assert mine.answer("/api/counts", headers=headers).status_code == 200
        assert mine.answer("/api/control", "POST", json=PAUSE, headers=headers).status_code == 200
    headers = {"origin": "https://127.0.0.1:8443", "host": "127.0.0.1:8443"}  # behind a proxy
    assert mine.answer("/api/counts", headers=headers).status_code == 200


# Tokens


@pytest.mark.parametrize(("token", "controls"), [(None, False), (TOKEN, False), (None, True)])
def test_where_nothing_can_be_controlled_nobody_can(folder: Folder, token: str | None, controls: bool) -> None:
    with served(folder, token=token, controls=controls) as site, nothing_is_kept(site):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            for given in ("", f"Bearer {TOKEN}", "Bearer", "Bearer None", "Bearer x"):
                answer = site.answer("/api/control", method, json=PAUSE, headers={"authorization": given})
                assert answer.status_code == 403
                assert "http.token" in answer.json()["detail"]


@pytest.mark.parametrize(
    "given",
    [
        *("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer x{TOKEN}", f"Bearer {TOKEN.upper()}", TOKEN),
        *(f"Basic {TOKEN}", f"Bearer Bearer {TOKEN}", "Bearer \xff\xfe", f"Bearer,{TOKEN}", f"Bearer\t{TOKEN}"),
    ],
)
def test_without_the_right_token_nothing_is_controlled(mine: Site, given: str) -> None:
    headers = {b"authorization": given.encode("latin-1"), b"cookie": f"authorization=Bearer {TOKEN}".encode()}
    with nothing_is_kept(mine):
        for path in ("/api/control", f"/api/control?token={TOKEN}", "/api/control?authorization=Bearer"):
            answer = mine.answer(path, "POST", json=PAUSE, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.text


def test_without_any_token_nothing_is_controlled(mine: Site) -> None:
    with nothing_is_kept(mine):
        assert httpx.post(f"{mine.url}/api/control", json=PAUSE).status_code == 401


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}"])
def test_with_the_right_token_what_is_asked_is_kept_with_who_and_when(mine: Site, given: str) -> None:
    controls, events = rows(mine.folder, "control"), rows(mine.folder, "event")
    answer = mine.answer("/api/control", "POST", json=PAUSE, headers={"authorization": given})
    number = len(controls) + 1
    assert (answer.status_code, answer.json()) == (200, {"id": number})
    (kept,) = mine.all("/api/controls", after=number - 1)
    (event,) = mine.all("/api/events", after=len(events))
    assert (event["kind"], event["subject"]) == ("control", str(number))
    assert kept == {"id": number, "value": None, "was": None, "outcome": "", "asked_at": event["time"], **PAUSE}
    assert 0 <= time.time() - kept["asked_at"] < 60
    assert mine.answer("/api/control", "POST", json={"verb": "resume"}).json() == {"id": number + 1}
    (kept,) = mine.all("/api/controls", after=number)
    assert (kept["verb"], kept["subject"], kept["by"]) == ("resume", "", "somebody at the page")


def test_where_others_can_reach_it_reading_needs_the_token_too(closed: Site) -> None:
    paths = closed.get_with_token("/api/openapi.json")["paths"]
    assert len(paths) > 25
    for path, methods in paths.items():
        filled = path.replace("{id}", question(0).id).replace("{name}", "small")
        for method in methods:
            answer = closed.answer(filled, method.upper())
            assert answer.status_code == (200 if path in OPEN else 401), (method, path)
            is_guarded(answer.headers)
    assert closed.answer("/api/openapi.json").status_code == 401
    assert closed.answer("/").status_code == 200
    for path in ("/healthz", "/readyz"):
        assert closed.answer(path).json().keys() == {"status"}


@pytest.mark.parametrize("path", ["/api/run", "/status", "/metrics", "/api/events", "/api/openapi.json"])
def test_where_others_can_reach_it_the_token_opens_what_is_read(closed: Site, path: str) -> None:
    for given, status in ((f"Bearer {TOKEN}", 200), (f"Bearer {TOKEN[1:]}", 401), ("Bearer ", 401), ("", 401)):
        assert raw(closed, path, "host: 127.0.0.1", f"authorization: {given}")[0] == status
    assert closed.answer(f"{path}?token={TOKEN}").status_code == 401
    assert closed.answer(path, headers={"cookie": f"token={TOKEN}"}).status_code == 401
    assert closed.answer(path, "HEAD").status_code == 401


@pytest.mark.parametrize(
    "target",
    [
        *("//api/run", "/api//run", "/API/run", "/./api/run", "/x/../api/run", "/%61pi/run", "/api%2frun", "/;/api/run"),
        "/status/",
        *("/metrics/", "//status", "/%2e/status", "/Status", "/statu%73", "/metric%73?x", "/api/run/", "/api/run?x=/healthz"),
        *("/healthz/../api/run", "/healthz/..%2fapi/run", "http://127.0.0.1/api/run", "/api/stream", "/api/%73tream"),
    ],
)
def test_no_spelling_of_an_address_gets_round_the_token(closed: Site, target: str) -> None:
    status, headers, body = raw(closed, target, "host: 127.0.0.1")
    assert status in (307, 400, 401, 403, 404, 405)
    assert b"walk" not in body
    assert b"peripatos" not in body
    is_guarded(headers)


# What every answer says


def is_guarded(headers: Mapping[str, str]) -> None:
    """Nothing that a page could misuse, and the headers that a browser goes by."""
    assert "set-cookie" not in headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = {name: words for name, *words in (part.split() for part in headers["content-security-policy"].split(";"))}
    assert policy["default-src"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == ["'none'"]
    assert policy["style-src"] == policy["connect-src"] == policy["font-src"] == ["'self'"]
    assert policy["img-src"] == ["'self'", "data:"]
    first, *digests = policy["script-src"]
    assert first == "'self'"
    assert all(each.startswith("'sha256-") for each in digests)
    assert policy.keys() == {
        *("default-src", "script-src", "style-src", "img-src", "font-src", "connect-src"),
        *("base-uri", "form-action", "frame-ancestors"),
    }


def test_every_answer_carries_the_strict_headers_whatever_it_is(mine: Site) -> None:
    changed(mine.folder, "UPDATE question SET meta = 'no JSON' WHERE position = 2")
    asked: list[tuple[int, str, str, dict[str, Any]]] = [
        (200, "/api/counts", "GET", {}),
        (200, "/api/openapi.json", "GET", {}),
        (200, "/", "GET", {}),
        (200, "/", "HEAD", {}),
        (200, "/healthz", "GET", {}),
        (200, "/metrics", "GET", {}),
        (200, "/api/control", "POST", {"json": PAUSE}),
        (304, "/", "GET", {"headers": {"if-none-match": mine.answer("/").headers["etag"]}}),
        (401, "/api/control", "POST", {"headers": {"authorization": "x"}}),
        (403, "/", "GET", {"headers": {"host": "evil.example"}}),
        (404, "/nowhere", "GET", {}),
        (404, "/api/nowhere", "GET", {}),
        (404, "/api/nodes/nobody", "GET", {}),
        (405, "/", "POST", {}),
        (405, "/api/run", "DELETE", {}),
        (422, "/api/questions?limit=0", "GET", {}),
        (422, "/api/control", "POST", {"content": b"{"}),
        (409, "/api/control", "POST", {"json": {"verb": "requeue", "subject": "nobody"}}),
    ]
    for status, path, method, rest in asked:
        answer = mine.answer(path, method, **rest)
        assert answer.status_code == status, (method, path, answer.text)
        is_guarded(answer.headers)
    answer = httpx.get(f"{mine.url}/api/questions/{question(2).id}")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    is_guarded(answer.headers)


@pytest.mark.parametrize("path", ["/api/run", "/api/questions", "/status", "/metrics", "/healthz", "/api/nodes/nobody"])
def test_no_proxy_keeps_what_is_told_of_the_run(site: Site, path: str) -> None:
    for headers in ({}, {"host": "evil.example"}):
        kept = site.answer(path, headers=headers).headers.get("cache-control", "")
        assert {each.strip() for each in kept.split(",")} & {"no-store", "private"}, kept


class Scripts(HTMLParser):
    """The inline scripts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and "src" not in dict(attrs)
        if self._inside:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def test_the_scripts_in_the_page_are_allowed_by_their_digests_and_no_others(site: Site) -> None:
    page = site.answer("/")
    scripts = Scripts()
    scripts.feed(page.text)
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts.found]
    (policy,) = [part for part in page.headers["content-security-policy"].split(";") if part.strip().startswith("script-src")]
    assert policy.split() == ["script-src", "'self'", *(f"'sha256-{digest}'" for digest in digests)]


# Files


def test_every_file_of_the_page_is_served_as_what_it_is(site: Site) -> None:
    kinds = {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".css": "text/css",
        ".html": "text/html",
        ".svg": "image/svg+xml",
    }
    kinds |= {".json": "application/json", ".woff2": "font/woff2", ".png": "image/png", ".ico": "image/"}
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert files
    for path in files:
        answer = site.answer(f"/{path.relative_to(STATIC).as_posix()}")
        assert answer.status_code == 200
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith(kinds.get(path.suffix, "")), path
        is_guarded(answer.headers)
    assert site.answer("/").content == (STATIC / "index.html").read_bytes()


@pytest.mark.parametrize(
    "target",
    [
        *("/../server.py", "/..%2fserver.py", "/%2e%2e/server.py", "/%2e%2e%2fserver.py", "/..%5cserver.py", "/..\\server.py"),
        *("/....//server.py", "/vendor/../../server.py", "/vendor/..%2f..%2fserver.py", "/%252e%252e%252fserver.py", "/con"),
        *("//etc/passwd", "/%2fetc%2fpasswd", "/etc/passwd", "/../../../../../../../../etc/passwd", "/vendor/%2fetc/passwd"),
        *("/%c0%ae%c0%ae/server.py", "/%00", "/index.html%00.png", "/vendor%00/../../server.py", "/~root", "/vendor/", "/*"),
        *(f"/{'a' * 300}", f"/{'a/' * 2000}", "/%ff%fe", "/.git/config", "/config.yaml", "/peripatos.db", "/server.py"),
        "/vendor/.",
        *("file:///etc/passwd", "/index.html/x", "/?/../server.py%00"),
    ],
    ids=lambda target: target[:40],
)
def test_no_file_that_is_not_the_pages_is_served(site: Site, target: str) -> None:
    status, headers, body = raw(site, target, "host: 127.0.0.1")
    page = (STATIC / "index.html").read_bytes()
    assert status in (200, 307, 400, 404)
    assert status != 200 or body == page
    for secret in (b"root:", b"from __future__", b"name: walk", b"SQLite format", b"index.html"):
        assert secret not in body or body == page
    if status != 400:
        is_guarded(headers)
    if status == 307:
        assert httpx.URL(headers["location"]).host == "127.0.0.1"


# What is asked


WRONG: list[Any] = [
    *({}, [], "pause", None, {"verb": "stop"}, {"verb": "PAUSE"}, {"verb": ["pause"]}, {"verb": None}, {"subject": "ann"}),
    *({**PAUSE, "more": 1}, {**PAUSE, "id": 7}, {**PAUSE, "asked_at": 0}, {"verb": "requeue", "subject": "x" * 201}),
    {**PAUSE, "subject": 1},
    *({**PAUSE, "subject": None}, {**PAUSE, "value": "x" * 65}, {**PAUSE, "value": 7}, {**PAUSE, "by": None}, {**PAUSE, "by": 7}),
    *({**PAUSE, "by": by} for by in ("", "x" * 65, "<b>jo</b>", "jo\n", "jo\nal", "\u202ejo", "jo\x00", "jo;al", "\U0001f9ee")),
]
UNREADABLE = [
    *(b"", b"{", b"\xff\xfe", b"verb=pause", b'{"verb": "pause", "verb": "stop"}', b'{"verb": "pause"} {}'),
    *(rb'{"verb": "pause", "by": "\ud800"}', rb'{"verb": "pause", "subject": "\udfff"}', rb'{"verb": "pause", "\ud800": 1}'),
    *(rb'{"verb": "pause", "\\ud800": 1}', rb'{"verb": "pause", "\\\\ud": 1}', rb'{"verb": "pause", "\ud83e\uddee": 1}'),
    *(b'{"verb": "pause", "value": NaN}', b'{"verb": "pause", "subject": Infinity}', b'{"verb": 1e999}', b"NaN"),
    *(b'{"verb": "set", "subject": "budget.usd", "value": -Infinity}', b'{"verb": %s}' % (b"9" * 5000)),
    *(b"[" * 100_000, b'{"verb": "pause", "by": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"verb": "pause", "by": "\x00"}'),
]


@pytest.mark.parametrize("body", WRONG, ids=lambda body: json.dumps(body)[:60])
def test_what_is_no_control_is_told_in_words_and_not_kept(mine: Site, body: Any) -> None:
    with nothing_is_kept(mine):
        is_a_mistake(mine.answer("/api/control", "POST", json=body))


@pytest.mark.parametrize("content", UNREADABLE, ids=lambda content: repr(content)[2:40])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_body_that_cannot_be_read_is_told_in_words_and_is_no_error_of_the_server(mine: Site, content: bytes, kind: str) -> None:
    with nothing_is_kept(mine):
        answer = mine.answer("/api/control", "POST", content=content, headers={"content-type": kind})
    assert answer.status_code in (400, 413, 415, 422), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"detail"}


def is_a_mistake(answer: httpx.Response) -> list[str]:
    """What is wrong, a line each."""
    assert answer.status_code == 422, answer.text
    lines = [each["msg"] for each in answer.json()["detail"]]
    assert lines
    assert all(line and "\n" not in line and len(line) < 600 for line in lines), lines
    return lines


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize("subject", ["nobody", "Ann", "ann ", "prover", "small", "al", "*", "<script>"])
def test_who_is_no_teacher_cannot_be_paused(mine: Site, verb: str, subject: str) -> None:
    with nothing_is_kept(mine):
        (line,) = is_a_mistake(mine.answer("/api/control", "POST", json={"verb": verb, "subject": subject}))
    assert line == f"{verb}: no teacher is called {subject!r}; teachers: ann, bob, cy"


@pytest.mark.parametrize(
    "subject", ["", "limits", "search.beam", "limits.tries", "teachers.zoe.budget.usd", "limits.questions=3"]
)
def test_what_cannot_be_set_names_what_can(mine: Site, subject: str) -> None:
    with nothing_is_kept(mine):
        (line,) = is_a_mistake(mine.answer("/api/control", "POST", json={"verb": "set", "subject": subject, "value": "3"}))
    begins, _, accepted = line.partition("; accepted: ")
    assert begins == f"set: {subject!r} cannot be changed while a run lives"
    assert accepted.split(", ") == list(settable(mine.config))
    for key in ("limits.questions", "budget.usd", "teachers.bob.budget.tokens", "engines.other.limits.in_flight"):
        assert key in accepted.split(", ")


NO_NUMBERS = (
    *("0", "-1", "1.5", "many", "", None, "[1]", "{}", ".inf", ".nan", "null", "1e3", "true", "yes", "2024-01-01", "\x00"),
    *("\ufffe", "8\nsearch: {beam: 9}", "[", "'", "&a [*a]", "a: b: c", "@", "%", "!!python/name:os.system", "!!binary x"),
)


@pytest.mark.parametrize(
    ("subject", "value"),
    [
        *(("limits.questions", value) for value in NO_NUMBERS),
        *(("budget.usd", value) for value in ("-1", "-0.01", ".inf", "-.inf", ".nan", "free", "30$", "[3]", "true", "1e400")),
        *(("budget.tokens", value) for value in ("-1", "0.5", "1e400", "ten", "off")),
        *(("teachers.bob.budget.usd", "-2"), ("engines.one.limits.in_flight", "0")),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line_that_names_its_key(mine: Site, subject: str, value: str | None) -> None:
    with nothing_is_kept(mine):
        (line,) = is_a_mistake(mine.answer("/api/control", "POST", json={"verb": "set", "subject": subject, "value": value}))
    assert subject in line
    assert "--set" not in line
    assert str(mine.folder.root) not in line


def test_what_was_set_holds_in_the_configuration_that_is_shown(tmp_path: Path) -> None:
    with controlled(make(tmp_path, lambda store: begin(store, 3))) as site:
        is_set(site)


def is_set(mine: Site) -> None:
    asked = {
        "limits.questions": ("16", "8", 16),
        "budget.usd": ("7.5", "30.0", 7.5),
        "budget.tokens": ("", "1000000", None),
        "teachers.bob.budget.usd": ("0", "2.0", 0.0),
        "engines.other.limits.in_flight": ("3", "256", 3),
    }
    for subject, (value, _, _) in asked.items():
        assert mine.answer("/api/control", "POST", json={"verb": "set", "subject": subject, "value": value}).status_code == 200
    config = mine.get("/api/config")
    assert config["limits"]["questions"] == 16
    assert config["budget"] == {"usd": 7.5, "tokens": None}
    assert config["teachers"][1]["budget"]["usd"] == 0.0
    assert config["engines"]["other"]["limits"]["in_flight"] == 3
    kept = {each["subject"]: (each["was"], json.loads(each["value"])) for each in mine.get("/api/controls")["items"]}
    assert kept == {subject: (was, value) for subject, (_, was, value) in asked.items()}
    view = mine.get("/api/run")
    assert (view["cap_usd"], view["cap_tokens"], view["in_flight_questions"]) == (7.5, None, 16)
    assert {each["name"]: each["cap_usd"] for each in view["agents"]}["bob"] == 0.0


# A question that is taken up again


def states(folder: Folder) -> dict[str, str]:
    return {row["id"]: row["state"] for row in rows(folder, "question")}


def requeue(site: Site, subject: str) -> httpx.Response:
    return site.answer("/api/control", "POST", json={"verb": "requeue", "subject": subject, "by": "jo"})


def test_only_an_unsolved_question_can_be_taken_up_again(tmp_path: Path) -> None:
    folder = make(tmp_path, fill, clock=ticking())
    found = states(folder)
    before = {name: rows(folder, name) for name in ("question", "node", "trajectory", "verdict", "count", "control")}
    with controlled(folder) as site:
        others = [id for id, state in found.items() if state != "unsolved"]
        assert {found[id] for id in others} == {"solved", "leased", "pending"}
        for subject in [*others[::4], *others[-4:], "nobody", "", "' OR 1=1"]:
            answer = requeue(site, subject)
            assert answer.status_code == 409
            assert subject in answer.json()["detail"]
            assert "\n" not in answer.json()["detail"]
    assert {name: rows(folder, name) for name in before} == before


OF_A_QUESTION = ("node", "trajectory", "consensus", "standing")
OF_A_TRAJECTORY = ("verdict", "ruling", "route", "report")


def leaves_nothing_but_its_calls(site: Site, subject: str) -> None:
    """Of what was there, all but what is about this question and its trajectories is there still, as it was."""
    tables = (*OF_A_QUESTION, *OF_A_TRAJECTORY, "call", "failure", "question")
    before = {name: rows(site.folder, name) for name in tables}
    gone = {row["id"] for row in before["trajectory"] if row["question"] == subject}
    assert gone
    assert requeue(site, subject).status_code == 200
    expected = {
        **{name: [row for row in before[name] if row["question"] != subject] for name in OF_A_QUESTION},
        **{name: [row for row in before[name] if row["trajectory"] not in gone] for name in OF_A_TRAJECTORY},
        "call": before["call"],
        "failure": [row | (NO_REQUEST if quarantined(row, subject) else {}) for row in before["failure"]],
        "question": [row | ({"state": "pending", "reason": ""} if row["id"] == subject else {}) for row in before["question"]],
    }
    for name in tables:
        assert rows(site.folder, name) == expected[name], name


NO_REQUEST = {"request": ""}


def quarantined(failure: Mapping[str, Any], subject: str) -> bool:
    return failure["subject"] == subject and failure["kind"] == "Quarantined"


def test_a_question_that_is_taken_up_again_leaves_nothing_but_its_calls(tmp_path: Path) -> None:
    folder = make(tmp_path, fill, clock=ticking())
    written(folder, lambda store: store.end_run("finished"))
    unsolved = [id for id, state in states(folder).items() if state == "unsolved"]
    assert len(unsolved) == NUM_SETTLED // 3
    with controlled(folder) as site:
        for subject in unsolved:
            leaves_nothing_but_its_calls(site, subject)
            assert counts_in(folder) == recounted(folder)
            assert min(row["value"] for row in rows(folder, "count")) == 0
            assert site.get(f"/api/questions/{subject}")["nodes"] == {}
            assert site.all(f"/api/questions/{subject}/tree") == site.all("/api/trajectories", question=subject) == []
            assert site.answer(f"/api/questions/{subject}/consensus").status_code == 404
            assert len(site.all(f"/api/questions/{subject}/calls")) == 4
            assert requeue(site, subject).status_code == 409
        asked = [(each["verb"], each["subject"], each["by"], each["outcome"]) for each in site.all("/api/controls")]
        assert asked == [("requeue", subject, "jo", "done") for subject in unsolved]
        view = site.settled_view()
        assert (view["balance"], view["questions"]["unsolved"]) == (True, 0)
        assert sum(view["questions"].values()) == NUM_QUESTIONS
        assert (view["state"], view["finished_at"]) == ("interrupted", None)
        kinds = [each["kind"] for each in site.all("/api/events", limit=500)]
        assert kinds.count("question_requeued") == kinds.count("control") == len(unsolved)


def test_what_is_taken_back_leaves_what_would_be_there_without_it(tmp_path: Path) -> None:
    """But for the log, and for counts that are zero."""

    async def without(store: Store) -> None:
        await begin(store, 3)
        for number in (0, 2):
            await settle(store, number, Random(number))
        await store.record_calls(calls(question(1), Random(1)))
        await store.record_failure(failure(0))

    async def taken_back(store: Store) -> None:
        await begin(store, 3)
        for number in (0, 1, 2):
            await settle(store, number, Random(number), state=QuestionState.UNSOLVED if number == 1 else QuestionState.SOLVED)
        await store.record_failure(failure(0))
        await store.ask("requeue", question(1).id, by="jo")

    async def left(store: Store) -> dict[str, Any]:
        return await store.dump()

    one, other = (written(make(tmp_path / name, work), left) for name, work in (("one", without), ("other", taken_back)))
    for name in one.keys() - {"event", "control", "count"}:
        assert one[name] == other[name], name
    counted = [{row["name"]: row["value"] for row in dump["count"] if row["value"]} for dump in (one, other)]
    assert counted[0] == counted[1]


def test_the_question_is_solved_again_as_it_was_the_first_time(tmp_path: Path) -> None:
    """Its trajectories have the ids that they had: nothing of the first end may be in the way."""

    async def work(store: Store) -> list[dict[str, Any]]:
        await begin(store, 2)
        await settle(store, 1, Random(5), state=QuestionState.UNSOLVED)
        first = await store.dump()
        await store.ask("requeue", question(1).id, by="jo")
        await store.lease_question("me", 60)
        await settle(store, 1, Random(5), state=QuestionState.UNSOLVED)
        return [first, await store.dump()]

    first, again = written(make(tmp_path, lambda store: begin(store, 0)), work)
    for name in ("node", "trajectory", "verdict", "ruling", "consensus", "standing", "call"):
        assert first[name] == again[name], name


def test_a_control_that_cannot_be_done_now_is_no_error_of_the_server(tmp_path: Path) -> None:
    """A question whose trajectory was routed cannot be taken back: no unsolved one is, but the store does not rely on it."""

    async def work(store: Store) -> None:
        await begin(store, 2)
        made = sampled(question(0), "t1")
        await store.settle_question(
            question(0).id,
            QuestionState.UNSOLVED,
            "no",
            [made],
            [Verdict(trajectory="t1", outcome=Outcome.UNSOUND, reason="")],
            [Route(id="r1", trajectory="t1", student="small", gate=0)],
        )

    folder = make(tmp_path, work)
    with controlled(folder) as site:
        answer = requeue(site, question(0).id)
        assert answer.status_code == 409
        assert len(answer.json()["detail"].splitlines()) == 1
    assert states(folder)[question(0).id] == "unsolved"
    assert counts_in(folder) == recounted(folder)
