"""The journal's tables, the checksums of their rows, and the notes of lost spending records.

How the database is opened is in `journal_files`, the copy of a damaged one in `journal_recovery`.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

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
from synthpost_dagster.runtime.progress import announce

ROWS_PER_STATEMENT = 500
CREATION_LOCK = 7_302_119
"""Key of PostgreSQL's advisory lock; any number, the same in all processes."""
CHECKSUM_BYTES = 8
SPENDING_UNKNOWN = (
    "earlier spending is not known for sure, so no request is sent under a budget until "
    "`synthpost journal --spent PROFILE=DOLLARS` states what the provider's bill shows"
)

Item = TypeVar("Item")
IsActive = Callable[[Any], bool]
"""Whether the process of a row of HOLDERS still works."""


class JsonText(TypeDecorator[str]):
    """A text stored as JSON: PostgreSQL accepts no NUL, and no database half a surrogate pair."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """Encodes the text."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        """Decodes the text; None if it is damaged."""
        try:
            return None if value is None else str(json.loads(value))
        except (ValueError, TypeError):
            return None


METADATA = MetaData()
REPLIES = Table(
    "replies",
    METADATA,
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
    Column("checksum", String(16), nullable=False),
    Index("replies_by_model", "endpoint", "model", "purpose"),
)
RAW_MESSAGES = Table(
    "raw_messages",
    METADATA,
    Column("key", String(16), primary_key=True),
    Column("message", JsonText, nullable=False),
    Column("checksum", String(16), nullable=False),
)
"""The messages of replies that contain more than text: reasoning, parts, unknown finish reasons."""
IN_FLIGHT = Table(
    "underway",
    METADATA,
    Column("key", String(16), primary_key=True),
    Column("holder", String(32), nullable=False, index=True),
)
"""Keys that a holder requests now."""
HOLDERS = Table(
    "holders",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("process", String(200), nullable=False),
    Column("profile", String(40), nullable=False, index=True),
    Column("spent_usd", Float, nullable=False),
    Column("claimed_usd", Float, nullable=False),
    Column("begun_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("checksum", String(16), nullable=False),
)
"""A process that sends requests: its spending, its reservation (`claimed_usd`) and its heartbeat (`seen_at`)."""
LOSSES = Table(
    "losses",
    METADATA,
    Column("loss", String(32), primary_key=True),
    Column("profile", String(40), primary_key=True),
    Column("noted_at", Float, nullable=False),
    Column("checksum", String(16), nullable=False),
)
"""Losses of spending records. A row without a profile is a loss; one with a profile says that a person has stated
since then what that profile spent."""

_NOT_CHECKED = ("checksum", "begun_at", "seen_at", "ended_at")
_CHECKED_VALUES = {
    table.name: itemgetter(*sorted(set(table.columns.keys()) - set(_NOT_CHECKED)))
    for table in (REPLIES, RAW_MESSAGES, HOLDERS, LOSSES)
}


def checksum(table: Table, row: Mapping[Any, Any]) -> str:
    """A 64-bit BLAKE2b of a row's values, in 16 hexadecimal digits."""
    values = json.dumps(list(_CHECKED_VALUES[table.name](row))).encode("ascii")
    return hashlib.blake2b(values, digest_size=CHECKSUM_BYTES).hexdigest()


def is_intact(table: Table, row: Mapping[Any, Any], stored: str) -> bool:
    """Whether a row that was read is the row that was written."""
    try:
        return checksum(table, row) == stored
    except TypeError:  # bytes, where a damaged row holds no text
        return False


def with_checksum(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row to be written: its values as the database returns them later, and its checksum."""
    row = {
        name: float(value) if value is not None and isinstance(table.c[name].type, Float) else value
        for name, value in values.items()
    }
    return {**row, "checksum": checksum(table, row)}


def insert_new(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Inserts the rows whose key is new; returns the new keys."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    key = next(iter(table.primary_key.columns))
    new: set[str] = set()
    for batch in batches(rows):
        new |= set(connection.execute(insert(table).on_conflict_do_nothing().returning(key), batch).scalars())
    return new


def batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in parts that fit one statement."""
    for start in range(0, len(items), ROWS_PER_STATEMENT):
        yield items[start : start + ROWS_PER_STATEMENT]


def create_tables(connection: Connection, database: str) -> None:
    """Creates missing tables. Raises StorageError if `database` has others of the same names."""
    if connection.dialect.name == "postgresql":
        # Two processes that create one table at once would conflict; SQLite has one writer.
        connection.execute(select(func.pg_advisory_xact_lock(CREATION_LOCK)))
    refuse_other_tables(connection, database)
    METADATA.create_all(connection)


def refuse_other_tables(connection: Connection, database: str) -> bool:
    """Whether there are tables. Raises StorageError if they are not the journal's, or have other columns.

    Only PostgreSQL's database may hold tables of other programs.
    """
    inspector = inspect(connection)
    names = inspector.get_table_names()
    for table in METADATA.sorted_tables:
        expected = set(table.columns.keys())
        found = {column["name"] for column in inspector.get_columns(table.name)} if table.name in names else set()
        is_missing = not found and (not names or connection.dialect.name == "postgresql")
        if found != expected and not is_missing:
            raise StorageError(
                f"SYNTHPOST_JOURNAL: {database} is not a journal of this version of Synthpost: its table {table.name} "
                f"is missing or differs in the columns {', '.join(sorted(found ^ expected))}. It is left as it is; "
                "name another database"
            )
    return bool(names)


def note_loss(connection: Connection) -> None:
    """Records that spending records were lost."""
    row = {"loss": uuid.uuid4().hex, "profile": "", "noted_at": time.time()}
    connection.execute(LOSSES.insert().values(**with_checksum(LOSSES, row)))


def delete_damaged_spending(connection: Connection) -> None:
    """Deletes spending records that fail their checksum, notes the loss and announces it."""
    count = 0
    for table in (HOLDERS, LOSSES):
        for row in connection.execute(select(table)).mappings().all():
            if not is_intact(table, row, row["checksum"]):
                here = [column == row[column.name] for column in table.primary_key.columns]
                connection.execute(table.delete().where(*here))
                count += 1
    if count:
        note_loss(connection)
        announce(f"{count} spending records of the journal failed their checksum and were deleted; {SPENDING_UNKNOWN}")
