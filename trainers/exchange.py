"""How students hear each other: each leaves what it says of a trajectory, and takes what others left.

    speak ──▶ shelf (memory, or one file a trajectory and student) ──▶ hear, waiting a little for what is too old

Invariant: nobody waits for ever, and nobody waits twice for one that has gone silent; a message is whole or not there. A lost
message costs a term of a loss, so nothing here is synced to the disk. Not covered: what is said (`teaching.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one student says of one trajectory just before its `update`; `facts` are small and JSON."""

    student: str
    trajectory: str
    update: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Shelf(Protocol):
    """Where messages lie, the newest of each student and trajectory."""

    def put(self, messages: Sequence[Message]) -> None:
        """Leave messages of one student."""
        ...

    def get(self, student: str, trajectory: str) -> Message | None:
        """The newest message of a student about a trajectory."""
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
        self._messages: dict[tuple[str, str], Message] = {}
        self._last: dict[str, int] = {}
        self._vocabularies: dict[str, list[str | None]] = {}

    def put(self, messages: Sequence[Message]) -> None:
        """Leave messages of one student."""
        for message in messages:
            self._messages[message.student, message.trajectory] = message
            self._last[message.student] = message.update

    def get(self, student: str, trajectory: str) -> Message | None:
        """The newest message of a student about a trajectory."""
        return self._messages.get((student, trajectory))

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
    """For students of several processes: FOLDER/STUDENT/TRAJECTORY.safetensors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, messages: Sequence[Message]) -> None:
        """Leave messages of one student."""
        for message in messages:
            place = self._place(message.student, f"{message.trajectory}.safetensors")
            draft = place.with_suffix(".draft")
            told = {"update": str(message.update), "facts": json.dumps(dict(message.facts))}
            save_file({name: tensor.contiguous() for name, tensor in message.tensors.items()}, draft, metadata=told)
            place.unlink(missing_ok=True)  # ext4 flushes a file that is renamed over another: 4 ms each on a busy disk
            draft.replace(place)
        for message in messages[-1:]:
            self._write(message.student, "last", str(message.update))

    def get(self, student: str, trajectory: str) -> Message | None:
        """The newest message of a student about a trajectory."""
        try:
            with safe_open(self._place(student, f"{trajectory}.safetensors"), framework="pt") as file:
                told = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError):
            return None
        facts = json.loads(told["facts"])
        return Message(student=student, trajectory=trajectory, update=int(told["update"]), facts=facts, tensors=tensors)

    def last_update(self, student: str) -> int:
        """The newest update that a student has spoken of."""
        return int(self._read(student, "last") or -1)

    def introduce(self, student: str, vocabulary: Sequence[str | None]) -> None:
        """Leave a student's vocabulary."""
        self._write(student, "vocabulary.json", json.dumps(list(vocabulary)))

    def vocabulary(self, student: str) -> list[str | None] | None:
        """A student's vocabulary, if it has left it."""
        text = self._read(student, "vocabulary.json")
        return None if text is None else json.loads(text)

    def _place(self, student: str, name: str) -> Path:
        return self._folder / student / name

    def _write(self, student: str, name: str, text: str) -> None:
        place = self._place(student, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f"{name}.{os.getpid()}.draft")
        draft.write_text(text)
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
            new = await asyncio.to_thread(self._look, missing, update - self.staleness)
            found |= new
            missing -= new.keys()
            await asyncio.to_thread(self._forgive)
            if time.monotonic() > until or not any(peer not in self._silent for peer, _ in missing):
                break
            await asyncio.sleep(look_s)
            look_s = min(look_s * 1.5, _LAST_LOOK_S)
        for peer, _ in missing:
            self._silent.setdefault(peer, self.shelf.last_update(peer))
        self.counts["heard"] += len(found)
        self.counts["missed"] += len(missing)
        ordered = {trajectory: [(peer, trajectory) for peer in peers] for trajectory, peers in wanted.items()}
        return {trajectory: [found[key] for key in keys if key in found] for trajectory, keys in ordered.items()}

    def _look(self, missing: Iterable[tuple[str, str]], oldest: int) -> dict[tuple[str, str], Message]:
        looked = {key: self.shelf.get(*key) for key in missing}
        return {key: message for key, message in looked.items() if message is not None and message.update >= oldest}

    def _forgive(self) -> None:
        """One that has spoken again is no longer silent."""
        for peer, last in list(self._silent.items()):
            if self.shelf.last_update(peer) > last:
                del self._silent[peer]


def half(values: Tensor) -> Tensor:
    """As it is sent: half precision, on the CPU."""
    return values.detach().to("cpu", torch.float16)
