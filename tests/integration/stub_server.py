"""A model server that answers, refuses, stalls and lies as it is told, on a real socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Json = dict[str, Any]
Behaviour = Callable[["StubServer", web.Request, Json], Awaitable[web.StreamResponse]]


class StubServer:
    """Serves one model under two names. Behaviours are used up one a request; then `default` answers."""

    def __init__(self, default: Behaviour, owner: str = "stub") -> None:
        self.default = default
        self.owner = owner
        self.behaviours: deque[Behaviour] = deque()
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.left_early = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/{route:.*}", self._post)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        return web.json_response({"data": [{"id": "stub", "owned_by": self.owner}]})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        behaviour = self.behaviours.popleft() if self.behaviours else self.default
        try:
            return await behaviour(self, request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left_early += 1
            raise


@asynccontextmanager
async def serving(default: Behaviour, owner: str = "stub") -> AsyncIterator[StubServer]:
    server = StubServer(default, owner)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def chunk(text: str, finish: str | None = None, index: int = 0) -> Json:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def says(*pieces: str, finish: str = "stop", pause_s: float = 0.0, usage: Json | None = None, done: bool = True) -> Behaviour:
    """Stream these pieces."""

    async def answer(_: StubServer, request: web.Request, __: Json) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events = [chunk(piece) for piece in pieces] + [chunk("", finish)] + ([{"choices": [], "usage": usage}] if usage else [])
        for event in events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(pause_s)
        if done:
            await response.write(b"data: [DONE]\n\n")
        return response

    return answer


def status(code: int, body: Json | str = "", **headers: str) -> Behaviour:
    """Answer with this status."""

    async def answer(_: StubServer, __: web.Request, ___: Json) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=code, text=text, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def cut(*pieces: str) -> Behaviour:
    """Begin to stream, then close the connection."""

    async def answer(server: StubServer, request: web.Request, body: Json) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(f"data: {json.dumps(chunk(piece))}\n\n".encode())
        assert request.transport
        request.transport.abort()
        return response

    return answer


def limited(per_second: float, burst: int, then: Behaviour, **headers: str) -> Behaviour:
    """Let in so many a second, `burst` at once after a rest; the others get 429."""
    tokens, last = float(burst), time.monotonic()

    async def answer(server: StubServer, request: web.Request, body: Json) -> web.StreamResponse:
        nonlocal tokens, last
        now = time.monotonic()
        tokens, last = min(burst, tokens + (now - last) * per_second), now
        if tokens < 1:
            return await status(429, {"error": {"message": "too many requests"}}, **headers)(server, request, body)
        tokens -= 1
        return await then(server, request, body)

    return answer


async def silent(_: StubServer, __: web.Request, ___: Json) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    raise AssertionError


async def reset(_: StubServer, request: web.Request, __: Json) -> web.StreamResponse:
    """Reset the connection."""
    assert request.transport
    request.transport.abort()
    return web.Response()


def endless(text: str) -> Behaviour:
    """Stream `text` again and again, whatever was asked for."""

    async def answer(_: StubServer, request: web.Request, __: Json) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        line = f"data: {json.dumps(chunk(text))}\n\n".encode()
        while True:
            await response.write(line)

    return answer
