"""The embedded engine: transformers in this process, on CPU or GPU, with continuous batching and prefix reuse.

    tasks ──jobs──▶ worker thread: model, slots, prefixes ──futures──▶ tasks

Invariant: tensors belong to the worker thread, and the event loop only waits. Models on the CPU take turns, a pass each.
Whatever happens to the worker, every job is settled: a job in flight when the engine closes fails as `Retryable`, one that
meets a crash as `Broken`.
The library's own continuous batching (`generate_batch`, 5.23) is paged for GPUs: on a CPU it makes 0.4 of the tokens of a plain
static batch (37 against 97 a second, 32 requests, busy machine), and it neither scores given text nor keeps prefixes.
Not covered: which rows run (`agents.engines.batching`), attention (`agents.engines.slots`), files (`agents.models`).
"""

from __future__ import annotations

import os

# libgomp reads this once, when torch is first imported. Its threads spin while they wait for each other: beside one busy
# process, 8 tokens took over 60 s instead of 1.1.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import asyncio
import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog
import torch

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Prompt
from agents.engines.batching import Batch
from agents.engines.loading import Loaded, load
from agents.engines.rendering import render
from agents.engines.rows import Generation, Job, Scoring, settle
from agents.errors import Broken, EngineError, Retryable, Terminal
from agents.models import ModelFolder
from configs.engines import TransformersEngine as TransformersConfig

log = structlog.get_logger()


class TransformersEngine:
    """`agents.engines.base.Engine` for a checkpoint on this machine.

    `adapter` is a folder of a peft LoRA adapter, merged when loading. `ignore_end` is for measurements: completions then
    always have `max_tokens` tokens.
    """

    def __init__(
        self, config: TransformersConfig, folder: ModelFolder, adapter: Path | None = None, *, ignore_end: bool = False
    ) -> None:
        def make_batch(loaded: Loaded) -> Batch:
            return Batch(loaded, max_batch=config.max_batch, prefix_bytes=config.prefix_cache_mb << 20, ignore_end=ignore_end)

        self._worker = Worker(lambda: load(config, folder, adapter), make_batch)

    async def __aenter__(self) -> Self:
        self._worker.start()
        try:
            await asyncio.wrap_future(self._worker.ready)
        except BaseException:
            self._worker.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._worker.close()
        await asyncio.to_thread(self._worker.join)
        _give_memory_back()

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid while it is open."""
        return self._worker.ready.result(timeout=0).capabilities

    async def generate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        logprobs: bool = False,
    ) -> list[Completion]:
        """Continue `prompt` n times; see `Engine.generate`. Log-probs include the token that ended the text."""
        request = Generation(
            prompt=prompt,
            n=n,
            max_tokens=max_tokens,
            stop=tuple(stop),
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
        )
        return await self._ask(request)

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """Log-probs of `answer` as the continuation of `context.prefix`; see `Engine.answer_logprobs`."""
        return await self._ask(Scoring(context=context, answer=answer))

    def shown(self, prompt: Prompt) -> str:
        """The rendered template; see `Engine.shown`."""
        return render(self._worker.ready.result(timeout=0).tokenizer, prompt)

    async def _ask(self, request: Generation | Scoring) -> Any:
        job = Job(request)
        self._worker.submit(job)
        return await asyncio.wrap_future(job.future)


def _give_memory_back() -> None:
    """Hand freed memory to the system: glibc would keep 300 MB of it, and a student's process needs it next."""
    if sys.platform == "linux":
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True, slots=True)
class Opened:
    """What others than the worker may see of a model; no tensor is among it, so that closing gives all memory back."""

    capabilities: Capabilities
    tokenizer: Any


class Turns:
    """A lock that is given in the order of asking."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = self._served = 0

    def __enter__(self) -> None:
        with self._changed:
            mine, self._asked = self._asked, self._asked + 1
            self._changed.wait_for(lambda: self._served == mine)

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


CPU = Turns()
"""Models on the CPU compute in turn, a pass each: side by side they share its cores all the same, and hand Python's lock over at
every operation (`benchmarks/side_by_side.py`)."""


class Worker:
    """The thread that owns the model. Consumes jobs, produces their results; waits for jobs, and for `close`."""

    def __init__(self, open_model: Callable[[], Loaded], make_batch: Callable[[Loaded], Batch]) -> None:
        self.ready: Future[Opened] = Future()
        self._open_model = open_model
        self._make_batch = make_batch
        self._changed = threading.Condition()
        self._inbox: list[Job] = []
        self._closing = False
        self._ended: EngineError | None = None
        # daemon: a process that never closed its engine can still end
        self._thread = threading.Thread(target=self._run, name="transformers-engine", daemon=True)
        self.start, self.join = self._thread.start, self._thread.join

    def submit(self, job: Job) -> None:
        """Hand over a job. Raises what ended the worker, if it has ended."""
        with self._changed:
            if self._ended is not None:
                raise self._ended
            self._inbox.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Ask the thread to end after the pass that it is in."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            loaded = self._open_model()
            batch = self._make_batch(loaded)
        except BaseException as error:  # noqa: BLE001 - handed to whoever opens the engine
            self._end(Terminal(f"the engine did not open: {error}"))
            settle(self.ready, error=error)
            return
        settle(self.ready, result=Opened(loaded.capabilities, loaded.tokenizer))
        error = self._serve(batch, CPU if loaded.device.type == "cpu" else nullcontext())
        self._end(error)
        batch.fail(error)

    def _serve(self, batch: Batch, turns: AbstractContextManager[None]) -> EngineError:
        """Run until closed or broken; why it ended."""
        try:
            with torch.inference_mode():
                while self._receive(batch):
                    with turns:
                        batch.step()
        except Exception as error:  # noqa: BLE001 - whatever breaks the model fails every job, and hangs none
            crash = Broken(f"the engine crashed: {type(error).__name__}: {error}")
            crash.__cause__ = error
            log.error("engine_crashed", error=repr(error))
            return crash
        return Retryable("the engine was closed")

    def _receive(self, batch: Batch) -> bool:
        """Take new jobs into the batch, waiting for one if there is nothing to do; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._closing or not batch.idle)
            jobs, self._inbox = self._inbox, []
            if self._closing:
                self._inbox = jobs
                return False
        for job in jobs:
            batch.add(job)
        return True

    def _end(self, error: EngineError) -> None:
        with self._changed:
            self._ended = error
            jobs, self._inbox = self._inbox, []
        for job in jobs:
            job.fail(error)
