"""Faults 9 and 12: a process that is killed at its work, and processes that work on one journal."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from synthpost_dagster.tasks.task import Task
from tests.helpers.chat_child import Job, Result, child, run
from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.hosted_models import PRICES, context_of, expected, hosted, prompts, replies_in
from tests.helpers.postgres_cluster import restart

CONCURRENCY = 4
SLOW = Rule(delay=0.05)


@pytest.mark.parametrize(("work", "backend"), [("rows", "openai"), ("verdicts", "groq")])
def test_fault_09_after_kill_only_missing_replies_are_requested(
    server: ChatServer, small_task: Task, tmp_path: Path, work: str, backend: str
) -> None:
    spec = hosted(server, backend, concurrency=CONCURRENCY).model_dump()
    job = Job(work, f"sqlite:///{tmp_path}/journal.sqlite", spec, task=str(small_task.folder), rows=66)
    undisturbed = run(job._replace(journal=f"sqlite:///{tmp_path}/other.sqlite"))
    needed = len(server.log().requests)
    server.script(SLOW)
    with child(job, tmp_path) as killed:
        server.wait_for(lambda log: len(log.requests) >= needed // 3)
        killed.kill()
    kept = replies_in(job.journal)
    assert 0 < kept < needed
    assert run(job) == undisturbed
    log = server.log()
    assert len(log.requests) <= needed + CONCURRENCY
    assert len(set(log.prompts)) == needed
    assert max(map(log.prompts.count, log.prompts)) <= 2
    assert replies_in(job.journal) == needed


def test_fault_12_two_processes_on_one_journal_request_each_prompt_once(
    server: ChatServer, tmp_path: Path, journal_url: str
) -> None:
    server.script(Rule(delay=0.02))
    job = Job("texts", journal_url, hosted(server, "groq", concurrency=CONCURRENCY).model_dump(), prompts=prompts(200))
    with child(job, tmp_path) as one, child(job, tmp_path) as other:
        results = [one.result(), other.result()]
    assert results == [Result(expected(prompts(200)))] * 2
    log = server.log()
    assert sorted(log.prompts) == sorted(prompts(200))
    assert replies_in(journal_url) == 200
    assert log.most_in_flight > CONCURRENCY, "they did not work at the same time"


def test_fault_12_requests_of_a_killed_process_are_taken_over(
    server: ChatServer, tmp_path: Path, journal_url: str
) -> None:
    server.script(SLOW)
    job = Job("texts", journal_url, hosted(server, "groq", concurrency=CONCURRENCY).model_dump(), prompts=prompts(60))
    with ExitStack() as stack:
        killed = stack.enter_context(child(job, tmp_path))
        server.wait_for(lambda log: len(log.requests) >= 10)
        other = stack.enter_context(child(job, tmp_path))
        server.wait_for(lambda log: log.most_in_flight > CONCURRENCY or len(log.requests) >= 30)
        killed.kill()
        assert other.result() == Result(expected(prompts(60)))
    assert server.log().asked_again <= CONCURRENCY
    assert replies_in(journal_url) == 60


def test_fault_12_zombie_process_holds_no_reservation(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(act="hang", times=CONCURRENCY))
    spec = hosted(server, "groq", concurrency=CONCURRENCY).model_dump()
    job = Job("texts", f"sqlite:///{tmp_path}/journal.sqlite", spec, prompts=prompts(10))
    with child(job, tmp_path) as killed:
        server.wait_for(lambda log: len(log.requests) == CONCURRENCY)
        # A zombie from here on: whoever started it has not asked how it ended.
        killed.process.send_signal(9)
        assert run(job) == expected(prompts(10))


@pytest.mark.parametrize("journal_url", ["postgresql"], indirect=True)
def test_database_restart_during_a_run_loses_no_reply(server: ChatServer, tmp_path: Path, journal_url: str) -> None:
    server.script(SLOW)
    spec = hosted(server, "groq", concurrency=CONCURRENCY, prices=PRICES).model_dump()
    job = Job("texts", journal_url, spec, budget=100.0, prompts=prompts(120))
    with child(job, tmp_path) as working:
        server.wait_for(lambda log: len(log.requests) >= 20)
        restart(journal_url)
        assert working.result() == Result(expected(prompts(120)))
    log = server.log()
    assert sorted(log.prompts) == sorted(prompts(120)), "a reply that was paid for was thrown away"
    (record,) = context_of(journal_url).journal.spending()
    assert record["spent_usd"] == pytest.approx(log.bill(PRICES.input, PRICES.output))
