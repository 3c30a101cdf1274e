"""What students leave for each other: whole or not there, heard in time or not at all."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import torch

from trainers.exchange import Exchange, FileShelf, MemoryShelf, Message, Shelf


def said(student: str, update: int, trajectory: str = "t") -> Message:
    """A message that holds its update as a tensor too."""
    tensors = {"at": torch.tensor([update])}
    return Message(student=student, trajectory=trajectory, update=update, facts={"at": update}, tensors=tensors)


@pytest.fixture(params=["memory", "files"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    found = MemoryShelf() if request.param == "memory" else FileShelf(tmp_path)
    for name in ("one", "two"):
        found.introduce(name, ["a", None])
    return found


def heard(shelf: Shelf, update: int) -> int | None:
    message = shelf.get("one", "t", update)
    assert message is None or int(message.tensors["at"]) == message.facts["at"] == message.update
    return message and message.update


def test_what_was_said_in_an_update_is_heard_also_of_one_that_has_gone_on(shelf: Shelf):
    assert heard(shelf, 3) is None
    shelf.put([said("one", 3)])
    assert heard(shelf, 3) == 3
    shelf.put([said("one", 4)])
    assert [heard(shelf, update) for update in (3, 4, 9)] == [3, 4, 4]
    shelf.put([said("one", 6)])
    assert [heard(shelf, update) for update in (3, 4, 6)] == [6, 4, 6]
    assert shelf.last_update("one") == 6
    assert shelf.last_update("nobody") == -1
    assert shelf.vocabulary("one") == ["a", None]
    assert shelf.vocabulary("nobody") is None


@pytest.mark.parametrize("left", [b"", b"\0" * 100, b"\xff" * 100])
def test_what_lost_power_left_half_is_no_message(tmp_path: Path, left: bytes):
    shelf = FileShelf(tmp_path)
    shelf.introduce("one", ["a"])
    shelf.put([said("one", 3)])
    (tmp_path / "one" / "t.safetensors").write_bytes(left)
    assert heard(shelf, 3) is None


def test_what_is_no_number_is_not_heard(shelf: Shelf):
    exchange = Exchange(shelf, "two", staleness=0, wait_s=60.0)
    for update, (fact, number) in enumerate([(1.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))]):
        tensors = {"at": torch.tensor([number], dtype=torch.float16)}
        shelf.put([Message(student="one", trajectory="t", update=update, facts={"loss": fact}, tensors=tensors)])
        assert swapped(exchange, update)[0] == ([] if update else [0])
    asyncio.run(Exchange(shelf, "one", staleness=0, wait_s=0.0).decline(["t"], 3))
    assert swapped(exchange, 3)[0] == []
    assert (exchange.counts["heard"], exchange.counts["missed"]) == (1, 2)


def swapped(exchange: Exchange, update: int) -> tuple[list[int], float]:
    started = time.monotonic()
    found = asyncio.run(exchange.swap([said("two", update)], {"t": ["one"]}, update))
    return [message.update for message in found["t"]], time.monotonic() - started


def test_one_that_is_silent_is_waited_for_once_until_it_speaks_again(shelf: Shelf):
    exchange = Exchange(shelf, "two", staleness=0, wait_s=1.0)
    shelf.put([said("one", 4)])
    assert swapped(exchange, 4)[0] == [4]
    found, seconds = swapped(exchange, 5)
    assert found == []
    assert seconds >= 1.0
    found, seconds = swapped(exchange, 6)
    assert found == []
    assert seconds < 1.0
    shelf.put([said("one", 2)])  # it died, and goes on from a checkpoint
    found, seconds = swapped(exchange, 7)
    assert found == []
    assert seconds >= 1.0
    shelf.put([said("one", 8)])
    assert swapped(exchange, 8)[0] == [8]
    assert exchange.counts == {"sent_bytes": 40, "heard": 2, "missed": 3}
