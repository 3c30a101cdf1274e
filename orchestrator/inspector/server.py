"""The inspector's server: the page, the API, and who may ask.

Invariant: it opens the store for reading, and for writing only where the run can be controlled. Not covered: what it says
(`api.py`), the process around it (`process.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from configs.schema import LOOPBACK, Http, RunConfig
from orchestrator.folder import Folder
from orchestrator.inspector.api import REFUSALS, Inspected, api
from orchestrator.inspector.feed import Feed
from orchestrator.inspector.guard import Guard, Rules
from orchestrator.inspector.operations import ops
from orchestrator.inspector.verbs import verbs
from store.store import StoreError, open_store

STATIC = Path(__file__).parent / "static"
NICENESS = 10
"""Of a server beside a run: the run goes first."""


def application(config: RunConfig, folder: Folder, *, http: Http, token: str | None, controls: bool) -> ASGIApp:
    """The whole application, over the store in `folder`; `controls`: a living run does what is asked here."""

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with open_store(folder.database, create=False, read_only=not controls) as store:
            feed = Feed(store)
            app.state.inspected = Inspected(config=config, folder=folder, store=store, feed=feed, controls=controls)
            async with feed.looking():
                yield

    app = FastAPI(
        title="Peripatos inspector",
        version="1",
        description="A run of Peripatos as JSON. Lists are pages, found by key: a page's `next` is the next one's `after`.",
        lifespan=opened,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        swagger_ui_oauth2_redirect_url=None,
        responses=REFUSALS,
    )
    app.include_router(api)
    app.include_router(verbs)
    app.include_router(ops)

    @app.exception_handler(StoreError)
    async def _cannot_read(_: Request, error: StoreError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=503)

    @app.exception_handler(RequestValidationError)
    async def _wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = [{key: mistake[key] for key in ("loc", "msg", "type")} for mistake in error.errors()]
        return JSONResponse({"detail": readable(mistakes)}, status_code=422)  # without what was sent: it may be anything

    @app.exception_handler(RecursionError)
    async def _too_deep(_: Request, error: RecursionError) -> JSONResponse:
        return JSONResponse({"detail": "what was sent is nested too deeply"}, status_code=400)

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    rules = Rules(
        hosts=(*LOOPBACK, http.host, *http.hosts),
        token=token,
        closed=http.host not in LOOPBACK,
        controls=controls,
        scripts=inline_scripts(STATIC / "index.html"),
    )
    return Guard(app, rules)


def readable(value: Any) -> Any:
    """JSON in which half a character, which cannot be sent, is spelled out."""
    if isinstance(value, dict):
        return {readable(key): readable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [readable(inner) for inner in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def inline_scripts(page: Path) -> Sequence[str]:
    """The digests of the page's inline scripts (its import map), for its Content-Security-Policy."""
    found = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    return [f"sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}" for each in found]


def serve(app: ASGIApp, listening: socket.socket, *, beside_run: bool) -> None:
    """Serve until a signal, or, beside a run, until the run's process has gone."""
    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "on", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **settings))
    if beside_run:
        os.nice(NICENESS)
        threading.Thread(target=_follow_run, args=(server,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(sockets=[listening]))


def _follow_run(server: uvicorn.Server) -> None:
    """End when the process that started us has closed our standard input, however it ended."""
    with contextlib.suppress(OSError):
        while sys.stdin.buffer.read(1):
            pass
    server.should_exit = True
    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
