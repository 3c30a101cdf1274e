"""Who watches a run is told of everything that happens in it, however often it goes and comes back, and holds nobody up."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from inspected import STUDENTS, Site, Told, begin, changed, events_of, failure, make, node, question, rows, served, watching

from orchestrator.folder import Folder
from orchestrator.inspector import feed as feeds
from orchestrator.inspector.feed import Feed
from store.store import Store, open_store
from store.types import Advance, Metrics, QuestionState

PROMPTLY_S = 4.0
"""A tick comes each half second; ten would be the look after a silence."""

pytestmark = pytest.mark.long  # most of it is waiting for the next look


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with served(make(tmp_path, lambda store: begin(store, 40))) as found:
        yield found


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One in which nothing happens."""
    with served(make(tmp_path_factory.mktemp("quiet"), lambda store: begin(store, 40))) as found:
        yield found


def happened(folder: Folder, after: int) -> Counter[str]:
    """The events above a number, by kind."""
    return Counter(row["kind"] for row in rows(folder, "event") if row["seq"] > after)


def last(folder: Folder) -> int:
    return rows(folder, "event")[-1]["seq"]


async def told_until(stream: AsyncIterator[Told], folder: Folder, within_s: float = PROMPTLY_S) -> list[Told]:
    """The ticks up to the last event that there is now."""
    end, found = last(folder), []
    async with asyncio.timeout(within_s):
        async for each in stream:
            found.append(each)
            if each.id >= end:
                break
    return found


def summed(ticks: list[Told]) -> Counter[str]:
    return sum((Counter(each.data["kinds"]) for each in ticks if each.event == "tick"), Counter())


async def writing(site: Site, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """What another process's door would give: one that is not the server's."""
    async with open_store(site.folder.database, create=False) as store:
        return await work(store)


async def lease_all(store: Store, pause_s: float = 0.02, num: int = 60) -> None:
    """Three times as many events, a few at a time."""
    for number in range(num):
        await store.lease_question("run", 60)
        await store.record_failure(failure(number))
        if number % 5 == 4:
            await store.release_leases("run")
        await asyncio.sleep(pause_s)


# What is told


def test_a_watcher_is_told_what_changed_and_of_which_questions_and_students(site: Site) -> None:
    async def work(store: Store) -> None:
        await store.record_advance(Advance(question=question(3).id, kept=(node("n", question(3), "So."),)))
        await store.set_target(question(4).id, "7", 0.5)
        await store.record_failure(failure(0))
        await store.record_failure(failure(3))
        await store.record_training([], [Metrics(student="small", update=1, values={"loss": 1.0})])
        await store.settle_question(question(5).id, QuestionState.UNSOLVED, "no", [], [], [])
        await store.ask("requeue", question(5).id, by="jo")

    async def watch() -> None:
        async with watching(site) as stream:
            hello = await anext(stream)
            assert (hello.event, hello.id, hello.data) == ("hello", 40 + 1, {"seq": 41})
            await writing(site, work)
            ticks = await told_until(stream, site.folder)
            assert summed(ticks) == happened(site.folder, hello.id)
            assert all(each.event == "tick" and each.id == each.data["seq"] and not each.data["more"] for each in ticks)
            named = {name for each in ticks for name in each.data["questions"]}
            assert {question(number).id for number in (3, 4, 5)} | {failure(0).subject, failure(3).subject} == named
            assert {name for each in ticks for name in each.data["students"]} == {STUDENTS[0]}

    asyncio.run(watch())


def test_a_tick_names_so_many_questions_and_says_that_there_are_more(site: Site) -> None:
    async def watch() -> None:
        async with watching(site) as stream:
            await anext(stream)
            new = [question(number, "more") for number in range(feeds.MOST_NAMED + 1)]
            await writing(site, lambda store: store.add_questions(new, split="train"))
            (tick,) = await told_until(stream, site.folder)
            assert tick.data["kinds"] == {"question": len(new)}
            assert tick.data["more"] is True
            assert tick.data["questions"] == sorted(each.id for each in new)[: feeds.MOST_NAMED]

    asyncio.run(watch())


def test_more_than_one_look_takes_is_told_in_several_ticks(site: Site) -> None:
    async def watch() -> None:
        async with watching(site) as stream:
            hello = await anext(stream)
            many(site.folder, feeds.MOST_EVENTS + 10)
            ticks = await told_until(stream, site.folder)
            assert summed(ticks) == happened(site.folder, hello.id)
            assert [each.id for each in ticks] == [hello.id + feeds.MOST_EVENTS, last(site.folder)]

    asyncio.run(watch())


def many(folder: Folder, num: int, *, subject: str = "'student'") -> None:
    """So many events at once, past the store's door."""
    changed(
        folder,
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {num}) "
        f"INSERT INTO event (time, kind, subject) SELECT 0.0, iif(i % 3, 'metrics', 'call'), {subject} FROM n",
    )


# Who goes and comes back


def test_who_goes_and_comes_back_misses_nothing_and_is_told_nothing_twice(site: Site) -> None:
    async def write_on(store: Store, over: asyncio.Event) -> None:
        while not over.is_set():
            await lease_all(store, num=5)

    async def watch() -> None:
        ticks: list[Told] = []
        over = asyncio.Event()
        async with open_store(site.folder.database, create=False) as store, asyncio.timeout(20), asyncio.TaskGroup() as group:
            async with watching(site) as stream:
                first = await anext(stream)
                writing = group.create_task(write_on(store, over))
                ticks.append(await anext(stream))
            for turn in range(3):
                seen = ticks[-1].id
                async with watching(site, last=seen) if turn % 2 else watching(site, seen) as stream:
                    hello = await anext(stream)
                    assert (hello.event, hello.id) == ("hello", seen)
                    ticks.append(await anext(stream))
                await asyncio.sleep(0.15 * turn)
            async with watching(site, 7, last=ticks[-1].id) as stream:  # what the browser says goes before the address
                await anext(stream)
                over.set()
                await writing
                ticks += await told_until(stream, site.folder)
        assert summed(ticks) == happened(site.folder, first.id)
        assert [each.id for each in ticks] == sorted({each.id for each in ticks})

    asyncio.run(watch())


@pytest.mark.parametrize("by", ["after", "last"])
def test_who_comes_back_to_a_quiet_run_is_told_at_once_what_it_missed(site: Site, by: str) -> None:
    async def watch() -> None:
        await writing(site, lambda store: lease_all(store, 0))
        async with watching(site, **{by: 45}) as stream:
            assert (await anext(stream)).id == 45
            ticks = await told_until(stream, site.folder)
            assert summed(ticks) == happened(site.folder, 45)

    asyncio.run(watch())


def test_what_happens_while_the_first_one_begins_to_watch_is_told_at_once(site: Site) -> None:
    async def watch() -> None:
        async with open_store(site.folder.database, create=False) as store:
            feed = Feed(store)
            async with feed.looking():
                stream = events_of(lines(feed.follow(None)))
                hello = await anext(stream)
                ticks: list[Told] = []
                for _ in range(3):  # each while the feed waits for its reader
                    await lease_all(store, 0, 5)
                    ticks += await told_until(stream, site.folder)
                assert summed(ticks) == happened(site.folder, hello.id)

    asyncio.run(watch())


def test_who_joins_between_two_looks_is_told_nothing_twice(site: Site) -> None:
    async def watch() -> None:
        async with open_store(site.folder.database, create=False) as store:
            feed = Feed(store)
            first, second = (events_of(lines(feed.follow(None))) for _ in range(2))
            async with feed.looking(), asyncio.timeout(20):
                await anext(first)
                for number in range(2):
                    await store.record_failure(failure(number))
                    await anext(first)
                await store.record_failure(failure(2))  # a look has just been taken: all this is for the next one
                hello = await anext(second)
                await store.record_failure(failure(3))
                ticks = [await anext(second)]
                await store.record_failure(failure(4))
                ticks.append(await anext(second))
                assert hello.id == last(site.folder) - 2
                assert [each.data["kinds"] for each in ticks] == [{"failure": 1}] * 2
                assert (await anext(first)).data["kinds"] == {"failure": 3}

    asyncio.run(watch())


async def lines(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    async for text in texts:
        for line in text.split("\n")[:-1]:
            yield line


@pytest.mark.parametrize("given", ["", "x", "-1", "1.5", "9" * 30, "9" * 19, "1; 2", "\u00b2", "0x1", "7 7", "null"])
def test_a_last_number_that_is_none_is_passed_over(quiet: Site, given: str) -> None:
    async def watch(path: str) -> Told:
        headers = {b"last-event-id": given.encode("latin-1")}
        async with (
            httpx.AsyncClient(base_url=quiet.url, timeout=20) as client,
            client.stream("GET", path, headers=headers) as answer,
        ):
            assert answer.status_code == 200
            return await anext(events_of(answer.aiter_lines()))

    assert asyncio.run(watch("/api/stream")).id == 41
    assert asyncio.run(watch("/api/stream?after=5")).id == 5


@pytest.mark.parametrize("given", ["-1", "x", "1.5", str(2**62), "9" * 30])
def test_a_number_in_the_address_that_is_none_is_a_mistake(quiet: Site, given: str) -> None:
    assert quiet.answer(f"/api/stream?after={given}").status_code == 422


# Who is far behind


@pytest.mark.parametrize("behind", [feeds.FAR_BEHIND, feeds.FAR_BEHIND + 1])
def test_who_is_too_far_behind_is_told_to_read_everything_again(site: Site, behind: int) -> None:
    """One less is told of everything."""
    many(site.folder, behind)

    async def watch() -> None:
        async with watching(site, 41) as stream:
            assert (await anext(stream)).id == 41
            tick = await anext(stream)
            assert tick.id == last(site.folder) == 41 + behind
            if behind > feeds.FAR_BEHIND:
                assert tick.data == {"seq": tick.id, "kinds": {"reset": 1}, "questions": [], "students": [], "more": False}
            else:
                assert tick.data["kinds"] == happened(site.folder, 41)
            await writing(site, lambda store: store.record_failure(failure(1)))
            assert summed(await told_until(stream, site.folder)) == {"failure": 1}

    asyncio.run(watch())


def test_who_comes_from_another_store_is_told_to_read_everything_again(site: Site) -> None:
    """The run was begun anew at the same address: its numbers are below those that an open page has seen."""

    async def watch() -> None:
        async with watching(site, last=10**6) as stream:
            async with asyncio.timeout(PROMPTLY_S):
                first = await anext(stream)
                if first.event == "hello":
                    first = await anext(stream)
            assert first.data["kinds"] == {"reset": 1}
            assert first.id == 41
            await writing(site, lambda store: store.record_failure(failure(1)))
            assert summed(await told_until(stream, site.folder)) == {"failure": 1}

    asyncio.run(watch())


# Many, and slow ones


def watchers(site: Site) -> int:
    (line,) = [line for line in site.answer("/metrics").text.splitlines() if line.startswith("peripatos_watchers ")]
    return round(float(line.split()[1]))


async def watchers_become(site: Site, num: int) -> None:
    for _ in range(round(PROMPTLY_S / 0.05)):
        if (found := await asyncio.to_thread(watchers, site)) == num:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{found} watchers, not {num}")


def test_twenty_watchers_are_all_told_everything_and_are_forgotten_when_they_go(site: Site) -> None:
    async def one(begun: asyncio.Semaphore, over: asyncio.Event) -> Counter[str]:
        async with watching(site) as stream:
            await anext(stream)
            begun.release()
            found = await told_until(stream, site.folder, 10)
            await over.wait()
            return summed(found + await told_until(stream, site.folder, 10))

    async def watch() -> None:
        begun, over = asyncio.Semaphore(0), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            # what is there when a watcher asks is no news: the end is that of `lease_all` only once it is done
            tasks = [group.create_task(one(begun, over)) for _ in range(20)]
            for _ in tasks:
                await begun.acquire()
            await watchers_become(site, 20)
            await writing(site, lambda store: lease_all(store, num=30))
            over.set()
        expected = happened(site.folder, 41)
        assert [task.result() for task in tasks] == [expected] * 20
        await watchers_become(site, 0)

    asyncio.run(watch())


def test_a_slow_watcher_is_told_in_one_tick_what_a_quick_one_is_told_in_several(site: Site) -> None:
    async def watch() -> None:
        async with open_store(site.folder.database, create=False) as store:
            feed = Feed(store)
            quick, slow = (events_of(lines(feed.follow(None))) for _ in range(2))
            async with feed.looking(), asyncio.timeout(20):
                for stream in (quick, slow):
                    assert (await anext(stream)).event == "hello"
                for number in range(2):
                    await store.record_failure(failure(number))
                    assert [(await anext(stream)).data["kinds"] for stream in (quick, slow)] == [{"failure": 1}] * 2
                assert feed.watchers == 2
                told = []
                for number in range(2, 5):
                    await store.record_failure(failure(number))
                    told.append(await anext(quick))
                assert [each.data["kinds"] for each in told] == [{"failure": 1}] * 3
                late = await anext(slow)
                assert (late.id, late.data["kinds"]) == (told[-1].id, {"failure": 3})
                assert set(late.data["questions"]) == {name for each in told for name in each.data["questions"]}

    asyncio.run(watch())


def test_a_watcher_that_reads_nothing_holds_nobody_up_and_is_forgotten_when_it_goes(site: Site) -> None:
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", site.port))
        stuck.sendall(b"GET /api/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")

        async def watch() -> None:
            async with watching(site) as stream:
                hello = await anext(stream)
                await watchers_become(site, 2)
                for _ in range(2):  # 6 MB a tick, more than lies between two sockets
                    changed(
                        site.folder,
                        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
                        "INSERT INTO event (time, kind, subject) SELECT 0.0, 'failure', printf('%030000d', i) FROM n",
                    )
                    await told_until(stream, site.folder)
                began = time.monotonic()
                await writing(site, lambda store: store.record_failure(failure(1)))
                ticks = await told_until(stream, site.folder)
                assert time.monotonic() - began < PROMPTLY_S
                assert summed(ticks) == {"failure": 1}
                assert happened(site.folder, hello.id) == {"failure": 401}
            await watchers_become(site, 1)

        asyncio.run(watch())
        assert site.get("/healthz") == {"status": "ok"}
    asyncio.run(watchers_become(site, 0))


def test_a_look_that_fails_ends_neither_the_stream_nor_the_server(site: Site) -> None:
    """A disk that does not answer, another process that holds the store for too long: the next look may do better."""

    async def watch() -> None:
        async with watching(site) as stream:
            await anext(stream)
            await watchers_become(site, 1)
            changed(site.folder, "ALTER TABLE event RENAME TO gone")
            await asyncio.sleep(0.8)
            changed(site.folder, "ALTER TABLE gone RENAME TO event")
            await writing(site, lambda store: store.record_failure(failure(0)))
            assert summed(await told_until(stream, site.folder)) == {"failure": 1}

    asyncio.run(watch())
    assert site.get("/api/questions", limit=1)["items"]


def test_one_that_goes_at_once_is_not_counted_for_long(site: Site) -> None:
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", site.port)) as hasty:
            hasty.sendall(b"GET /api/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    asyncio.run(watchers_become(site, 0))

    async def watch() -> None:
        async with watching(site) as stream:
            await anext(stream)
            await watchers_become(site, 1)

    asyncio.run(watch())
    asyncio.run(watchers_become(site, 0))


def test_a_server_that_ends_waits_for_no_watcher(tmp_path: Path) -> None:
    with socket.socket() as watcher:
        with served(make(tmp_path, lambda store: begin(store, 2))) as site:
            watcher.connect(("127.0.0.1", site.port))
            watcher.sendall(b"GET /api/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert b"event: hello" in received(watcher, b"hello")
            began = time.monotonic()
        assert time.monotonic() - began < 5


def received(connection: socket.socket, until: bytes) -> bytes:
    connection.settimeout(5)
    found = b""
    while until not in found:
        found += connection.recv(4096)
    return found


def test_a_stream_is_kept_by_no_proxy_and_says_when_to_come_back(quiet: Site) -> None:
    async def watch() -> tuple[Mapping[str, str], list[str]]:
        async with httpx.AsyncClient(base_url=quiet.url, timeout=20) as client, client.stream("GET", "/api/stream") as answer:
            text = await anext(answer.aiter_text())
            return answer.headers, text.split("\n")

    headers, told = asyncio.run(watch())
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "no-cache" in headers["cache-control"] or "no-store" in headers["cache-control"]
    assert told == ["retry: 1000", "id: 41", "event: hello", f"data: {json.dumps({'seq': 41})}", "", ""]
