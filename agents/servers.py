"""Servers that a run starts itself: started, awaited, watched, restarted with back-off, ended with the run.

    starting ──answers /health──▶ ready ──dies, or falls silent──▶ starting again ... ──too often──▶ gone

Invariant: no server outlives this process, however it ends (`guardian.py`); a call made while its server is down waits for it.
Not covered: what is asked of a server (`agents.engines.openai`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import structlog

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Engine, Prompt
from agents.errors import Broken, Retryable
from configs.engines import ManagedServer as ServerConfig

log = structlog.get_logger()

LOOK_S = 5.0
"""Between two looks at the health of a server that answers."""
AWAIT_S = 0.5
"""Between two looks at one that does not answer yet."""
SILENT_LOOKS = 30
"""So many looks in a row without an answer: a server that lives but is silent is ended and started again."""
HEALTHY_S = 60.0
"""A server that lived as long as this starts with all its restarts again."""

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_HEALTH_S = 10.0
_LAST_BYTES = 4096
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class ManagedServer:
    """One server process. Open with `async with`; `url` is known before it is ready.

    `folder` is the model's, `served` the name it is served by; what the server prints goes to `output`; `tell` gets a line
    for each change.
    """

    def __init__(
        self, config: ServerConfig, *, name: str, folder: Path, served: str, output: Path, tell: Callable[[str], None]
    ) -> None:
        self.name = name
        self._config = config
        self._output = output
        self._tell = tell
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = command(config, folder, served, self._port)
        self._ready = asyncio.Event()
        self._gone: str | None = None
        self._answered = False
        self._group = asyncio.TaskGroup()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._watching = self._group.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if self._watching:
            self._watching.cancel()
        await self._group.__aexit__(None, None, None)

    async def ready(self) -> None:
        """Wait until the server answers. Raises `Broken` when it is gone for good."""
        await self._ready.wait()
        if self._gone:
            raise Broken(self._gone)

    async def recovered(self) -> None:
        """After a failed call: return at once if the server answers, else when it does again. Raises `Broken`."""
        while not self._gone and self._ready.is_set():
            if await self._healthy():
                break
            await asyncio.sleep(AWAIT_S)
        await self.ready()

    async def _watch(self) -> None:
        """Lives of the server, one after the other, until it is gone or this task is cancelled."""
        died = 0
        while not died or (self._answered and died <= self._config.restarts):  # one that never answered never will
            if died:
                wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (died - 1))
                self._tell(f"server {self.name} died: {self._last_line()}; starting again in {wait_s:g} s")
                await asyncio.sleep(wait_s)
            lived_s = await self._live()
            died = 1 if lived_s > HEALTHY_S else died + 1
        often = f" {died} times in a row" if died > 1 else ""
        self._gone = f"server {self.name} died{often}: {self._last_line()}; see {self._output}"
        self._tell(self._gone)
        self._ready.set()

    async def _live(self) -> float:
        """One life of the server: how many seconds it answered."""
        loop = asyncio.get_running_loop()
        process = await self._start()
        log.info("server_started", server=self.name, pid=process.pid, url=self.url, command=self._command)
        ready_at = None
        try:
            async with asyncio.timeout(self._config.start_s) as starting:
                while process.returncode is None:
                    if await self._healthy():
                        break
                    await asyncio.sleep(AWAIT_S)
                starting.reschedule(None)
            if process.returncode is None:
                self._answered = True
                self._ready.set()
                ready_at = loop.time()
                self._tell(f"server {self.name} is ready at {self.url}")
                await self._until_dead(process)
        except TimeoutError:
            self._tell(f"server {self.name} did not answer within {self._config.start_s:g} s")
        finally:
            self._ready.clear()
            await _ended(process)
            log.info("server_ended", server=self.name, code=process.returncode)
        return 0.0 if ready_at is None else loop.time() - ready_at

    async def _start(self) -> asyncio.subprocess.Process:
        guardian = Path(__file__).with_name("guardian.py")
        self._output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._output.open("ab") as output:
                return await asyncio.create_subprocess_exec(
                    sys.executable,
                    str(guardian),
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **_QUIET, **self._config.env},
                )
        except OSError as error:
            raise Broken(f"server {self.name}: {self._output}: {error.strerror}") from error

    async def _until_dead(self, process: asyncio.subprocess.Process) -> None:
        silent = 0
        while silent < SILENT_LOOKS:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), LOOK_S)
                return
            silent = 0 if await self._healthy() else silent + 1
        self._tell(f"server {self.name} lives but does not answer: it is ended")

    async def _healthy(self) -> bool:
        timeout = aiohttp.ClientTimeout(total=_HEALTH_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{self.url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _last_line(self) -> str:
        """What the server said last that is no blank line."""
        try:
            with self._output.open("rb") as output:
                output.seek(max(0, output.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = output.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class ServedEngine:
    """`Engine` on a managed server: opened when the server is ready; calls wait while it is down."""

    def __init__(self, server: ManagedServer, engine: Engine) -> None:
        self._server = server
        self._engine = engine

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        try:
            await self._server.ready()
            await self._engine.__aenter__()
        except BaseException:
            await self._server.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._engine.__aexit__(*exc)
        finally:
            await self._server.__aexit__(*exc)

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    async def generate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        logprobs: bool = False,
    ) -> list[Completion]:
        """See `Engine.generate`."""
        await self._server.ready()
        try:
            return await self._engine.generate(
                prompt,
                n=n,
                max_tokens=max_tokens,
                stop=stop,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                logprobs=logprobs,
            )
        except Retryable:
            await self._server.recovered()
            raise

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """See `Engine.answer_logprobs`."""
        await self._server.ready()
        try:
            return await self._engine.answer_logprobs(context, answer)
        except Retryable:
            await self._server.recovered()
            raise


def command(config: ServerConfig, folder: Path, served: str, port: int) -> list[str]:
    """The whole command line of a server. Prompts' cached tokens are counted, and log-probs are raw."""
    where = ["--served-model-name", served, "--host", "127.0.0.1", "--port", str(port)]
    if config.kind == "vllm":
        start = config.command or ("vllm", "serve")
        return [*start, str(folder), *where, "--logprobs-mode", "raw_logprobs", "--enable-prompt-tokens-details", *config.args]
    start = config.command or ("python", "-m", "sglang.launch_server")
    return [*start, "--model-path", str(folder), *where, "--enable-cache-report", *config.args]


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a guardian, and with it its server, also when we are cancelled meanwhile."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
