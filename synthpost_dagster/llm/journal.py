"""The journal: every reply of a model, durable before it is used, under a key of everything that shaped it.

A database through SQLAlchemy Core (https://docs.sqlalchemy.org/en/21/core/): SQLite in the home by default, PostgreSQL
by URL. Processes share it; how they share requests and budgets is in `journal_holders`.
"""

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from synthpost_dagster.llm.journal_files import IS_READING, open_engine, storage_error, without_password
from synthpost_dagster.llm.journal_holders import (
    Holder,
    holders_of,
    is_active,
    lock_spending,
    losses_of,
    new_holder,
    write_holder,
)
from synthpost_dagster.llm.journal_tables import (
    HOLDERS,
    LOSSES,
    REPLIES,
    ROWS_PER_STATEMENT,
    batches,
    delete_damaged_spending,
    is_intact,
    with_checksum,
)
from synthpost_dagster.runtime.progress import announce

STATED = "stated by a person"
"""The process in a spending record that a person made."""


class Reply(NamedTuple):
    """A reply and its facts; `lost_usd` is the most that earlier attempts without a reply may have cost."""

    key: str
    endpoint: str
    model: str
    served_model: str
    purpose: str
    text: str
    finish_reason: str
    prompt_characters: int
    prompt_tokens: int
    completion_tokens: int
    latency_seconds: float
    tries: int
    cost_usd: float
    lost_usd: float
    asked_at: float


_REPLIES_WITH_CHECKSUM = select(*(REPLIES.c[name] for name in Reply._fields), REPLIES.c.checksum)


class Averages(NamedTuple):
    """The number of replies of one endpoint, model and purpose, and their means."""

    replies: int
    prompt_tokens_a_character: float
    completion_tokens: float
    latency_seconds: float


class Journal:
    """The journal at a URL, opened when first used. Methods raise StorageError if the database cannot be used."""

    def __init__(self, url: str | URL) -> None:
        self.url = url

    @property
    def name(self) -> str:
        """The URL without its password."""
        return without_password(self.url)

    @cached_property
    def _engine(self) -> Engine:
        return open_engine(self.url, is_active)

    @contextlib.contextmanager
    def holder(self, profile: str, budget: float | None) -> Iterator[Holder]:
        """A lease to send requests and spend money under a profile's name; it ends with the block."""
        holder = Holder(self, profile, budget)
        try:
            yield holder
        finally:
            holder.close()

    def find(self, keys: Sequence[str]) -> dict[str, Reply]:
        """The stored replies by key."""
        with self.begin(is_reading=True) as connection:
            found, damaged = _look_up(connection, keys)
        if damaged:
            with self.begin() as connection:
                found |= self.find_intact(connection, damaged)
        return found

    def find_intact(self, connection: Connection, keys: Sequence[str]) -> dict[str, Reply]:
        """The stored replies by key; deletes those that fail their checksum, in a transaction that writes."""
        found, damaged = _look_up(connection, keys)
        for batch in batches(damaged):
            connection.execute(REPLIES.delete().where(REPLIES.c.key.in_(batch)))
        if damaged:
            announce(
                f"the journal {self.name}: {len(damaged):,} replies fail their checksum (damage on disk); they are "
                "deleted and requested again"
            )
        return found

    def verify(self) -> int:
        """Deletes all replies that fail their checksum and returns their number. Runs check only what they read."""
        last, dropped = "", 0
        while True:
            query = select(REPLIES.c.key).where(REPLIES.c.key > last).order_by(REPLIES.c.key).limit(ROWS_PER_STATEMENT)
            with self.begin(is_reading=True) as connection:
                keys = list(connection.execute(query).scalars())
            if not keys:
                return dropped
            dropped, last = dropped + len(keys) - len(self.find(keys)), keys[-1]

    def averages(self, endpoint: str, model: str, purpose: str) -> Averages | None:
        """Means over the replies of an endpoint, model and purpose; None if there is no reply."""
        for record in self.summary(endpoint=endpoint, model=model, purpose=purpose):
            replies, characters = record["replies"], record["prompt_characters"]
            return Averages(
                replies,
                record["prompt_tokens"] / characters if characters else 0.0,
                record["completion_tokens"] / replies,
                record["latency_seconds"],
            )
        return None

    def summary(self, **only: str) -> list[dict[str, Any]]:
        """A record per endpoint, model and purpose: replies, sums, mean latency, first and last; `only` selects."""
        columns = REPLIES.c
        groups = (columns.endpoint, columns.model, columns.purpose)
        sums = ("tries", "prompt_characters", "prompt_tokens", "completion_tokens", "cost_usd", "lost_usd")
        query = (
            select(
                *groups,
                func.count().label("replies"),
                *(func.sum(columns[name]).label(name) for name in sums),
                func.avg(columns.latency_seconds).label("latency_seconds"),
                func.min(columns.asked_at).label("first_at"),
                func.max(columns.asked_at).label("last_at"),
            )
            .where(*(columns[name] == value for name, value in only.items()))
            .group_by(*groups)
            .order_by(*groups)
        )
        with self.begin(is_reading=True) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def spending(self) -> list[dict[str, Any]]:
        """A record per profile: dollars spent, reserved by active processes, and left reserved by killed ones."""
        found: dict[str, dict[str, Any]] = {}
        with self.begin(is_reading=True) as connection:
            for row in connection.execute(select(HOLDERS).order_by(HOLDERS.c.profile)).mappings():
                record = found.setdefault(
                    row["profile"],
                    {"profile": row["profile"], "spent_usd": 0.0, "claimed_usd": 0.0, "unsettled_usd": 0.0},
                )
                record["spent_usd"] += row["spent_usd"]
                record["claimed_usd" if is_active(row) else "unsettled_usd"] += row["claimed_usd"]
        return list(found.values())

    def unknown_since(self, profile: str) -> float | None:
        """When spending records were lost, if nobody has stated since then what this profile spent; else None."""
        with self.begin(is_reading=True) as connection:
            return min(losses_of(connection, profile).values(), default=None)

    def settle(self, profile: str) -> float:
        """Releases, as never billed, what killed processes had reserved for a profile; returns the dollars."""
        with self.begin() as connection:
            delete_damaged_spending(connection)
            dead = [row for row in holders_of(connection, profile) if not is_active(row)]
            for row in dead:
                write_holder(connection, {**row, "claimed_usd": 0.0, "ended_at": row["ended_at"] or time.time()})
        return float(sum(row["claimed_usd"] for row in dead))

    def state_spent(self, profile: str, usd: float) -> None:
        """Sets what a profile has spent in total, as a person states it after records were lost."""
        now = time.time()
        with self.begin() as connection:
            lock_spending(connection, profile)
            delete_damaged_spending(connection)
            known = sum(row["spent_usd"] for row in holders_of(connection, profile))
            row = new_holder(uuid.uuid4().hex, STATED, profile) | {"spent_usd": usd - known, "ended_at": now}
            connection.execute(HOLDERS.insert().values(**with_checksum(HOLDERS, row)))
            for loss in losses_of(connection, profile):
                stated = {"loss": loss, "profile": profile, "noted_at": now}
                connection.execute(LOSSES.insert().values(**with_checksum(LOSSES, stated)))

    @contextlib.contextmanager
    def begin(self, is_reading: bool = False) -> Iterator[Connection]:
        """A transaction; one that only reads neither waits for writers nor delays them."""
        try:
            with self._engine.connect().execution_options(**{IS_READING: is_reading}) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise storage_error(self.url, error) from None


def _look_up(connection: Connection, keys: Sequence[str]) -> tuple[dict[str, Reply], list[str]]:
    """The stored replies by key, and the keys of those that fail their checksum."""
    found: dict[str, Reply] = {}
    damaged: list[str] = []
    for batch in batches(keys):
        rows = connection.execute(_REPLIES_WITH_CHECKSUM.where(REPLIES.c.key.in_(batch))).all()
        replies = [(Reply(*values), stored) for *values, stored in rows]
        intact = [reply for reply, stored in replies if is_intact(REPLIES, reply._asdict(), stored)]
        found |= {reply.key: reply for reply in intact}
        if len(intact) < len(rows):
            # A row's own key may be what is damaged. To delete a key without a row does no harm.
            damaged += [key for key in batch if key not in found]
    return found, damaged
