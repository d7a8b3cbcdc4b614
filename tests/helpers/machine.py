"""How fast the machine is that the tests run on: limits in seconds are meant for a machine of our time, left alone."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from functools import cache
from typing import Any

DAGSTER_SECONDS = 0.6
"""Of a core, to import dagster: about what it takes a machine on which `make demo` takes as long as the README says."""


def child_seconds(command: list[str], **how: Any) -> tuple[float, str]:
    """Seconds of a core that a child process used, and what it printed. What others do meanwhile is not counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, **how)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@cache
def slowness() -> float:
    """How many times slower than that machine this one is; 1 where it is faster."""
    seconds = [child_seconds([sys.executable, "-c", "import dagster"])[0] for _ in range(3)]
    return max(1.0, statistics.median(seconds) / DAGSTER_SECONDS)
