"""Waits for a lock that another process may hold for hours, with a note about it."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from synthpost_dagster.runtime.progress import Progress

QUIET_SECONDS = 1.0
"""A shorter wait is not reported."""
POLL_SECONDS = 0.2


def is_acquired(lock: FileLock, timeout: float, reason: str) -> bool:
    """Whether the lock was acquired within `timeout` seconds; a longer wait is reported once with its reason.

    Raises OSError where the lock's file is a symbolic link or cannot be opened.
    """
    if Path(lock.lock_file).is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    try:
        try:
            lock.acquire(timeout=min(QUIET_SECONDS, timeout), poll_interval=POLL_SECONDS)
        except Timeout:
            if timeout <= QUIET_SECONDS:
                raise
            Progress().note(f"{reason}; waiting for it")
            lock.acquire(timeout=timeout - QUIET_SECONDS, poll_interval=POLL_SECONDS)
    except Timeout:
        return False
    return True
