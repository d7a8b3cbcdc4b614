"""Heartbeats: a file that a process locks and touches, so that others see when the process has ended.

The kernel drops the lock when the process ends. Some network file systems do not show locks to other hosts; there the
time of the last touch decides.
"""

import contextlib
import errno
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from synthpost_dagster.runtime.processes import is_alive, is_here, this_process

BEAT_SECONDS = 10.0
HEARTBEAT_TIMEOUT_SECONDS = 60.0
"""A process of another host or container is dead if its file is not locked and was not touched for this time."""

_PATHS: set[Path] = set()
_IS_STARTED = threading.Lock()


@contextlib.contextmanager
def heartbeat(path: Path) -> Iterator[None]:
    """Keeps a heartbeat file for this process within the block. Raises OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        os.write(descriptor, this_process().encode())
        with contextlib.suppress(OSError):  # a file system without locks: the touches decide
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Locked before it gets its name, so that nobody sees it unlocked.
        Path(draft).replace(path)
        _PATHS.add(path)
        if _IS_STARTED.acquire(blocking=False):
            threading.Thread(target=_touch_continuously, daemon=True, name="heartbeat").start()
        yield
    finally:
        _PATHS.discard(path)
        Path(draft).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def is_dead(path: Path) -> bool:
    """Whether the process of a heartbeat file has ended; False if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if _is_locked(descriptor):
            return False
        name = os.read(descriptor, 1_000).decode(errors="replace")
        return not is_alive(name) if is_here(name) else _silence(descriptor, path.parent) > HEARTBEAT_TIMEOUT_SECONDS
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether another process holds the lock; False if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def _silence(descriptor: int, folder: Path) -> float:
    """Seconds since the last touch, by the clock of the file system, which hosts share."""
    with tempfile.TemporaryFile(dir=folder) as now:
        return os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime


def _touch_continuously() -> None:
    pause = threading.Event()
    while not pause.wait(BEAT_SECONDS):
        for path in list(_PATHS):
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=False)
