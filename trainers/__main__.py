"""One student's process: `python -m trainers SPEC.json`.

It says what it does on stdout, one JSON object a line: `loaded`, `update`, `checkpoint`, then `done`, `nothing` or `error`.
Exit codes: 0 done (or nothing to do), 1 failed, 2 failed and would again, 130 and 143 stopped by SIGINT and SIGTERM after
a checkpoint.
Invariant: it never outlives its parent, which holds its standard input open. Not covered: restarting (`orchestrator`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

ORPHANED = 3
"""Exit code of a process whose parent has gone."""


def main() -> int:
    """Train the student of the spec that the first argument names; the exit code."""
    said, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not stand between the JSON lines
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning: 35-107 s an update on a busy machine, else 8-15
    _follow_parent()
    try:
        return asyncio.run(_train(Path(sys.argv[1]).read_bytes(), said))
    except Exception as error:  # noqa: BLE001 - the process's boundary: whatever it is, the parent is told
        traceback.print_exc()
        _say(said, {"kind": "error", "message": " ".join(f"{error}".split()) or type(error).__name__})
        return 2 if isinstance(error, ValueError | ArithmeticError) else 1


async def _train(spec: bytes, said: TextIO) -> int:
    stopping, signals = asyncio.Event(), []

    def stop(number: int) -> None:
        signals.append(number)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)

    from trainers.loop import train  # torch and transformers take seconds: first be ready for signals
    from trainers.spec import Spec

    ending = await train(Spec.model_validate_json(spec), lambda message: _say(said, message), stopping)
    return 128 + signals[0] if ending == "stopped" else 0


def _say(said: TextIO, message: dict[str, Any]) -> None:
    said.write(json.dumps(message) + "\n")
    said.flush()


def _follow_parent() -> None:
    """End when standard input ends, if it is a pipe: as sudden as a kill, which checkpoints withstand."""
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(ORPHANED)  # an ordinary exit would wait for the update in progress, and a new parent may have started


if __name__ == "__main__":
    sys.exit(main())
