"""Checkpoints on disk: written aside, made durable, recorded in the store, and only then given their name.

Invariant: a directory with its name is complete, durable and recorded, whenever the process dies. Its manifest,
`training.json`, holds the configuration's hash and every file's checksum. An older checkpoint goes only after a newer one
has its name. Not covered: what is recorded (`loop.py`), the adapter's own format (peft's).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from configs.part import Part
from store.types import Checkpoint

FINAL = "final"
KEPT = 2
"""Checkpoints that stay: the newest, and one more in case its disk lies."""

_MANIFEST = "training.json"
_STATE = "state.pt"
_DRAFT = ".draft-"


class OtherTraining(ValueError):
    """What lies here belongs to another configuration or other lessons; the message is one line."""


class Manifest(Part):
    """What a checkpoint says about itself."""

    config_hash: str
    """Identity of the configuration."""
    lessons_hash: str
    """Identity of the lessons, in their order."""
    epoch: int
    """The last epoch whose plan was known."""
    update: int
    """Updates done; of the router, rounds."""
    updates: int | None
    """Updates of the whole schedule; None where more lessons may come."""
    examples: int
    """Lessons that are learnt."""
    left_out: int
    """Lessons that were too long."""
    losses: tuple[float | None, ...]
    """The loss of every update done; None where nothing of the batch was this student's."""
    files: Mapping[str, str] = Field(default_factory=dict)
    """SHA-256 of every other file."""


def name_of(update: int) -> str:
    """The name of the checkpoint after `update` updates."""
    return f"checkpoint-{update:06d}"


def begin(directory: Path, name: str) -> Path:
    """An empty directory to write a checkpoint into."""
    draft = directory / f"{_DRAFT}{name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def save_state(draft: Path, optimizer: Mapping[str, Any]) -> None:
    """Write what only a continued training needs: the optimizer's state and those of all random numbers."""
    torch.save({"optimizer": optimizer, "random": _random_state()}, draft / _STATE)


def load_state(folder: Path) -> dict[str, Any]:
    """Put back the states of all random numbers; the optimizer's, which stays on the disk until it is read."""
    state = torch.load(folder / _STATE, map_location="cpu", weights_only=True, mmap=True)
    _set_random_state(state["random"])
    return state["optimizer"]


def seal(draft: Path, manifest: Manifest) -> None:
    """Add the manifest, and make every file durable."""
    files = {file.name: _checksum(file) for file in sorted(draft.iterdir())}
    (draft / _MANIFEST).write_text(json.dumps(manifest.model_dump() | {"files": files}, indent=1))
    for path in (*draft.iterdir(), draft):
        _sync(path)


def publish(draft: Path) -> Path:
    """Give a sealed and recorded draft its name; whatever had the name before was not valid."""
    folder = draft.with_name(draft.name.removeprefix(_DRAFT))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    _sync(folder.parent)
    return folder


def clean(directory: Path) -> None:
    """Delete drafts that a killed process left, and all but the newest checkpoints."""
    for draft in directory.glob(f"{_DRAFT}*"):
        shutil.rmtree(draft)
    for old in sorted(directory.glob("checkpoint-*"))[:-KEPT]:
        shutil.rmtree(old)


def find_final(directory: Path, config_hash: str) -> Manifest | None:
    """The manifest of a finished training, if there is one here. Raises `OtherTraining`."""
    manifest = read_manifest(directory / FINAL)
    return None if manifest is None else _same_config(manifest, directory / FINAL, config_hash)


def find_newest(directory: Path, recorded: Sequence[Checkpoint], config_hash: str) -> tuple[Path, Manifest] | None:
    """The newest recorded checkpoint that is whole and of this configuration. Raises `OtherTraining` if all are of others."""
    names = [Path(one.directory).name for one in sorted(recorded, key=lambda one: one.update, reverse=True) if not one.final]
    found = [(directory / name, manifest) for name in names if (manifest := read_manifest(directory / name))]
    same = [one for one in found if one[1].config_hash == config_hash]
    if found and not same:
        _same_config(found[0][1], found[0][0], config_hash)
    return same[0] if same else None


def read_manifest(folder: Path) -> Manifest | None:
    """A checkpoint's manifest; None if the checkpoint is missing or damaged."""
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
        whole = all(_checksum(folder / name) == checksum for name, checksum in manifest.files.items())
    except (OSError, ValueError):
        return None
    return manifest if whole else None


def _same_config(manifest: Manifest, folder: Path, config_hash: str) -> Manifest:
    if manifest.config_hash != config_hash:
        raise OtherTraining(
            f"{folder} was made with another configuration ({manifest.config_hash[:12]}, now {config_hash[:12]}): "
            "restore that configuration, or train in another directory"
        )
    return manifest


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
