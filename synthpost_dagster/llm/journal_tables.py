"""The journal's tables, the checksum of their rows, and how tables of earlier versions are brought up to date.

How the database is opened and a damaged file recovered is in `journal_files`, what the tables are for in `journal`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    func,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from synthpost_dagster.errors import StorageError

ROWS_A_STATEMENT = 500
MIGRATED_ROWS = 5_000
"""Rows of an earlier version that get their checksums at a time."""
CREATION_LOCK = 7_302_119
"""Any number, the same in all processes."""
CHECKSUM_BYTES = 8
_HEXADECIMAL = re.compile("[0-9a-f]+")

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


# Recovery reads columns by their place: new ones go to the end, and may be null.
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
    Column("checksum", String(16)),
    Index("replies_by_model", "endpoint", "model", "purpose"),
)
RAW_MESSAGES = Table(
    "raw_messages",
    _METADATA,
    Column("key", String(16), primary_key=True),
    Column("message", JsonText, nullable=False),
    Column("checksum", String(16)),
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
    Column("checksum", String(16)),
)
LOSSES = Table(
    "losses",
    _METADATA,
    Column("loss", String(32), primary_key=True),
    Column("profile", String(40), primary_key=True),
    Column("noted_at", Float, nullable=False),
    Column("checksum", String(16), nullable=False),
)
"""Records of spending that were lost: a row without a profile is the loss, one with a profile says that a person has
stated since what this profile had spent."""

CHECKED = (REPLIES, RAW_MESSAGES, HOLDERS, LOSSES)
"""Tables whose rows have a checksum."""
_BEATS = ("begun_at", "seen_at", "ended_at")
"""Times of a holder: no money hangs on them, and earlier versions change them without a checksum."""


class _Covered:
    """What the checksum of a table's rows is made of: all that is required, and of the rest what is not null."""

    def __init__(self, table: Table) -> None:
        names = sorted(column.name for column in table.columns if column.name not in ("checksum", *_BEATS))
        self.required = itemgetter(*(name for name in names if not table.c[name].nullable))
        self.others = tuple(name for name in names if table.c[name].nullable)

    def of(self, row: Mapping[Any, Any]) -> list[Any]:
        """The values; the optional ones with their names, so that a new column changes no older row's checksum."""
        others = ((name, row[name]) for name in self.others if row.get(name) is not None)
        return [*self.required(row), *others]


_COVERED = {table.name: _Covered(table) for table in CHECKED}


def checksum(table: Table, row: Mapping[Any, Any]) -> str:
    """Of what a row says, in 16 hexadecimal digits."""
    covered = json.dumps(_COVERED[table.name].of(row)).encode("ascii")
    return hashlib.blake2b(covered, digest_size=CHECKSUM_BYTES).hexdigest()


def is_whole(table: Table, values: Mapping[Any, Any], stored: str | None) -> bool:
    """Whether a row that was read is the one that was written. Rows of versions without checksums have only a form."""
    if stored is None:
        return all(values[column.name] is not None for column in table.columns if not column.nullable)
    try:
        return checksum(table, values) == stored
    except TypeError:  # bytes, where a damaged row holds no text
        return False


def sealed(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row to be written: its values as the database will give them back, and its checksum."""
    row = {
        name: float(value) if value is not None and isinstance(table.c[name].type, Float) else value
        for name, value in values.items()
    }
    return {**row, "checksum": checksum(table, row)}


def row_of(table: Table, record: Sequence[Any]) -> dict[str, Any] | None:
    """A record from a damaged file as a row of this table; None where it is none, or not whole."""
    if len(record) > len(table.columns):
        return None
    row: dict[str, Any] = {}
    for index, column in enumerate(table.columns):
        value = record[index] if index < len(record) else None
        row[column.name] = _python_value(column, value)
        if row[column.name] is None and (value is not None or not column.nullable):
            return None
    identity = row[next(iter(table.primary_key.columns)).name]
    is_ours = len(identity) in (16, 32) and _HEXADECIMAL.fullmatch(identity)
    return row if is_ours and is_whole(table, row, row["checksum"]) else None


def _python_value(column: Column[Any], value: Any) -> Any:
    """A stored value as the database gives it out; None where the column cannot hold it."""
    if isinstance(column.type, Float):
        return float(value) if isinstance(value, int | float) else None
    if isinstance(column.type, Integer):
        return value if isinstance(value, int) else None
    if not isinstance(value, str):
        return None
    if isinstance(column.type, JsonText):
        return column.type.process_result_value(value, None)
    return value if len(value) <= getattr(column.type, "length", 0) else None


def insert_new(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Inserts the rows whose key is new, and tells which these were."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    identity = next(iter(table.primary_key.columns))
    new: set[str] = set()
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        statement = insert(table).on_conflict_do_nothing().returning(identity)
        new |= set(connection.execute(statement, rows[start : start + ROWS_A_STATEMENT]).scalars())
    return new


def create_tables(connection: Connection) -> None:
    """Creates what is missing: tables, columns that may be null, and the checksums of rows that never had one.

    Raises StorageError where tables of the same names are not the journal's, or those of a later version.
    """
    if connection.dialect.name == "postgresql":
        # Two processes that create one table at once clash there; SQLite's transactions wait for each other.
        connection.execute(select(func.pg_advisory_xact_lock(CREATION_LOCK)))
    _METADATA.create_all(connection)
    inspector = inspect(connection)
    for table in _METADATA.sorted_tables:
        there = {column["name"] for column in inspector.get_columns(table.name)}
        _refuse_others(table, there)
        missing = [column for column in table.columns if column.name not in there]
        for column in missing:
            kind = column.type.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
        if any(column.name == "checksum" for column in missing):
            _add_checksums(connection, table)


def sqlite_schema_is_ours(columns: Mapping[str, Sequence[tuple[str, str, int, int]]]) -> bool:
    """Whether tables of a file are those of this version, an earlier or a later one: else their schema is damaged.

    `columns` are, by table, what `PRAGMA table_info` says of each: name, type, whether required, place in key.
    """
    for table in _METADATA.sorted_tables:
        if table in (LOSSES, RAW_MESSAGES) and not columns[table.name]:
            continue  # earlier versions had none
        found = {name: (kind, bool(required), bool(place)) for name, kind, required, place in columns[table.name]}
        known = {
            column.name: (str(column.type.compile(sqlite.dialect())), not column.nullable, column.primary_key)
            for column in table.columns
        }
        missing = [name for name in known if name not in found]
        unknown = [name for name in found if name not in known]
        if any(known[name][1] for name in missing) or (missing and unknown):
            return False
        if any(found[name] != known[name] for name in known if name in found):
            return False
    return True


def _refuse_others(table: Table, there: set[str]) -> None:
    required = {column.name for column in table.columns if not column.nullable}
    if not required <= there:
        raise StorageError(
            f"SYNTHPOST_JOURNAL: the table {table.name} of that database is not a journal's, it lacks the columns "
            f"{', '.join(sorted(required - there))}; it is left as it is: name another database"
        )
    if unknown := there - set(table.columns.keys()):
        raise StorageError(
            f"SYNTHPOST_JOURNAL: the table {table.name} of that database has columns that this version does not know "
            f"({', '.join(sorted(unknown))}); update Synthpost, or name another database"
        )


def _add_checksums(connection: Connection, table: Table) -> None:
    """Gives the rows of an earlier version their checksums; what is read of them now is taken for right."""
    (identity,) = table.primary_key.columns
    for rows in _all_rows(connection, table):
        for row in rows:
            if is_whole(table, row, None):
                update = table.update().where(identity == row[identity.name])
                connection.execute(update.values(checksum=checksum(table, row)))


def _all_rows(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    (identity,) = table.primary_key.columns
    last = ""
    while True:
        query = select(table).where(identity > last).order_by(identity).limit(MIGRATED_ROWS)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        if not rows:
            return
        yield rows
        last = rows[-1][identity.name]
