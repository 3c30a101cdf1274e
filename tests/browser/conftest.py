"""A real browser, and pages in it that must not complain."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import command
import pytest
from command import COMMAND, Kept, config, environment, fine
from inspected import fill, make, served
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
RUN = Path("runs/walk")
T = TypeVar("T")

JUDGED = {
    "engines": {
        "scripted": {"kind": "scripted", "skill": 0.75},
        "poor": {"kind": "scripted", "skill": 0.5, "seed": 1, "failure_rate": 0.05},
        "strict": {"kind": "scripted", "skill": 0.95, "seed": 2},
    },
    "teachers": [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "poor"}],
    "sampling": {"styles": ["plain", "backward"], "samples": 1},
    "judges": [{"name": "strict", "engine": "strict"}],
}
"""Over the scripted run: trajectories of several styles, rulings, consensus, failures."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these need a browser."""
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium: the system's, or playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Opens an address in a window of its own; at the end, no page may have complained, nor asked anybody but the server."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(url: str, *, width: int = 1400, height: int = 900, theme: str = "light", bypass_csp: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,  # pyright: ignore[reportArgumentType]
            bypass_csp=bypass_csp,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        origin = re.match(r"http://[^/]+", url)
        assert origin

        def heard(kind: str, text: str) -> None:
            if kind == "error" and not text.startswith("Failed to load resource"):  # a server that is gone, or that refuses
                complaints.append(text)

        page.on("console", lambda message: heard(message.type, message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
        ours = (origin[0], "data:")
        page.on("request", lambda asked: None if asked.url.startswith(ours) else complaints.append(f"asked {asked.url}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def in_a_thread(work: Callable[..., T], *about: Any) -> T:
    """What `work` gives: playwright's own event loop is in this thread, and another one cannot be."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work, *about).result()


def kept(folder: Path) -> Kept:
    """The store of a run."""
    return in_a_thread(command.kept, folder)


@contextmanager
def inspecting(folder: Path) -> Iterator[str]:
    """`peripatos inspect` on a run; the page's address."""
    with subprocess.Popen(
        [*COMMAND, "inspect", str(RUN)], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            found = re.search(r"(http\S+), read only", process.stdout.readline())
            assert found
            yield found[1]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A finished run's folder, and the address of its inspector."""
    folder = tmp_path_factory.mktemp("finished")
    fine("run", config(folder, count=150, **JUDGED), cwd=folder)
    with inspecting(folder) as url:
        yield folder, url


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an inspector over a store with students, routes, reports and accuracies."""
    folder = in_a_thread(make, tmp_path_factory.mktemp("students"), fill)
    with served(folder) as site:
        yield f"{site.url}/"
