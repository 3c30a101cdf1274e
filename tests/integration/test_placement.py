"""Where actors live changes no number: all in one process, or each in its own."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_students import NAMES, apart, begin, lessons_of, make_shared, make_students, metrics, reports, routes, together

from configs.schema import ROUTER, Compatibility, Peers, Router
from store.types import Report
from trainers.spec import Shared

WAIT_S = 60.0
"""Nobody goes on without another, however busy the machine is."""

pytestmark = pytest.mark.usefixtures("one_thread")


def taught(root: Path, model: Path, kind: Any, weighed: bool, *, apart_: bool) -> Shared:
    shared = make_shared(
        root,
        router=Router(staleness=0, wait_s=WAIT_S, learning_rate=0.01, width=16),
        peers=Peers(kind=kind, staleness=0, wait_s=WAIT_S, width=8, top=16, learning_rate=0.01),
    )
    weighing = {"compatibility": Compatibility(), "conclusion": "common"} if weighed else {}
    specs = make_students(root, shared, (model, model), batch_of="questions", **weighing)
    asyncio.run(begin(shared.store, [lessons_of(number, 3) for number in range(6)]))
    endings, _ = (apart if apart_ else together)(specs)
    assert endings == ["done"] * 3
    return shared


@pytest.mark.parametrize("weighed", [False, True], ids=["alike", "weighed"])
@pytest.mark.parametrize("kind", ["hidden", "logits"])
def test_together_or_apart_students_come_to_the_same(tmp_path: Path, model: Path, kind: str, weighed: bool):
    one = taught(tmp_path / "together", model, kind, weighed, apart_=False)
    other = taught(tmp_path / "apart", model, kind, weighed, apart_=True)
    assert routes(one) == routes(other)
    assert {route.gate for route in routes(one)} == {0, 1}
    for name in NAMES:
        told = [each.values for each in metrics(one, name)]
        assert told == [pytest.approx(each.values, rel=1e-5, abs=1e-5) for each in metrics(other, name)]
        assert told[-1]["peers heard"] > 0
        assert told[-1]["peers missed"] == 0
        assert any(values.get("loss peers", 0.0) > 0 for values in told)
        learnt = load_file(tmp_path / "together" / name / "final" / "adapter_model.safetensors")
        for key, value in load_file(tmp_path / "apart" / name / "final" / "adapter_model.safetensors").items():
            torch.testing.assert_close(learnt[key], value, rtol=1e-4, atol=1e-4)
    assert [each.values for each in metrics(one, ROUTER)] == [
        pytest.approx(each.values, rel=1e-5, abs=1e-5) for each in metrics(other, ROUTER)
    ]
    assert [values_of(each) for each in reports(one)] == [
        pytest.approx(values_of(each), rel=1e-5, abs=1e-5) for each in reports(other)
    ]


def test_one_that_is_an_update_ahead_is_heard_as_it_was(tmp_path: Path, model: Path):
    """Every batch holds every trajectory, so what is said in an update is soon replaced."""
    losses = []
    for run in (together, apart):
        shared = make_shared(tmp_path / run.__name__, peers=Peers(staleness=0, wait_s=WAIT_S, width=8))
        asyncio.run(begin(shared.store, [lessons_of(number, 1) for number in range(3)]))
        run(make_students(shared.store.parent, shared, (model, model), epochs=40, checkpoint_every=100))
        losses.append([each.values["loss"] for name in NAMES for each in metrics(shared, name)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def values_of(report: Report) -> dict[str, float]:
    """What it measured; whose and what it is about is the order's business."""
    return {key: value for key, value in dataclasses.asdict(report).items() if isinstance(value, int | float)}
