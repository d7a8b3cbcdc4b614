"""Dagster's own databases in the home: finds damaged ones, and explains errors of writing them.

They hold the history of runs. Artifacts are found by their fingerprints without it, so a new one costs no work.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

FOLDERS = {"history": ("runs.db", "runs/index.db"), "schedules": ("schedules.db",)}
"""Folders of Dagster's home, and the databases in them; a folder with a damaged database is set aside as a whole."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def set_damaged_aside(dagster_home: Path) -> list[Path]:
    """Renames the folders with a damaged database, so that Dagster starts new ones; returns the new paths.

    Raises OSError where they cannot be renamed.
    """
    moved = []
    for name, databases in FOLDERS.items():
        folder = dagster_home / name
        if any(_is_damaged(folder / database) for database in databases):
            target = folder.with_name(f"{name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
            folder.rename(target)
            moved.append(target)
    return moved


def storage_sentence(error: BaseException, home: Path) -> str:
    """A sentence about an error that a full or read-only disk or a damaged database caused; empty for other errors."""
    for cause in _chain(error):
        text = str(cause).lower()
        is_database = isinstance(cause, sqlite3.Error)
        if (isinstance(cause, OSError) and cause.errno in FULL) or (is_database and "disk is full" in text):
            return f"{home}: the disk is full; free space, or set SYNTHPOST_HOME, and run again to continue"
        if (isinstance(cause, OSError) and cause.errno == errno.EROFS) or (is_database and "readonly" in text):
            return f"{home}: cannot be written (read-only); make it writable, or set SYNTHPOST_HOME"
        if is_database and ("malformed" in text or "not a database" in text):
            return (
                f"{home}: a database is damaged ({cause}); run again: if it is Dagster's history of runs, it is set "
                "aside and no artifact is lost"
            )
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_damaged(database: Path) -> bool:
    if not database.is_file() or not database.stat().st_size:
        return False
    try:
        with closing(sqlite3.connect(database, timeout=10.0)) as connection:
            return connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]
    except sqlite3.OperationalError:
        return False  # another process holds it, or it cannot be opened: no damage is known
    except sqlite3.DatabaseError:
        return True
