"""The inspector's process beside a run: it serves, is started again when it dies, and ends with the run's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import ConfigError, dump, load
from configs.schema import Http
from orchestrator.folder import Folder
from orchestrator.inspector.process import PortTaken, inspector
from store.store import open_store


async def begun(tmp_path: Path) -> Folder:
    """A run's folder in whose store a run has begun."""
    folder, config = Folder(tmp_path), load("scripted", [f"run_dir={tmp_path}"])
    folder.config.write_text(dump(config))
    async with open_store(folder.database) as store:
        await store.begin_run("r", config.name, dump(config))
    return folder


def fetched(url: str, path: str = "status") -> dict[str, str]:
    with urllib.request.urlopen(f"{url}{path}", timeout=20) as response:
        return json.load(response)


def processes(folder: Folder) -> list[int]:
    """The inspectors of a run's folder that live."""
    found = subprocess.run(["pgrep", "-f", f"inspect {folder.root} --fd"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def became(true: Callable[[], bool], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_it_serves_while_the_run_lasts_and_comes_back_when_it_is_killed(tmp_path: Path) -> None:
    said: list[str] = []

    async def work() -> str:
        folder = await begun(tmp_path)
        async with inspector(Http(port=0), folder, said.append) as url:
            assert url
            assert (await asyncio.to_thread(fetched, url))["name"] == "scripted"
            (first,) = processes(folder)
            os.kill(first, signal.SIGKILL)
            assert (await asyncio.to_thread(fetched, url, "healthz")) == {"status": "ok"}  # the port is ours, so that it waits
            (second,) = processes(folder)
            assert second != first
            with pytest.raises(urllib.error.HTTPError, match="404") as missing:
                await asyncio.to_thread(fetched, url, "elsewhere")
            missing.value.close()
        assert not processes(folder)
        return url

    url = asyncio.run(work())
    assert said == [f"watch at {url}"]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/"))), timeout=5)


RUN = """if True:
    import asyncio, sys
    from pathlib import Path
    from configs.schema import Http
    from orchestrator.folder import Folder
    from orchestrator.inspector.process import inspector

    async def work():
        async with inspector(Http(port=0), Folder(Path(sys.argv[1])), lambda text: print(text, flush=True)):
            await asyncio.sleep(600)

    asyncio.run(work())
"""


@pytest.mark.chaos
def test_it_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    folder = asyncio.run(begun(tmp_path))
    with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout
            url = run.stdout.readline().split()[-1]
            assert fetched(url)["state"] == "running"
            assert len(processes(folder)) == 1
        finally:
            run.kill()
    assert became(lambda: not processes(folder))


def test_without_a_port_nothing_is_served(tmp_path: Path) -> None:
    async def work() -> None:
        async with inspector(Http(), Folder(tmp_path), pytest.fail) as url:
            assert url is None

    asyncio.run(work())


def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    async def work(port: int) -> None:
        async with inspector(Http(port=port), Folder(tmp_path), pytest.fail):
            pytest.fail("the port was taken")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"http\.port: {port} .* in use") as caught:
            asyncio.run(work(port))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", [None, "", " "])
def test_a_token_that_is_not_in_its_variable_is_said_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.delenv("PERIPATOS_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("PERIPATOS_TOKEN", token)

    async def work() -> None:
        async with inspector(Http(port=0, token="PERIPATOS_TOKEN"), Folder(tmp_path), pytest.fail):
            pytest.fail("there is no token")

    with pytest.raises(ConfigError, match="PERIPATOS_TOKEN is not set"):
        asyncio.run(work())


def test_an_address_that_others_can_reach_needs_a_token() -> None:
    with pytest.raises(ConfigError, match=r"http\.host: 0\.0\.0\.0 can be reached by others; give http\.token"):
        load("scripted", ["http.host=0.0.0.0"])
    assert load("scripted", ["http.host=0.0.0.0", "http.token=T"]).http.host == "0.0.0.0"


def test_a_host_that_is_not_ours_is_said_in_one_line(tmp_path: Path) -> None:
    async def work() -> None:
        async with inspector(Http(port=0, host="192.0.2.1", token="HOME"), Folder(tmp_path), pytest.fail):
            pytest.fail("it is another machine's")

    with pytest.raises(PortTaken, match=r"192\.0\.2\.1") as caught:
        asyncio.run(work())
    assert "\n" not in str(caught.value)
