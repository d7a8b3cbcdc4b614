"""Private folders in which artifacts are made; those of killed processes are found and removed.

Each is `tmp/<random>/files` in the home, beside the sign of life of its maker.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from synthpost_dagster.runtime.heartbeats import heartbeat, is_dead

SIGN = "maker"
FILES = "files"
UNSIGNED_SECONDS = 24 * 3600.0
"""A folder without a sign of life is left for so long: its maker may run a version of before there were any."""
_NAME = re.compile(r"tmp[a-z0-9_]{8}")


@contextlib.contextmanager
def draft_folder(home: Path) -> Iterator[Path]:
    """An empty folder that is removed on every way out. Raises OSError where it cannot be made."""
    base = home / "tmp"
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    try:
        with heartbeat(folder / SIGN):
            (folder / FILES).mkdir()
            yield folder / FILES
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(home: Path) -> int:
    """Removes the drafts whose makers are dead, of living ones none; how many those were."""
    base, removed = home / "tmp", 0
    if base.is_symlink() or not base.is_dir():
        return 0
    for folder in base.iterdir():
        if _NAME.fullmatch(folder.name) and not folder.is_symlink() and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _is_abandoned(folder: Path) -> bool:
    if (folder / SIGN).is_file():
        return is_dead(folder / SIGN)
    try:
        return time.time() - folder.stat().st_mtime > UNSIGNED_SECONDS
    except OSError:
        return False
