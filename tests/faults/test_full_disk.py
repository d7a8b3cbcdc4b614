"""Fault 11: the disk is full, while the journal grows or a table is published."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.full_disk import REPLIES, on_a_small_disk
from tests.helpers.hosted_models import PRICES, hosted, prompts

TEXT = "An offer. " * 3_000


def test_fault_11_full_disk_ends_the_run_which_resumes_with_space(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("journal", 6, tmp_path, hosted(server, "groq", concurrency=4, prices=PRICES))
    assert seen["free"] < 200_000
    assert re.match("StorageError: .*journal.sqlite: database or disk is full", seen["error"])
    assert 0 < seen["left"] < REPLIES
    assert seen["texts"] == [TEXT.strip()] * REPLIES
    log = server.log()
    assert set(log.prompts) == set(prompts(REPLIES))
    # Replies that arrived while the disk was full are requested again: those in flight, and those stored with them.
    assert log.asked_again <= 2 * 4
    assert seen["spent"] >= log.bill(PRICES.input, PRICES.output) * 0.999, "replies that did not fit are not counted"


def test_fault_11_disk_full_for_a_moment_loses_no_reply(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("room", 6, tmp_path, hosted(server, "groq", concurrency=4))
    assert "0.5 s" in seen["notes"][0]
    assert seen["texts"] == [TEXT.strip()] * REPLIES
    assert server.log().asked_again == 0


def test_fault_11_no_space_for_a_journal_fails_before_any_request(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("no_journal", 2, tmp_path, hosted(server, "groq"))
    assert re.match("StorageError: .*journal.sqlite", seen["error"])
    assert seen["texts"] == [TEXT.strip()] * 3
    assert len(server.log().requests) == 3


def test_fault_11_recovery_without_disk_space_keeps_the_journal(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(text=TEXT))
    seen = on_a_small_disk("recovery", 8, tmp_path, hosted(server, "groq", concurrency=4))
    assert re.match("StorageError: .*journal.sqlite.*database or disk is full", seen["error"])
    assert seen["left"] == ["journal.sqlite", "journal.sqlite.lock"]
    assert seen["texts"] == [TEXT.strip()] * REPLIES
    assert 0 < server.log().asked_again < REPLIES / 4


def test_fault_11_table_without_disk_space_leaves_the_old_one(tmp_path: Path) -> None:
    seen = on_a_small_disk("table", 3, tmp_path)
    assert re.match("StorageError: .*No space left on device", seen["error"])
    assert (seen["old"], seen["new"]) == (True, False)
    assert seen["left"] == ["ballast"]
    assert seen["again"]
