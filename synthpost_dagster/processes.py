"""Names a process so that another can tell, later, whether it still runs."""

from __future__ import annotations

import os
import socket

import psutil

CLOCK_SECONDS = 5.0


def this_process() -> str:
    """Host, id and start of this process."""
    process = psutil.Process(os.getpid())
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def is_here(name: str) -> bool:
    """Whether the named process ran, or runs, on this host; of others nothing can be said."""
    return name.partition(":")[0] == socket.gethostname()


def is_alive(name: str) -> bool:
    """Whether the named process of this host still runs."""
    pid, _, created = name.partition(":")[2].partition(":")
    try:
        # Both count from the boot as the clock knew it then, and a clock is set right now and again.
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(created)) <= CLOCK_SECONDS
        # Killed, and its parent has not asked what became of it.
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, ValueError):
        return False
