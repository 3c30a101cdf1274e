"""On what a benchmark was run, to be named beside its numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def device() -> str:
    """The CPU's model and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
