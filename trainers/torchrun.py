"""Starts the processes of one student, by torch's own torchrun on this machine, and ends as they end.

torchrun passes signals on to its children, each in a session of its own, but ends with 1 or with a traceback however they
ended; here their exit codes come back. Invariant: of several codes the one that says most is taken: refused, diverged, then
whichever came first. Not covered: several machines (start `torchrun ... -m trainers SPEC.json` on each).
"""

from __future__ import annotations

import os
import sys

REFUSED = 2
"""Exit code of a process that would fail again."""
DIVERGED = 4
"""Exit code of a student whose loss is no number any more."""

_LONGEST_UPDATE_S = 24 * 3600
"""How long torchrun lets the ranks write a checkpoint after SIGTERM: whoever sent it has a deadline of its own."""


def is_rank() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(arguments: list[str], processes: int) -> int:
    """Run `python -m trainers ARGUMENTS` in so many processes; the exit code."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_LONGEST_UPDATE_S))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    ours = ["--standalone", "--local-addr=localhost", f"--nproc-per-node={processes}", "-m"]
    try:
        run(parse_args([*ours, "trainers", *arguments]))
    except SignalException as signal:
        return 128 + signal.sigval
    except ChildFailedError as failed:
        return _worst([failure.exitcode for failure in sorted(failed.failures.values(), key=lambda each: each.timestamp)])
    return 0


def _worst(codes: list[int]) -> int:
    """Of the codes of all that failed, in that order; -9 is a process that SIGKILL ended."""
    told = next((code for code in (REFUSED, DIVERGED) if code in codes), codes[0])
    print(f"torchrun: exit codes {codes}", file=sys.stderr)  # noqa: T201 - beside torchrun's own lines
    return told if told >= 0 else 128 - told
