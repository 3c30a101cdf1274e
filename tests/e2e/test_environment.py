"""What the machine does to a run: full disks, taken ports, broken files. One clear line, exit code 1, and a way on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import COMMAND, LIMIT_S, Kept, call, config, environment, fine, kept, same_story

RUN = Path("runs/walk")
Mount = Callable[..., None]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Put a file system of a given size over runs/, or change the one that is there."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root and mount(8)")
    place = tmp_path / "runs"
    place.mkdir()
    mounted = False

    def to(*options: str) -> None:
        nonlocal mounted
        wanted = ",".join(("remount", *options) if mounted else options)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", wanted, "tmpfs", place], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted = True

    yield to
    if mounted:
        subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The run as it is on a disk that is large enough."""
    folder = tmp_path_factory.mktemp("roomy")
    fine("run", config(folder), cwd=folder)
    return kept(folder / RUN)


@pytest.mark.parametrize("size", ["40k", "480k"])
def test_a_full_disk_is_one_line_and_with_more_space_the_same_command_resumes(
    tmp_path: Path, mount: Mount, roomy: Kept, size: str
) -> None:
    name = config(tmp_path)
    mount(f"size={size}")
    call("run", name, cwd=tmp_path).complains(1, "runs/walk")
    mount("size=64m")
    fine("run", name, cwd=tmp_path)
    kept(tmp_path / RUN).balances()
    same_story(kept(tmp_path / RUN), roomy)


@pytest.mark.parametrize("files", [4, 5])
def test_a_disk_that_takes_no_more_files_is_one_line(tmp_path: Path, mount: Mount, files: int) -> None:
    mount("size=8m", f"nr_inodes={files}")
    call("run", config(tmp_path), cwd=tmp_path).complains(1, "runs/walk")


def test_a_disk_that_may_only_be_read_is_one_line_and_a_run_on_it_can_still_be_looked_at(tmp_path: Path, mount: Mount) -> None:
    mount("size=8m")
    name = config(tmp_path)
    fine("run", name, cwd=tmp_path)
    mount("ro")
    call("run", name, cwd=tmp_path).complains(1, "runs/walk", "Read-only file system")
    assert fine("status", str(RUN), "--json", cwd=tmp_path).summary["state"] == "finished"


@pytest.mark.parametrize("run_dir", ["run.yaml/below", "/proc/nowhere"])
def test_a_run_folder_that_cannot_be_is_one_line(tmp_path: Path, run_dir: str) -> None:
    done = call("run", config(tmp_path, run_dir=run_dir), cwd=tmp_path)
    done.complains(1, run_dir, "cannot be used as a run folder")
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("content", [b"notes, not a database", b"SQLite format 3\0" + b"\0" * 4080], ids=["text", "zeros"])
def test_a_broken_database_is_one_line_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    database = tmp_path / RUN / "peripatos.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(content)
    call("run", config(tmp_path, count=2), cwd=tmp_path).complains(1, "peripatos.db")
    assert database.read_bytes() == content


def test_a_taken_port_is_one_line_and_with_another_port_the_run_goes_on(tmp_path: Path) -> None:
    name = config(tmp_path, count=3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        call("run", name, "--set", f"http.port={port}", cwd=tmp_path).complains(1, "http.port", str(port), "in use")
    assert fine("run", name, "--set", "http.port=0", "--json", cwd=tmp_path).summary["state"] == "finished"


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / RUN / "log.jsonl").mkdir(parents=True)
    call("run", config(tmp_path), cwd=tmp_path).complains(1, "log.jsonl", "directory")


def test_a_run_whose_lock_was_not_copied_can_be_looked_at(tmp_path: Path) -> None:
    fine("run", config(tmp_path, count=2), cwd=tmp_path)
    shutil.copytree(tmp_path / RUN, tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
    assert fine("status", "copy", "--json", cwd=tmp_path).summary["state"] == "finished"


@pytest.mark.parametrize("arguments", [("recipes",), ("run", "run.yaml", "--json")])
def test_an_output_that_takes_nothing_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    config(tmp_path, count=2)
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("peripatos: ")


@pytest.mark.parametrize("stderr", ["/dev/full", "gone"])
def test_nobody_listening_to_the_progress_does_not_fail_a_run(tmp_path: Path, stderr: str) -> None:
    config(tmp_path, count=3)
    if stderr == "gone":  # what `2>&1 >/dev/null | head -1` leaves behind
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(stderr, os.O_WRONLY)
    try:
        done = subprocess.run(
            [*COMMAND, "run", "run.yaml", "--json"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=writer,
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 0
    kept(tmp_path / RUN).balances()
