"""Replaces a damaged SQLite file by a new journal with every row that SQLite still reads from it.

The damaged file is kept. It stays in its place until the copy is complete, so a recovery that is killed starts again.
"""

import contextlib
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Table, create_engine, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from synthpost_dagster.errors import StorageError
from synthpost_dagster.llm.journal_tables import (
    HOLDERS,
    LOSSES,
    RAW_MESSAGES,
    REPLIES,
    ROWS_PER_STATEMENT,
    SPENDING_UNKNOWN,
    IsActive,
    JsonText,
    create_tables,
    insert_new,
    is_intact,
    note_loss,
    refuse_other_tables,
    with_checksum,
)
from synthpost_dagster.runtime.processes import is_here
from synthpost_dagster.runtime.progress import announce

BUSY_SECONDS = 60
MAGIC = b"SQLite format 3\x00"
TOLERANT_TEXT = partial(str, encoding="utf-8", errors="replace")
"""Decoder of texts: a damaged text fails its checksum, not the statement."""
MAX_CHECKED_BYTES = 64 * 2**20
"""A larger file is checked only after a process died or met damage."""
COPYING, COPIED, DAMAGE_FOUND = ".copying", ".copied", ".damage-found"
"""Endings of files beside the journal: an incomplete copy, a complete copy, and a mark that a run met damage."""


def recover_if_damaged(file: Path, is_active: IsActive) -> None:
    """Checks a journal's file and replaces it if SQLite finds it malformed; the caller holds the file's lock.

    Raises StorageError if the file is no journal, or if a living process of this host uses the damaged file.
    """
    if not _beside(file, COPIED).exists():
        if not _beside(file, DAMAGE_FOUND).exists() and not _is_damaged(file, is_active):
            return
        announce(f"the journal {file} is damaged; its readable rows are being copied to a new one")
        replies, is_spending_known = _copy(file, is_active)
        text = f"{replies:,} replies were copied to a new journal, the others will be requested again"
        announce(f"the journal {file}: {text}{'' if is_spending_known else f'; {SPENDING_UNKNOWN}'}")
    aside = _put_in_place(file)
    announce(f"the damaged journal is kept as {aside}; `sqlite3 {aside} .recover` may read more of it")


def mark_damaged(file: Path) -> None:
    """Notes that a run met damage, so that the next opening replaces the file whatever its size."""
    _beside(file, DAMAGE_FOUND).touch()


def is_damage(error: BaseException) -> bool:
    """Whether SQLite's error says that the file is malformed."""
    # A message that quotes damaged bytes cannot be decoded.
    name = getattr(getattr(error, "orig", None) or error, "sqlite_errorname", "")
    return isinstance(error, UnicodeDecodeError) or str(name).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _is_damaged(file: Path, is_active: IsActive) -> bool:
    if not _size(file):
        return _size(_beside(file, "-wal")) > 0  # SQLite would delete a log without its file
    with file.open("rb") as opened:
        begin = opened.read(len(MAGIC))
    if not any(begin):
        return True  # the first page never reached the disk
    if begin != MAGIC[: len(begin)]:
        raise StorageError(
            f"SYNTHPOST_JOURNAL: {file} is not a journal, it is not an SQLite database. It is left as it is; name "
            f"another file, or move it away: if it was a journal, `sqlite3 {file} .recover` may read some of it"
        )
    engine = create_engine("sqlite://", creator=partial(_connected, file), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            if not refuse_other_tables(connection, str(file)):
                return False
            unended = connection.execute(select(HOLDERS).where(HOLDERS.c.ended_at.is_(None))).mappings()
            is_checked = _size(file) <= MAX_CHECKED_BYTES or not all(map(is_active, unended))
            return is_checked and not _is_sound(connection)
    except (DatabaseError, UnicodeDecodeError) as error:
        if is_damage(error):
            return True
        raise


def _is_sound(connection: Connection) -> bool:
    """Whether SQLite finds every page sound, and indexes that agree with their tables."""
    return bool(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() == "ok")


def _copy(file: Path, is_active: IsActive) -> tuple[int, bool]:
    """Writes the readable rows beside the damaged file; returns the number of replies and whether spending is known."""
    file.touch()
    draft = _beside(file, COPYING)
    for ending in ("", "-journal"):
        _beside(draft, ending).unlink(missing_ok=True)
    engine = create_engine(URL.create("sqlite", database=str(draft)), poolclass=NullPool)
    try:
        with engine.begin() as target:
            create_tables(target, str(draft))
            # SQLite deletes the log of an empty file when it opens it.
            replies, is_spending_known = _copy_tables(file, target) if _size(file) else (0, False)
            if not is_spending_known:
                note_loss(target)
            _refuse_if_in_use(file, target, is_active)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    draft.rename(_beside(file, COPIED))
    return replies, is_spending_known


def _copy_tables(file: Path, target: Connection) -> tuple[int, bool]:
    with contextlib.closing(_connected(file)) as source:
        # SQLite then reads files that are cut off, and skips malformed entries of the schema.
        source.execute("PRAGMA writable_schema=ON")
        is_spending_known = True
        for table in (HOLDERS, LOSSES):
            is_spending_known &= _copy_table(source, target, table)[1] and _is_table_sound(source, table)
        _copy_table(source, target, RAW_MESSAGES)
        return _copy_table(source, target, REPLIES)[0], is_spending_known


def _connected(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
    connection.text_factory = TOLERANT_TEXT
    return connection


def _is_table_sound(source: sqlite3.Connection, table: Table) -> bool:
    try:
        return bool(source.execute(f"PRAGMA integrity_check({table.name})").fetchone()[0] == "ok")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        _raise_if_temporary(error)
        return False


def _copy_table(source: sqlite3.Connection, target: Connection, table: Table) -> tuple[int, bool]:
    """Copies the intact rows before the first unreadable page and those after the last one.

    Returns their number and whether no row was lost.
    """
    query = f"SELECT {', '.join(table.columns.keys())} FROM {table.name} NOT INDEXED ORDER BY rowid"  # noqa: S608
    count, is_complete = 0, True
    for order in ("ASC", "DESC"):
        rows: list[dict[str, Any]] = []
        try:
            for values in source.execute(f"{query} {order}"):
                if row := _intact_row(table, values):
                    rows.append(row)
                else:
                    is_complete = False
                if len(rows) == ROWS_PER_STATEMENT:
                    count += len(insert_new(target, table, rows))
                    rows = []
            is_at_end = True
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _raise_if_temporary(error)
            is_at_end = is_complete = False
        count += len(insert_new(target, table, rows))
        if is_at_end:
            break
    return count, is_complete


def _raise_if_temporary(error: BaseException) -> None:
    """Raises errors that have other causes than the file's content, such as a full disk."""
    if not is_damage(error) and getattr(error, "sqlite_errorname", "") not in ("SQLITE_ERROR", "SQLITE_TOOBIG"):
        raise error


def _intact_row(table: Table, values: tuple[Any, ...]) -> dict[str, Any] | None:
    row = dict(zip(table.columns.keys(), values, strict=True))
    for column in table.columns:
        if isinstance(column.type, JsonText):
            row[column.name] = column.type.process_result_value(row[column.name], None)
    try:
        return with_checksum(table, row) if is_intact(table, row, row["checksum"]) else None
    except (TypeError, ValueError):  # a time that is no number
        return None


def _refuse_if_in_use(file: Path, copy: Connection, is_active: IsActive) -> None:
    holders = copy.execute(select(HOLDERS)).mappings()
    if users := [row["process"] for row in holders if is_here(row["process"]) and is_active(row)]:
        raise StorageError(
            f"the journal {file} is damaged, and process {users[0]} still uses it; end that process and run again"
        )


def _put_in_place(file: Path) -> Path:
    """Sets the damaged file aside and puts the copy in its place; finishes what a kill interrupted."""
    copied = _beside(file, COPIED)
    aside = _beside(file, time.strftime(".damaged-%Y%m%d-%H%M%S", time.localtime(copied.stat().st_mtime)))
    # The log first: SQLite would take it for the log of the copy.
    for ending in ("-shm", "-wal", ""):
        if _beside(file, ending).exists():
            _beside(file, ending).rename(_beside(aside, ending))
    _beside(file, DAMAGE_FOUND).unlink(missing_ok=True)
    copied.rename(file)
    return aside


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)
