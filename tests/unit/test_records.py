"""A run is an orphan when the process on this host that drove it is no more."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRun

from synthpost_dagster.processes import this_process
from synthpost_dagster.records import PROCESS_TAG, is_orphan, tidy

HOST = socket.gethostname()


def run_of(process: str) -> DagsterRun:
    return DagsterRun(job_name="cell", tags={PROCESS_TAG: process})


def test_a_run_of_a_living_process_is_no_orphan() -> None:
    assert not is_orphan(run_of(this_process()))


def test_a_run_becomes_an_orphan_when_its_process_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        run = run_of(f"{HOST}:{process.pid}:{psutil.Process(process.pid).create_time():.0f}")
        assert not is_orphan(run)
        process.kill()
        process.wait(timeout=120)
        assert is_orphan(run)


def test_a_run_whose_process_id_went_to_a_later_process_is_an_orphan() -> None:
    before, _, _ = this_process().rpartition(":")
    assert is_orphan(run_of(f"{before}:1"))


def test_a_run_of_another_host_is_left_alone() -> None:
    assert not is_orphan(run_of(this_process().replace(HOST, "elsewhere", 1)))


def test_a_run_that_names_no_process_is_left_alone() -> None:
    assert not is_orphan(DagsterRun(job_name="cell", tags={}))


@pytest.mark.parametrize("rest", ["", ":", "many:1", "1"])
def test_a_run_of_this_host_whose_process_cannot_be_read_is_an_orphan(rest: str) -> None:
    assert is_orphan(run_of(f"{HOST}:{rest}"))


@pytest.mark.parametrize("pool", ["gpu", "endpoint_far"])
def test_the_slot_of_a_run_that_is_no_more_is_freed_in_every_pool(tmp_path: Path, pool: str) -> None:
    limit_one = {"concurrency": {"pools": {"default_limit": 1}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=limit_one) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(pool)
        assert storage.claim_concurrency_slot(pool, "gone", "step").is_claimed
        assert not storage.claim_concurrency_slot(pool, "next", "step").is_claimed
        tidy(instance, 1)
        assert storage.claim_concurrency_slot(pool, "next", "step").is_claimed
