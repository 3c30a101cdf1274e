"""A tiny student's training, as tests run it: in this process or in one of its own, and what it left in the store."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny_student import NAME

from store.store import open_store
from store.types import Checkpoint, Metrics
from trainers.actors import run_actors
from trainers.data import Example, Writing
from trainers.spec import Spec
from trainers.student import load_chat

ROOT = Path(__file__).parents[2]


def ending(spec: Spec, told: list[dict[str, Any]] | None = None, *, stop_at: int | None = None) -> str:
    async def run() -> str:
        stopping = asyncio.Event()

        def tell(message: dict[str, Any]) -> None:
            (told if told is not None else []).append(message)
            if message["kind"] == "update" and message["update"] == stop_at:
                stopping.set()

        try:
            (how,) = await run_actors([spec], tell, stopping)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return how

    return asyncio.run(run())


def kept(spec: Spec) -> tuple[list[Metrics], list[Checkpoint], dict[str, int]]:
    async def read() -> tuple[list[Metrics], list[Checkpoint], dict[str, int]]:
        async with open_store(spec.shared.store, create=False) as store:
            return await store.metrics(NAME), await store.checkpoints(NAME), await store.counts()

    return asyncio.run(read())


def losses(spec: Spec) -> list[float]:
    return [one.values["loss"] for one in kept(spec)[0]]


def process(spec: Spec) -> "subprocess.Popen[str]":
    spec.directory.mkdir(parents=True, exist_ok=True)
    file = spec.directory / "spec.json"
    file.write_text(spec.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "trainers", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def last_words(child: "subprocess.Popen[str]") -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, messages, stderr of a child that ends by itself; its stdin stays open until then."""
    assert child.stdout is not None
    said = [message for line in child.stdout if (message := json.loads(line))["kind"] != "alive"]
    return child.wait(), said, child.communicate()[1]


def wait_for_update(child: "subprocess.Popen[str]", update: int) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        message = json.loads(line)
        if message["kind"] == "update" and message["update"] == update:
            return
    raise AssertionError(f"it ended before update {update}: {child.communicate()[1]}")


def lessons(spec: Spec) -> list[Any]:
    async def read() -> list[Any]:
        async with open_store(spec.shared.store, create=False) as store:
            await store.plan_epoch(0)
            return await store.lessons(0, NAME)

    return asyncio.run(read())


def examples(spec: Spec) -> list[Example]:
    writing = Writing(template=load_chat(spec.model))
    return [writing.example(lesson) for lesson in lessons(spec)]
