"""A run that is cancelled or killed while it trains gives up slot, lease and draft, and the next run on its cell goes
through: by the UI's own button, and by `kill -9`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from synthpost_dagster.errors import DeviceError
from synthpost_dagster.runtime.devices import Devices
from tests.helpers.small_study import SmallStudy, Whole, edit_yaml
from tests.helpers.ui_server import Server, served

ASSETS = ("adapters", "predictions", "verdicts")


@pytest.fixture(scope="module")
def server(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The UI of a study with a cell that trains for some seconds; the devices' locks lie in a folder of its own."""
    study = whole.study.copy_to(tmp_path_factory.mktemp("stopped"))
    for path in (study.profile, study.task / "task.yaml"):
        edit_yaml(path, lambda content: content["sweep"].update(steps=[3, "1-epoch", 25, 26]))
    (study.root / "tmp").mkdir()
    with served(study, TMPDIR=str(study.root / "tmp")) as running:
        yield running


def is_leased(study: SmallStudy) -> bool:
    """Whether a process holds the device."""
    try:
        with Devices("cpu", 1, study.root / "tmp" / "synthpost-devices").lease(0.01, timeout_seconds=0):
            return False
    except DeviceError:
        return True


def slot_holders(study: SmallStudy) -> set[str]:
    """Runs that hold a slot of the pool, or wait for one."""
    with study.instance() as instance:
        held = instance.event_log_storage.get_concurrency_info("gpu")
        return held.active_run_ids | held.pending_run_ids


def drafts(study: SmallStudy) -> list[Path]:
    """What lies in drafts."""
    return [path for path in (study.home / "tmp").rglob("*") if path.is_file()]


def lease_holder(study: SmallStudy) -> psutil.Process:
    """The process that holds the device: the one that Dagster started for the run."""
    (lock,) = (study.root / "tmp" / "synthpost-devices").glob("*.lock")
    (process,) = [process for process in psutil.process_iter() if str(lock) in open_files(process)]
    return process


def open_files(process: psutil.Process) -> set[str]:
    try:
        return {file.path for file in process.open_files()}
    except psutil.Error:
        return set()


def tags_of(cell: str) -> dict[str, str]:
    size, steps = cell.split("|")
    return {"dagster/partition": cell, "dagster/partition/data_size": size, "dagster/partition/steps": steps}


def begin(server: Server, until: Callable[..., object], cell: str, job: str = "cell") -> str:
    """Starts the cell, by itself or in a sweep, and waits until it trains and holds slot and lease; the run's id."""
    study = server.study
    shutil.rmtree(study.home / "checkpoints", ignore_errors=True)  # those of runs that were stopped before
    config = {"ops": {"fill": {"config": {"cells": [cell]}}}}
    run_id = server.launch("cell", ASSETS, tags_of(cell)) if job == "cell" else server.launch(job, (), {}, config)
    until("the run trains", study.trainings, every=0.05)
    assert slot_holders(study) == {run_id}, "the run holds no slot: the test shows nothing"
    assert is_leased(study), "the run holds no lease: the test shows nothing"
    assert not study.recorded("adapters", cell)
    return run_id


def assert_next_succeeds(server: Server, cell: str) -> None:
    study = server.study
    successor: dict[str, Any] = server.run("cell", ASSETS, tags_of(cell))
    assert successor["status"] == "SUCCESS"
    assert slot_holders(study) == set()
    assert not is_leased(study)
    assert not study.broken_artifacts()
    assert study.recorded("verdicts", cell)
    (manifest,) = (study.home / "storage" / "adapters" / cell.replace("|", "_")).glob("*/manifest.json")
    assert json.loads(manifest.read_text())["facts"]["optimizer_steps"] == int(cell.split("|")[1])


@pytest.mark.parametrize("job", ["sweep", "cell"])
def test_run_cancelled_in_training_leaves_nothing_and_can_be_repeated(
    server: Server, until: Callable[..., object], job: str
) -> None:
    cell = {"sweep": "8|25", "cell": "16|25"}[job]
    run_id = begin(server, until, cell, job)
    server.terminate(run_id)
    assert server.ended(run_id)["status"] == "CANCELED"
    assert slot_holders(server.study) == set()
    assert not is_leased(server.study)
    assert drafts(server.study) == []
    assert not list((server.study.home / "storage" / "adapters").glob(f"{cell.replace('|', '_')}/*/manifest.json"))
    assert_next_succeeds(server, cell)


def test_run_whose_interrupt_was_lost_ends_at_its_next_progress_event(
    server: Server, until: Callable[..., object]
) -> None:
    run_id = begin(server, until, "16|26")
    with server.study.instance() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        instance.report_run_canceling(run)
    assert server.ended(run_id)["status"] == "CANCELED"
    assert slot_holders(server.study) == set()
    assert not is_leased(server.study)
    assert not server.study.recorded("adapters", "16|26")


def test_after_a_run_that_was_killed_the_next_on_its_cell_succeeds(
    server: Server, until: Callable[..., object]
) -> None:
    killed = begin(server, until, "8|26")
    os.kill(lease_holder(server.study).pid, signal.SIGKILL)
    assert not server.study.broken_artifacts()
    assert_next_succeeds(server, "8|26")
    assert server.ended(killed)["status"] == "FAILURE"
