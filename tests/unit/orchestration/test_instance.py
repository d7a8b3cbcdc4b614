"""A run is an orphan when the process that drove it is gone, on this host or, by its sign of life, on another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from synthpost_dagster.orchestration.instance import (
    DRIVER_TAG,
    PROCESS_TAG,
    free_abandoned,
    holders,
    is_orphan,
    tidy,
)
from synthpost_dagster.resources.study import heartbeat_file
from synthpost_dagster.runtime.heartbeats import HEARTBEAT_TIMEOUT_SECONDS, heartbeat
from synthpost_dagster.runtime.processes import process_name, this_process

HOST = socket.gethostname()
SYSTEM = this_process().rpartition("@")[2]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """One for all: it takes two seconds to make."""
    limit_one = {"concurrency": {"pools": {"default_limit": 1}}}
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster")), overrides=limit_one) as made:
        yield made


def run_of(
    instance: DagsterInstance, process: str = "", status: DagsterRunStatus = DagsterRunStatus.STARTED
) -> DagsterRun:
    tags = {DRIVER_TAG: "cli", PROCESS_TAG: process} if process else {}
    return instance.add_run(DagsterRun(job_name="cell", tags=tags, status=status))


def elsewhere(name: str) -> str:
    """The name of the same process as another host would give it."""
    return name.replace(HOST, "elsewhere", 1)


def left_sign(instance: DagsterInstance, run: DagsterRun, name: str, silent: float) -> Path:
    """A sign of life that nobody holds, last touched so many seconds ago."""
    path = heartbeat_file(instance, run.run_id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
    at = path.stat().st_mtime - silent
    os.utime(path, (at, at))
    return path


def dead_process() -> str:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = process_name(process.pid)
        process.kill()
    return name


def test_a_run_of_a_living_process_is_no_orphan(instance: DagsterInstance) -> None:
    assert not is_orphan(instance, run_of(instance, this_process()))


def test_a_run_of_a_killed_process_is_an_orphan(instance: DagsterInstance) -> None:
    assert is_orphan(instance, run_of(instance, dead_process()))


def test_a_run_whose_process_id_was_given_to_a_later_process_is_an_orphan(instance: DagsterInstance) -> None:
    assert is_orphan(instance, run_of(instance, f"{HOST}:{os.getpid()}:1@{SYSTEM}"))


@pytest.mark.parametrize("rest", ["many:1", "1"])
def test_a_run_whose_process_cannot_be_read_is_an_orphan(instance: DagsterInstance, rest: str) -> None:
    assert is_orphan(instance, run_of(instance, f"{HOST}:{rest}@{SYSTEM}"))


def test_a_locked_heartbeat_file_keeps_a_run_of_another_host(instance: DagsterInstance) -> None:
    run = run_of(instance, elsewhere(this_process()))
    path = heartbeat_file(instance, run.run_id)
    with heartbeat(path):
        os.utime(path, (0, 0))
        assert not is_orphan(instance, run)
    assert not path.exists()


@pytest.mark.parametrize(
    ("silent", "orphan"), [(HEARTBEAT_TIMEOUT_SECONDS - 30, False), (HEARTBEAT_TIMEOUT_SECONDS + 30, True)]
)
def test_an_unlocked_sign_of_another_host_counts_until_it_is_silent(
    instance: DagsterInstance, silent: float, orphan: bool
) -> None:
    run = run_of(instance, name := elsewhere(this_process()))
    left_sign(instance, run, name, silent)
    assert is_orphan(instance, run) == orphan


def test_a_run_of_the_ui_whose_process_was_killed_is_an_orphan_at_once(instance: DagsterInstance) -> None:
    run = run_of(instance)
    assert not is_orphan(instance, run)
    left_sign(instance, run, dead_process(), 0)
    assert is_orphan(instance, run)


def test_a_run_that_is_being_started_is_no_orphan(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthpost_dagster.orchestration.instance.HEARTBEAT_TIMEOUT_SECONDS", -1.0)
    assert not is_orphan(instance, run_of(instance, status=DagsterRunStatus.STARTING))
    assert is_orphan(instance, run_of(instance, status=DagsterRunStatus.STARTED)), "begun, and never had a sign"


@pytest.mark.parametrize("pool", ["gpu", "endpoint_far"])
def test_the_slot_of_a_deleted_run_is_freed_in_every_pool(instance: DagsterInstance, pool: str) -> None:
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default(pool)
    assert storage.claim_concurrency_slot(pool, "gone", "step").is_claimed
    assert not storage.claim_concurrency_slot(pool, "next", "step").is_claimed
    tidy(instance, 1)
    assert storage.claim_concurrency_slot(pool, "next", "step").is_claimed


def test_a_slot_assigned_to_a_dead_run_and_not_claimed_is_freed(instance: DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default("pool")
    first, dead, last = (run_of(instance, name).run_id for name in (this_process(), dead_process(), this_process()))
    for run_id in (first, dead):
        storage.claim_concurrency_slot("pool", run_id, "step")
    storage.free_concurrency_slots_for_run(first)
    assert not storage.claim_concurrency_slot("pool", last, "step").is_claimed
    assert storage.get_concurrency_info("pool").assigned_run_ids == {dead}
    free_abandoned(instance)
    assert holders(instance, "pool") == [last]
    assert storage.claim_concurrency_slot("pool", last, "step").is_claimed


def test_the_sign_of_a_dead_run_that_has_ended_is_removed(instance: DagsterInstance) -> None:
    run = run_of(instance, status=DagsterRunStatus.FAILURE)
    sign = left_sign(instance, run, dead_process(), 0)
    with heartbeat(living := heartbeat_file(instance, "living")):
        free_abandoned(instance)
        assert (sign.exists(), living.exists()) == (False, True)
