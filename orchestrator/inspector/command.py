"""`peripatos inspect`: the inspector for one run, living, finished or brought from elsewhere; and the child of a living one.

Invariant: without a living run behind it, it changes nothing. Not covered: the server (`server.py`).
"""

from __future__ import annotations

import asyncio
import socket
import sys

from configs.schema import Http, RunConfig
from orchestrator.folder import Folder
from orchestrator.inspector.process import address_of, bound, token_of
from store.store import open_store


def inspect(folder: Folder, config: RunConfig, *, port: int, fd: int | None) -> int:
    """Serve until Ctrl-C; with `fd`, a listening socket of the run's process, until that ends.

    Raises `PortTaken`, and `StoreError` when there is nothing to look at.
    """
    asyncio.run(_look(folder))
    beside_run = fd is not None
    http = config.http if beside_run else Http(port=port)
    listening = socket.socket(fileno=fd) if beside_run else bound(http)
    from orchestrator.inspector.server import application, serve

    token = token_of(http)
    app = application(config, folder, http=http, token=token, controls=beside_run and token is not None)
    if not beside_run:
        sys.stdout.write(f"{config.name} at {address_of(listening)}, read only; Ctrl-C ends\n")
        sys.stdout.flush()
    serve(app, listening, beside_run=beside_run)
    return 0


async def _look(folder: Folder) -> None:
    """See that the store can be read, while there is nobody but the terminal to be told. Raises `StoreError`."""
    async with open_store(folder.database, create=False, read_only=True):
        pass
