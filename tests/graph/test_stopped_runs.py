"""A run that is cancelled or killed while it trains gives up slot, lease and draft, and the next run on its cell goes
through: by the UI's own button, and by `kill -9`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_study import SmallStudy, Whole, edit_yaml
from ui_server import Server, served

from synthpost_dagster.devices import Devices
from synthpost_dagster.errors import DeviceError

CELL = "8|25"
TAGS = {"dagster/partition": CELL, "dagster/partition/data_size": "8", "dagster/partition/steps": "25"}
ASSETS = ("adapters", "predictions", "verdicts")


@pytest.fixture(scope="module")
def server(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The UI of a study with a cell that trains for some seconds; the devices' locks lie in a folder of its own."""
    study = whole.study.copy_to(tmp_path_factory.mktemp("stopped"))
    for path in (study.profile, study.task / "task.yaml"):
        edit_yaml(path, lambda content: content["sweep"].update(steps=[3, "1-epoch", 25]))
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


def runs_in(run_id: str) -> psutil.Process:
    """The process that Dagster started for a run."""
    (process,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "execute_run" in " ".join(process.info["cmdline"] or []) and is_of(process, run_id)
    ]
    return process


def is_of(process: psutil.Process, run_id: str) -> bool:
    return any(run_id in part for part in process.info["cmdline"])


def begin(server: Server, until: Callable[..., object], by: str) -> str:
    """Starts the cell, by itself or in a sweep, and waits until it trains and holds slot and lease; the run's id."""
    study = server.study
    config = {"ops": {"fill": {"config": {"cells": [CELL]}}}}
    run_id = server.launch("cell", ASSETS, TAGS) if by == "cell" else server.launch("sweep", (), {}, config)
    until("the run trains", lambda: list((study.home / "tmp").glob("*/trainer")), seconds=90, every=0.05)
    assert slot_holders(study) == {run_id}, "the run holds no slot: the test shows nothing"
    assert is_leased(study), "the run holds no lease: the test shows nothing"
    assert not study.recorded("adapters", CELL)
    return run_id


@pytest.mark.parametrize("by", ["cell", "sweep"])
def test_a_run_that_is_cancelled_while_it_trains_frees_slot_lease_and_draft(
    server: Server, until: Callable[..., object], by: str
) -> None:
    run_id = begin(server, until, by)
    server.terminate(run_id)
    assert server.ended(run_id)["status"] == "CANCELED"
    assert slot_holders(server.study) == set()
    assert not is_leased(server.study)
    assert drafts(server.study) == []
    assert not list((server.study.home / "storage" / "adapters").glob("8_25/*/manifest.json"))


def test_after_a_run_that_was_killed_the_next_on_its_cell_starts_and_succeeds(
    server: Server, until: Callable[..., object]
) -> None:
    """The last of the file: with it the cell is there."""
    study = server.study
    killed = begin(server, until, "cell")
    os.kill(runs_in(killed).pid, signal.SIGKILL)
    assert not study.broken_artifacts()
    successor: dict[str, Any] = server.run("cell", ASSETS, TAGS, seconds=180)
    assert successor["status"] == "SUCCESS"
    assert server.ended(killed)["status"] == "FAILURE"
    assert slot_holders(study) == set()
    assert not is_leased(study)
    assert not study.broken_artifacts()
    assert study.recorded("verdicts", CELL)
    (manifest,) = (study.home / "storage" / "adapters").glob("8_25/*/manifest.json")
    assert json.loads(manifest.read_text())["facts"]["optimizer_steps"] == 25
