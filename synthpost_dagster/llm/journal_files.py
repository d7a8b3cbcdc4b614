"""Opens the journal's database: waits for a server, refuses other databases, and has a damaged SQLite file replaced.

The tables are in `journal_tables`, the copy of a damaged file in `journal_recovery`.
"""

import contextlib
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from synthpost_dagster.errors import StorageError
from synthpost_dagster.llm.journal_recovery import (
    BUSY_SECONDS,
    TOLERANT_TEXT,
    is_damage,
    mark_damaged,
    recover_if_damaged,
)
from synthpost_dagster.llm.journal_tables import HOLDERS, IsActive, create_tables, delete_damaged_spending
from synthpost_dagster.runtime.progress import announce

AWAY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits before an unavailable database is tried again: a server restarts, disk space is freed."""
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "temp_store=MEMORY",
    # Keys are hashes, so writes hit every page of their index: cache much of it, and checkpoint rarely.
    "cache_size=-262144",
    "wal_autocheckpoint=16384",
)
IS_READING = "synthpost_is_reading"
"""Option of a connection whose transactions write nothing."""
AWAY_STATES = ("08", "53", "57P")
"""Classes of PostgreSQL's errors that pass: connection lost, too many connections, shut down or starting up."""
AWAY_WORDS = ("starting up", "shutting down", "recovery", "accepting connections", "too many")


def open_engine(url: str | URL, is_active: IsActive) -> Engine:
    """The database with its tables.

    Waits for an unavailable server; a damaged SQLite file is set aside and its readable rows are copied to a new one.
    Raises StorageError if the database cannot be opened or is not a journal.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            return _open_file(parsed, is_active)
        if backend != "postgresql":
            raise ArgumentError(f"{backend} is neither sqlite nor postgresql")
        return _open_server(parsed)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StorageError(
            f"SYNTHPOST_JOURNAL: no database can be opened at {without_password(url)}: {error}; write a URL such as "
            "sqlite:////folder/journal.sqlite or postgresql+psycopg://user@host/name and install its driver "
            "(pip install synthpost[postgres]), or unset it"
        ) from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise storage_error(url, error) from None


def storage_error(url: str | URL, error: Exception) -> StorageError:
    """The error to raise for a database error, without a password; damage to a file is noted for the next opening."""
    cause = " ".join(str(getattr(error, "orig", None) or error).split())
    if is_damage(error):
        with contextlib.suppress(OSError, StorageError, ArgumentError):
            mark_damaged(_file_of(make_url(url)))
        return StorageError(
            f"the journal {without_password(url)} (SYNTHPOST_JOURNAL) is damaged: {cause}; run again: its readable "
            "replies are then copied to a new journal, and the rest is requested again"
        )
    return StorageError(
        f"the journal {without_password(url)}: {cause}; free space, start the server, or name another database in "
        "SYNTHPOST_JOURNAL. The stored replies are unchanged"
    )


def without_password(url: str | URL) -> str:
    """A database's URL for messages; PostgreSQL's may also have a password after the question mark."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "SYNTHPOST_JOURNAL"
    if parsed.get_backend_name() == "sqlite":
        return parsed.database or str(url)
    secrets = {name: "***" for name in parsed.query if "password" in name.lower()}
    return parsed.update_query_dict(secrets).render_as_string(hide_password=True)


def _file_of(url: URL) -> Path:
    """The file that an SQLite URL names, with links resolved. Raises StorageError if it cannot be a journal."""
    if not url.database or url.database == ":memory:" or url.query:
        raise ArgumentError(
            "it names no file" if not url.query else "a journal takes no options; a ? in a file's name is written %3F"
        )
    named = Path(url.database)
    try:
        if named.is_symlink() and not named.exists():
            raise StorageError(
                f"the journal {named} (SYNTHPOST_JOURNAL) is a link to {named.readlink()}, which does not exist; "
                "remove the link or create that file"
            )
        file = named.resolve()
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise StorageError(f"the journal {named} (SYNTHPOST_JOURNAL) is not a regular file; name another")
    except (OSError, RuntimeError) as error:
        raise storage_error(url, error) from None
    return file


def _open_server(url: URL) -> Engine:
    """PostgreSQL's database with its tables; waits some seconds for an unavailable server."""
    for wait in AWAY_SECONDS:
        try:
            return _prepared(create_engine(url), without_password(url))
        except OperationalError as error:
            if not _is_away(error):
                raise
            announce(f"{storage_error(url, error)}; waiting for the database, trying again in {wait:g} s")
        time.sleep(wait)
    return _prepared(create_engine(url), without_password(url))


def _prepared(engine: Engine, name: str, is_active: IsActive | None = None) -> Engine:
    """Creates missing tables and deletes damaged spending records.

    With `is_active`, marks holders whose process died as ended, so that a file is checked once for them.
    """
    try:
        with engine.begin() as connection:
            create_tables(connection, name)
            delete_damaged_spending(connection)
            if is_active is not None:
                rows = connection.execute(select(HOLDERS).where(HOLDERS.c.ended_at.is_(None))).mappings()
                dead = [row["id"] for row in rows if not is_active(row)]
                connection.execute(HOLDERS.update().where(HOLDERS.c.id.in_(dead)).values(ended_at=time.time()))
    except BaseException:
        engine.dispose()
        raise
    return engine


def _is_away(error: OperationalError) -> bool:
    """Whether a server may be back soon; a refused name or password stays refused."""
    if state := getattr(error.orig, "sqlstate", None):
        return str(state).startswith(AWAY_STATES)
    cause = str(error.orig)
    return "FATAL" not in cause or any(words in cause for words in AWAY_WORDS)


def _open_file(url: URL, is_active: IsActive) -> Engine:
    """SQLite's database in a file. One process opens it at a time: the change to a write-ahead log needs it alone."""
    file = _file_of(url)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=BUSY_SECONDS):
        recover_if_damaged(file, is_active)
        engine = create_engine(url.set(database=str(file)), connect_args={"timeout": BUSY_SECONDS})
        _tune_sqlite(engine)
        return _prepared(engine, str(file), is_active)


def _tune_sqlite(engine: Engine) -> None:
    """Sets a write-ahead log and synced commits; a transaction that writes takes the write lock at its beginning.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:  # noqa: ARG001 - SQLAlchemy's signature
        connection.isolation_level = None
        connection.text_factory = TOLERANT_TEXT
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_reading = connection.get_execution_options().get(IS_READING)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
