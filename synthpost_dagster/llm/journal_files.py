"""Opens the journal's database: waits for a server, refuses what is no journal, and recovers a damaged SQLite file.

What the tables hold is in `journal_tables`, how rows are read out of a damaged file in `journal_pages`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from synthpost_dagster.errors import StorageError
from synthpost_dagster.llm.journal_pages import MAGIC, TABLE_LEAF, open_pages
from synthpost_dagster.llm.journal_tables import (
    HOLDERS,
    LOSSES,
    RAW_MESSAGES,
    REPLIES,
    IsAsking,
    create_tables,
    insert_new,
    is_whole,
    row_of,
    sealed,
    sqlite_schema_is_ours,
)
from synthpost_dagster.runtime.processes import is_here
from synthpost_dagster.runtime.progress import announce

AWAY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits before a database that is away is tried again: a server restarts, space is freed."""
BUSY_SECONDS = 60
TOLERANT_TEXT = partial(str, encoding="utf-8", errors="replace")
"""How texts are read: a damaged one is to fail its checksum, and no statement."""
SAVED_ROWS = 500
"""Recovered replies that are written at a time."""
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
QUICKLY_CHECKED = 64 * 2**20
DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_FORMAT", "SQLITE_TOOBIG")
"""Errors of SQLite that say something of the file; after any other it may be whole, and cannot be read for now."""
MENDED = ".mended"
"""Ending of a recovered database that is complete and not yet in its place."""
SUSPECT = ".suspect"
"""Ending of an empty file that says that damage was met at work, whatever a check finds."""
OUR_WORDS = (b"CREATE TABLE underway", b"claimed_usd", b"served_model")
"""Stand in the schema of every journal; two are enough."""
SCHEMA_BYTES = 65_536
MAX_WRONG_BYTES = 2
"""So many of the first 16 bytes may be damaged in what begins as a database."""
MIN_DATABASE_BYTES = 512
FILE_FORMATS = (1, 2)
SPENDING_UNKNOWN = (
    "what was spent before is not known for sure, so under a budget nothing is spent until "
    "`synthpost journal --spent PROFILE=DOLLARS` says what the provider's bill shows"
)
AWAY_STATES = ("08", "53", "57P")
"""Classes of PostgreSQL's errors that pass: connection lost, too many connections, shut down or starting up."""
AWAY_WORDS = ("starting up", "shutting down", "recovery", "accepting connections", "too many")


class _Recovery(NamedTuple):
    """What was read out of a damaged file, and about how many replies were not."""

    replies: int
    lost: int
    is_spending_known: bool


def open_engine(url: str | URL, is_asking: IsAsking) -> Engine:
    """The database with its tables; `is_asking` says whether a holder lives.

    A damaged SQLite file is set aside and what can be read of it is kept; a server that is away is waited for.
    Raises StorageError where the database cannot be opened, or is no journal.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            return _open_file(parsed, _file_of(parsed), is_asking)
        if backend != "postgresql":
            raise ArgumentError(f"{backend} is neither sqlite nor postgresql")
        return _reach_server(parsed)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StorageError(
            f"SYNTHPOST_JOURNAL: no database can be opened at {without_password(url)}: {error}; write a URL such as "
            "sqlite:////folder/journal.sqlite or postgresql+psycopg://user@host/name and install its driver "
            "(pip install synthpost[postgres]), or unset it"
        ) from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StorageError(described(url, error)) from None


def described(url: str | URL, error: Exception) -> str:
    """What went wrong with the database, and what to do, without a password."""
    cause = " ".join(str(getattr(error, "orig", None) or error).split())
    if is_damage(error):
        return (
            f"the journal {without_password(url)} (SYNTHPOST_JOURNAL) is damaged: {cause}; run again: what can be read "
            "of it is recovered then, and only the rest is asked for again"
        )
    return (
        f"the journal {without_password(url)}: {cause}; free space, start the server, or name another database in "
        "SYNTHPOST_JOURNAL. What it holds is as it was"
    )


def is_damage(error: Exception) -> bool:
    """Whether an error of SQLite says that the file is damaged."""
    name = getattr(getattr(error, "orig", None) or error, "sqlite_errorname", "")
    return str(name).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def mark_suspect(url: str | URL) -> None:
    """Notes that damage was met at work, so that the next opening recovers the file though no quick check finds it."""
    with contextlib.suppress(OSError, StorageError, ArgumentError):
        _beside(_file_of(make_url(url)), SUSPECT).touch()


def without_password(url: str | URL) -> str:
    """A database's URL as people may see it; PostgreSQL's may hold a password after the question mark, too."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "SYNTHPOST_JOURNAL"
    if parsed.get_backend_name() == "sqlite":
        return parsed.database or str(url)
    secrets = {name: "***" for name in parsed.query if "password" in name.lower()}
    return parsed.update_query_dict(secrets).render_as_string(hide_password=True)


def _file_of(url: URL) -> Path:
    """The file that a URL of SQLite names, links followed. Raises StorageError where it can be no journal."""
    if not url.database or url.database == ":memory:" or url.query:
        raise ArgumentError(
            "it names no file" if not url.query else "a journal takes no options; a ? in a file's name is written %3F"
        )
    named = Path(url.database)
    try:
        if named.is_symlink() and not named.exists():
            raise StorageError(
                f"the journal {named} (SYNTHPOST_JOURNAL) is a link to {named.readlink()}, which is not there; remove "
                "the link, or make what it leads to"
            )
        file = named.resolve()
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise StorageError(f"the journal {named} (SYNTHPOST_JOURNAL) is no file; name one that is, or a new one")
    except (OSError, RuntimeError) as error:
        raise StorageError(described(url, error)) from None
    return file


def _reach_server(url: URL) -> Engine:
    """PostgreSQL's database with its tables; one that is away for some seconds is waited for."""
    engine = create_engine(url)
    for wait in (*AWAY_SECONDS, None):
        try:
            with _disposed_on_error(engine), engine.begin() as connection:
                create_tables(connection)
                damaged = write_off_damaged(connection)
            break
        except OperationalError as error:
            if wait is None or not _is_away(error):
                raise
            announce(f"{described(url, error)}; waiting for the database, trying again in {wait:g} s")
        time.sleep(wait)
    _tell_of_damaged(url, damaged)
    return engine


@contextlib.contextmanager
def _disposed_on_error(engine: Engine) -> Iterator[None]:
    """Closes the connections where the database turns out not to be usable."""
    try:
        yield
    except BaseException:
        engine.dispose()
        raise


def _is_away(error: OperationalError) -> bool:
    """Whether a server may be back soon; a name or password that it refuses stays refused."""
    if state := getattr(error.orig, "sqlstate", None):
        return str(state).startswith(AWAY_STATES)
    cause = str(error.orig)
    return "FATAL" not in cause or any(words in cause for words in AWAY_WORDS)


def _open_file(url: URL, file: Path, is_asking: IsAsking) -> Engine:
    """SQLite's database in a file; one process at a time opens it, because switching to the log takes it alone."""
    _refuse_what_is_no_journal(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_beside(file, ".lock"), timeout=BUSY_SECONDS):
        _name_misplaced(file)
        mended = _beside(file, MENDED)
        if not mended.exists() and (_beside(file, SUSPECT).exists() or _is_damaged(file, is_asking)):
            _recover(file, mended, is_asking)
        elif mended.exists():
            _put_in_place(mended, file)
        engine = create_engine(url.set(database=str(file)), connect_args={"timeout": BUSY_SECONDS})
        _tune_sqlite(engine)
        with _disposed_on_error(engine), engine.begin() as connection:
            create_tables(connection)
            damaged = write_off_damaged(connection)
            _end_the_dead(connection, is_asking)
    _tell_of_damaged(url, damaged)
    return engine


def _tune_sqlite(engine: Engine) -> None:
    """Write-ahead log, every commit synced, and transactions that take the write lock at once, but where they read.

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


def write_off_damaged(connection: Connection) -> int:
    """Drops records of spending that fail their checksum, and notes that what was spent is not known; how many."""
    count = 0
    for table in (HOLDERS, LOSSES):
        for row in connection.execute(select(table)).mappings().all():
            if not is_whole(table, row, row["checksum"]):
                here = [column == row[column.name] for column in table.primary_key.columns]
                connection.execute(table.delete().where(*here))
                count += 1
    if count:
        note_loss(connection)
    return count


def note_loss(connection: Connection) -> None:
    """Puts down that some of what was spent is not known any more."""
    row = {"loss": uuid.uuid4().hex, "profile": "", "noted_at": time.time()}
    connection.execute(LOSSES.insert().values(**sealed(LOSSES, row)))


def _end_the_dead(connection: Connection, is_asking: IsAsking) -> None:
    """Writes down that holders ended who did not do so themselves: what they left has been looked into.

    What they had claimed stays as it is, unsettled.
    """
    rows = connection.execute(select(HOLDERS).where(HOLDERS.c.ended_at.is_(None))).mappings()
    dead = [row["id"] for row in rows if not is_asking(row)]
    connection.execute(HOLDERS.update().where(HOLDERS.c.id.in_(dead)).values(ended_at=time.time()))


def _refuse_what_is_no_journal(file: Path) -> None:
    """Raises StorageError for a file that is neither empty nor a journal, whole or damaged; nothing is changed."""
    if not _size(file):
        return
    with file.open("rb") as opened:
        head = opened.read(SCHEMA_BYTES)
    begins_as_database = sum(is_ != should for is_, should in zip(head, MAGIC, strict=False)) <= MAX_WRONG_BYTES
    is_cut_off = begins_as_database and MIN_DATABASE_BYTES > len(head) >= len(MAGIC)
    if is_cut_off or (begins_as_database and _names_our_tables(head)):
        return
    with open_pages(file) as pages:
        first = pages.page(1)
        has_no_table = first[100] == TABLE_LEAF and first[103:105] == b"\0\0"
        if begins_as_database and (has_no_table or _names_our_tables(first)):
            return
        if any(row_of(REPLIES, cell.values) for cell in pages.cells()):
            return
    raise StorageError(
        f"SYNTHPOST_JOURNAL: {file} is not a journal of Synthpost, and is left as it is; name another file, such as "
        f"sqlite:///{file.parent / 'journal.sqlite'}, or unset it"
    )


def _names_our_tables(content: bytes) -> bool:
    return sum(words in content for words in OUR_WORDS) >= 2


def _name_misplaced(file: Path) -> None:
    """Names the journal that an earlier version put elsewhere, since it read a part of the path as a URL's."""
    if file.exists():
        return
    with contextlib.suppress(ArgumentError, StorageError, OSError, TypeError):
        elsewhere = Path(make_url(f"sqlite:///{file}").database or file)
        if elsewhere != file and elsewhere.is_file() and elsewhere.stat().st_size:
            _refuse_what_is_no_journal(elsewhere)
            announce(
                f"an earlier version kept this home's replies in {elsewhere}, because of the home's name; to use them, "
                f"move that file to {file}"
            )


def _is_damaged(file: Path, is_asking: IsAsking) -> bool:
    """Whether SQLite finds the file malformed; a large one is looked into where a process died that had it open."""
    if not _size(file):
        # SQLite would delete a log that has lost its file.
        return _size(_beside(file, "-wal")) > 0
    with file.open("rb") as opened:
        header = opened.read(20)
    if len(header) < 20 or not set(header[18:20]) <= set(FILE_FORMATS):
        return True
    try:
        with contextlib.closing(_connected(file)) as connection:
            if file.stat().st_size % connection.execute("PRAGMA page_size").fetchone()[0]:
                return True
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return False
            names = ("replies", "raw_messages", "underway", "holders", "losses")
            if not sqlite_schema_is_ours({name: _columns(connection, name) for name in names}):
                return True
            connection.row_factory = sqlite3.Row
            unclosed = connection.execute("SELECT * FROM holders WHERE ended_at IS NULL").fetchall()
            is_looked_into = file.stat().st_size < QUICKLY_CHECKED or not all(map(is_asking, unclosed))
            return is_looked_into and not _passes_check(connection)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "SQLITE_ERROR").startswith(DAMAGE):
            return True
        raise
    except UnicodeDecodeError:  # of SQLite's own message, which cites the schema
        return True


def _connected(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
    connection.text_factory = TOLERANT_TEXT
    return connection


def _columns(connection: sqlite3.Connection, table: str) -> list[tuple[str, str, int, int]]:
    """Name, type, whether it may not be null and place in the key, of each column of a table."""
    rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return [(name, kind, required, place) for _, name, kind, required, _, place in rows]


def _passes_check(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds no fault in any page, and indexes agree with their tables; it reads them all."""
    return bool(connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")


def _recover(file: Path, mended: Path, is_asking: IsAsking) -> None:
    """Saves what can be read of a damaged file and puts it in its place; what is lost is asked for again.

    The damaged one stays where it is until all is saved, so that a recovery that was cut short begins from the start.
    """
    announce(f"the journal {file} is damaged; what can be read of it is being recovered")
    file.touch()
    saved = _beside(file, ".mending")
    for ending in ("", "-journal"):
        _beside(saved, ending).unlink(missing_ok=True)
    engine = create_engine(URL.create("sqlite", database=str(saved)))
    try:
        with engine.begin() as connection:
            create_tables(connection)
            recovery = _save(connection, file, is_asking)
    except BaseException:
        engine.dispose()
        saved.unlink(missing_ok=True)
        raise
    engine.dispose()
    saved.rename(mended)
    aside = _put_in_place(mended, file)
    text = (
        f"{recovery.replies:,} replies are recovered, about {recovery.lost:,} are lost and will be asked for again; "
        f"the damaged file is kept as {aside}"
    )
    text = f"the journal {file}: {text}"
    announce(text if recovery.is_spending_known else f"{text}; {SPENDING_UNKNOWN}")


def _put_in_place(mended: Path, file: Path) -> Path:
    """Sets the damaged file aside and puts the recovered one in its place, or what a kill left undone of that."""
    aside = _beside(file, time.strftime(".damaged-%Y%m%d-%H%M%S", time.localtime(mended.stat().st_mtime)))
    # The log goes before its file: SQLite would take it for that of the recovered one.
    for ending in ("-shm", "-wal", ""):
        if _beside(file, ending).exists():
            _beside(file, ending).rename(_beside(aside, ending))
    _beside(file, SUSPECT).unlink(missing_ok=True)
    mended.rename(file)
    return aside


def _tell_of_damaged(url: URL, records: int) -> None:
    if records:
        text = f"{records} records of spending fail their checksum and are dropped"
        announce(f"the journal {without_password(url)}: {text}; {SPENDING_UNKNOWN}")


def _save(connection: Connection, damaged: Path, is_asking: IsAsking) -> _Recovery:
    """Writes every whole row of a damaged file into a new database, with a note where spending may be incomplete."""
    pending: dict[str, dict[str, Any]] = {}
    raw: dict[str, dict[str, Any]] = {}
    others: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}
    replies = most = 0
    with open_pages(damaged) as pages:
        for rowid, values in pages.cells():
            if rowid is None:
                most = max(most, _rowid_in_index(values))
            elif row := row_of(REPLIES, values):
                most, pending[row["key"]] = max(most, rowid), sealed(REPLIES, row)
            elif row := row_of(RAW_MESSAGES, values):
                raw[row["key"]] = sealed(RAW_MESSAGES, row)
            else:
                _add_newest(others, values)
            if len(pending) + len(raw) >= SAVED_ROWS:
                replies += _flush(connection, pending, raw)
    replies += _flush(connection, pending, raw)
    for table, row in others.values():
        connection.execute(table.insert().values(**sealed(table, row)))
    _refuse_if_in_use(damaged, [row for table, row in others.values() if table is HOLDERS], is_asking)
    is_spending_known = _holds_all_spending(damaged, others)
    if not is_spending_known:
        note_loss(connection)
    return _Recovery(replies, max(0, most - replies), is_spending_known)


def _flush(connection: Connection, replies: dict[str, dict[str, Any]], raw: dict[str, dict[str, Any]]) -> int:
    """Writes rows and forgets them; how many of the replies were new."""
    insert_new(connection, RAW_MESSAGES, list(raw.values()))
    new = len(insert_new(connection, REPLIES, list(replies.values())))
    replies.clear()
    raw.clear()
    return new


def _add_newest(found: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]], values: tuple[Any, ...]) -> None:
    """Adds a record of spending; pages that are no longer in use may hold earlier versions of it."""
    for table in (HOLDERS, LOSSES):
        if row := row_of(table, values):
            identity = (table.name, *(row[column.name] for column in table.primary_key.columns))
            _, known = found.get(identity, (table, row))
            found[identity] = (table, max(row, known, key=_age) if table is HOLDERS else row)


def _age(holder: dict[str, Any]) -> tuple[float, ...]:
    """Grows with every change of a holder's record."""
    return holder["spent_usd"], holder["seen_at"], holder["ended_at"] or 0.0


def _rowid_in_index(values: tuple[Any, ...]) -> int:
    """The number that the index of keys has for a reply: how many there were, at least."""
    is_key = len(values) == 2 and isinstance(values[0], str) and len(values[0]) == 16
    return values[1] if is_key and isinstance(values[1], int) and values[1] < 2**40 else 0


def _refuse_if_in_use(file: Path, holders: list[dict[str, Any]], is_asking: IsAsking) -> None:
    """Raises StorageError where a living process of this host works with the damaged file, and would go on with it."""
    users = [row["process"] for row in holders if is_here(row["process"]) and is_asking(row)]
    if users:
        raise StorageError(
            f"the journal {file} is damaged, and {users[0]} still uses it; end that process, and run again: what can "
            "be read is recovered then"
        )


def _holds_all_spending(file: Path, found: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]]) -> bool:
    """Whether SQLite finds the tables of spending whole in a file damaged elsewhere, and all their rows were found."""
    if not _size(file):
        return False
    try:
        with contextlib.closing(_connected(file)) as connection:
            count = 0
            for table in (HOLDERS, LOSSES):
                if connection.execute(f"PRAGMA integrity_check({table.name})").fetchone()[0] != "ok":
                    return False
                count += connection.execute(f"SELECT count(*) FROM {table.name} NOT INDEXED").fetchone()[0]  # noqa: S608
            return bool(count == len(found))
    except (sqlite3.Error, UnicodeDecodeError):
        return False


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)
