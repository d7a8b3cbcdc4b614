"""Private folders in which artifacts are made: `tmp/<random>/files` in the home, next to a heartbeat file.

The folders of killed processes are removed.
"""

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from synthpost_dagster.runtime.heartbeats import heartbeat, is_dead

HEARTBEAT = "maker"
FILES = "files"
MAX_SECONDS_WITHOUT_HEARTBEAT = 24 * 3600.0
"""A folder without a heartbeat file is removed after this time: its process was killed before it wrote one."""
_NAME = re.compile(r"tmp[a-z0-9_]{8}")


@contextlib.contextmanager
def draft_folder(home: Path) -> Iterator[Path]:
    """An empty folder that is always removed at the end. Raises OSError where it cannot be created."""
    base = home / "tmp"
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    try:
        with heartbeat(folder / HEARTBEAT):
            (folder / FILES).mkdir()
            yield folder / FILES
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(home: Path) -> int:
    """Removes the drafts of dead processes; their number."""
    base = home / "tmp"
    folders = [] if base.is_symlink() or not base.is_dir() else list(base.iterdir())
    abandoned = [one for one in folders if _NAME.fullmatch(one.name) and not one.is_symlink() and _is_abandoned(one)]
    for folder in abandoned:
        shutil.rmtree(folder, ignore_errors=True)
    return len(abandoned)


def _is_abandoned(folder: Path) -> bool:
    if (folder / HEARTBEAT).is_file():
        return is_dead(folder / HEARTBEAT)
    try:
        return time.time() - folder.stat().st_mtime > MAX_SECONDS_WITHOUT_HEARTBEAT
    except OSError:
        return False
