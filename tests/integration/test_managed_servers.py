"""A managed server's life, with a small real server in place of vLLM: started, awaited, restarted, given up, never orphaned."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agents import servers
from agents.errors import Broken
from agents.servers import ManagedServer
from configs.engines import ManagedServer as Config

ROOT = Path(__file__).parents[2]

PROGRAM = """
import http.server, os, pathlib, subprocess, sys

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass

folder = pathlib.Path(__file__).parent
lives = folder / "lives"
lives.write_text(lives.read_text() + f"{os.getpid()}\\n" if lives.exists() else f"{os.getpid()}\\n")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # a worker, which must not outlive it
port = int(sys.argv[sys.argv.index("--port") + 1])
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def lives(folder: Path) -> list[int]:
    """The process ids of all lives so far."""
    file = folder / "lives"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def in_session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [int(pid) for pid, state in (line.split() for line in found.stdout.splitlines()) if not state.startswith("Z")]


def until(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < limit_s, "it never came to hold"
        time.sleep(0.05)


class Case:
    """A server of one test, and what was told of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)

    def run(self, then: Callable[[ManagedServer], Awaitable[None]], *, restarts: int = 3, start_s: float = 20.0) -> None:
        config = Config(kind="sglang", model="m", command=(sys.executable, str(self.program)), restarts=restarts, start_s=start_s)

        async def go() -> None:
            output = self.folder / "output" / "one.log"
            async with ManagedServer(
                config, name="one", folder=self.folder, served="m", output=output, tell=self.told.append
            ) as server:
                await then(server)

        asyncio.run(go())


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(servers, "_FIRST_WAIT_S", 0.1)
    monkeypatch.setattr(servers, "AWAIT_S", 0.05)
    return Case(tmp_path)


def test_it_is_ready_when_it_answers_and_ends_with_us_its_workers_too(case: Case) -> None:
    async def then(server: ManagedServer) -> None:
        await server.ready()
        (pid,) = lives(case.folder)
        assert len(in_session(pid)) == 2

    case.run(then)
    (pid,) = lives(case.folder)
    until(lambda: not in_session(pid))
    assert case.told[0].startswith("server one is ready at http://127.0.0.1:")


def test_killed_it_is_started_again_and_who_waits_goes_on(case: Case) -> None:
    async def then(server: ManagedServer) -> None:
        await server.ready()
        os.kill(lives(case.folder)[-1], signal.SIGKILL)
        await server.recovered()
        assert len(lives(case.folder)) == 2
        assert not in_session(lives(case.folder)[0])

    case.run(then)
    assert [line for line in case.told if line.startswith("server one died: listening; starting again in 0.1 s")]


def test_one_that_never_answers_is_given_up_at_once_with_its_last_words(case: Case) -> None:
    case.program.write_text("raise SystemExit('no such model')")

    async def then(server: ManagedServer) -> None:
        with pytest.raises(Broken, match=r"^server one died: no such model; see .*one\.log$"):
            await server.ready()

    case.run(then)


def test_one_that_cannot_be_started_says_what_is_missing(case: Case) -> None:
    config = Config(kind="vllm", model="m", command=("no-such-program",))

    async def go() -> None:
        output = case.folder / "one.log"
        async with ManagedServer(config, name="one", folder=case.folder, served="m", output=output, tell=print) as server:
            with pytest.raises(Broken, match="no-such-program: No such file or directory"):
                await server.ready()

    asyncio.run(go())


def test_one_that_dies_again_and_again_is_given_up(case: Case) -> None:
    async def then(server: ManagedServer) -> None:
        await server.ready()
        case.program.write_text("raise SystemExit('out of memory')")
        os.kill(lives(case.folder)[-1], signal.SIGKILL)
        with pytest.raises(Broken, match="died 3 times in a row: out of memory"):
            await server.recovered()

    case.run(then, restarts=2)


def test_one_that_is_silent_from_the_start_is_given_up(case: Case) -> None:
    case.program.write_text("import time; time.sleep(600)")

    async def then(server: ManagedServer) -> None:
        with pytest.raises(Broken):
            await server.ready()

    case.run(then, start_s=0.5)
    assert "server one did not answer within 0.5 s" in case.told


OWNER = """
import asyncio, sys
from pathlib import Path
from agents.servers import ManagedServer
from configs.engines import ManagedServer as Config

async def main():
    folder = Path(sys.argv[1])
    config = Config(kind="vllm", model="m", command=(sys.executable, str(folder / "program.py")))
    async with ManagedServer(config, name="one", folder=folder, served="m", output=folder / "one.log", tell=print) as server:
        await server.ready()
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_outlives_its_owner_however_it_ends(case: Case, number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(case.folder)], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as owner:
        until(lambda: bool(lives(case.folder)) and len(in_session(lives(case.folder)[0])) == 2)
        owner.send_signal(number)
    until(lambda: not in_session(lives(case.folder)[0]))
