"""How processes share a journal: who requests which key, who is alive, and what each has spent and reserved.

A key in flight in one process is not requested by another, and is free again when its process dies. Money is reserved
before it is spent, so that a budget holds for all processes together.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, func, select

from synthpost_dagster.errors import BudgetReached, StorageError
from synthpost_dagster.llm.journal_tables import (
    HOLDERS,
    IN_FLIGHT,
    LOSSES,
    RAW_MESSAGES,
    REPLIES,
    batches,
    delete_damaged_spending,
    insert_new,
    is_intact,
    with_checksum,
)
from synthpost_dagster.runtime.processes import is_alive, is_here, this_process

if TYPE_CHECKING:
    from synthpost_dagster.llm.journal import Journal, Reply

HEARTBEAT_TIMEOUT_SECONDS = 300.0
"""A process of another host is dead if its heartbeat has not changed for this time, by this process's own monotonic
clock, because clocks of hosts differ."""
MAX_HEARTBEAT_AGE_SECONDS = 3_600.0
"""It is dead at once if its last heartbeat is older; the clocks of two hosts do not differ as much."""
MARGIN_USD = 1e-9
"""Rounding error allowed in sums of dollars."""
_HEARTBEATS: dict[str, tuple[float, float]] = {}
"""The last heartbeat of each holder of another host, and the monotonic time at which this process first saw it."""
_OPEN: set[str] = set()
"""Holders of this process that are not closed; a full disk may keep the end of one out of the journal."""


class Lookup(NamedTuple):
    """Requested keys: those with a stored reply, those to request here, and those that another process requests."""

    known: dict[str, Reply]
    mine: set[str]
    elsewhere: set[str]


class Holder:
    """One process's lease to send requests and to spend money. Its methods may be called from one thread at a time."""

    def __init__(self, journal: Journal, profile: str, budget: float | None) -> None:
        self.journal, self.profile, self.budget, self.id = journal, profile, budget, uuid.uuid4().hex
        self.unsaved_usd = 0.0
        """Spending that could not be saved yet; `close` adds it."""
        row = new_holder(self.id, this_process(), profile)
        with journal.begin() as connection:
            connection.execute(HOLDERS.insert().values(**with_checksum(HOLDERS, row)))
        _OPEN.add(self.id)

    def take(self, keys: Iterable[str]) -> Lookup:
        """Looks keys up; those without a reply are in flight here from now on, unless an active process has them."""
        wanted = sorted(set(keys))
        with self.journal.begin() as connection:
            known = self.journal.find_intact(connection, wanted)
            missing = [key for key in wanted if key not in known]
            mine = insert_new(connection, IN_FLIGHT, [{"key": key, "holder": self.id} for key in missing])
            # In PostgreSQL, another process may have saved a reply between the two statements.
            late = self.journal.find_intact(connection, sorted(mine))
            self._free(connection, sorted(late))
            mine |= self._take_over(connection, [key for key in missing if key not in mine])
        return Lookup(known | late, mine - set(late), set(missing) - mine - set(late))

    def keep(
        self,
        replies: Sequence[Reply],
        released_usd: float = 0.0,
        is_again: bool = False,
        raw: Mapping[str, str] | None = None,
        unanswered: Sequence[str] = (),
        lost_usd: float = 0.0,
    ) -> None:
        """Saves replies durably, with their messages by key (`raw`), and frees their keys and the unanswered ones.

        `released_usd` was reserved for all of them; `lost_usd` is what the unanswered ones may have cost. `is_again`:
        an earlier call may have succeeded although the database did not confirm it.
        """
        with self.journal.begin() as connection:
            insert_new(connection, REPLIES, [with_checksum(REPLIES, reply._asdict()) for reply in replies])
            messages = [{"key": key, "message": text} for key, text in (raw or {}).items()]
            insert_new(connection, RAW_MESSAGES, [with_checksum(RAW_MESSAGES, message) for message in messages])
            freed = self._free(connection, [*(reply.key for reply in replies), *unanswered])
            if freed or not is_again:
                spent_usd = lost_usd + sum(reply.cost_usd + reply.lost_usd for reply in replies)
                self._add(connection, -released_usd, spent_usd)

    def reserve(self, usd: float) -> bool:
        """Reserves dollars for requests; False if that would exceed the budget of this profile.

        Raises BudgetReached if records of the profile's spending were lost.
        """
        if self.budget is None:
            return True
        with self.journal.begin() as connection:
            lock_spending(connection, self.profile)
            rows = holders_of(connection, self.profile)
            if not all(is_intact(HOLDERS, row, row["checksum"]) for row in rows):
                delete_damaged_spending(connection)
            losses = losses_of(connection, self.profile)
            if not losses:
                if sum(row["spent_usd"] + row["claimed_usd"] for row in rows) + usd > self.budget + MARGIN_USD:
                    return False
                self._add(connection, usd, 0.0)
        if losses:
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(losses.values())))
            raise BudgetReached(
                f"the budget of profile {self.profile} is {self.budget:.2f} dollars, and its spending before {day} is "
                f"not known because the journal {self.journal.name} was damaged; see the provider's bill, state the "
                f"total with `synthpost journal --spent {self.profile}=DOLLARS`, and run again"
            )
        return True

    def heartbeat(self) -> None:
        """Shows processes on other hosts that this one is alive."""
        with self.journal.begin() as connection:
            self._add(connection, 0.0, 0.0)

    def spent(self) -> float:
        """Dollars that all processes have spent, or may have spent, under this profile's name."""
        records = [record for record in self.journal.spending() if record["profile"] == self.profile]
        return float(sum(record[name] for record in records for name in ("spent_usd", "claimed_usd", "unsettled_usd")))

    def close(self) -> None:
        """Releases reservation and keys; what could not be saved counts as spent."""
        _OPEN.discard(self.id)
        with self.journal.begin() as connection:
            connection.execute(IN_FLIGHT.delete().where(IN_FLIGHT.c.holder == self.id))
            row = self._row(connection)
            spent, now = row["spent_usd"] + self.unsaved_usd, time.time()
            write_holder(connection, {**row, "claimed_usd": 0.0, "spent_usd": spent, "seen_at": now, "ended_at": now})

    def _add(self, connection: Connection, reserved_usd: float, spent_usd: float) -> None:
        """Adds to this holder's reservation and spending, and renews its heartbeat."""
        row = self._row(connection)
        reserved = row["claimed_usd"] + (reserved_usd if self.budget is not None else 0.0)
        spent = row["spent_usd"] + spent_usd
        write_holder(connection, {**row, "claimed_usd": reserved, "spent_usd": spent, "seen_at": time.time()})

    def _row(self, connection: Connection) -> dict[str, Any]:
        query = select(HOLDERS).where(HOLDERS.c.id == self.id).with_for_update()
        row = connection.execute(query).mappings().one_or_none()
        if row is None or not is_intact(HOLDERS, row, row["checksum"]):
            raise StorageError(
                f"the journal {self.journal.name}: its record of this run's spending is damaged; check the disk, and "
                "run again"
            )
        return dict(row)

    def _free(self, connection: Connection, keys: Sequence[str]) -> int:
        """Ends the requests of keys that are in flight here; returns their number."""
        ours = IN_FLIGHT.c.holder == self.id
        return sum(
            connection.execute(IN_FLIGHT.delete().where(IN_FLIGHT.c.key.in_(batch), ours)).rowcount
            for batch in batches(keys)
        )

    def _take_over(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """Takes over those of the keys whose process died."""
        taken: set[str] = set()
        for batch in batches(keys):
            holders = set(
                connection.execute(select(IN_FLIGHT.c.holder).where(IN_FLIGHT.c.key.in_(batch)).distinct()).scalars()
            )
            rows = connection.execute(select(HOLDERS).where(HOLDERS.c.id.in_(holders))).mappings()
            # A key that is marked as ours already was marked by a transaction that the database did not confirm.
            active = {row["id"] for row in rows if is_active(row)} - {self.id}
            for dead in holders - active:
                theirs = select(IN_FLIGHT.c.key).where(IN_FLIGHT.c.key.in_(batch), IN_FLIGHT.c.holder == dead)
                found = set(connection.execute(theirs.with_for_update()).scalars())
                connection.execute(IN_FLIGHT.update().where(IN_FLIGHT.c.key.in_(found)).values(holder=self.id))
                taken |= found
        return taken


def is_active(row: Any) -> bool:
    """Whether the process of a row of HOLDERS is alive and has not closed it."""
    if row["ended_at"] is not None:
        return False
    if row["process"] == this_process():
        return row["id"] in _OPEN
    if is_here(row["process"]):
        return is_alive(row["process"])
    beat, now = float(row["seen_at"]), time.monotonic()
    if _HEARTBEATS.setdefault(row["id"], (beat, now))[0] != beat:
        _HEARTBEATS[row["id"]] = (beat, now)
    is_recent = time.time() - beat < MAX_HEARTBEAT_AGE_SECONDS
    return is_recent and now - _HEARTBEATS[row["id"]][1] < HEARTBEAT_TIMEOUT_SECONDS


def new_holder(identity: str, process: str, profile: str) -> dict[str, Any]:
    """A row of HOLDERS without its checksum."""
    record: dict[str, Any] = {"id": identity, "process": process, "profile": profile}
    now = time.time()
    return {**record, "spent_usd": 0.0, "claimed_usd": 0.0, "begun_at": now, "seen_at": now, "ended_at": None}


def holders_of(connection: Connection, profile: str) -> list[dict[str, Any]]:
    """All rows of HOLDERS of a profile."""
    query = select(HOLDERS).where(HOLDERS.c.profile == profile)
    return [dict(row) for row in connection.execute(query).mappings()]


def write_holder(connection: Connection, row: dict[str, Any]) -> None:
    """Updates a row of HOLDERS and its checksum."""
    connection.execute(HOLDERS.update().where(HOLDERS.c.id == row["id"]).values(**with_checksum(HOLDERS, row)))


def lock_spending(connection: Connection, profile: str) -> None:
    """Locks a profile's spending, so that two processes cannot reserve the same dollars; SQLite has one writer."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(profile))))


def losses_of(connection: Connection, profile: str) -> dict[str, float]:
    """Losses of spending records, with their times, since which nobody has stated what a profile spent."""
    rows = connection.execute(select(LOSSES).where(LOSSES.c.profile.in_(("", profile)))).all()
    stated = {row.loss for row in rows if row.profile}
    return {row.loss: row.noted_at for row in rows if row.loss not in stated}
