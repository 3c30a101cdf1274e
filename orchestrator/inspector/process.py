"""The inspector beside a run: a process of its own, so that whoever watches does not slow the run.

    run ──binds the port──▶ child: `python -m orchestrator inspect RUN_DIR --fd N`, at low priority ──▶ reads the store
                                                                                         └──▶ what is asked is a row there

Invariant: the child ends when this process ends, however that happens; should it die, it is started again, and the run goes on.
Not covered: what it serves (`server.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from configs.load import ConfigError
from configs.schema import Http
from orchestrator.folder import Folder

log = structlog.get_logger()

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
_END_S = 3.0


class PortTaken(Exception):
    """The inspector's port cannot be had; the message is one line."""


def bound(http: Http) -> socket.socket:
    """A listening socket at the configured address. Raises `PortTaken`."""
    host, port = http.host, http.port or 0
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, asyncio sends without delay
    except OSError as error:
        raise PortTaken(
            f"http.host: {host} cannot be used: {error.strerror or error}; accepted: an address of this machine"
        ) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise PortTaken(
            f"http.port: {port} on {host} cannot be used: {error.strerror}; choose another port, 0 for any, or none"
        ) from error
    return listening


def token_of(http: Http) -> str | None:
    """The token, from its environment variable. Raises `ConfigError` when that is not set."""
    if http.token is None:
        return None
    if not (token := os.environ.get(http.token, "").strip()):
        raise ConfigError(f"http.token: the environment variable {http.token} is not set; put the token in it")
    return token


def address_of(listening: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"


@asynccontextmanager
async def inspector(http: Http, folder: Folder, tell: Callable[[str], None]) -> AsyncIterator[str | None]:
    """Serve the run in `folder` while this lasts, if a port is configured; the page's address.

    Raises `PortTaken`, and `ConfigError` when the token is not there.
    """
    if http.port is None:
        yield None
        return
    token_of(http)
    with contextlib.closing(bound(http)) as listening:
        address = address_of(listening)
        tell(f"watch at {address}" + (f" (control with the token in {http.token})" if http.token else ""))
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(_served(folder, listening))
            try:
                yield address
            finally:
                serving.cancel()


async def _served(folder: Folder, listening: socket.socket) -> None:
    wait_s = FIRST_WAIT_S
    while True:
        started = asyncio.get_running_loop().time()
        code = await _once(folder, listening)
        log.warning("inspector_died", code=code, again_in_s=wait_s)
        if asyncio.get_running_loop().time() - started > LONGEST_WAIT_S:
            wait_s = FIRST_WAIT_S
        await asyncio.sleep(wait_s)
        wait_s = min(LONGEST_WAIT_S, 2 * wait_s)


async def _once(folder: Folder, listening: socket.socket) -> int:
    """One life of the child: its exit code."""
    with (folder.root / "inspector.log").open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "orchestrator", "inspect", str(folder.root), "--fd", str(listening.fileno())),
            stdin=asyncio.subprocess.PIPE,  # closes when we end, and then it ends
            stdout=output,
            stderr=output,
            pass_fds=[listening.fileno()],
        )
        try:
            return await child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            try:
                async with asyncio.timeout(_END_S):
                    await child.wait()
            except TimeoutError:
                child.kill()
                await child.wait()
