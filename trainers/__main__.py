"""The process of one actor or more: `python -m trainers SPEC.json ...`, or `python -m trainers --check SPEC.json ...`.

Actors of one process talk through its memory, others through files; all else goes through the store. Each says what it does
on stdout, one JSON object a line with its name: `loaded`, `update`, `checkpoint`, `round`, `note`, then `done`, `nothing`,
`diverged` or `error`, and between them `alive`. `--check` only looks whether models can learn as configured.
A student of several processes gets them from torchrun; rank 0 speaks for all, and any of them tells an error.
Exit codes: 0 done (or nothing to do), 1 failed, 2 failed and would again, 4 a loss that is no number, 130 and 143 stopped by
SIGINT and SIGTERM after a checkpoint.
Invariant: it never outlives its parent, which holds its standard input open. Not covered: restarting (`orchestrator`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from trainers.torchrun import DIVERGED, REFUSED, is_rank, launch

ORPHANED = 3
"""Exit code of a process whose parent has gone."""
_LOOK_S = 0.5

BEAT_S = 10.0
"""Between two signs of life."""


def main() -> int:
    """Run the actors of the specs that the arguments name; the exit code."""
    said, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not stand between the JSON lines
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning: 35-107 s an update on a busy machine, else 8-15
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it if it is there; it complains of kernels
    _follow_parent()
    paths = [Path(argument) for argument in sys.argv[1:] if argument != "--check"]
    try:
        if "--check" in sys.argv:
            return _check(paths)
        if (processes := _processes(paths)) > 1:
            return _be_rank(paths, said) if is_rank() else launch(sys.argv[1:], processes)
        return asyncio.run(_run(paths, said))
    except BaseException as error:  # noqa: BLE001 - the process's boundary: whatever it is, the parent is told
        return _tell_error(error, said)


def _check(paths: list[Path]) -> int:
    from trainers.actors import check
    from trainers.spec import read_spec

    for path in paths:
        check(read_spec(path))
    return 0


def _processes(paths: list[Path]) -> int:
    """How many this student is trained by; actors that share a process have one each."""
    from trainers.spec import Spec, read_spec

    specs = [read_spec(path) for path in paths]
    return max(spec.student.processes if isinstance(spec, Spec) else 1 for spec in specs)


def _be_rank(paths: list[Path], said: TextIO) -> int:
    """A signal ends a rank at once until all have met: one that outlived another would wait for it."""
    from trainers.followers import follow
    from trainers.ranks import Together, open_ranks
    from trainers.spec import Spec, read_spec

    (spec,) = [read_spec(path) for path in paths]
    assert isinstance(spec, Spec)
    with open_ranks(spec.student) as ranks:
        assert isinstance(ranks, Together)
        if ranks.rank == 0:
            return asyncio.run(_run(paths, said, ranks))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # rank 0 hears it too, and orders what then follows
        follow(spec, ranks)
    return 0


async def _run(paths: list[Path], said: TextIO, ranks: Any = None) -> int:
    stopping, signals = asyncio.Event(), []

    def stop(number: int) -> None:
        signals.append(number)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)

    from trainers.actors import run_actors  # torch and transformers take seconds: first be ready for signals
    from trainers.spec import read_spec

    async with asyncio.TaskGroup() as group:
        beating = group.create_task(_beat(said))
        endings = await run_actors([read_spec(path) for path in paths], lambda message: _say(said, message), stopping, ranks)
        beating.cancel()
    if "stopped" in endings and signals:
        return 128 + signals[0]
    return DIVERGED if "diverged" in endings else 0


async def _beat(said: TextIO) -> None:
    while True:
        _say(said, {"kind": "alive"})
        await asyncio.sleep(BEAT_S)


def _tell_error(error: BaseException, said: TextIO) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    traceback.print_exception(error)
    _say(said, {"kind": "error", "message": " ".join(f"{error}".split()) or type(error).__name__})
    return REFUSED if isinstance(error, ValueError) else 1


def _say(said: TextIO, message: dict[str, Any]) -> None:
    said.write(json.dumps(message) + "\n")
    said.flush()


def _follow_parent() -> None:
    """End when standard input ends, if it is a pipe: as sudden as a kill, which checkpoints withstand. torchrun's children
    have the same one, and may also lose torchrun alone."""
    if is_rank():
        threading.Thread(target=_watch_parent, args=[os.getppid()], daemon=True).start()
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(ORPHANED)


def _wait_for_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(ORPHANED)  # an ordinary exit would wait for the update in progress, and a new parent may have started


if __name__ == "__main__":
    sys.exit(main())
