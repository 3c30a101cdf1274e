"""Between us and a server that we start: it ends the server, and all that the server started, when we end, however that happens.

    python guardian.py COMMAND...     we hold its standard input open; when that closes, or at SIGTERM, the server is ended

It is run as a file, alone, so that it starts at once and owes nothing to what it guards. Exit code: the server's.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0
"""How long a server may take to end by itself."""

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Start the command in a session of its own, and end the whole session in the end."""
    try:
        server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]}: {error.strerror}\n")
        return 127
    signal.signal(signal.SIGTERM, lambda *_: _begin_to_end(server.pid))
    threading.Thread(target=_follow_parent, args=(server.pid,), daemon=True).start()
    code = server.wait()
    _signal(server.pid, signal.SIGKILL)  # what it has left behind
    return code


def _die_with_parent() -> None:
    """Linux: should this process be killed, the server gets a SIGTERM."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _follow_parent(group: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    _end(group)


def _begin_to_end(group: int) -> None:
    threading.Thread(target=_end, args=(group,), daemon=True).start()


def _end(group: int) -> None:
    _signal(group, signal.SIGTERM)
    time.sleep(GRACE_S)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
