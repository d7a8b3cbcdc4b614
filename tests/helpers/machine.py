"""The speed of the machine that the tests run on, by which limits in seconds are scaled."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from functools import cache
from typing import Any

DAGSTER_SECONDS = 0.6
"""Seconds of a core to import dagster, on a machine where `make demo` takes as long as documented."""


def child_seconds(command: list[str], **how: Any) -> tuple[float, str]:
    """Seconds of a core that a child process used, and its output. Other processes are not counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, **how)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@cache
def slowness() -> float:
    """How many times slower this machine is than the one of `DAGSTER_SECONDS`; at least 1."""
    seconds = [child_seconds([sys.executable, "-c", "import dagster"])[0] for _ in range(3)]
    return max(1.0, statistics.median(seconds) / DAGSTER_SECONDS)
