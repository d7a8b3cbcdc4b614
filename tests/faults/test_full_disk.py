"""Fault 11: the disk is full, while the journal grows or a table is published."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.full_disk import REPLIES, on_a_small_disk
from tests.helpers.hosted_models import PRICES, hosted, prompts

TEXT = "An offer. " * 3_000


def test_fault_11_full_disk_ends_the_run_which_resumes_with_space(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("journal", 6, tmp_path, hosted(server, "groq", concurrency=4, prices=PRICES))
    assert seen["free"] < 200_000
    assert seen["error"].startswith("StorageError: the journal ")
    assert "journal.sqlite: database or disk is full; free space" in seen["error"]
    assert 0 < seen["left"] < REPLIES
    assert seen["texts"] == [TEXT.strip()] * REPLIES
    log = server.log()
    assert set(log.prompts) == set(prompts(REPLIES))
    # What came while the disk was full is asked again: at most what was in flight, and what was put down with it.
    assert log.asked_again <= 2 * 4
    assert seen["spent"] >= log.bill(PRICES.input, PRICES.output) * 0.999, "replies that found no room are not counted"


def test_fault_11_disk_full_for_a_moment_loses_no_reply(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("room", 6, tmp_path, hosted(server, "groq", concurrency=4))
    assert seen["notes"][0].endswith("trying again in 0.5 s")
    assert seen["texts"] == [TEXT.strip()] * REPLIES
    assert server.log().asked_again == 0


def test_fault_11_no_space_for_a_journal_fails_before_any_request(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("no_journal", 2, tmp_path, hosted(server, "groq"))
    assert seen["error"].startswith("StorageError: the journal ")
    assert "free space" in seen["error"]
    assert seen["texts"] == [TEXT.strip()] * 3
    assert len(server.log().requests) == 3


def test_fault_11_recovery_without_disk_space_keeps_the_journal(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("recovery", 8, tmp_path, hosted(server, "groq", concurrency=4))
    assert "database or disk is full; free space" in seen["error"]
    assert "What it holds is as it was" in seen["error"]
    assert seen["left"] == ["journal.sqlite", "journal.sqlite.lock"]
    assert seen["texts"] == [TEXT.strip()] * REPLIES
    assert 0 < server.log().asked_again < REPLIES / 4


def test_fault_11_table_without_disk_space_leaves_the_old_one(tmp_path: Path) -> None:
    seen = on_a_small_disk("table", 3, tmp_path)
    assert seen["error"].startswith("StorageError: ")
    assert "cannot be written (No space left on device); free space" in seen["error"]
    assert (seen["old"], seen["new"]) == (True, False)
    assert seen["left"] == ["ballast"]
    assert seen["again"]
