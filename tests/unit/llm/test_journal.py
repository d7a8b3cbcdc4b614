"""Replies are durable and requested once by all processes; budgets hold; with SQLite and with PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Connection

from synthpost_dagster.errors import StorageError
from synthpost_dagster.llm import journal_files, journal_holders, journal_recovery
from synthpost_dagster.llm.journal import Averages, Journal, Reply
from synthpost_dagster.llm.journal_holders import HEARTBEAT_TIMEOUT_SECONDS, MAX_HEARTBEAT_AGE_SECONDS, Holder
from synthpost_dagster.llm.journal_tables import ROWS_PER_STATEMENT
from synthpost_dagster.runtime.processes import is_alive, process_name, this_process

Open = Callable[[], Journal]


@pytest.fixture
def opened(journal_url: str) -> Iterator[Open]:
    """Opens the test's database again, as another process would; closes all at the end."""
    journals: list[Journal] = []

    def make() -> Journal:
        journals.append(Journal(journal_url))
        return journals[-1]

    yield make
    for journal in journals:
        if engine := vars(journal).get("_engine"):
            engine.dispose()


def reply(number: int, **changes: object) -> Reply:
    made = Reply(
        key=key(number),
        endpoint="scripted",
        model="teacher",
        served_model="teacher-2026",
        purpose="rows",
        text=f"Post {number}. “Ride” \x00 \ud83d 👩‍👩‍👧‍👦",
        finish_reason="stop",
        prompt_characters=400,
        prompt_tokens=100,
        completion_tokens=20,
        latency_seconds=0.5,
        tries=1,
        cost_usd=0.25,
        lost_usd=0.0,
        asked_at=1_795_400_000.0 + number,
    )
    return made._replace(**changes)


def key(number: int) -> str:
    return f"{number:016x}"


def keys(*numbers: int) -> set[str]:
    return {key(number) for number in numbers}


def pretend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """New holders belong to the process of that name."""
    monkeypatch.setattr(journal_holders, "this_process", lambda: name)


def dead_process() -> str:
    """The name of a process of this host that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = process_name(process.pid)
        process.kill()
    return name


def test_kept_replies_are_found_unchanged_by_other_processes(opened: Open) -> None:
    with opened().holder("tiny", None) as holder:
        holder.keep([reply(1), reply(2)])
        assert opened().find([key(1), key(2), key(3)]) == {key(1): reply(1), key(2): reply(2)}
    assert opened().find([key(2)]) == {key(2): reply(2)}
    assert opened().find([]) == {}


def test_first_reply_to_a_key_stays(opened: Open) -> None:
    journal = opened()
    with journal.holder("tiny", None) as holder:
        holder.keep([reply(1, text="first")])
        holder.keep([reply(1, text="second"), reply(2)])
    assert journal.find([key(1)])[key(1)].text == "first"
    assert len(journal.find([key(1), key(2)])) == 2


def test_more_keys_than_one_statement_allows(opened: Open) -> None:
    journal, count = opened(), 2 * ROWS_PER_STATEMENT + 7
    wanted = [key(number) for number in range(count)]
    with journal.holder("tiny", None) as holder:
        assert holder.take(wanted).mine == set(wanted)
        holder.keep([reply(number) for number in range(count)])
        assert holder.take(wanted).known == journal.find(wanted)
    assert len(journal.find(wanted)) == count


def test_key_in_flight_is_not_taken_by_another_holder(opened: Open) -> None:
    with opened().holder("tiny", None) as one, opened().holder("tiny", None) as other:
        assert one.take(keys(1, 2)) == ({}, keys(1, 2), set())
        assert other.take(keys(2, 3)) == ({}, keys(3), keys(2))
        one.keep([reply(2)])
        assert other.take(keys(1, 2)) == ({key(2): reply(2)}, set(), keys(1))


def test_released_keys_and_keys_of_closed_holders_are_free(opened: Open) -> None:
    with opened().holder("tiny", None) as other:
        with opened().holder("tiny", None) as one:
            one.take(keys(1, 2, 3))
            one.keep([], unanswered=[key(1)])
            assert other.take(keys(1, 2)) == ({}, keys(1), keys(2))
        assert other.take(keys(2, 3)).mine == keys(2, 3)


def test_keys_of_a_holder_that_could_not_close_are_free(opened: Open) -> None:
    @contextlib.contextmanager
    def full() -> Iterator[None]:
        raise StorageError("the disk is full")
        yield

    journal = opened()
    with pytest.raises(StorageError, match="the disk is full"), journal.holder("tiny", None) as holder:
        holder.take(keys(1, 2))
        journal.begin = full  # type: ignore[method-assign,assignment]
    with opened().holder("tiny", None) as other:
        assert other.take(keys(1, 2)).mine == keys(1, 2)


def test_keys_of_a_dead_process_are_taken_over(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened()
    with monkeypatch.context() as patch:
        pretend(patch, dead_process())
        Holder(journal, "tiny", None).take(keys(1, 2))
    with opened().holder("tiny", None) as living, opened().holder("tiny", None) as other:
        assert living.take(keys(1, 2, 3)) == ({}, keys(1, 2, 3), set())
        assert other.take(keys(1, 2, 3)) == ({}, set(), keys(1, 2, 3))


def shift(monkeypatch: pytest.MonkeyPatch, clock: str, seconds: float) -> None:
    """Moves one of this process's clocks, `time` or `monotonic`."""
    real = getattr(journal_holders.time, clock)
    monkeypatch.setattr(journal_holders.time, clock, lambda: real() + seconds)


def holder_elsewhere(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Holder:
    with monkeypatch.context() as patch:
        pretend(patch, "another-host:1:1")
        return Holder(journal, "tiny", 10.0)


def test_holder_of_another_host_dies_without_heartbeats(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    away = holder_elsewhere(opened(), monkeypatch)
    away.take(keys(1, 2))
    with opened().holder("tiny", None) as other:
        assert other.take(keys(1)).elsewhere == keys(1)
        shift(monkeypatch, "monotonic", HEARTBEAT_TIMEOUT_SECONDS - 20)
        away.heartbeat()
        assert other.take(keys(1)).elsewhere == keys(1)
        shift(monkeypatch, "monotonic", HEARTBEAT_TIMEOUT_SECONDS - 20)
        assert other.take(keys(1)).elsewhere == keys(1), "its last heartbeat is recent"
        shift(monkeypatch, "monotonic", 40)
        assert other.take(keys(1)).mine == keys(1)


@pytest.mark.parametrize("step", [-2_000.0, -10.0, 10.0, 2_000.0])
def test_clock_steps_do_not_end_a_holder_of_another_host(
    opened: Open, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    away = holder_elsewhere(opened(), monkeypatch)
    away.take(keys(1))
    with opened().holder("tiny", None) as other:
        shift(monkeypatch, "time", step)
        assert other.take(keys(1)).elsewhere == keys(1)
        away.heartbeat()
        assert other.take(keys(1)).elsewhere == keys(1)


def test_holder_of_another_host_with_an_old_heartbeat_is_dead_at_once(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder_elsewhere(opened(), monkeypatch).take(keys(1))
    shift(monkeypatch, "time", MAX_HEARTBEAT_AGE_SECONDS + 20)
    with opened().holder("tiny", None) as other:
        assert other.take(keys(1)).mine == keys(1)


def test_zombie_process_is_dead() -> None:
    assert is_alive(this_process())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = process_name(process.pid)
        assert is_alive(name)
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert not is_alive(name)
    assert not is_alive(name)


def test_concurrent_holders_take_each_key_once(opened: Open) -> None:
    wanted, got, journals = [key(number) for number in range(300)], [], [opened() for _ in range(4)]

    def work(journal: Journal, seed: int) -> None:
        mine, order = [], random.Random(seed).sample(wanted, len(wanted))
        with journal.holder("tiny", None) as holder:
            barrier.wait(10)
            for start in range(0, len(order), 30):
                mine += sorted(holder.take(order[start : start + 30]).mine)
            got.append(mine)
            barrier.wait(10)

    barrier = threading.Barrier(len(journals))
    together([lambda journal=journal, seed=seed: work(journal, seed) for seed, journal in enumerate(journals)])
    assert sorted(itertools.chain(*got)) == wanted


OPENS = """
import sys, time
from synthpost_dagster.llm.journal import Journal
journal = Journal(sys.argv[1])
print("ready", flush=True)
time.sleep(max(0, float(input()) - time.monotonic()))
print(journal.summary())
"""


def test_processes_create_a_new_database_concurrently(journal_url: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", OPENS, journal_url]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
            for _ in range(3)
        ]
        assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 3
        at = time.monotonic() + 0.5
        for process in processes:
            assert process.stdin
            process.stdin.write(f"{at}\n")
            process.stdin.flush()
        said = [process.communicate(timeout=300) for process in processes]
    assert [output for output, _ in said] == ["[]\n"] * 3, said


def together(works: list[Callable[[], object]]) -> None:
    """Runs all concurrently; raises the first error."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]


def test_repeated_saves_are_counted_once(opened: Open) -> None:
    journal = opened()
    with journal.holder("hosted", 1.0) as holder:
        assert holder.take(keys(1, 2)).mine == holder.take(keys(1, 2)).mine == keys(1, 2)
        holder.reserve(0.8)
        for is_again in (False, True, True):
            holder.keep([reply(1, cost_usd=0.1)], 0.8, is_again, unanswered=[key(2)], lost_usd=0.2)
        (record,) = journal.spending()
        assert (record["spent_usd"], record["claimed_usd"]) == (pytest.approx(0.3), pytest.approx(0.0))


def test_unsaved_spending_is_added_when_the_holder_closes(opened: Open) -> None:
    journal = opened()
    with journal.holder("hosted", 1.0) as holder:
        holder.reserve(0.8)
        holder.unsaved_usd += 0.3
    assert journal.spending()[0] == {
        "profile": "hosted",
        "spent_usd": 0.3,
        "claimed_usd": 0.0,
        "unsettled_usd": 0.0,
    }


def test_reservations_stay_within_the_budget_and_are_released(opened: Open) -> None:
    journal = opened()
    with journal.holder("hosted", 1.0) as holder:
        assert holder.reserve(0.6)
        assert not holder.reserve(0.5)
        assert holder.reserve(0.4)
        assert not holder.reserve(0.01)
        holder.keep([reply(1, cost_usd=0.1, lost_usd=0.05)], released_usd=0.6)
        assert holder.spent() == pytest.approx(0.55)
        assert holder.reserve(0.45)
        holder.keep([], 0.45, unanswered=[key(2)], lost_usd=0.2)
        assert not holder.reserve(0.26)
        assert holder.reserve(0.25)
    (record,) = journal.spending()
    assert record == {"profile": "hosted", "spent_usd": pytest.approx(0.35), "claimed_usd": 0.0, "unsettled_usd": 0.0}


def test_budget_holds_for_a_profile_over_all_processes_and_runs(opened: Open) -> None:
    with opened().holder("hosted", 1.0) as holder:
        holder.keep([reply(1, cost_usd=0.5)])
    with opened().holder("hosted", 1.0) as one, opened().holder("hosted", 1.0) as other:
        assert one.reserve(0.3)
        assert not other.reserve(0.3)
        assert other.reserve(0.2)
    with opened().holder("another", 1.0) as holder:
        assert holder.reserve(1.0)


def test_spending_is_counted_without_a_budget(opened: Open) -> None:
    journal = opened()
    with journal.holder("hosted", None) as holder:
        assert holder.reserve(1e9)
        holder.keep([reply(1)], released_usd=1e9)
    assert journal.spending()[0]["spent_usd"] == 0.25
    assert journal.spending()[0]["claimed_usd"] == 0.0


def test_reservation_of_a_dead_process_counts_as_unsettled(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened()
    with monkeypatch.context() as patch:
        pretend(patch, dead_process())
        assert Holder(journal, "hosted", 1.0).reserve(0.7)
    with journal.holder("hosted", 1.0) as holder:
        assert not holder.reserve(0.4)
        assert holder.reserve(0.3)
        assert journal.spending() == [
            {"profile": "hosted", "spent_usd": 0.0, "claimed_usd": 0.3, "unsettled_usd": 0.7},
        ]
        assert holder.spent() == pytest.approx(1.0)


def test_settling_releases_the_reservations_of_dead_processes(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        pretend(patch, dead_process())
        for profile in ("hosted", "other"):
            assert Holder(opened(), profile, 1.0).reserve(0.7)
    journal = opened()
    with journal.holder("hosted", 1.0) as living:
        assert living.reserve(0.1)
        assert journal.settle("hosted") == pytest.approx(0.7)
        assert journal.settle("hosted") == journal.settle("nobody") == 0.0
        assert journal.spending() == [
            {"profile": "hosted", "spent_usd": 0.0, "claimed_usd": 0.1, "unsettled_usd": 0.0},
            {"profile": "other", "spent_usd": 0.0, "claimed_usd": 0.0, "unsettled_usd": 0.7},
        ]
        assert living.reserve(0.9)


def test_large_file_is_checked_once_after_a_process_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[bool] = []

    def check(connection: Connection) -> bool:
        checks.append(True)
        return passes(connection)

    passes = journal_recovery._is_sound
    monkeypatch.setattr(journal_recovery, "_is_sound", check)
    monkeypatch.setattr(journal_recovery, "MAX_CHECKED_BYTES", 0)

    def checks_at_opening() -> int:
        checks.clear()
        journal = Journal(f"sqlite:///{tmp_path / 'journal.sqlite'}")
        assert journal.summary() == []
        vars(journal)["_engine"].dispose()
        return len(checks)

    assert checks_at_opening() == 0
    journal = Journal(f"sqlite:///{tmp_path / 'journal.sqlite'}")
    with journal.holder("hosted", 1.0):
        assert checks_at_opening() == 0
        with monkeypatch.context() as patch:
            pretend(patch, dead_process())
            assert Holder(journal, "hosted", 1.0).reserve(0.7)
        assert [checks_at_opening() for _ in range(3)] == [1, 0, 0]
        assert journal.spending()[0]["unsettled_usd"] == 0.7
    assert checks_at_opening() == 0
    vars(journal)["_engine"].dispose()


def test_readers_and_writers_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_files, "BUSY_SECONDS", 0.2)
    journal = Journal(f"sqlite:///{tmp_path / 'journal.sqlite'}")
    with journal.holder("tiny", None) as holder:
        holder.keep([reply(1)])
    with journal.begin():
        assert set(journal.find([key(1)])) == {key(1)}
        assert journal.averages("scripted", "teacher", "rows")
        assert (len(journal.summary()), len(journal.spending())) == (1, 1)
    with journal.begin(is_reading=True) as looking:
        assert len(looking.exec_driver_sql("SELECT key FROM replies").all()) == 1
        with journal.begin() as writing:
            writing.exec_driver_sql("DELETE FROM replies")
    vars(journal)["_engine"].dispose()


def test_reply_with_a_damaged_text_is_requested_again(opened: Open) -> None:
    journal = opened()
    with journal.holder("tiny", None) as holder:
        holder.keep([reply(1), reply(2)])
        with journal.begin() as connection:
            connection.exec_driver_sql(f"UPDATE replies SET text = '\"cut of' WHERE key = '{key(1)}'")
        assert set(journal.find([key(1), key(2)])) == {key(2)}
        holder.keep([reply(1)])
        assert journal.find([key(1)]) == {key(1): reply(1)}


def test_concurrent_reservations_stay_within_the_budget(opened: Open, journal_url: str) -> None:
    # In PostgreSQL a gap between looking and locking shows in one round of a hundred; SQLite has one writer at a time.
    turns = 30 if journal_url.startswith("postgresql") else 5
    journals, claimed = [opened() for _ in range(8)], []
    barrier = threading.Barrier(len(journals))

    def work(journal: Journal, number: int) -> None:
        for turn in range(turns):
            barrier.wait(10)
            time.sleep(0.0005 * ((number * turn) % 8))
            # The holder is new to the others: its row was not there when they began to look.
            with journal.holder(f"hosted-{turn}", 1.0) as holder:
                if holder.reserve(0.4):
                    claimed.append(turn)
                barrier.wait(10)

    together([lambda journal=journal, number=number: work(journal, number) for number, journal in enumerate(journals)])
    assert {claimed.count(turn) for turn in range(turns)} == {2}


def test_summary_has_a_record_per_endpoint_model_and_purpose(opened: Open) -> None:
    journal = opened()
    with journal.holder("tiny", None) as holder:
        holder.keep([reply(1), reply(2, tries=3, latency_seconds=1.5, lost_usd=0.5), reply(3, purpose="judging")])
        holder.keep([reply(4, model="other"), reply(5, endpoint="another")])
    records = journal.summary()
    assert [(record["endpoint"], record["model"], record["purpose"]) for record in records] == [
        ("another", "teacher", "rows"),
        ("scripted", "other", "rows"),
        ("scripted", "teacher", "judging"),
        ("scripted", "teacher", "rows"),
    ]
    assert records[-1] == {
        "endpoint": "scripted",
        "model": "teacher",
        "purpose": "rows",
        "replies": 2,
        "tries": 4,
        "prompt_characters": 800,
        "prompt_tokens": 200,
        "completion_tokens": 40,
        "cost_usd": 0.5,
        "lost_usd": 0.5,
        "latency_seconds": 1.0,
        "first_at": 1_795_400_001.0,
        "last_at": 1_795_400_002.0,
    }


def test_empty_journal_has_an_empty_summary(opened: Open) -> None:
    assert opened().summary() == opened().spending() == []
    assert opened().averages("scripted", "teacher", "rows") is None


def test_averages_cover_one_endpoint_model_and_purpose(opened: Open) -> None:
    journal = opened()
    with journal.holder("tiny", None) as holder:
        holder.keep(
            [
                reply(1, prompt_characters=100, prompt_tokens=50, completion_tokens=10, latency_seconds=1.0),
                reply(2, prompt_characters=300, prompt_tokens=50, completion_tokens=20, latency_seconds=3.0, tries=2),
                reply(3, purpose="judging"),
                reply(4, model="other"),
                reply(5, endpoint="another"),
                reply(6, model="silent", prompt_characters=0, prompt_tokens=0, completion_tokens=0),
            ]
        )
    assert journal.averages("scripted", "teacher", "rows") == Averages(2, 0.25, 15.0, 2.0)
    assert journal.averages("scripted", "silent", "rows") == Averages(1, 0.0, 0.0, 0.5)
    assert journal.averages("scripted", "teacher", "nothing") is None


def test_token_sums_exceed_32_bits(opened: Open) -> None:
    journal = opened()
    with journal.holder("tiny", None) as holder:
        holder.keep([reply(number, prompt_tokens=2**31 - 1) for number in range(3)])
    assert journal.summary()[0]["prompt_tokens"] == 3 * (2**31 - 1)


def test_journal_is_opened_when_first_used(tmp_path: Path) -> None:
    Journal(f"sqlite:///{tmp_path / 'below' / 'journal.sqlite'}")
    Journal("postgresql+psycopg://nobody:secret@127.0.0.1:9/nowhere")
    Journal("nonsense")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://nobody:s3cret@127.0.0.1:9/nowhere",
        "postgresql+psycopg://nobody@127.0.0.1:9/nowhere?password=s3cret&sslpassword=s3cret",
        "postgresql+nodriver://nobody:s3cret@127.0.0.1:9/nowhere",
        "oracel://nobody:s3cret@127.0.0.1/nowhere",
        "journal.sqlite:s3cret",
    ],
)
def test_error_for_an_unusable_database_contains_no_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_files, "AWAY_SECONDS", ())
    with pytest.raises(StorageError, match="SYNTHPOST_JOURNAL") as caught:
        Journal(url).summary()
    assert "s3cret" not in str(caught.value)


def test_file_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="journal"):
        Journal(f"sqlite:///{tmp_path}/file/journal.sqlite").summary()
