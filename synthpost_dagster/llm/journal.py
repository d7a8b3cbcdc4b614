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

from sqlalchemy import URL, Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from synthpost_dagster.errors import BudgetReached, StorageError
from synthpost_dagster.llm.journal_files import (
    IS_READING,
    described,
    is_damage,
    mark_suspect,
    open_engine,
    without_password,
    write_off_damaged,
)
from synthpost_dagster.llm.journal_tables import (
    HOLDERS,
    LOSSES,
    RAW_MESSAGES,
    REPLIES,
    UNDERWAY,
    insert_new,
    is_whole,
    sealed,
)
from synthpost_dagster.runtime.processes import is_alive, is_here, this_process
from synthpost_dagster.runtime.progress import announce

BATCH = 500
"""Most keys in one statement."""
SILENT_SECONDS = 300.0
"""A process on another host is taken for dead when this process has seen no sign of life for this long, by its own
monotonic clock: clocks of hosts differ, and are set."""
LONG_SILENT_SECONDS = 3_600.0
"""So long after its last sign of life it is dead at the first look; no clocks in use differ by as much."""
STATED = "stated by a person"
"""Stands for the process in a record of spending that a person made."""
MARGIN_USD = 1e-9
"""Sums of floating-point dollars may be off by less than this."""
_BEATS: dict[str, tuple[float, float]] = {}
"""The last sign of life of holders of other hosts, and when, by the monotonic clock, it was first seen here."""
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


_REPLIES_WITH_CHECKSUM = select(*(REPLIES.c[name] for name in Reply._fields), REPLIES.c.checksum)


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

    def __init__(self, url: str | URL) -> None:
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
                found |= self._find(connection, damaged)
        return found

    def verify(self) -> int:
        """Looks every reply over and drops those that fail their checksum, so that they are asked for again; how many.

        A run does so for the replies that it needs.
        """
        last, dropped = "", 0
        while True:
            query = select(REPLIES.c.key).where(REPLIES.c.key > last).order_by(REPLIES.c.key).limit(BATCH)
            with self.look() as connection:
                keys = list(connection.execute(query).scalars())
            if not keys:
                return dropped
            dropped, last = dropped + len(keys) - len(self.find(keys)), keys[-1]

    def raw_messages(self, keys: Sequence[str]) -> dict[str, str]:
        """Messages as they came, as JSON with the finish reason, of replies that said more than their text; by key."""
        found: dict[str, str] = {}
        with self.look() as connection:
            for batch in _batches(keys):
                rows = connection.execute(select(RAW_MESSAGES).where(RAW_MESSAGES.c.key.in_(batch))).mappings().all()
                found |= {row["key"]: row["message"] for row in rows if is_whole(RAW_MESSAGES, row, row["checksum"])}
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

    def unknown_since(self, profile: str) -> float | None:
        """When records of spending were lost, if nobody has stated since what this profile spent; else None."""
        with self.look() as connection:
            return _unknown_since(connection, profile)

    def settle(self, profile: str) -> float:
        """Gives back what the dead had claimed under a profile's name, as never billed; how many dollars these were."""
        with self.begin() as connection:
            write_off_damaged(connection)
            dead = [row for row in _holders(connection, profile) if not _is_asking(row)]
            for row in dead:
                _write_holder(connection, {**row, "claimed_usd": 0.0, "ended_at": row["ended_at"] or time.time()})
        return float(sum(row["claimed_usd"] for row in dead))

    def state_spent(self, profile: str, usd: float) -> None:
        """Takes a person's word for what a profile's name has spent in all: where records were lost, only they know."""
        now = time.time()
        with self.begin() as connection:
            _lock(connection, profile)
            write_off_damaged(connection)
            known = sum(row["spent_usd"] for row in _holders(connection, profile))
            row = _new_holder(uuid.uuid4().hex, STATED, profile)
            row |= {"spent_usd": usd - known, "ended_at": now}
            connection.execute(HOLDERS.insert().values(**sealed(HOLDERS, row)))
            for loss in _losses(connection, profile):
                stated = {"loss": loss, "profile": profile, "noted_at": now}
                connection.execute(LOSSES.insert().values(**sealed(LOSSES, stated)))

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
            if is_damage(error):
                mark_suspect(self.url)
            raise StorageError(described(self.url, error)) from None

    def _find(self, connection: Connection, keys: Sequence[str]) -> dict[str, Reply]:
        """The replies that are there; those that fail their checksum are deleted."""
        found, damaged = _look_up(connection, keys)
        for batch in _batches(damaged):
            connection.execute(REPLIES.delete().where(REPLIES.c.key.in_(batch)))
        if damaged:
            announce(
                f"the journal {self.name}: {len(damaged):,} replies fail their checksum, as damage on disk makes them; "
                "they are dropped and asked for again"
            )
        return found


class Holder:
    """One process's right to ask and to pay. Its methods may be called from any thread, one at a time."""

    def __init__(self, journal: Journal, profile: str, budget: float | None) -> None:

        self.journal, self.profile, self.budget, self.id = journal, profile, budget, uuid.uuid4().hex
        self.owed_usd = 0.0
        row = _new_holder(self.id, this_process(), profile)
        with journal.begin() as connection:
            connection.execute(HOLDERS.insert().values(**sealed(HOLDERS, row)))
        _OPEN.add(self.id)

    def take(self, keys: Iterable[str]) -> Taken:
        """Looks keys up and marks those without a reply as underway here, unless a living process asks for them."""
        wanted = sorted(set(keys))
        with self.journal.begin() as connection:
            known = self.journal._find(connection, wanted)
            missing = [key for key in wanted if key not in known]
            mine = insert_new(connection, UNDERWAY, [{"key": key, "holder": self.id} for key in missing])
            # A reply may have been put down between the look and the mark.
            late = self.journal._find(connection, sorted(mine))
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
            insert_new(connection, REPLIES, [sealed(REPLIES, reply._asdict()) for reply in replies])
            messages = [{"key": key, "message": text} for key, text in (raw or {}).items()]
            insert_new(connection, RAW_MESSAGES, [sealed(RAW_MESSAGES, message) for message in messages])
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
        """Sets dollars aside for requests to come; False where that would pass the budget of this profile's name.

        Raises BudgetReached where records of what the name has spent were lost.
        """
        if self.budget is None:
            return True
        with self.journal.begin() as connection:
            _lock(connection, self.profile)
            rows = _holders(connection, self.profile)
            if not all(is_whole(HOLDERS, row, row["checksum"]) for row in rows):
                write_off_damaged(connection)
            unknown_since = _unknown_since(connection, self.profile)
            if unknown_since is None:
                if sum(row["spent_usd"] + row["claimed_usd"] for row in rows) + usd > self.budget + MARGIN_USD:
                    return False
                self._settle(connection, -usd, 0.0)
        if unknown_since is not None:
            raise BudgetReached(self._unknown(unknown_since))
        return True

    def _unknown(self, since: float) -> str:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(since))
        return (
            f"the budget of profile {self.profile} is {self.budget:.2f} dollars, and what it had spent before {day} is "
            f"not known, because the journal {self.journal.name} was damaged; see the provider's bill, say what was "
            f"spent in all with `synthpost journal --spent {self.profile}=DOLLARS`, and run again"
        )

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
        with self.journal.begin() as connection:
            connection.execute(UNDERWAY.delete().where(UNDERWAY.c.holder == self.id))
            row = self._record(connection)
            spent, now = row["spent_usd"] + self.owed_usd, time.time()
            _write_holder(connection, {**row, "claimed_usd": 0.0, "spent_usd": spent, "seen_at": now, "ended_at": now})

    def _settle(self, connection: Connection, released_usd: float, spent_usd: float) -> None:
        row = self._record(connection)
        claimed = row["claimed_usd"] - (released_usd if self.budget is not None else 0.0)
        spent = row["spent_usd"] + spent_usd
        _write_holder(connection, {**row, "claimed_usd": claimed, "spent_usd": spent, "seen_at": time.time()})

    def _record(self, connection: Connection) -> dict[str, Any]:
        """What the journal has of this holder. Raises StorageError where that was damaged meanwhile."""
        query = select(HOLDERS).where(HOLDERS.c.id == self.id).with_for_update()
        row = connection.execute(query).mappings().one_or_none()
        if row is None or not is_whole(HOLDERS, row, row["checksum"]):
            raise StorageError(
                f"the journal {self.journal.name}: its record of what this run spends is damaged; look at the disk, "
                "and run again"
            )
        return dict(row)

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


def _look_up(connection: Connection, keys: Sequence[str]) -> tuple[dict[str, Reply], list[str]]:
    """The replies that are there, and the keys of those that fail their checksum."""
    found: dict[str, Reply] = {}
    damaged: list[str] = []
    for batch in _batches(keys):
        rows = connection.execute(_REPLIES_WITH_CHECKSUM.where(REPLIES.c.key.in_(batch))).all()
        whole = [reply for *values, seal in rows if is_whole(REPLIES, (reply := Reply(*values))._asdict(), seal)]
        found |= {reply.key: reply for reply in whole}
        if len(whole) < len(rows):
            # Not by the rows' own keys, which may be what is damaged. A key without any row loses nothing.
            damaged += [key for key in batch if key not in found]
    return found, damaged


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def _new_holder(identity: str, process: str, profile: str) -> dict[str, Any]:
    record: dict[str, Any] = {"id": identity, "process": process, "profile": profile}
    now = time.time()
    return {**record, "spent_usd": 0.0, "claimed_usd": 0.0, "begun_at": now, "seen_at": now, "ended_at": None}


def _lock(connection: Connection, profile: str) -> None:
    """One at a time for each name, so that two processes cannot claim the same dollars; SQLite has one writer."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(profile))))


def _holders(connection: Connection, profile: str) -> list[dict[str, Any]]:
    query = select(HOLDERS).where(HOLDERS.c.profile == profile)
    return [dict(row) for row in connection.execute(query).mappings()]


def _write_holder(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(HOLDERS.update().where(HOLDERS.c.id == row["id"]).values(**sealed(HOLDERS, row)))


def _losses(connection: Connection, profile: str) -> dict[str, float]:
    """Losses of records of spending since which nobody has stated what a profile spent, and when they were noted."""
    rows = connection.execute(select(LOSSES).where(LOSSES.c.profile.in_(("", profile)))).all()
    stated = {row.loss for row in rows if row.profile}
    return {row.loss: row.noted_at for row in rows if row.loss not in stated}


def _unknown_since(connection: Connection, profile: str) -> float | None:
    return min(_losses(connection, profile).values(), default=None)


def _is_asking(row: Any) -> bool:
    if row["ended_at"] is not None:
        return False
    if row["process"] == this_process():
        return row["id"] in _OPEN
    if is_here(row["process"]):
        return is_alive(row["process"])
    beat, now = float(row["seen_at"]), time.monotonic()
    if _BEATS.setdefault(row["id"], (beat, now))[0] != beat:
        _BEATS[row["id"]] = (beat, now)
    return now - _BEATS[row["id"]][1] < SILENT_SECONDS and time.time() - beat < LONG_SILENT_SECONDS
