"""Two processes on one cell, and two that want the device: one waits, and nothing is mixed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from small_study import SmallStudy, edit_yaml

WORK = """
import contextlib, json, sys, time
from pathlib import Path
from synthpost_dagster.devices import Devices
from synthpost_dagster.progress import Progress
from synthpost_dagster.settings import read_settings
from synthpost_dagster.stages import adapters, predictions
from synthpost_dagster.stages.study import Cell, open_study

held, notes, lease = [], [], Devices.lease

@contextlib.contextmanager
def recorded(self, *arguments, **more):
    with lease(self, *arguments, **more) as device:
        began = time.monotonic()
        try:
            yield device
        finally:
            held.append((began, time.monotonic()))

Devices.lease = recorded
folder, name, study, cell = Path(sys.argv[1]), sys.argv[2], open_study(read_settings()), Cell.parse(sys.argv[3])
(folder / name).touch()
while len(list(folder.iterdir())) < 2:
    time.sleep(0.01)
progress = Progress(lambda event: event.total or notes.append(event.what))
outcomes = [adapters.adapters(study, cell, progress), predictions.predictions(study, cell, progress)]
made = {one.manifest.asset: (one.manifest.fingerprint, one.manifest.digest, one.is_reused) for one in outcomes}
print(json.dumps({"made": made, "held": held, "notes": notes}))
"""


class Worker(NamedTuple):
    """What a process says: fingerprint, digest and whether it was there, by asset; when it held the device; notes."""

    made: dict[str, tuple[str, str, bool]]
    held: list[tuple[float, float]]
    notes: list[str]


@pytest.fixture
def study(changeable: SmallStudy) -> SmallStudy:
    """A study whose cells have all to be tuned anew."""
    edit_yaml(changeable.profile, lambda profile: profile["training"].update(learning_rate=1.0e-3))
    (changeable.root / "ready").mkdir()
    (changeable.root / "tmp").mkdir()
    return changeable


def work(study: SmallStudy, *cells: str) -> list[Worker]:
    """A process a cell; they begin together."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(study.root / "ready"), str(place), cell],
            env=study.environment(TMPDIR=str(study.root / "tmp"), PYTHONPATH=":".join(sys.path)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for place, cell in enumerate(cells)
    ]
    said: list[Any] = [json.loads(process.communicate(timeout=240)[0]) for process in processes]
    return [Worker(one["made"], one["held"], one["notes"]) for one in said]


def assert_apart(workers: list[Worker], times: int) -> None:
    """The device was held so often, and never by two at a time."""
    intervals = sorted(tuple(interval) for worker in workers for interval in worker.held)
    assert len(intervals) == times
    for (_, ended), (began, _) in itertools.pairwise(intervals):
        assert ended <= began, "two processes held one device at a time"


def test_two_processes_on_one_cell_train_it_once_and_end_with_the_same_artifact(study: SmallStudy) -> None:
    before = set(study.manifests())
    workers = work(study, "16|3", "16|3")
    for asset in ("adapters", "predictions"):
        (fingerprint, digest, is_reused), other = (worker.made[asset] for worker in workers)
        assert [fingerprint, digest] == other[:2]
        assert {is_reused, other[2]} == {False, True}
    assert_apart(workers, times=2)
    assert len(set(study.manifests()) - before) == 2
    assert not study.broken_artifacts()
    assert not [path for path in (study.home / "tmp").rglob("*") if path.is_file()]


def test_two_processes_on_two_cells_hold_the_device_one_after_the_other(study: SmallStudy) -> None:
    workers = work(study, "8|3", "16|3")
    assert [one[2] for worker in workers for one in worker.made.values()] == [False] * 4
    assert_apart(workers, times=4)
    assert any("held by another process" in note for worker in workers for note in worker.notes), "none had to wait"
    assert not study.broken_artifacts()
    made = {Path(path).parts[-4:-2] for path in study.manifests()}
    assert {("adapters", "8_3"), ("adapters", "16_3")} <= made
