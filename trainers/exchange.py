"""How students hear each other: each leaves what it says of a trajectory, and takes what others left.

    speak ──▶ shelf (memory, or one file a trajectory and student) ──▶ hear, waiting a little for what is too old

Invariant: nobody waits for ever, and nobody waits twice for one that has gone silent; a message is whole or not there. A lost
message costs a term of a loss, so nothing here is synced to the disk. Students that wait for each other in every update hear
what was said in that update, also of one that is an update ahead by now: the last two messages about a trajectory stay.
Not covered: what is said (`teaching.py`).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one student says of one trajectory just before its `update`; `facts` are small and JSON. Without any it says that
    it does not learn it."""

    student: str
    trajectory: str
    update: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def is_finite(self) -> bool:
        """Whether it holds nothing but numbers: one that diverges speaks once more before it ends."""
        facts = [fact for fact in self.facts.values() if isinstance(fact, float)]
        return all(map(math.isfinite, facts)) and all(bool(tensor.isfinite().all()) for tensor in self.tensors.values())


class Shelf(Protocol):
    """Where messages lie, the last two of each student and trajectory."""

    def put(self, messages: Sequence[Message]) -> None:
        """Leave messages of one student."""
        ...

    def get(self, student: str, trajectory: str, update: int) -> Message | None:
        """What a student said of a trajectory before its `update`, or else what it said last."""
        ...

    def last_update(self, student: str) -> int:
        """The newest update that a student has spoken of; -1: none."""
        ...

    def introduce(self, student: str, vocabulary: Sequence[str | None]) -> None:
        """Leave a student's vocabulary, as its tokenizer writes it."""
        ...

    def vocabulary(self, student: str) -> list[str | None] | None:
        """A student's vocabulary, if it has left it."""
        ...


class MemoryShelf:
    """For students of one process."""

    def __init__(self) -> None:
        self._messages: dict[tuple[str, str], tuple[Message, ...]] = {}
        self._last: dict[str, int] = {}
        self._vocabularies: dict[str, list[str | None]] = {}

    def put(self, messages: Sequence[Message]) -> None:
        """Leave messages of one student."""
        for message in messages:
            key = message.student, message.trajectory
            self._messages[key] = message, *self._messages.get(key, ())[:1]
            self._last[message.student] = message.update

    def get(self, student: str, trajectory: str, update: int) -> Message | None:
        """What a student said of a trajectory before its `update`, or else what it said last."""
        return _chosen(self._messages.get((student, trajectory), ()), update)

    def last_update(self, student: str) -> int:
        """The newest update that a student has spoken of."""
        return self._last.get(student, -1)

    def introduce(self, student: str, vocabulary: Sequence[str | None]) -> None:
        """Leave a student's vocabulary."""
        self._vocabularies[student] = list(vocabulary)

    def vocabulary(self, student: str) -> list[str | None] | None:
        """A student's vocabulary, if it has left it."""
        return self._vocabularies.get(student)


class FileShelf:
    """For students of several processes: FOLDER/STUDENT/TRAJECTORY.safetensors, and .before for what that replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, messages: Sequence[Message]) -> None:
        """Leave messages of one student."""
        for message in messages:
            place = self._place(message.student, f"{message.trajectory}.safetensors")
            draft = place.with_suffix(".draft")
            told = {"update": str(message.update), "facts": json.dumps(dict(message.facts))}
            save_file({name: tensor.contiguous() for name, tensor in message.tensors.items()}, draft, metadata=told)
            before = place.with_suffix(".before")
            before.unlink(missing_ok=True)  # ext4 flushes what is renamed over another: .1 ms, 4 on a busy disk
            with suppress(FileNotFoundError):
                place.replace(before)
            draft.replace(place)
        for message in messages[-1:]:
            self._write(message.student, "last", str(message.update))

    def get(self, student: str, trajectory: str, update: int) -> Message | None:
        """What a student said of a trajectory before its `update`, or else what it said last."""
        place = self._place(student, f"{trajectory}.safetensors")
        newest = _message(student, trajectory, place)
        if newest is not None and newest.update == update:
            return newest
        before = _message(student, trajectory, place.with_suffix(".before"))
        return _chosen([message for message in (newest, before) if message is not None], update)

    def last_update(self, student: str) -> int:
        """The newest update that a student has spoken of."""
        return int(self._read(student, "last") or -1)

    def introduce(self, student: str, vocabulary: Sequence[str | None]) -> None:
        """Leave a student's vocabulary."""
        self._write(student, "vocabulary.json", json.dumps(list(vocabulary)))

    def vocabulary(self, student: str) -> list[str | None] | None:
        """A student's vocabulary, if it has left it."""
        text = self._read(student, "vocabulary.json")
        return json.loads(text) if text else None

    def _place(self, student: str, name: str) -> Path:
        return self._folder / student / name

    def _write(self, student: str, name: str, text: str) -> None:
        place = self._place(student, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f"{name}.{os.getpid()}.draft")
        draft.write_text(text)
        place.unlink(missing_ok=True)  # as above; whoever looks between sees a student that has said nothing yet
        draft.replace(place)

    def _read(self, student: str, name: str) -> str | None:
        try:
            return self._place(student, name).read_text()
        except FileNotFoundError:
            return None


@dataclass(slots=True)
class Exchange:
    """One student's part in the talk."""

    shelf: Shelf
    student: str
    staleness: int
    wait_s: float
    counts: Counter[str] = field(default_factory=Counter)
    """`sent_bytes`, `sent_tokens`, `heard`, `missed`."""
    _silent: dict[str, int] = field(default_factory=dict)

    async def decline(self, trajectories: Iterable[str], update: int) -> None:
        """Leave word that these are not learnt, so that no peer waits for what would be said of them."""
        declined = [
            Message(student=self.student, trajectory=each, update=update, facts={}, tensors={}) for each in sorted(trajectories)
        ]
        await asyncio.to_thread(self.shelf.put, declined)

    async def swap(
        self, messages: Sequence[Message], wanted: Mapping[str, Sequence[str]], update: int
    ) -> dict[str, list[Message]]:
        """Leave `messages`, then take for every trajectory what the `wanted` peers say of it, if it is new enough in time."""
        await asyncio.to_thread(self.shelf.put, messages)
        self.counts["sent_bytes"] += sum(message.num_bytes for message in messages)
        missing = {(peer, trajectory) for trajectory, peers in wanted.items() for peer in peers}
        found: dict[tuple[str, str], Message] = {}
        until, look_s = time.monotonic() + self.wait_s, _FIRST_LOOK_S
        while missing:
            new = await asyncio.to_thread(self._look, missing, update)
            found |= new
            missing -= new.keys()
            await asyncio.to_thread(self._forgive)
            if time.monotonic() > until or not any(peer not in self._silent for peer, _ in missing):
                break
            await asyncio.sleep(look_s)
            look_s = min(look_s * 1.5, _LAST_LOOK_S)
        for peer, _ in missing:
            self._silent.setdefault(peer, self.shelf.last_update(peer))
        spoken = {key: message for key, message in found.items() if message.facts}
        found = {key: message for key, message in spoken.items() if message.is_finite}
        self.counts["heard"] += len(found)
        self.counts["missed"] += len(missing) + len(spoken) - len(found)
        ordered = {trajectory: [(peer, trajectory) for peer in peers] for trajectory, peers in wanted.items()}
        return {trajectory: [found[key] for key in keys if key in found] for trajectory, keys in ordered.items()}

    def _look(self, missing: Iterable[tuple[str, str]], update: int) -> dict[tuple[str, str], Message]:
        looked = {key: self.shelf.get(*key, update) for key in missing}
        oldest = update - self.staleness
        return {key: message for key, message in looked.items() if message is not None and message.update >= oldest}

    def _forgive(self) -> None:
        """One that has spoken again is no longer silent."""
        for peer, last in list(self._silent.items()):
            if self.shelf.last_update(peer) != last:  # less: it died, and went on from a checkpoint
                del self._silent[peer]


def _chosen(messages: Sequence[Message], update: int) -> Message | None:
    """Of those about one trajectory, the newest first."""
    return next((message for message in messages if message.update == update), messages[0] if messages else None)


def _message(student: str, trajectory: str, place: Path) -> Message | None:
    try:
        told = place.read_bytes()  # at once: `safe_open` opens it a second time, when another may have its name
        header = json.loads(told[8 : 8 + int.from_bytes(told[:8], "little")])["__metadata__"]
        facts, update, tensors = json.loads(header["facts"]), int(header["update"]), load(told)
    except (OSError, ValueError, SafetensorError):  # none, or what a machine left that lost its power
        return None
    return Message(student=student, trajectory=trajectory, update=update, facts=facts, tensors=tensors)


def half(values: Tensor) -> Tensor:
    """As it is sent: half precision, on the CPU."""
    return values.detach().to("cpu", torch.float16)
