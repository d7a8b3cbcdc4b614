"""Opening the journal: damaged files are replaced, other files refused, and unavailable servers waited for."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL

from synthpost_dagster.errors import BudgetReached, StorageError
from synthpost_dagster.llm import journal_files, journal_recovery
from synthpost_dagster.llm.journal import Journal, Reply
from synthpost_dagster.settings import read_settings
from tests.helpers.postgres_cluster import stopped

COUNT = 400
COST = 0.25
FILE = "journal.sqlite"
PAGE = 4_096


def reply(number: int) -> Reply:
    text = f"Post {number}. “Ride” \x00 \ud83d " + "and more " * (number % 90)
    key = f"{number * 2_654_435_761 % 2**64:016x}"
    times = {"latency_seconds": 0.5, "asked_at": 1_795_400_000.0 + number}
    tokens = {"prompt_characters": 400, "prompt_tokens": 100, "completion_tokens": 20}
    names = {"endpoint": "scripted", "model": "teacher", "served_model": "teacher-2026", "purpose": "rows"}
    return Reply(key, **names, text=text, finish_reason="stop", **tokens, tries=1, cost_usd=COST, lost_usd=0.0, **times)


WRITTEN = {made.key: made for made in map(reply, range(COUNT))}


def close(journal: Journal) -> None:
    if engine := vars(journal).get("_engine"):
        engine.dispose()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A closed journal whose tables have inner pages."""
    file = tmp_path_factory.mktemp("filled") / FILE
    journal = Journal(URL.create("sqlite", database=str(file)))
    with journal.holder("paid", 1_000.0) as holder:
        assert holder.reserve(1.0)
        holder.keep(list(WRITTEN.values()), 1.0)
    close(journal)
    return file.read_bytes()


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Callable[[bytes], Journal]]:
    """Opens a journal whose file has this content."""
    journals: list[Journal] = []

    def make(content: bytes) -> Journal:
        for other in tmp_path.iterdir():
            other.unlink()
        (tmp_path / FILE).write_bytes(content)
        journals.append(Journal(f"sqlite:///{tmp_path / FILE}"))
        return journals[-1]

    yield make
    for journal in journals:
        close(journal)


def pages_of(content: bytes, file: Path, table: str) -> list[int]:
    """Numbers of the pages of a table, its root first."""
    file.write_bytes(content)
    connection = sqlite3.connect(file)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    start = (root - 1) * PAGE
    if content[start] == 13:
        return [root]
    pointers = range(start + 12, start + 12 + 2 * int.from_bytes(content[start + 3 : start + 5], "big"), 2)
    cells = [start + int.from_bytes(content[at : at + 2], "big") for at in pointers]
    return [root, *(int.from_bytes(content[cell : cell + 4], "big") for cell in cells)]


def without_page(content: bytes, number: int, count: int = 1) -> bytes:
    return content[: (number - 1) * PAGE] + bytes(count * PAGE) + content[(number - 1 + count) * PAGE :]


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bits_change_no_reply_and_no_budget(
    content: bytes, open_file: Callable[[bytes], Journal], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A file in which one bit differs is recovered, or refused and left."""
    unsynced = [pragma.replace("synchronous=FULL", "synchronous=OFF") for pragma in journal_files.PRAGMAS]
    monkeypatch.setattr(journal_files, "PRAGMAS", unsynced)
    for bit in random.Random(seed).sample(range(8 * len(content)), 10):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        journal = open_file(bytes(flipped))
        try:
            assert journal.find(list(WRITTEN)).items() <= WRITTEN.items(), f"bit {bit}"
            with journal.holder("paid", 1_000.0) as holder:
                assert holder.reserve(1.0)
                assert holder.spent() == pytest.approx(COUNT * COST + 1.0), f"bit {bit}"
        except (BudgetReached, StorageError):
            pass
        close(journal)


def test_recovery_copies_replies_before_and_after_a_damaged_page(
    content: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaves = pages_of(content, tmp_path / "copy", "replies")[1:]
    journal = open_file(without_page(content, leaves[len(leaves) // 2]))
    found = journal.find(list(WRITTEN))
    assert found.items() <= WRITTEN.items()
    assert 0 < COUNT - len(found) < 30
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    assert f"{len(found):,} replies" in caplog.text
    assert f"sqlite3 {aside} .recover" in caplog.text


def test_damage_elsewhere_leaves_the_budget_known(
    content: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path
) -> None:
    leaves = pages_of(content, tmp_path / "copy", "replies")[1:]
    journal = open_file(without_page(content, leaves[0]))
    with journal.holder("paid", 1_000.0) as holder:
        assert holder.reserve(1.0)
        assert holder.spent() == pytest.approx(COUNT * COST + 1.0)


def test_damaged_spending_keeps_replies_and_refuses_budgets(
    content: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path
) -> None:
    (page,) = pages_of(content, tmp_path / "copy", "holders")
    journal = open_file(without_page(content, page))
    assert journal.find(list(WRITTEN)) == WRITTEN
    with journal.holder("paid", 1_000.0) as holder, pytest.raises(BudgetReached, match="--spent paid=DOLLARS"):
        holder.reserve(1.0)


@pytest.mark.parametrize("share", [0.95, 0.5])
def test_truncated_file_keeps_readable_replies(
    content: bytes, open_file: Callable[[bytes], Journal], share: float
) -> None:
    found = open_file(content[: int(len(content) * share)]).find(list(WRITTEN))
    assert found.items() <= WRITTEN.items()
    assert len(found) > 0.4 * share * COUNT


@pytest.mark.parametrize("size", [16, 50, PAGE])
def test_zeroed_or_truncated_header_begins_a_new_journal(
    content: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path, size: int
) -> None:
    for damaged in (bytes(PAGE) + content[PAGE:], content[:size]):
        journal = open_file(damaged)
        assert journal.find(list(WRITTEN)) == {}
        assert journal.unknown_since("paid") is not None
        (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
        assert aside.read_bytes() == damaged
        close(journal)


def test_stating_what_was_spent_opens_the_budget_of_one_profile(
    content: bytes, open_file: Callable[[bytes], Journal]
) -> None:
    journal = open_file(bytes(PAGE) + content[PAGE:])
    journal.state_spent("paid", 12.5)
    with journal.holder("paid", 13.0) as holder:
        assert holder.spent() == pytest.approx(12.5)
        assert holder.reserve(0.5)
        assert not holder.reserve(0.1)
    with journal.holder("other", 13.0) as holder, pytest.raises(BudgetReached):
        holder.reserve(0.1)
    with journal.holder("other", None) as holder:
        assert holder.reserve(0.1), "without a budget nothing has to be known"


def test_spending_record_that_fails_its_checksum_refuses_budgets(
    content: bytes, open_file: Callable[[bytes], Journal]
) -> None:
    journal = open_file(content)
    with journal.begin() as connection:
        connection.exec_driver_sql("UPDATE holders SET spent_usd = 0.01")
    close(journal)
    journal = open_file(Path(str(journal.url).removeprefix("sqlite:///")).read_bytes())
    with journal.holder("paid", 1_000.0) as holder, pytest.raises(BudgetReached, match="is not known"):
        holder.reserve(0.1)


def test_verify_deletes_replies_that_fail_their_checksum(
    content: bytes, open_file: Callable[[bytes], Journal], caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_file(content)
    with journal.begin() as connection:
        connection.exec_driver_sql("UPDATE replies SET completion_tokens = 21 WHERE rowid % 10 = 0")
    assert journal.verify() == COUNT // 10
    assert f"{COUNT // 10} replies fail their checksum" in caplog.messages[-1]
    assert journal.verify() == 0
    assert journal.summary()[0]["replies"] == COUNT - COUNT // 10


NOT_DATABASES = {
    "text": b"this is no database\n" * 500,
    "noise": random.Random(7).randbytes(20_000),
    "one byte": b"x",
}


@pytest.mark.parametrize("foreign", NOT_DATABASES.values(), ids=NOT_DATABASES)
def test_file_that_is_no_database_is_refused_and_left(tmp_path: Path, foreign: bytes) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(foreign)
    assert_refused(file, "notes.txt is not a journal")


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE notes (body TEXT)",
        "CREATE TABLE holders (name TEXT, shares INTEGER)",
        "CREATE TABLE replies (id INTEGER PRIMARY KEY, body TEXT); CREATE TABLE underway (id INTEGER)",
    ],
    ids=["other tables", "one of our names", "two of our names"],
)
def test_database_of_another_program_is_refused_and_left(tmp_path: Path, schema: str) -> None:
    file = tmp_path / "other.sqlite"
    with sqlite3.connect(file) as connection:
        connection.executescript(schema)
    connection.close()
    assert_refused(file, "other.sqlite is not a journal")


def test_journal_with_other_columns_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / FILE
    file.write_bytes(content)
    with sqlite3.connect(file) as connection:
        connection.execute("ALTER TABLE replies ADD COLUMN mood TEXT")
    connection.close()
    assert_refused(file, "replies .*differs in the columns mood")


def assert_refused(file: Path, message: str) -> None:
    before = file.read_bytes()
    with pytest.raises(StorageError, match=f"SYNTHPOST_JOURNAL: .*{message}"):
        Journal(f"sqlite:///{file}").summary()
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {file.name, f"{file.name}.lock"}


def test_log_without_its_file_is_kept(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / FILE}")
    with journal.holder("paid", None) as holder:
        holder.keep(list(WRITTEN.values()))
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copy(tmp_path / f"{FILE}-wal", copied)
    close(journal)
    journal = Journal(f"sqlite:///{copied / FILE}")
    assert journal.find(list(WRITTEN)) == {}
    assert len(list(copied.glob(f"{FILE}.damaged-*-wal"))) == 1
    close(journal)


def test_damage_met_during_a_run_is_recovered_by_the_next(
    content: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is too large to be checked at every opening."""
    monkeypatch.setattr(journal_recovery, "MAX_CHECKED_BYTES", 0)
    leaves = pages_of(content, tmp_path / "copy", "replies")[1:]
    journal = open_file(without_page(content, leaves[0]))
    with pytest.raises(StorageError, match=r"is damaged: .*; run again"):
        journal.find(list(WRITTEN))
    close(journal)
    again = Journal(f"sqlite:///{tmp_path / FILE}")
    assert 0 < COUNT - len(again.find(list(WRITTEN))) < 30
    assert not (tmp_path / f"{FILE}{journal_recovery.DAMAGE_FOUND}").exists()
    close(again)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("folder", "pipe", "dangling", "loop"):
        with pytest.raises(StorageError, match=name):
            Journal(f"sqlite:///{tmp_path / name}").summary()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert not (tmp_path / "nowhere").exists()


def test_link_to_a_damaged_journal_is_followed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / FILE).write_bytes(content[: len(content) // 2])
    (tmp_path / "link").symlink_to(tmp_path / "real" / FILE)
    journal = Journal(f"sqlite:///{tmp_path / 'link'}")
    assert journal.find(list(WRITTEN)).items() <= WRITTEN.items()
    close(journal)
    assert (tmp_path / "link").is_symlink()
    assert len(list((tmp_path / "real").glob("*.damaged-*"))) == 1


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:////tmp/q?mark/journal.sqlite?x=1", "mysql://host/name"]
)
def test_url_without_a_durable_database_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="SYNTHPOST_JOURNAL"):
        Journal(url).summary()


NAMES = ("q?mark", "q?a=b", "a#b", "a%20b", "a b", "häuser 家", "a:b", "a@b", "q")


def test_names_of_homes_may_hold_characters_of_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNTHPOST_JOURNAL", raising=False)
    for number, name in enumerate(NAMES):
        journal = Journal(read_settings(str(tmp_path / name)).journal_url)
        with journal.holder("tiny", None) as holder:
            holder.keep([reply(number)])
        assert list(journal.find(list(WRITTEN))) == [reply(number).key]
        assert str(tmp_path / name / FILE) == journal.name
        close(journal)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("journal_url", ["postgresql"], indirect=True)
def test_server_with_other_tables_of_these_names_is_refused(journal_url: str) -> None:
    import psycopg

    with psycopg.connect(journal_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE replies (id INTEGER)")
        with pytest.raises(StorageError, match="its table replies is missing or differs"):
            Journal(journal_url).summary()
        assert len(connection.execute("SELECT * FROM replies").description or ()) == 1


@pytest.mark.parametrize("journal_url", ["postgresql"], indirect=True)
def test_unavailable_server_is_waited_for(journal_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_files, "AWAY_SECONDS", (0.2,) * 100)
    is_waiting = threading.Event()

    def heard(message: str) -> None:
        assert "waiting for the database" in message
        is_waiting.set()

    monkeypatch.setattr(journal_files, "announce", heard)
    journal = Journal(journal_url)
    with ThreadPoolExecutor(1) as pool:
        with stopped(journal_url):
            opening = pool.submit(journal.summary)
            assert is_waiting.wait(30)
        assert opening.result(30) == []
    close(journal)


@pytest.mark.parametrize("journal_url", ["postgresql"], indirect=True)
def test_server_that_refuses_is_not_waited_for(journal_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        Journal(journal_url.replace("/postgres?", "/nowhere?")).summary()
    assert caplog.messages == []
