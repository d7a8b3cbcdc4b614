"""Waits for a lock that another process may hold for hours, and says so."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from synthpost_dagster.runtime.progress import Progress

QUIET_SECONDS = 1.0
"""Nothing is said of a wait that is over sooner."""
POLL_SECONDS = 0.2


def is_acquired(lock: FileLock, timeout: float, reason: str) -> bool:
    """Takes the lock, within so many seconds; where that takes a while, the terminal is told the reason, once.

    Raises OSError where the lock's file is a link or cannot be opened.
    """
    if Path(lock.lock_file).is_symlink():
        raise OSError(errno.ELOOP, "it is a link, which nobody here makes")
    if _is_free(lock, min(QUIET_SECONDS, timeout)):
        return True
    if timeout <= QUIET_SECONDS:
        return False
    Progress().note(f"{reason}; waiting for it")
    return _is_free(lock, timeout - QUIET_SECONDS)


def _is_free(lock: FileLock, timeout: float) -> bool:
    try:
        lock.acquire(timeout=timeout, poll_interval=POLL_SECONDS)
    except Timeout:
        return False
    return True
