"""The journal's three tables, and how its database is opened and mended. What they are used for is in `journal`."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from synthpost_dagster.errors import StorageError

BUSY_SECONDS = 60
ROWS_A_STATEMENT = 500
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "temp_store=MEMORY",
    # Keys are hashes: their index is written all over, so that much of it is held, and put in place seldom.
    "cache_size=-262144",
    "wal_autocheckpoint=16384",
)
IS_READING = "synthpost_is_reading"
"""Option of a connection whose transactions write nothing."""
QUICKLY_CHECKED = 256 * 2**20
NO_DAMAGE = ("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_NOMEM", "SQLITE_IOERR_SHM")
"""Errors of SQLite that say nothing of the file: what cannot be read for now is not lost."""
MENDED = ".mended"
"""Ending of a mended database that is whole and not yet in its place."""
CREATION_LOCK = 7_302_119
"""Any number, the same in all processes."""


IsAsking = Callable[[Any], bool]


class JsonText(TypeDecorator[str]):
    """A text as JSON, because PostgreSQL takes no NUL and no database a half of a surrogate pair."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """On the way in."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        """On the way out; None where it is damaged."""
        try:
            return None if value is None else str(json.loads(value))
        except ValueError:
            return None


_METADATA = MetaData()
REPLIES = Table(
    "replies",
    _METADATA,
    Column("key", String(16), primary_key=True),
    Column("endpoint", String(40), nullable=False),
    Column("model", String(200), nullable=False),
    Column("served_model", String(200), nullable=False),
    Column("purpose", String(40), nullable=False),
    Column("text", JsonText, nullable=False),
    Column("finish_reason", String(20), nullable=False),
    Column("prompt_characters", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("latency_seconds", Float, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("lost_usd", Float, nullable=False),
    Column("asked_at", Float, nullable=False),
    Index("replies_by_model", "endpoint", "model", "purpose"),
)
RAW_MESSAGES = Table(
    "raw_messages",
    _METADATA,
    Column("key", String(16), primary_key=True),
    Column("message", JsonText, nullable=False),
)
"""Messages as they came, of replies whose text is not all of them: reasoning, parts, unknown finish reasons."""
UNDERWAY = Table(
    "underway",
    _METADATA,
    Column("key", String(16), primary_key=True),
    Column("holder", String(32), nullable=False, index=True),
)
HOLDERS = Table(
    "holders",
    _METADATA,
    Column("id", String(32), primary_key=True),
    Column("process", String(200), nullable=False),
    Column("profile", String(40), nullable=False, index=True),
    Column("spent_usd", Float, nullable=False),
    Column("claimed_usd", Float, nullable=False),
    Column("begun_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("ended_at", Float),
)


def open_engine(url: str, is_asking: IsAsking) -> Engine:
    """The database with its tables. Raises StorageError where it cannot be opened; a damaged SQLite file is mended.

    `is_asking` tells of a holder whether it lives.
    """
    try:
        parsed = make_url(url)
        file = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
        if file is not None:
            return _open_file(url, file, is_asking)
        engine = create_engine(url)
        with engine.begin() as connection:
            _create_tables(connection)
        return engine
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StorageError(
            f"SYNTHPOST_JOURNAL: no database can be opened at {without_password(url)}: {error}; write a URL such as "
            "postgresql+psycopg://user@host/name and install its driver (pip install synthpost[postgres]), or unset it"
        ) from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StorageError(described(url, error)) from None


def _open_file(url: str, file: Path, is_asking: IsAsking) -> Engine:
    """SQLite's database in a file; one process at a time opens it, because switching to the log takes it alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f"{file.name}.lock"), timeout=BUSY_SECONDS):
        mended = _beside(file, MENDED)
        if not mended.exists() and _is_damaged(file, is_asking):
            _mend(file, mended)
        if mended.exists():
            _put_in_place(mended, file)
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        _tune_sqlite(engine)
        with engine.begin() as connection:
            _create_tables(connection)
            _end_the_dead(connection, is_asking)
    return engine


def insert_new(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Inserts the rows whose key is new, and tells which these were."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    new: set[str] = set()
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        statement = insert(table).on_conflict_do_nothing().returning(table.c.key)
        new |= set(connection.execute(statement, rows[start : start + ROWS_A_STATEMENT]).scalars())
    return new


def described(url: str, error: Exception) -> str:
    """What went wrong with the database, and what to do, without a password."""
    cause = " ".join(str(getattr(error, "orig", None) or error).split())
    return (
        f"the journal {without_password(url)}: {cause}; free space, start the server, or name another database in "
        "SYNTHPOST_JOURNAL. What it holds is as it was"
    )


def _create_tables(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Two processes that create one table at once clash there; SQLite's transactions wait for each other.
        connection.execute(select(func.pg_advisory_xact_lock(CREATION_LOCK)))
    _METADATA.create_all(connection)


def _tune_sqlite(engine: Engine) -> None:
    """Write-ahead log, every commit synced, and transactions that take the write lock at once, but where they read.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:  # noqa: ARG001 - SQLAlchemy's signature
        connection.isolation_level = None
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_reading = connection.get_execution_options().get(IS_READING)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


def _end_the_dead(connection: Connection, is_asking: IsAsking) -> None:
    """Writes down that holders ended who did not do so themselves: what they left has been looked into.

    What they had claimed stays as it is, unsettled.
    """
    rows = connection.execute(select(HOLDERS).where(HOLDERS.c.ended_at.is_(None))).mappings()
    dead = [row["id"] for row in rows if not is_asking(row)]
    connection.execute(HOLDERS.update().where(HOLDERS.c.id.in_(dead)).values(ended_at=time.time()))


def _is_damaged(file: Path, is_asking: IsAsking) -> bool:
    """Whether SQLite finds the file malformed; a large one is looked into where a process died that had it open."""
    if not file.exists() or file.stat().st_size == 0:
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as connection:
            if file.stat().st_size % connection.execute("PRAGMA page_size").fetchone()[0]:
                return True
            connection.execute("PRAGMA schema_version").fetchone()
            connection.row_factory = sqlite3.Row
            unclosed = connection.execute("SELECT * FROM holders WHERE ended_at IS NULL").fetchall()
            is_looked_into = file.stat().st_size < QUICKLY_CHECKED or not all(map(is_asking, unclosed))
            return is_looked_into and not _passes_check(connection)
    except sqlite3.OperationalError as error:
        return "malformed" in str(error)
    except sqlite3.DatabaseError:
        return True


def _passes_check(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds no fault in any page; it reads them all."""
    return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")


def _mend(file: Path, mended: Path) -> None:
    """Saves what can be read of a damaged file; what is lost is asked for again.

    The damaged one stays where it is until all is saved, so that a mend that was cut short begins anew.
    """
    saved = _beside(file, ".mending")
    for ending in ("", "-journal"):
        _beside(saved, ending).unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{saved}")
    try:
        with engine.begin() as connection:
            _METADATA.create_all(connection)
            for table in (REPLIES, HOLDERS):
                _save(connection, file, table)
    except BaseException:
        engine.dispose()
        saved.unlink(missing_ok=True)
        raise
    engine.dispose()
    saved.rename(mended)


def _put_in_place(mended: Path, file: Path) -> None:
    """Puts the damaged file aside and the mended one in its place, or what a kill left undone of that."""
    aside = _beside(file, time.strftime(".damaged-%Y%m%d-%H%M%S", time.localtime(mended.stat().st_mtime)))
    # The log goes before its file: SQLite would take it for that of the mended one.
    for ending in ("-shm", "-wal", ""):
        if _beside(file, ending).exists():
            _beside(file, ending).rename(_beside(aside, ending))
    mended.rename(file)


def _save(connection: Connection, damaged: Path, table: Table) -> None:
    names = [column.name for column in table.columns]
    fields = ", ".join(names)
    marks = ", ".join("?" * len(names))
    for row in filter(_is_whole, _readable(damaged, table.name, fields)):
        connection.exec_driver_sql(f"INSERT OR IGNORE INTO {table.name} ({fields}) VALUES ({marks})", row)  # noqa: S608


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _is_whole(row: tuple[Any, ...]) -> bool:
    """Whether a saved row has all its values, and its text, the only JSON in it, can be read."""
    for value in row[:-1]:
        if value is None:
            return False
        if isinstance(value, str) and value.startswith('"'):
            try:
                json.loads(value)
            except ValueError:
                return False
    return True


def _readable(file: Path, table: str, fields: str) -> Iterable[tuple[Any, ...]]:
    """The rows that SQLite can still read, up to the first damaged page from either end."""
    for order in ("ASC", "DESC"):
        yield from _rows_until_damage(file, f"SELECT {fields} FROM {table} ORDER BY rowid {order}")  # noqa: S608 - own names


def _rows_until_damage(file: Path, query: str) -> Iterator[tuple[Any, ...]]:
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as connection:
            yield from connection.execute(query)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "").startswith(NO_DAMAGE):
            raise


def without_password(url: str) -> str:
    """A database's URL as people may see it; PostgreSQL's may hold a password after the question mark, too."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "SYNTHPOST_JOURNAL"
    secrets = {name: "***" for name in parsed.query if "password" in name.lower()}
    return parsed.update_query_dict(secrets).render_as_string(hide_password=True)
