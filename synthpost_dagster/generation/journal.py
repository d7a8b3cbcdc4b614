"""The journal: every reply of a model, durable before it is used, under a key of everything that shaped it.

A database through SQLAlchemy Core: SQLite in the home by default, PostgreSQL by URL. Processes share it. What one asks
for is marked underway, so that another waits for the reply instead of paying for it again; what a process that died
had underway is free again. Money is claimed before it is spent, so that a cap holds for all processes together:
https://docs.sqlalchemy.org/en/21/core/.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from synthpost_dagster.errors import StorageError
from synthpost_dagster.generation.journal_tables import (
    HOLDERS,
    IS_READING,
    RAW_MESSAGES,
    REPLIES,
    UNDERWAY,
    described,
    insert_new,
    open_engine,
    without_password,
)
from synthpost_dagster.processes import is_alive, is_here, this_process

BATCH = 500
"""Most keys in one statement."""
SILENT_SECONDS = 300.0
"""A process on another host that has not been heard of for this long is taken for dead."""
MARGIN_USD = 1e-9
"""Sums of floating-point dollars may be off by less than this."""
_OPEN: set[str] = set()
"""Holders of this process: one whose end could not be written down, because the disk was full, is over all the same."""


class Reply(NamedTuple):
    """A reply and what is known of it; `lost_usd` is what earlier tries without a reply may have cost at most."""

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


class Taken(NamedTuple):
    """What became of keys: replies that are there, keys that are now ours to ask, keys that another process asks."""

    known: dict[str, Reply]
    mine: set[str]
    elsewhere: set[str]


class Averages(NamedTuple):
    """Of the replies of one endpoint, model and purpose: how many, and their means."""

    replies: int
    prompt_tokens_a_character: float
    completion_tokens: float
    latency_seconds: float
    tries: float


class Journal:
    """The journal at a URL; nothing is opened before it is needed. Raises StorageError where it cannot be used."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def name(self) -> str:
        """The URL without a password, for people."""
        return without_password(self.url)

    @cached_property
    def _engine(self) -> Engine:
        return open_engine(self.url, _is_asking)

    @contextlib.contextmanager
    def holder(self, profile: str, budget: float | None) -> Iterator[Holder]:
        """A right of this process to ask, and to pay under a profile's name; it is given back on every way out."""
        holder = Holder(self, profile, budget)
        try:
            yield holder
        finally:
            holder.close()

    def find(self, keys: Sequence[str]) -> dict[str, Reply]:
        """The replies that are there, by key."""
        with self.look() as connection:
            found, damaged = _look_up(connection, keys)
        if damaged:
            with self.begin() as connection:
                found |= _find(connection, damaged)
        return found

    def raw_messages(self, keys: Sequence[str]) -> dict[str, str]:
        """Messages as they came, as JSON with the finish reason, of replies that said more than their text; by key."""
        found: dict[str, str] = {}
        with self.look() as connection:
            for batch in _batches(keys):
                rows = connection.execute(select(RAW_MESSAGES).where(RAW_MESSAGES.c.key.in_(batch))).all()
                found |= {row.key: row.message for row in rows if row.message is not None}
        return found

    def averages(self, endpoint: str, model: str, purpose: str) -> Averages | None:
        """Means over the replies of an endpoint, model and purpose; None where there is none."""
        columns = REPLIES.c
        query = select(
            func.count(),
            func.sum(columns.prompt_tokens) * 1.0 / func.nullif(func.sum(columns.prompt_characters), 0),
            func.avg(columns.completion_tokens),
            func.avg(columns.latency_seconds),
            func.avg(columns.tries),
        ).where(columns.endpoint == endpoint, columns.model == model, columns.purpose == purpose)
        with self.look() as connection:
            count, *means = connection.execute(query).one()
        return Averages(int(count), *(float(mean or 0.0) for mean in means)) if count else None

    def summary(self) -> list[dict[str, Any]]:
        """One record an endpoint, model and purpose: replies, tries, tokens, dollars, mean latency, first and last."""
        columns = REPLIES.c
        groups = (columns.endpoint, columns.model, columns.purpose)
        sums = ("tries", "prompt_tokens", "completion_tokens", "cost_usd", "lost_usd")
        query = (
            select(
                *groups,
                func.count().label("replies"),
                *(func.sum(columns[name]).label(name) for name in sums),
                func.avg(columns.latency_seconds).label("latency_seconds"),
                func.min(columns.asked_at).label("first_at"),
                func.max(columns.asked_at).label("last_at"),
            )
            .group_by(*groups)
            .order_by(*groups)
        )
        with self.look() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def spending(self) -> list[dict[str, Any]]:
        """One record a profile: dollars spent, claimed by those who are asking, and unsettled by those who died."""
        found: dict[str, dict[str, Any]] = {}
        with self.look() as connection:
            for row in connection.execute(select(HOLDERS).order_by(HOLDERS.c.profile)).mappings():
                record = found.setdefault(
                    row["profile"],
                    {"profile": row["profile"], "spent_usd": 0.0, "claimed_usd": 0.0, "unsettled_usd": 0.0},
                )
                record["spent_usd"] += row["spent_usd"]
                record["claimed_usd" if _is_asking(row) else "unsettled_usd"] += row["claimed_usd"]
        return list(found.values())

    def settle(self, profile: str) -> float:
        """Gives back what the dead had claimed under a profile's name, as never billed; how many dollars these were."""
        with self.begin() as connection:
            rows = connection.execute(select(HOLDERS).where(HOLDERS.c.profile == profile)).mappings().all()
            dead = {row["id"]: float(row["claimed_usd"]) for row in rows if not _is_asking(row)}
            connection.execute(
                HOLDERS.update()
                .where(HOLDERS.c.id.in_(dead))
                .values(claimed_usd=0.0, ended_at=func.coalesce(HOLDERS.c.ended_at, time.time()))
            )
        return sum(dead.values())

    def begin(self) -> contextlib.AbstractContextManager[Connection]:
        """A transaction that writes; what the database says against it becomes a StorageError with the remedy."""
        return self._transaction(is_reading=False)

    def look(self) -> contextlib.AbstractContextManager[Connection]:
        """A transaction that reads: it waits for no one, and holds no one up."""
        return self._transaction(is_reading=True)

    @contextlib.contextmanager
    def _transaction(self, is_reading: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(**{IS_READING: is_reading}) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise StorageError(described(self.url, error)) from None


class Holder:
    """One process's right to ask and to pay. Its methods may be called from any thread, one at a time."""

    def __init__(self, journal: Journal, profile: str, budget: float | None) -> None:

        self.journal, self.profile, self.budget, self.id = journal, profile, budget, uuid.uuid4().hex
        self.owed_usd = 0.0
        with journal.begin() as connection:
            connection.execute(
                HOLDERS.insert().values(
                    id=self.id,
                    process=this_process(),
                    profile=profile,
                    spent_usd=0.0,
                    claimed_usd=0.0,
                    begun_at=time.time(),
                    seen_at=time.time(),
                    ended_at=None,
                )
            )
        _OPEN.add(self.id)

    def take(self, keys: Iterable[str]) -> Taken:
        """Looks keys up and marks those without a reply as underway here, unless a living process asks for them."""
        wanted = sorted(set(keys))
        with self.journal.begin() as connection:
            known = _find(connection, wanted)
            missing = [key for key in wanted if key not in known]
            mine = insert_new(connection, UNDERWAY, [{"key": key, "holder": self.id} for key in missing])
            # A reply may have been put down between the look and the mark.
            late = _find(connection, sorted(mine))
            self._let_go(connection, sorted(late))
            mine |= self._inherited(connection, [key for key in missing if key not in mine])
        return Taken(known | late, mine - set(late), set(missing) - mine - set(late))

    def keep(
        self,
        replies: Sequence[Reply],
        released_usd: float = 0.0,
        is_again: bool = False,
        raw: Mapping[str, str] | None = None,
    ) -> None:
        """Puts replies down, durably; `released_usd` is what had been claimed for them, `raw` their messages by key.

        `is_again`: the same was tried before, and may have been done though the database did not say so.
        """
        with self.journal.begin() as connection:
            insert_new(connection, REPLIES, [reply._asdict() for reply in replies])
            insert_new(connection, RAW_MESSAGES, [{"key": key, "message": text} for key, text in (raw or {}).items()])
            let_go = self._let_go(connection, [reply.key for reply in replies])
            if let_go or not is_again:
                self._settle(connection, released_usd, sum(reply.cost_usd + reply.lost_usd for reply in replies))

    def give_up(self, keys: Sequence[str], released_usd: float, lost_usd: float, is_again: bool = False) -> None:
        """Frees keys that stay without a reply; `lost_usd` is what they may have cost; `is_again` as in `keep`."""
        with self.journal.begin() as connection:
            let_go = self._let_go(connection, sorted(keys))
            if let_go or not is_again:
                self._settle(connection, released_usd, lost_usd)

    def claim(self, usd: float) -> bool:
        """Sets dollars aside for requests to come; False where that would pass the budget of this profile's name."""
        if self.budget is None:
            return True
        with self.journal.begin() as connection:
            if connection.dialect.name == "postgresql":
                # One at a time for each name, so that two processes cannot claim the same dollars.
                connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(self.profile))))
            rows = connection.execute(
                select(HOLDERS.c.spent_usd, HOLDERS.c.claimed_usd).where(HOLDERS.c.profile == self.profile)
            ).all()
            if sum(spent + claimed for spent, claimed in rows) + usd > self.budget + MARGIN_USD:
                return False
            self._settle(connection, -usd, 0.0)
        return True

    def beat(self) -> None:
        """Tells processes on other hosts that this one lives."""
        with self.journal.begin() as connection:
            self._settle(connection, 0.0, 0.0)

    def spent(self) -> float:
        """Dollars that this profile's name has spent, or may have, over all processes."""
        records = [record for record in self.journal.spending() if record["profile"] == self.profile]
        return float(sum(record[name] for record in records for name in ("spent_usd", "claimed_usd", "unsettled_usd")))

    def close(self) -> None:
        """Gives back what was claimed and what is underway; what could not be put down counts as spent."""
        _OPEN.discard(self.id)
        spent = HOLDERS.c.spent_usd + self.owed_usd
        with self.journal.begin() as connection:
            connection.execute(UNDERWAY.delete().where(UNDERWAY.c.holder == self.id))
            connection.execute(
                HOLDERS.update()
                .where(HOLDERS.c.id == self.id)
                .values(claimed_usd=0.0, spent_usd=spent, ended_at=time.time())
            )

    def _settle(self, connection: Connection, released_usd: float, spent_usd: float) -> None:

        columns = HOLDERS.c
        released = released_usd if self.budget is not None else 0.0
        connection.execute(
            HOLDERS.update()
            .where(columns.id == self.id)
            .values(
                claimed_usd=columns.claimed_usd - released,
                spent_usd=columns.spent_usd + spent_usd,
                seen_at=time.time(),
            )
        )

    def _let_go(self, connection: Connection, keys: Sequence[str]) -> int:
        """How many of the keys were underway here until now."""
        ours = UNDERWAY.c.holder == self.id
        return sum(
            connection.execute(UNDERWAY.delete().where(UNDERWAY.c.key.in_(batch), ours)).rowcount
            for batch in _batches(keys)
        )

    def _inherited(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """Of keys that others asked for, those whose asker is no more; they are ours now."""
        inherited: set[str] = set()
        for batch in _batches(keys):
            holders = set(
                connection.execute(select(UNDERWAY.c.holder).where(UNDERWAY.c.key.in_(batch)).distinct()).scalars()
            )
            rows = connection.execute(select(HOLDERS).where(HOLDERS.c.id.in_(holders))).mappings()
            # What is marked as ours was marked by a transaction that the database did not confirm.
            living = {row["id"] for row in rows if _is_asking(row)} - {self.id}
            for dead in holders - living:
                ours = select(UNDERWAY.c.key).where(UNDERWAY.c.key.in_(batch), UNDERWAY.c.holder == dead)
                found = set(connection.execute(ours.with_for_update()).scalars())
                connection.execute(UNDERWAY.update().where(UNDERWAY.c.key.in_(found)).values(holder=self.id))
                inherited |= found
        return inherited


def _find(connection: Connection, keys: Sequence[str]) -> dict[str, Reply]:
    """The replies that are there; those whose text is damaged are no more."""
    found, damaged = _look_up(connection, keys)
    for batch in _batches(damaged):
        connection.execute(REPLIES.delete().where(REPLIES.c.key.in_(batch)))
    return found


def _look_up(connection: Connection, keys: Sequence[str]) -> tuple[dict[str, Reply], list[str]]:
    """The replies that are there, and the keys of those whose text is damaged."""
    found: dict[str, Reply] = {}
    damaged: list[str] = []
    for batch in _batches(keys):
        rows = connection.execute(select(REPLIES).where(REPLIES.c.key.in_(batch))).all()
        found |= {row.key: Reply(*row) for row in rows if row.text is not None}
        damaged += [row.key for row in rows if row.text is None]
    return found, damaged


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def _is_asking(row: Any) -> bool:
    if row["ended_at"] is not None:
        return False
    if row["process"] == this_process():
        return row["id"] in _OPEN
    if is_here(row["process"]):
        return is_alive(row["process"])
    return time.time() - float(row["seen_at"]) < SILENT_SECONDS
