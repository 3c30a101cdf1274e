"""What machines ask of the inspector: is it alive, is it ready, how is the run.

Invariant: /healthz looks at nothing, /readyz at the store. Not covered: the views (`api.py`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from orchestrator.inspector.api import Of, summary, text_of
from orchestrator.inspector.prometheus import exposition
from orchestrator.inspector.shapes import Health

ops = APIRouter()


@ops.get("/healthz", tags=["operations"])
async def healthz() -> Health:
    """The server lives."""
    return Health(status="ok")


@ops.get("/readyz", tags=["operations"])
async def readyz(of: Of) -> Health:
    """The store can be read, and a run is in it."""
    await of.view()
    return Health(status="ready")


@ops.get("/metrics", tags=["operations"], response_class=Response, responses=text_of("text/plain"))
async def exposed(of: Of) -> Response:
    """The run in Prometheus' format."""
    view = await of.view()
    return Response(exposition(view, of.feed.watchers), media_type="text/plain; version=0.0.4; charset=utf-8")


@ops.get("/status", tags=["operations"])
async def status(of: Of) -> dict[str, Any]:
    """What `peripatos status --json` prints."""
    return await summary(of)
