"""Several processes train one student: what one process would have made, however they are ended."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import two_ranks
from safetensors.torch import load_file
from tiny_student import NAME, make_model, make_spec
from tiny_training import ROOT, ending, kept, last_words, losses, process, wait_for_update

from configs.schema import Lora
from orchestrator.daemon import Draining
from orchestrator.supervisor import run_child
from trainers.spec import Spec

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

NUM_LESSONS = 18
NAMES = ("student", "trajectory", "update")
TWO_RANKS = Path(two_ranks.__file__)


# Updates


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, taught: Path) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("compared")
    make_model(root / "model")
    make_model(root / "untied", tied=False)
    shutil.copy(taught, root / "store.db")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=localhost", "--nproc-per-node=2"),
            *(str(TWO_RANKS), str(root), str(root / "results.json")),
        ],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{TWO_RANKS.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads((root / "results.json").read_text())


def known(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and name not in NAMES}


@pytest.mark.parametrize("variant", two_ranks.VARIANTS)
def test_two_ranks_make_the_updates_of_one(compared: dict[str, Any], variant: str) -> None:
    """With a batch of many passes, of one pass (a rank has none), one that is only measured, and after a checkpoint."""
    together, alone = compared[variant]["together"], compared[variant]["alone"]
    for ours, theirs in zip(together, alone, strict=True):
        for update, other in zip(ours["measured"], theirs["measured"], strict=True):
            told, expected = ({name: each[name] for name in ("loss", "gradient_norm")} for each in (update, other))
            assert known(told) == pytest.approx(known(expected), rel=1e-5)
            assert update["terms"] == pytest.approx(other["terms"], rel=1e-5)
            reports, others = (sorted(each["reports"], key=itemgetter("trajectory")) for each in (update, other))
            for report, its in zip(reports, others, strict=True):
                assert {name: report[name] for name in NAMES} == {name: its[name] for name in NAMES}
                assert known(report) == pytest.approx(known(its), rel=1e-4, abs=1e-6)
        assert ours["weights"].keys() == theirs["weights"].keys()
        for name, values in ours["weights"].items():
            assert values == pytest.approx(theirs["weights"][name], rel=1e-4, abs=1e-5)
    held = compared[variant]["together: held"]
    assert (0.4 < held < 0.6) if "split" in variant else held == 1.0


# The processes


def ranks_of(spec: Spec) -> list[int]:
    """The processes that torchrun started for this student."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(spec.directory / "spec.json") in command and b"LOCAL_RANK=" in environment:
            found.append((b"\0RANK=0\0" not in b"\0" + environment, int(folder.name)))
    return [number for _, number in sorted(found)]


def assert_gone(spec: Spec) -> None:
    until = time.monotonic() + 20
    while ranks_of(spec):
        assert time.monotonic() < until, "ranks live on"
        time.sleep(0.1)


def assert_as_one(spec: Spec, model: Path, taught: Path, **settings: Any) -> None:
    """The same losses and final weights as one process makes that nobody disturbs."""
    folder = spec.shared.store.parent / "one"
    folder.mkdir()
    shutil.copy(taught, folder / "store.db")
    one = make_spec(folder, model, **settings)
    assert ending(one) == "done"
    assert losses(spec) == pytest.approx(losses(one), rel=1e-3)
    (file,) = (one.directory / "final").glob("*.safetensors")
    ours, theirs = load_file(spec.directory / "final" / file.name), load_file(file)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() < 0.05 * tensor.abs().max()  # 20 updates add up rounding


@pytest.mark.chaos
@pytest.mark.parametrize("shard", [False, True])
def test_stopped_by_sigterm_and_resumed_it_ends_as_one_process_does(root: Path, model: Path, taught: Path, shard: bool):
    settings: dict[str, Any] = {"tuning": "full", "learning_rate": 1e-3} if shard else {}
    spec = make_spec(root, model, processes=2, shard=shard, **settings)
    child = process(spec)
    wait_for_update(child, 4)
    child.terminate()
    code, messages, errors = last_words(child)
    assert code == 143, errors
    assert messages[-1]["kind"] == "checkpoint"
    assert_gone(spec)
    code, messages, errors = last_words(process(spec))
    assert code == 0, errors
    assert (messages[0]["kind"], messages[-1]["kind"]) == ("loaded", "done")
    assert messages[0]["update"] >= 4
    assert_as_one(spec, model, taught, **settings)


@pytest.mark.chaos
@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_stopped_before_the_ranks_have_met_they_end_at_once(root: Path, model: Path, seconds: float):
    spec = make_spec(root, model, processes=2)
    child = process(spec)
    while len(ranks_of(spec)) < 2:
        time.sleep(0.05)
    time.sleep(seconds)  # rank 0 loads torch: one that waited for a rank that had ended would wait for long
    child.terminate()
    assert child.wait(timeout=30) == 143
    assert_gone(spec)
    child.communicate()


@pytest.mark.chaos
def test_a_rank_that_is_killed_takes_the_others_along_and_they_start_again(root: Path, model: Path):
    spec = make_spec(root, model, processes=2, epochs=10_000)
    child = process(spec)
    wait_for_update(child, 4)
    os.kill(ranks_of(spec)[1], signal.SIGKILL)
    code, _, errors = last_words(child)
    assert code not in {0, 2, 3, 4, 130, 143}, errors
    assert_gone(spec)
    child = process(spec)
    wait_for_update(child, 5)
    assert child.stdin is not None
    child.stdin.close()  # the parent has died
    assert child.wait(timeout=20) == 3
    assert_gone(spec)
    for pipe in (child.stdout, child.stderr):
        assert pipe is not None
        pipe.close()


@pytest.mark.chaos
def test_ranks_do_not_outlive_torchrun(root: Path, model: Path):
    spec = make_spec(root, model, processes=2, epochs=10_000)
    child = process(spec)
    wait_for_update(child, 1)
    assert len(ranks_of(spec)) == 2
    child.kill()
    assert_gone(spec)
    child.communicate()


def test_exit_codes_keep_their_meaning(root: Path, model: Path):
    refused = make_spec(root, model, processes=2, lora=Lora(targets=("no_such_layer",)))
    code, messages, errors = last_words(process(refused))
    assert code == 2, errors
    assert "no_such_layer" in messages[0]["message"]
    diverging = make_spec(root, model, processes=2, learning_rate=1e30)
    code, messages, errors = last_words(process(diverging))
    assert code == 4, errors
    assert messages[-1]["kind"] == "diverged"


@pytest.mark.chaos
def test_the_supervisor_drains_them(root: Path, model: Path):
    spec = make_spec(root, model, processes=2, epochs=10_000)
    spec.directory.mkdir()
    file = spec.directory / "spec.json"
    file.write_text(spec.model_dump_json())
    heard = []

    async def run() -> None:
        draining = Draining()

        def told(message: Any) -> None:
            heard.append(message["kind"])
            if message["kind"] == "update":
                draining.ask(signal.SIGTERM)

        await run_child(["trainers", str(file)], draining=draining, drain_s=60, told=told, errors=root / "errors.log")

    asyncio.run(run())
    assert heard[-1] == "checkpoint"
    assert [one.student for one in kept(spec)[1]] == [NAME] * len(kept(spec)[1])
    assert kept(spec)[1]
    assert_gone(spec)
