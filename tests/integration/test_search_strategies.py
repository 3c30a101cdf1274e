"""The comparison of strategies: every row of its table runs, and its plot can be drawn."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # which are scripts, not a package that is installed

from proving_ground import Ground, build, tiny
from search_strategies import REFERENCE, configured, drawn, one_run, plot, rows, told, winners

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return build(tiny(), tmp_path_factory.mktemp("ground"), processes=1, tell=lambda _: None)


def test_every_row_is_a_run_that_loads(ground: Ground, tmp_path: Path) -> None:
    asked = ground.asked("test", count=2)
    for row in (REFERENCE, *rows(tuple(ground.teachers))):
        config = configured(ground, row, 1, asked, tmp_path, cap=100 if row.tokens else None)
        assert (config.search.max_question_tokens == 100) == bool(row.tokens)
    names = [row.name for row in (REFERENCE, *rows(tuple(ground.teachers)))]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_a_row_is_measured_told_and_drawn(ground: Ground, tmp_path: Path) -> None:
    found = asyncio.run(one_run(ground, configured(ground, REFERENCE, 1, ground.asked("test", count=2), tmp_path / "run")))
    assert [len(found[key]) for key in ("right", "tokens", "perplexity")] == [2, 2, 2]
    assert min(found["tokens"]) > 0
    assert found["seconds"] > 0
    assert REFERENCE.name in told(REFERENCE.name, [found], [found], None)
    assert len(winners([found], tuple(ground.teachers))) == 4
    lines = drawn((REFERENCE, *rows(tuple(ground.teachers))))
    chance = random.Random(1)
    many = [{"right": [chance.random() < 0.5 for _ in range(20)], "tokens": [chance.randrange(1, 900) for _ in range(20)]}]
    plot({name: many for names in lines.values() for name in names}, lines, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
