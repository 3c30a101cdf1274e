"""The panel on a real pseudo-terminal: bars while it runs, then the table, and exit code 0."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from command import COMMAND, config, ended, environment, heard, kept, living

_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\r")


RUN = ("run", "run.yaml")


def watched(
    folder: Path, *arguments: str, stop_after_s: float | None = None, seen: bytes = b"the walk"
) -> tuple[int, str, bytes]:
    """Run the command on a terminal of 110 x 40: its exit code, its text, and all that it sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    sent = b""
    began = time.monotonic()
    asked = False
    with subprocess.Popen(
        [*COMMAND, *(arguments or RUN)],
        cwd=folder,
        env=environment(TERM="xterm-256color"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            while chunk := _read(ours):
                sent += chunk
                if stop_after_s and not asked and seen in sent and time.monotonic() - began > stop_after_s:
                    asked = True
                    process.send_signal(signal.SIGINT)
        finally:
            os.close(ours)
            if process.poll() is None:
                time.sleep(0.2)
        code = process.wait(timeout=30)
    return code, _CONTROL.sub(b"", sent).decode(), sent


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def test_a_terminal_shows_bars_the_walk_and_the_table(tmp_path: Path) -> None:
    config(tmp_path, count=12, engine={"latency_s": 0.05})
    code, text, sent = watched(tmp_path)
    assert code == 0, text
    assert b"\x1b[" in sent
    for shown in ("search", "━", "12/12", "the walk", "### Step", "solved:", "walk: finished", "trajectories", "mean score"):
        assert shown in text, shown
    assert "Traceback" not in text
    assert sent.rfind(b"\x1b[?25h") > sent.rfind(b"\x1b[?25l")  # the cursor is given back
    kept(tmp_path / "runs/walk").balances()


def test_an_interrupt_gives_the_terminal_back(tmp_path: Path) -> None:
    config(tmp_path, count=12, engine={"latency_s": 0.3})
    code, text, sent = watched(tmp_path, stop_after_s=1.0)
    assert code == 130
    assert "interrupted; the same command resumes" in text
    assert "Traceback" not in text
    assert sent.rfind(b"\x1b[?25h") > sent.rfind(b"\x1b[?25l")


def test_another_terminal_watches_the_run_and_its_latest_tree_until_it_ends(tmp_path: Path) -> None:
    name = config(tmp_path, count=8, engine={"latency_s": 0.15}, limits={"questions": 2})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "  ")
        code, text, sent = watched(tmp_path, "status", "runs/walk", "--watch")
        assert ended(process).code == 0
    assert code == 0, text
    for shown in ("walk: running", "search", "questions 8/8", "prover", "won early", " finished: ", "walk: finished"):
        assert shown in text, shown
    assert "Traceback" not in text
    assert sent.rfind(b"\x1b[?25h") > sent.rfind(b"\x1b[?25l")


def test_who_watches_may_leave_and_the_run_goes_on(tmp_path: Path) -> None:
    name = config(tmp_path, count=12, engine={"latency_s": 0.2}, limits={"questions": 2})
    with living("run", name, cwd=tmp_path) as process:
        heard(process, "  ")
        code, text, sent = watched(tmp_path, "status", "runs/walk", "--watch", stop_after_s=2.0, seen=b"in work")
        assert code == 130
        assert "Traceback" not in text
        assert sent.rfind(b"\x1b[?25h") > sent.rfind(b"\x1b[?25l")
        assert ended(process).code == 0
