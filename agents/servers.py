"""Servers that a run starts itself: started, awaited, watched, restarted with back-off, ended with the run.

    starting ──answers /health──▶ ready ──dies, or falls silent──▶ starting again ... ──too often──▶ gone

Invariant: no server outlives this process, however it ends (`guardian.py`); a call made while its server is down waits for it.
Not covered: what is asked of a server (`agents.engines.openai`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import structlog

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Engine, Prompt, together
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
_given: set[int] = set()
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class ManagedServer:
    """One server process. Open with `async with`; `url` is known before it is ready.

    `folder` is the model's, `served` the name it is served by; what the server prints goes to `output`; `tell` gets a line
    for each change. `replica` is its number among those of one engine.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        name: str,
        folder: Path,
        served: str,
        output: Path,
        tell: Callable[[str], None],
        replica: int = 0,
    ) -> None:
        self.name = name
        self._config = config
        self._output = output
        self._tell = tell
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = command(config, folder, served, self._port, replica)
        self._env = {name: _numbered(value, replica) for name, value in config.env.items()}
        self._ready = asyncio.Event()
        self._gone: str | None = None
        self._answered = False
        self._answers = False
        self._group = asyncio.TaskGroup()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._watching = self._group.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self.end()
        await self._group.__aexit__(None, None, None)

    def end(self) -> None:
        """Begin to end the server; leaving the context waits for its end."""
        if self._watching and not self._watching.cancelling():  # a second time would not leave the server its grace
            self._watching.cancel()

    @property
    def up(self) -> bool:
        """Whether the server answered when it was last looked at."""
        return self._ready.is_set() and self._answers and self._gone is None

    async def ready(self) -> None:
        """Wait until the server answers. Raises `Broken` when it is gone for good."""
        await self._ready.wait()
        if self._gone:
            raise Broken(self._gone)

    async def recovered(self) -> None:
        """After a failed call: return at once if the server answers, else when it does again. Raises `Broken`."""
        while not self._gone and self._ready.is_set():
            if await self.look():
                break
            await asyncio.sleep(AWAIT_S)
        await self.ready()

    async def look(self) -> bool:
        """Whether the server answers now; `up` says so until the next look."""
        import aiohttp  # costs 0.15 s, and few runs have servers

        timeout = aiohttp.ClientTimeout(total=_HEALTH_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{self.url}/health") as response:
                self._answers = response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._answers = False
        return self._answers

    async def _watch(self) -> None:
        """Lives of the server, one after the other, until it is gone or this task is cancelled."""
        died = 0
        while not died or (self._answered and died <= self._config.restarts):  # one that never answered never will
            if died:
                wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (died - 1))
                self._tell(f"server {self.name} died: {self._last_line()}; starting again in {wait_s:g} s")
                await asyncio.sleep(wait_s)
            try:
                lived_s = await self._live()
            except OSError as error:
                return self._give_up(f"server {self.name}: {self._output}: {error.strerror}")
            died = 1 if lived_s > HEALTHY_S else died + 1
        often = f" {died} times in a row" if died > 1 else ""
        self._give_up(f"server {self.name} died{often}: {self._last_line()}; see {self._output}")

    def _give_up(self, why: str) -> None:
        self._gone = why
        self._tell(why)
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
                    if await self.look():
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
        with self._output.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                str(guardian),
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **_QUIET, **self._env},
            )

    async def _until_dead(self, process: asyncio.subprocess.Process) -> None:
        silent = 0
        while silent < SILENT_LOOKS:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await process.wait()
                return
            silent = 0 if await self.look() else silent + 1
        self._tell(f"server {self.name} lives but does not answer: it is ended")

    def _last_line(self) -> str:
        """What the server said last that is no blank line."""
        try:
            with self._output.open("rb") as output:
                output.seek(max(0, output.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = output.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Servers:
    """The servers of a run, by the engine that is reached through them: all start at once, and all end at once.

    Open with `async with`; the task that opens it is the one that starts servers and closes it.
    """

    def __init__(self) -> None:
        self._started: dict[str, list[ManagedServer]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with AsyncExitStack() as stack:  # the one that was started last is left first: their task groups are nested
            for server in self._all():
                stack.push_async_exit(server)
                server.end()

    async def start(self, engine: str, server: ManagedServer) -> None:
        """Start a server of this engine, without waiting for it."""
        await server.__aenter__()
        self._started.setdefault(engine, []).append(server)

    async def ready(self, engine: str) -> None:
        """Wait until every server of this engine answers. Raises `Broken` as soon as one is gone for good."""
        await together([server.ready() for server in self._started.get(engine, ())])

    def _all(self) -> list[ManagedServer]:
        return [server for servers in self._started.values() for server in servers]


class ServedEngine:
    """`Engine` on a managed server that was started: opened when the server is ready; calls wait while it is down.

    `alone`: a failed call waits until the server answers again, since a retry can only go there. One of several replicas is
    not alone: after a look at the server, which `is_up` then tells of, the call fails, and the retry can go to another.
    """

    def __init__(self, server: ManagedServer, engine: Engine, *, alone: bool = True) -> None:
        self._server = server
        self._engine = engine
        self._alone = alone

    async def __aenter__(self) -> Self:
        await self._server.ready()
        await self._engine.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.__aexit__(*exc)

    def is_up(self) -> bool:
        """Whether its server answered when it was last looked at."""
        return self._server.up

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    def shown(self, prompt: Prompt) -> str:
        """See `Engine.shown`."""
        return self._engine.shown(prompt)

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
            await self._failed()
            raise

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """See `Engine.answer_logprobs`."""
        await self._server.ready()
        try:
            return await self._engine.answer_logprobs(context, answer)
        except Retryable:
            await self._failed()
            raise

    async def _failed(self) -> None:
        await (self._server.recovered() if self._alone else self._server.look())


def command(config: ServerConfig, folder: Path, served: str, port: int, replica: int = 0) -> list[str]:
    """The whole command line of a server. Prompts' cached tokens are counted, and log-probs are raw."""
    more = [_numbered(argument, replica) for argument in config.args]
    where = ["--served-model-name", served, "--host", "127.0.0.1", "--port", str(port)]
    if config.kind == "vllm":
        start = config.command or ("vllm", "serve")
        return [*start, str(folder), *where, "--logprobs-mode", "raw_logprobs", "--enable-prompt-tokens-details", *more]
    start = config.command or ("python", "-m", "sglang.launch_server")
    return [*start, "--model-path", str(folder), *where, "--enable-cache-report", *more]


def _numbered(text: str, replica: int) -> str:
    return text.replace("{replica}", str(replica))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a guardian, and with it its server, also when we are cancelled meanwhile.

    It ends when its standard input closes. A signal could come while it is starting, before it is ready for one.
    """
    assert process.stdin
    process.stdin.close()
    try:
        await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        raise


def _free_port() -> int:
    """A port that nobody listens on, and that no other server of this process was given."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
