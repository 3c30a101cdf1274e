"""The main job in small, with the real model: killed while it searches and while it learns, then the same command again.

Sampled text may differ between lives (rounding depends on which requests share a batch), so what is compared is what must
hold whatever was drawn: what was settled before a kill stays as it was, and nothing is doubled.
"""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from command import fine, kept, living, same_story

from agents.models import resolve

pytestmark = [pytest.mark.model, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(600)]

SMALL = [
    "questions.0.count=5",
    "questions.0.operations=[1]",
    "evaluation.questions.count=3",
    "evaluation.samples=1",
    "evaluation.max_tokens=48",
    "search.beam=2",
    "search.max_steps=3",
    "students.0.epochs=6",
    "students.0.batch=1",
    "students.0.micro_batch=1",
    "students.0.checkpoint_every=1",
    "limits.questions=2",
]
RUN = Path("runs/quickstart")
LIMIT_S = 300.0


def arguments() -> list[str]:
    return ["run", "quickstart", "--json", *(word for key in SMALL for word in ("--set", key))]


def killed_when(folder: Path, ready: str, wait_s: float) -> None:
    """Start the run, wait for a line that `ready` matches, and kill it a little later."""
    with living(*arguments(), cwd=folder) as process:
        assert process.stderr
        assert any(re.match(ready, line) for line in process.stderr), f"{ready!r} was never told"
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)


def test_killed_in_search_and_in_training_the_same_command_brings_it_to_its_end(tmp_path: Path) -> None:
    resolve("HuggingFaceTB/SmolLM2-135M-Instruct")  # made before the first life, so that the kill meets the search
    killed_when(tmp_path, r"  (un)?solved", 0.3)
    after_first = kept(tmp_path / RUN)
    settled = {id: state for id, state in after_first.states().items() if state in {"solved", "unsolved"}}
    assert settled

    killed_when(tmp_path, r"train 1/", 0.0)
    after_second = kept(tmp_path / RUN)
    assert settled.items() <= after_second.states().items()
    assert {row["id"] for row in after_first.dump["node"]} <= {row["id"] for row in after_second.dump["node"]}

    done = fine(*arguments(), cwd=tmp_path, limit_s=LIMIT_S)
    run = kept(tmp_path / RUN)
    run.balances()
    for table in ("node", "trajectory", "verdict", "call", "attempt"):
        rows = {row.get("id", row.get("trajectory")): row for row in run.dump[table]}
        assert all(rows[row.get("id", row.get("trajectory"))] == row for row in after_second.dump[table]), table
    summary = done.summary
    assert summary["state"] == "finished"
    assert summary["questions"] == 5
    assert [(row["set"], row["answers"]) for row in summary["accuracy"]] == [("held_out", "greedy"), ("held_out", "sampled")]
    assert all(row[key]["items"] == 3 for row in summary["accuracy"] for key in ("before", "after", "difference"))
    assert (Path(summary["students"]["student"]["final"]) / "adapter_config.json").is_file()
    exported = [json.loads(line) for line in Path(summary["export"]).read_text(encoding="utf-8").splitlines()]
    assert len(exported) == summary["accepted"] > 0
    assert all(row["messages"][-1]["content"].startswith("<think>\n### Step 1.") for row in exported)
    assert len({row["update"] for row in run.dump["metrics"]}) == len(run.dump["metrics"])

    together = fine("evaluate", str(RUN), "--json", cwd=tmp_path).summary
    assert together["accuracy"] == summary["accuracy"]

    again = fine(*arguments(), cwd=tmp_path, limit_s=LIMIT_S)
    same_story(kept(tmp_path / RUN), run)
    assert again.summary["accepted"] == summary["accepted"]
