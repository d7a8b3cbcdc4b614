"""How the journal is opened: damaged files are recovered, files of others refused, servers that are away waited for."""

from __future__ import annotations

import gzip
import json
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
from synthpost_dagster.llm import journal_files
from synthpost_dagster.llm.journal import Journal, Reply
from synthpost_dagster.llm.journal_pages import open_pages
from synthpost_dagster.settings import read_settings
from tests.helpers.postgres_cluster import stopped

COUNT = 40
COST = 0.25
FILE = "journal.sqlite"
PAGE = 4_096
OLD_REPLIES = """CREATE TABLE replies (
    key VARCHAR(16) NOT NULL, endpoint VARCHAR(40) NOT NULL, model VARCHAR(200) NOT NULL,
    served_model VARCHAR(200) NOT NULL, purpose VARCHAR(40) NOT NULL, text TEXT NOT NULL,
    finish_reason VARCHAR(20) NOT NULL, prompt_characters INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, latency_seconds FLOAT NOT NULL, tries INTEGER NOT NULL,
    cost_usd FLOAT NOT NULL, lost_usd FLOAT NOT NULL, asked_at FLOAT NOT NULL, PRIMARY KEY (key))"""
OLD_FIELDS = Reply._fields[:15]
OLD_HOLDERS = """CREATE TABLE holders (
    id VARCHAR(32) NOT NULL, process VARCHAR(200) NOT NULL, profile VARCHAR(40) NOT NULL, spent_usd FLOAT NOT NULL,
    claimed_usd FLOAT NOT NULL, begun_at FLOAT NOT NULL, seen_at FLOAT NOT NULL, ended_at FLOAT, PRIMARY KEY (id))"""


def reply(number: int) -> Reply:
    text = f"Post {number}. “Ride” \x00 \ud83d " + "and more " * (number % 90)
    key = f"{number * 2_654_435_761 % 2**64:016x}"
    times = {"latency_seconds": 0.5, "asked_at": 1_795_400_000.0 + number}
    tokens = {"prompt_characters": 400, "prompt_tokens": 100, "completion_tokens": 20}
    names = {"endpoint": "scripted", "model": "teacher", "served_model": "teacher-2026", "purpose": "rows"}
    return Reply(key, **names, text=text, finish_reason="stop", **tokens, tries=1, cost_usd=COST, lost_usd=0.0, **times)


def written(count: int = COUNT) -> dict[str, Reply]:
    return {made.key: made for made in map(reply, range(count))}


def close(journal: Journal) -> None:
    if engine := vars(journal).get("_engine"):
        engine.dispose()


def fill(file: Path, count: int) -> None:
    journal = Journal(URL.create("sqlite", database=str(file)))
    with journal.holder("paid", 100.0) as holder:
        assert holder.claim(1.0)
        holder.keep(list(written(count).values()), 1.0)
    close(journal)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small journal that was closed."""
    file = tmp_path_factory.mktemp("filled") / FILE
    fill(file, COUNT)
    return file.read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal whose tables have inner pages, and which holds texts of several pages."""
    file = tmp_path_factory.mktemp("large") / FILE
    fill(file, 20 * COUNT)
    journal = Journal(f"sqlite:///{file}")
    with journal.holder("paid", 100.0) as holder:
        holder.keep([reply(-1)._replace(text="A page. " * 5_000)])
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


def is_refused_or_right(journal: Journal, spent_usd: float) -> bool:
    """Whether nothing can be spent, or what was spent is known."""
    with journal.holder("paid", 100.0) as holder:
        try:
            return holder.claim(1.0) and holder.spent() == pytest.approx(spent_usd + 1.0)
        except BudgetReached:
            return True


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_changes_no_reply_and_no_budget(
    content: bytes, open_file: Callable[[bytes], Journal], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Twenty bits each, 400 in all."""
    unsynced = [pragma.replace("synchronous=FULL", "synchronous=OFF") for pragma in journal_files.PRAGMAS]
    monkeypatch.setattr(journal_files, "PRAGMAS", unsynced)
    for bit in random.Random(seed).sample(range(8 * len(content)), 20):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        journal = open_file(bytes(flipped))
        found = journal.find(list(written()))
        assert found.items() <= written().items(), f"bit {bit}"
        assert is_refused_or_right(journal, COUNT * COST), f"bit {bit}"
        if found != written():
            with journal.holder("free", None) as holder:
                holder.keep(list(written().values()))
            close(journal)
            assert journal.find(list(written())) == written(), f"bit {bit}"
        close(journal)


@pytest.mark.parametrize("bit", [18 * 8, 19 * 8 + 3, 21 * 8, 31 * 8 + 1, 47 * 8 + 2, 59 * 8 + 1, 103 * 8 + 5])
def test_a_flipped_bit_of_the_header_loses_no_reply(
    content: bytes, open_file: Callable[[bytes], Journal], bit: int
) -> None:
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    assert open_file(bytes(flipped)).find(list(written())) == written()


def leaves_of_replies(content: bytes, file: Path) -> dict[int, list[str]]:
    """Keys by the number of the page that holds them."""
    file.write_bytes(content)
    with open_pages(file) as pages:
        found = {
            number: [cell.values[0] for cell in pages._cells_of(pages.page(number), 0) if len(cell.values) > 10]
            for number in range(2, pages.count + 1)
        }
    return {number: keys for number, keys in found.items() if keys}


@pytest.mark.parametrize("share", [0.95, 0.5])
def test_a_file_that_is_cut_off_keeps_every_reply_before_the_cut(
    large: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path, share: float
) -> None:
    cut = int(len(large) * share)
    leaves = leaves_of_replies(large, tmp_path / "copy")
    readable = {key for page, keys in leaves.items() if page * PAGE <= cut for key in keys}
    journal = open_file(large[:cut])
    found = journal.find(list(written(20 * COUNT)))
    assert found.items() <= written(20 * COUNT).items()
    assert found.keys() >= readable & written(20 * COUNT).keys()
    assert len(readable) > 0.4 * 20 * COUNT
    with journal.holder("paid", 1_000.0) as holder, pytest.raises(BudgetReached, match="--spent paid=DOLLARS"):
        holder.claim(1.0)


def test_without_its_first_page_a_journal_keeps_every_reply(
    large: bytes, open_file: Callable[[bytes], Journal]
) -> None:
    journal = open_file(bytes(PAGE) + large[PAGE:])
    assert journal.find(list(written(20 * COUNT))) == written(20 * COUNT)
    assert journal.find([reply(-1).key])[reply(-1).key].text == "A page. " * 5_000


def test_damage_elsewhere_leaves_the_budget_known(
    large: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path
) -> None:
    page = min(leaves_of_replies(large, tmp_path / "copy"))
    journal = open_file(large[: (page - 1) * PAGE] + bytes(PAGE) + large[page * PAGE :])
    with journal.holder("paid", 1_000.0) as holder:
        assert holder.claim(1.0)
        assert holder.spent() == pytest.approx(20 * COUNT * COST + COST + 1.0)


def test_what_was_lost_and_where_the_file_is_are_announced(
    large: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_file(large[: int(len(large) * 0.95)])
    kept = journal.summary()[0]["replies"]
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    announced = caplog.messages[-1]
    assert f"{kept:,} replies are recovered" in announced
    assert str(aside) in announced
    lost = int(announced.split("about ")[1].split()[0].replace(",", ""))
    assert 0 < lost <= 20 * COUNT + 1 - kept


def test_a_statement_opens_the_budget_of_one_profile_again(
    content: bytes, open_file: Callable[[bytes], Journal]
) -> None:
    journal = open_file(content[: len(content) // 2])
    assert journal.unknown_since("paid") is not None
    journal.state_spent("paid", 12.5)
    with journal.holder("paid", 13.0) as holder:
        assert holder.spent() == pytest.approx(12.5)
        assert holder.claim(0.5)
        assert not holder.claim(0.1)
    with journal.holder("other", 13.0) as holder, pytest.raises(BudgetReached):
        holder.claim(0.1)
    with journal.holder("other", None) as holder:
        assert holder.claim(0.1), "without a budget nothing has to be known"


def test_a_damaged_record_of_spending_is_no_smaller_budget(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE holders SET spent_usd = 0.01")
    connection.close()
    journal = Journal(f"sqlite:///{tmp_path / FILE}")
    with journal.holder("paid", 100.0) as holder, pytest.raises(BudgetReached, match="is not known"):
        holder.claim(0.1)
    close(journal)


def test_replies_that_fail_their_checksum_are_counted_and_dropped(
    content: bytes, open_file: Callable[[bytes], Journal], caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_file(content)
    with journal.begin() as connection:
        connection.exec_driver_sql("UPDATE replies SET completion_tokens = 21 WHERE rowid % 10 = 0")
    assert journal.verify() == COUNT // 10
    assert f"{COUNT // 10} replies fail their checksum" in caplog.messages[-1]
    assert journal.verify() == 0
    assert journal.summary()[0]["replies"] == COUNT - COUNT // 10


MANY_TABLES = "".join(f"CREATE TABLE notes_{number} (body TEXT, {'x' * 900} TEXT);" for number in range(20))
NOT_JOURNALS: dict[str, bytes] = {
    "a text": b"this is no database\n" * 500,
    "noise": random.Random(7).randbytes(20_000),
    "one byte": b"x",
    "a dump of a journal": b"CREATE TABLE underway (holder); CREATE TABLE holders (claimed_usd);\n" * 300,
    "a compressed file": gzip.compress(random.Random(7).randbytes(9_000)),
}


@pytest.mark.parametrize("foreign", NOT_JOURNALS.values(), ids=NOT_JOURNALS)
def test_a_file_that_is_no_journal_is_refused_and_left(tmp_path: Path, foreign: bytes) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(foreign)
    assert_refused(file, foreign)


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE notes (body TEXT)",
        "CREATE TABLE holders (name TEXT, shares INTEGER)",
        "CREATE TABLE replies (id INTEGER PRIMARY KEY, body TEXT); CREATE TABLE underway (id INTEGER)",
        MANY_TABLES,
    ],
    ids=["other tables", "one of our names", "two of our names", "more than a page"],
)
def test_a_database_of_another_program_is_refused_and_left(tmp_path: Path, schema: str) -> None:
    file = tmp_path / "other.sqlite"
    with sqlite3.connect(file) as connection:
        connection.executescript(schema)
    connection.close()
    assert_refused(file, file.read_bytes())


def assert_refused(file: Path, before: bytes) -> None:
    names = sorted(path.name for path in file.parent.iterdir())
    with pytest.raises(StorageError, match=f"SYNTHPOST_JOURNAL: .*{file.name} is not a journal"):
        Journal(f"sqlite:///{file}").summary()
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == names


def test_a_log_that_has_lost_its_file_is_read_and_kept(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / FILE}")
    with journal.holder("paid", None) as holder:
        holder.keep(list(written().values()))
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copy(tmp_path / f"{FILE}-wal", copied)
    close(journal)
    journal = Journal(f"sqlite:///{copied / FILE}")
    assert journal.find(list(written())) == written()
    assert len(list(copied.glob(f"{FILE}.damaged-*-wal"))) == 1
    close(journal)


def test_a_page_written_in_the_place_of_another_changes_no_reply(
    large: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path
) -> None:
    one, other = sorted(leaves_of_replies(large, tmp_path / "copy"))[5:7]
    page = large[(one - 1) * PAGE : one * PAGE]
    found = open_file(large[: (other - 1) * PAGE] + page + large[other * PAGE :]).find(list(written(20 * COUNT)))
    assert found.items() <= written(20 * COUNT).items()
    assert 0 < 20 * COUNT - len(found) < 30


def test_damage_met_at_work_is_recovered_at_the_next_opening_though_no_check_runs(
    large: bytes, open_file: Callable[[bytes], Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_files, "QUICKLY_CHECKED", 0)
    page = min(leaves_of_replies(large, tmp_path / "copy"))
    journal = open_file(large[: (page - 1) * PAGE] + bytes(PAGE) + large[page * PAGE :])
    with pytest.raises(StorageError, match=r"is damaged: .*; run again"):
        journal.find(list(written(20 * COUNT)))
    close(journal)
    again = Journal(f"sqlite:///{tmp_path / FILE}")
    assert 0 < 20 * COUNT - len(again.find(list(written(20 * COUNT)))) < 30
    assert not (tmp_path / f"{FILE}.suspect").exists()
    close(again)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("folder", "pipe", "dangling", "loop"):
        with pytest.raises(StorageError, match=name):
            Journal(f"sqlite:///{tmp_path / name}").summary()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert not (tmp_path / "nowhere").exists()


def test_a_link_to_a_journal_is_followed_also_when_it_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / FILE).write_bytes(content[: len(content) // 2])
    (tmp_path / "link").symlink_to(tmp_path / "real" / FILE)
    journal = Journal(f"sqlite:///{tmp_path / 'link'}")
    assert journal.find(list(written())).items() <= written().items()
    close(journal)
    assert (tmp_path / "link").is_symlink()
    assert len(list((tmp_path / "real").glob("*.damaged-*"))) == 1


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:////tmp/q?mark/journal.sqlite?x=1", "mysql://host/name"]
)
def test_a_url_that_names_no_durable_database_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="SYNTHPOST_JOURNAL"):
        Journal(url).summary()


NAMES = ("q?mark", "q?a=b", "a#b", "a%20b", "a b", "häuser 家", "a:b", "a@b", "q")


def test_the_journal_is_in_the_home_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNTHPOST_JOURNAL", raising=False)
    for number, name in enumerate(NAMES):
        journal = Journal(read_settings(str(tmp_path / name)).journal_url)
        with journal.holder("tiny", None) as holder:
            holder.keep([reply(number)])
        assert list(journal.find(list(written()))) == [reply(number).key]
        assert str(tmp_path / name / FILE) == journal.name
        close(journal)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


def test_a_journal_that_an_earlier_version_misplaced_is_named(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "q").write_bytes(content)
    journal = Journal(read_settings(str(tmp_path / "q?mark")).journal_url)
    assert journal.summary() == []
    close(journal)
    assert str(tmp_path / "q") in caplog.messages[-1]
    caplog.clear()
    close(Journal(read_settings(str(tmp_path / "q?mark")).journal_url))
    assert caplog.messages == []


def insert_old(connection: sqlite3.Connection, *replies: Reply) -> None:
    """Adds replies as versions before checksums did."""
    fields = ", ".join(OLD_FIELDS)
    for made in replies:
        row = [json.dumps(made.text) if name == "text" else getattr(made, name) for name in OLD_FIELDS]
        connection.execute(f"INSERT INTO replies ({fields}) VALUES ({', '.join('?' * len(row))})", row)


def write_old(file: Path) -> None:
    """A journal as versions before checksums wrote it."""
    with sqlite3.connect(file) as connection:
        connection.executescript(
            f"PRAGMA journal_mode=WAL; {OLD_REPLIES}; {OLD_HOLDERS};"
            "CREATE TABLE underway (key VARCHAR(16) NOT NULL, holder VARCHAR(32) NOT NULL, PRIMARY KEY (key));"
        )
        insert_old(connection, *written(3).values())
        row = ("0f" * 16, "gone", "paid", 2.5, 0.0, 1.0, 2.0, 3.0)
        connection.execute("INSERT INTO holders VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()


def test_a_journal_of_an_earlier_version_gets_checksums(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_old(tmp_path / FILE)
    journal = Journal(f"sqlite:///{tmp_path / FILE}")
    assert journal.find(list(written(3))) == written(3)
    assert journal.spending()[0]["spent_usd"] == 2.5
    assert caplog.messages == []
    with journal.begin() as connection:
        connection.exec_driver_sql("UPDATE replies SET finish_reason = 'length'")
    assert journal.find(list(written(3))) == {}
    close(journal)


def test_an_earlier_version_can_still_write_into_the_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with sqlite3.connect(tmp_path / FILE) as connection:
        insert_old(connection, reply(COUNT)._replace(text="old"))
    connection.close()
    journal = Journal(f"sqlite:///{tmp_path / FILE}")
    assert journal.find([reply(COUNT).key])[reply(COUNT).key].text == "old"
    close(journal)


def test_a_journal_of_a_later_version_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("ALTER TABLE replies ADD COLUMN mood TEXT")
    connection.close()
    with pytest.raises(StorageError, match=r"\(mood\); update Synthpost"):
        Journal(f"sqlite:///{tmp_path / FILE}").summary()
    assert list(tmp_path.glob("*.damaged-*")) == []


@pytest.mark.parametrize("journal_url", ["postgresql"], indirect=True)
def test_a_server_with_tables_of_the_same_names_is_refused(journal_url: str) -> None:
    import psycopg

    with psycopg.connect(journal_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE replies (id INTEGER)")
        with pytest.raises(StorageError, match="the table replies of that database is not a journal's"):
            Journal(journal_url).summary()
        assert len(connection.execute("SELECT * FROM replies").description or ()) == 1


@pytest.mark.parametrize("journal_url", ["postgresql"], indirect=True)
def test_a_server_that_is_away_is_waited_for(journal_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_server_that_refuses_is_not_waited_for(journal_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        Journal(journal_url.replace("/postgres?", "/nowhere?")).summary()
    assert caplog.messages == []
