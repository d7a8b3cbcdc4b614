"""Signs of life: a file that a living process holds locked and touches, so that others see when the process is gone.

The kernel drops the lock with the process, however that ended. Where a lock is not seen from another host, as on some
network file systems, the time of the last touch decides. What is done about the dead is not known here.
"""

from __future__ import annotations

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
SILENT_SECONDS = 60.0
"""A process of another host or container whose file is not locked and was not touched for so long is taken for dead."""

_BEATING: set[Path] = set()
_IS_BEATING = threading.Lock()


@contextlib.contextmanager
def heartbeat(path: Path) -> Iterator[None]:
    """While entered, `path` says that this process lives. Raises OSError where the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        os.write(descriptor, this_process().encode())
        with contextlib.suppress(OSError):  # a file system without locks: the touches are left
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Locked before it has its name: whoever sees it, sees it locked.
        Path(draft).replace(path)
        _start_beating()
        _BEATING.add(path)
        yield
    finally:
        _BEATING.discard(path)
        Path(draft).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def is_dead(path: Path) -> bool:
    """Whether the process that made this sign of life is gone; False too where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if _is_locked(descriptor):
            return False
        name = os.read(descriptor, 1_000).decode(errors="replace")
        return not is_alive(name) if is_here(name) else _silence(descriptor, path.parent) > SILENT_SECONDS
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether another process holds the lock; False where the file system knows of none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def _silence(descriptor: int, folder: Path) -> float:
    """Seconds since the last touch, both by the clock of the file system, which hosts share."""
    with tempfile.TemporaryFile(dir=folder) as now:
        return os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime


def _start_beating() -> None:
    """Touches the files of this process in a thread, from the first on."""
    if _IS_BEATING.acquire(blocking=False):
        threading.Thread(target=_beat, daemon=True, name="heartbeat").start()


def _beat() -> None:
    pause = threading.Event()
    while not pause.wait(BEAT_SECONDS):
        for path in list(_BEATING):
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=False)
