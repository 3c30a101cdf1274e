"""The order of requests: shared prefixes are found again in a cache that cannot hold all trees at once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # which are scripts, not a package that is installed

from tree_dispatch import ORDERS, configured, ground_of, once

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_what_was_begun_first_goes_first_and_finds_its_prefixes_in_a_small_cache(tmp_path: Path) -> None:
    ground = ground_of(32, tmp_path)
    found = {}
    for name, order in ORDERS.items():
        (tmp_path / name).mkdir()
        found[name] = asyncio.run(once(configured(ground, 1), tmp_path / name, order))
    whole = asyncio.run(once(configured(ground, 64), tmp_path, ORDERS["ours"]))
    assert found["ours"]["prompt"] == found["first come"]["prompt"] == whole["prompt"]
    assert whole["computed"] <= found["ours"]["computed"] < 0.75 * found["first come"]["computed"]
