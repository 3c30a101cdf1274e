"""Claims: the inspector stays quick over a large run, its memory stays flat, and whoever watches does not slow the run.

A store of 10,000 questions and 1,000,000 nodes, one tree of 5,000, written through the store's own door; the inspector's own
process over it, asked over HTTP; a page in a headless Chromium.

    pages      each kind of page, asked one after the other while another process writes to the same store as fast as it can:
               the median and the 99th percentile, in ms; and a search for a word that nobody wrote, page by page to its end
    memory     of the server's process, after its first pages and after thousands of them, in MiB
    browser    a page opened anew: until the first contentful paint; until the tree of 5,000 nodes is drawn, in s
    watched    advances a second of a scripted run without an inspector, and with one and 20 watchers that follow the stream and
               ask for what the page asks for, in turns, from 6 s after the first on: the inspector's start takes 2 s of a core.
               The watchers are on this machine, and give way to everybody else

Targets: every page under 50 ms at p99, paint and tree under 1 s, a watched run at 0.98 of one that is not.

    python benchmarks/inspector_scale.py [--questions 10000] [--nodes 1000000] [--biggest 5000] [--requests 300] [--laps 5]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from inspector_store import BIG, build, config_of, tree
from machine import device

from orchestrator.folder import Folder
from store.store import open_store
from store.types import Advance, Question, content_id

ROOT = Path(__file__).parents[1]
WATCHERS = 20
WARM_S = 6.0
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def environment() -> dict[str, str]:
    """With the repository on the import path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


@contextlib.contextmanager
def inspected(folder: Folder) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The inspector's process over a run, and its address."""
    command = [sys.executable, "-m", "orchestrator", "inspect", str(folder.root)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+:\d+/", process.stdout.readline())
            assert found
            yield process, found[0]
        finally:
            process.terminate()


def mebibytes(pid: int) -> float:
    """Resident memory of a living process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_on(database: Path, wrote: Any) -> None:
    """Write trees of new questions, as fast as the store takes them; `wrote` counts nodes."""

    async def work() -> None:
        async with open_store(database) as store:
            for number in range(10**9):
                questions = [content_id("new", number, each) for each in range(16)]
                asked = [Question(id=id, text=id, answer="1", kind="math") for id in questions]
                await store.add_questions(asked, split="train")
                async with asyncio.TaskGroup() as group:
                    for id in questions:
                        group.create_task(store.record_advance(Advance(question=id, kept=tuple(tree(id, 12)))))
                wrote.value += 16 * 12

    asyncio.run(work())


@contextlib.contextmanager
def writing(database: Path) -> Iterator[Any]:
    """A process that writes meanwhile."""
    spawn = multiprocessing.get_context("spawn")
    wrote = spawn.Value("q", 0)
    process = spawn.Process(target=write_on, args=(database, wrote), daemon=True)
    process.start()
    try:
        while not wrote.value:
            time.sleep(0.05)
        yield wrote
    finally:
        process.kill()
        process.join()


async def kinds_of_page(session: aiohttp.ClientSession) -> dict[str, list[str]]:
    """Paths of every kind of page, for as many questions as a page lists."""
    chance = random.Random(1)
    found: dict[str, list[str]] = {"run": ["/api/run"], "counts": ["/api/counts"], "metrics": ["/metrics"]}
    ids, places = [], [chance.randrange(9900) for _ in range(40)]
    found["questions"] = [f"/api/questions?after={place}" for place in places]
    found["questions, a state"] = [f"/api/questions?state=unsolved&after={place}" for place in places]
    for path in found["questions"][:10]:
        async with session.get(path) as answer:
            ids += [row["id"] for row in (await answer.json())["items"]]
    found["question"] = [f"/api/questions/{id}" for id in ids]
    found["tree"] = [f"/api/questions/{id}/tree" for id in ids]
    found["tree of 5,000 nodes, 500 of them"] = [f"/api/questions/{BIG}/tree?limit=500"]
    nodes = []
    for path in found["tree"][:20]:
        async with session.get(path) as answer:
            nodes += [row["id"] for row in (await answer.json())["items"]]
    found["node"] = [f"/api/nodes/{id}" for id in nodes]
    found["node's calls"] = [f"/api/nodes/{id}/calls" for id in nodes]
    found["calls"] = [f"/api/questions/{id}/calls" for id in ids]
    found["trajectories"] = [f"/api/trajectories?after={place * 4}" for place in places]
    found["trajectories, filtered"] = [f"/api/trajectories?teacher=bob&verdict=accepted&after={place * 4}" for place in places]
    found["trajectories, a rare word"] = [f"/api/trajectories?text=zebra&after={place * 4}" for place in places]
    found["failures"] = ["/api/failures"]
    found["events"] = [f"/api/events?after={chance.randrange(10**6)}" for _ in range(40)]
    found["history"] = ["/api/history?name=questions.solved&name=tokens.completion"]
    return found


async def times(address: str, num_requests: int) -> dict[str, list[float]]:
    """Seconds of each request, by kind of page."""
    found: dict[str, list[float]] = {}
    async with aiohttp.ClientSession(address) as session:
        kinds = await kinds_of_page(session)
        for kind, paths in kinds.items():
            seconds = found.setdefault(kind, [])
            for number in range(num_requests):
                begun = time.perf_counter()
                async with session.get(paths[number % len(paths)]) as answer:
                    await answer.read()
                    assert answer.status == 200, (paths[number % len(paths)], answer.status)
                seconds.append(time.perf_counter() - begun)
    return found


async def search_all(address: str, word: str) -> tuple[int, float]:
    """How many pages a search for a word takes to the end, and how long."""
    begun, after, pages = time.perf_counter(), "", 0
    async with aiohttp.ClientSession(address) as session:
        while True:
            async with session.get(f"/api/trajectories?text={word}{after}") as answer:
                page = await answer.json()
            pages += 1
            if page["next"] is None:
                return pages, time.perf_counter() - begun
            after = f"&after={page['next']}"


def quantile(seconds: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


def measure_pages(folder: Folder, num_requests: int) -> dict[str, Any]:
    """Pages beside a writer, and the server's memory."""
    with inspected(folder) as (server, address):
        asyncio.run(times(address, 20))
        first = mebibytes(server.pid)
        with writing(folder.database) as wrote:
            begun, before = time.perf_counter(), wrote.value
            found = asyncio.run(times(address, num_requests))
            written = (wrote.value - before) / (time.perf_counter() - begun)
        asyncio.run(times(address, num_requests))
        last = mebibytes(server.pid)
        pages, seconds = asyncio.run(search_all(address, "zebra"))
    print(f"\nthe writer beside it made {written:.0f} nodes a second")
    print(f"{'page':32} {'p50 ms':>8} {'p99 ms':>8}")
    rows = {kind: {"p50_ms": 1e3 * quantile(s, 0.5), "p99_ms": 1e3 * quantile(s, 0.99)} for kind, s in found.items()}
    for kind, row in rows.items():
        print(f"{kind:32} {row['p50_ms']:8.1f} {row['p99_ms']:8.1f}")
    print(f"a search for a word that nobody wrote: {pages} pages, {seconds:.2f} s to the end")
    num = sum(len(each) for each in found.values())
    print(f"server: {first:.0f} MiB after its first pages, {last:.0f} MiB after {2 * num} more")
    return {"pages": rows, "first_mib": first, "last_mib": last, "written": written, "searched_s": seconds}


def measure_browser(folder: Folder, laps: int) -> dict[str, Any]:
    """First paint and the large tree, in a browser that has never seen the page. Without a Chromium, nothing."""
    import shutil

    from playwright.sync_api import sync_playwright

    if not (chromium := next(filter(None, map(shutil.which, CHROMIUM)), None)):
        print("\nno Chromium is installed: the page itself was not measured")
        return {}
    paints, trees = [], []
    with inspected(folder) as (_, address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for _ in range(laps):
            for hash, seconds in (("#/run", paints), (f"#/questions/{BIG}", trees)):
                page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
                begun = time.perf_counter()
                page.goto(f"{address}{hash}", wait_until="commit")
                if seconds is trees:
                    until(page, TREE_IS_DRAWN)
                    seconds.append(time.perf_counter() - begun)
                else:
                    until(page, "performance.getEntriesByName('first-contentful-paint').length > 0")
                    seconds.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1e3)
                page.context.close()
        browser.close()
    print(f"\nfirst contentful paint {statistics.median(paints):.2f} s (highest {max(paints):.2f})")
    print(f"tree of 5,000 nodes, from the address to all of it drawn {statistics.median(trees):.2f} s (highest {max(trees):.2f})")
    return {"paint_s": paints, "tree_s": trees}


def until(page: Any, true: str) -> None:
    """Ask the page until an expression is true: its policy forbids it to evaluate texts by itself."""
    deadline = time.monotonic() + 30
    while not page.evaluate(true):
        if time.monotonic() > deadline:
            raise TimeoutError(true)
        time.sleep(0.01)


TREE_IS_DRAWN = """() => {
  const size = document.querySelector('[data-test="tree-size"]');
  return size && Number(size.textContent.replace(/\\D/g, '')) >= 5000 && document.querySelector('[data-test="tree-node"]');
}"""


def run_config(folder: Path, num_questions: int, latency_s: float, *, watched: bool) -> None:
    """A scripted run, with an inspector or without."""
    config = {
        "name": "watched",
        "questions": [{"kind": "word_problems", "count": num_questions, "seed": 1, "largest": 1000}],
        "engines": {"scripted": {"kind": "scripted", "skill": 0.6, "latency_s": latency_s}},
        "teachers": [{"name": "ann", "engine": "scripted"}, {"name": "bob", "engine": "scripted"}],
        "prover": {"engine": "scripted"},
        "search": {"beam": 2},
        **({"http": {"port": 0}} if watched else {}),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


async def watcher(address: str) -> None:
    """Follows the stream, and asks for what the page shows: once a second the run, and the tree of a question that moves."""
    timeout = aiohttp.ClientTimeout(total=None)
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with aiohttp.ClientSession(address, timeout=timeout) as session, session.get("/api/stream") as stream:
            asked = 0.0
            async for line in stream.content:
                if not line.startswith(b"data: ") or time.monotonic() - asked < 1.0:
                    continue
                asked = time.monotonic()
                tick = json.loads(line[6:])
                paths = ["/api/run", *(f"/api/questions/{id}/tree" for id in tick.get("questions", [])[:1])]
                for path in paths:
                    async with session.get(path) as answer:
                        await answer.read()


def watch(address: str, num: int) -> None:
    """So many watchers, who give way to everybody else on this machine, as if they were on another."""
    os.nice(19)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(num):
                group.create_task(watcher(address))

    asyncio.run(work())


@contextlib.contextmanager
def watching(address: str, num: int) -> Iterator[None]:
    """So many watchers, meanwhile, in a process of theirs."""
    process = multiprocessing.get_context("spawn").Process(target=watch, args=(address, num), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def pace(database: Path) -> float:
    """Advances a second of a run, from `WARM_S` after the first on."""
    with contextlib.closing(sqlite3.connect(database)) as opened:
        (first,) = opened.execute("SELECT min(time) FROM event WHERE kind = 'advance'").fetchone()
        later = "SELECT count(*), max(time) FROM event WHERE kind = 'advance' AND time > ?"
        num, last = opened.execute(later, (first + WARM_S,)).fetchone()
    return num / (last - first - WARM_S)


async def one_run(num_questions: int, latency_s: float, watchers: int) -> float:
    """Advances a second of a run's search."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run_config(folder, num_questions, latency_s, watched=watchers > 0)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator", "run", "run.yaml"),
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr
        address = None
        while watchers and address is None:
            found = re.search(r"watch at (http\S+)", (await process.stderr.readline()).decode())
            address = found[1] if found else None
        with watching(address, watchers) if address else contextlib.nullcontext():
            await process.stderr.read()
            if await process.wait():
                raise RuntimeError("the run failed")
        return pace(folder / "runs" / "watched" / "peripatos.db")


def measure_watched(laps: int) -> dict[str, Any]:
    """Runs in turns, without an inspector and with watchers."""
    rows: dict[str, Any] = {}
    print(f"\n{'run':34} {'alone':>8} {'watched':>8} {'ratio':>7} {'lowest':>7} {'highest':>8}")
    for kind, num_questions, latency_s in (("as fast as we can", 2500, 0.0), ("answers take 50 ms", 250, 0.05)):
        alone, watched = [], []
        for _ in range(laps):
            alone.append(asyncio.run(one_run(num_questions, latency_s, 0)))
            watched.append(asyncio.run(one_run(num_questions, latency_s, WATCHERS)))
        ratios = [w / a for w, a in zip(watched, alone, strict=True)]
        rows[kind] = {"alone": alone, "watched": watched}
        print(
            f"{kind:34} {statistics.median(alone):8.0f} {statistics.median(watched):8.0f} "
            f"{statistics.median(ratios):7.3f} {min(ratios):7.3f} {max(ratios):8.3f}"
        )
    return rows


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--biggest", type=int, default=5_000)
    parser.add_argument("--calls", type=int, default=20, help="calls of a question")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--laps", type=int, default=5)
    parser.add_argument("--only", choices=("pages", "browser", "watched"), nargs="*", default=["pages", "browser", "watched"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(device())
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = config_of(Path(scratch) / "run")
        if {"pages", "browser"} & set(options.only):
            begun = time.perf_counter()
            asyncio.run(build(folder, options.questions, options.nodes, options.biggest, options.calls))
            size = folder.database.stat().st_size / 2**20
            print(f"{options.questions} questions, {options.nodes} nodes, {size:.0f} MiB")
            print(f"written in {time.perf_counter() - begun:.0f} s")
        if "browser" in options.only:
            found |= measure_browser(folder, options.laps)
        if "pages" in options.only:
            found |= measure_pages(folder, options.requests)
        if "watched" in options.only:
            found["watched"] = measure_watched(options.laps)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
