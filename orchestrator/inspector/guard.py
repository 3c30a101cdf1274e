"""Who may ask the inspector what: before any route is looked at.

    Host       one of ours, or the request is for somebody else's page (DNS rebinding): 403
    Origin     where there is one, our own: another site's page cannot ask: 403
    token      for everything but /healthz, /readyz and the page's own files where the address is not this machine's: 401
               for control, always: 401; 403 where there is none to give

Invariant: no cookie is set or read; every answer carries a strict Content-Security-Policy, and is not kept by a proxy.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2**20
"""Of a body that is refused: more is not even taken."""

_OPEN = ("/healthz", "/readyz")
_TOLD = ("/metrics", "/status")
_CHANGES = ("/api/control",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`hosts` are the names that the server answers to; `token` opens what needs one (None: there is none); `closed`: reading
    needs it too; `controls`: there is something to control; `scripts` are digests of the page's own inline scripts."""

    hosts: Sequence[str]
    token: str | None
    closed: bool
    controls: bool
    scripts: Sequence[str] = ()


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = replace(rules, hosts=[host.lower() for host in rules.hosts])
        self._headers = _headers(rules.scripts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on and add the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message["headers"]}
                kept = [] if b"cache-control" in named else [(b"cache-control", _kept(scope["path"]))]
                message = {**message, "headers": [*message["headers"], *self._headers, *kept]}
            await send(message)

        if refused := self._refused(scope):
            status, why = refused
            await _drained(receive)
            body = json.dumps({"detail": why}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            if status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            await answer({"type": "http.response.start", "status": status, "headers": headers})
            await answer({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, answer)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        rules, headers = self._rules, {name.lower(): value for name, value in scope["headers"]}
        host = _name(b"//" + headers.get(b"host", b""))
        if host not in rules.hosts:
            return 403, f"this server does not answer to the host {host!r}; http.hosts can name it"
        if (origin := headers.get(b"origin")) is not None and _place(origin) != _place(b"//" + headers[b"host"]):
            return 403, "asked by a page of another origin"
        path: str = scope["path"]
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS") and path.startswith(_CHANGES)
        if changes and not (rules.controls and rules.token):
            return 403, "nothing can be controlled here: the run's own server does it, when http.token is given"
        needs = changes or (rules.closed and path not in _OPEN and (path.startswith("/api") or path in _TOLD))
        if needs and not _holds(headers.get(b"authorization", b""), rules.token):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None


def _kept(path: str) -> bytes:
    """What is told of the run nobody keeps; the page's own files are asked for again, and sent if they have changed."""
    return b"no-store" if path.startswith("/api") or path in _OPEN or path in _TOLD else b"no-cache"


async def _drained(receive: Receive) -> None:
    """Take what is still being sent, up to a point: whoever sends reads the answer only then."""
    taken = 0
    while taken < MOST_BYTES:
        message = await receive()
        taken += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def _holds(header: bytes, token: str | None) -> bool:
    kind, _, given = header.partition(b" ")
    return token is not None and kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


def _name(url: bytes) -> str | None:
    try:
        return urlsplit(url.decode("latin-1")).hostname
    except ValueError:
        return None


def _place(url: bytes) -> tuple[str | None, int | None] | None:
    """Host and port; the scheme is the proxy's business, if there is one."""
    try:
        found = urlsplit(url.decode("latin-1"))
        return found.hostname, found.port
    except ValueError:
        return None


def _headers(scripts: Iterable[str]) -> list[tuple[bytes, bytes]]:
    script = " ".join(["'self'", *(f"'{digest}'" for digest in scripts)])
    policy = (
        f"default-src 'none'; script-src {script}; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"x-frame-options", b"DENY"),
    ]
