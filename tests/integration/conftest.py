"""What tests of real models share."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A tiny model gains nothing from a second thread, and waits for it on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student's first weights."""
    from tiny_student import make_model

    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A store of lessons, as many as the module's `NUM_LESSONS`, to be copied."""
    from tiny_student import make_lessons

    path = tmp_path_factory.mktemp("store") / "store.db"
    asyncio.run(make_lessons(path, request.module.NUM_LESSONS))
    return path


@pytest.fixture
def root(tmp_path: Path, taught: Path) -> Path:
    """A training's place, with a store of its own."""
    shutil.copy(taught, tmp_path / "store.db")
    return tmp_path
