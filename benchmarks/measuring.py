"""What a piece of work cost the process that did it: seconds, CPU seconds with those of its children, memory.

Needs the standard library only, because the rivals' environments use it too.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

MIB = 2**20


class Meter:
    """Starts when it is made; `stop` gives what has passed since."""

    def __init__(self) -> None:
        self._start_mib = resident_mib()
        self._cpu = cpu_seconds()
        self._at = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Seconds, CPU seconds, and MiB: at the start, at the highest, and the difference.

        The highest is that of the whole process so far, so the difference is never too small.
        """
        seconds, cpu = time.perf_counter() - self._at, cpu_seconds() - self._cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu, 3),
            "start_mib": round(self._start_mib, 1),
            "peak_mib": round(peak, 1),
            "peak_above_start_mib": round(peak - self._start_mib, 1),
        }


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Puts down what a run has to say, for the process that started it."""
    file.write_text(json.dumps(record))
