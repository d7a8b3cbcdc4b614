"""Two processes that make cells at the same time, for tests of the device lease.

`python -m tests.helpers.side_by_side FOLDER NAME CELL...` makes adapters and predictions of the cells, beginning once
two processes have put their names into the folder, and prints a `Worker` as JSON.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from synthpost_dagster.cell import Cell
from synthpost_dagster.runtime.devices import Devices, Lease
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import keep_quiet, read_settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.stages.study import Study
from tests.helpers.children import command, environment


class Worker(NamedTuple):
    """The result of one process. `made`: fingerprint, digest and whether the artifact was reused, by asset and cell.
    `held`: when it held the device. `notes`: each after its cell.
    """

    made: dict[str, tuple[str, str, bool]]
    held: list[tuple[float, float]]
    notes: list[str]


def side_by_side(variables: Mapping[str, str], ready: Path, one: list[str], other: list[str]) -> list[Worker]:
    """Two processes that make these cells and begin together. `ready` is an empty folder."""
    processes = [
        subprocess.Popen(
            command("side_by_side", ready, name, *cells),
            env=environment(**variables),
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, cells in enumerate((one, other))
    ]
    try:
        return [_result(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _result(process: subprocess.Popen[str]) -> Worker:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, "a process failed; its error is above"
    return Worker(**json.loads(output))


def assert_made_once(workers: list[Worker], cell: str) -> None:
    """One process made the cell, and both end with the same artifacts."""
    for asset in ("adapters", "predictions"):
        (fingerprint, digest, is_reused), other = (worker.made[f"{asset} {cell}"] for worker in workers)
        assert (fingerprint, digest) == tuple(other[:2])
        assert {is_reused, other[2]} == {False, True}


def assert_apart(workers: list[Worker], times: int) -> None:
    """The device was leased this many times, and never by two processes at once."""
    intervals = sorted(tuple(interval) for worker in workers for interval in worker.held)
    assert len(intervals) == times
    for (_, ended), (began, _) in itertools.pairwise(intervals):
        assert ended <= began, "two processes held one device at a time"


@contextlib.contextmanager
def recorded_leases() -> Iterator[list[tuple[float, float]]]:
    """When each lease of this process began and ended."""
    held: list[tuple[float, float]] = []
    lease = Devices.lease

    @contextlib.contextmanager
    def recorded(devices: Devices, *arguments: Any, **named: Any) -> Iterator[Lease]:
        with lease(devices, *arguments, **named) as device:
            began = time.monotonic()
            try:
                yield device
            finally:
                held.append((began, time.monotonic()))

    with patch.object(Devices, "lease", recorded):
        yield held


def make(study: Study, cell: Cell, worker: Worker) -> None:
    """Makes adapters and predictions of a cell."""

    def note(event: Event) -> None:
        if not event.total:
            worker.notes.append(f"{cell.place}: {event.what}")

    for asset in ("adapters", "predictions"):
        manifest, is_reused = materialize(study, asset, cell.place, Progress(note))
        worker.made[f"{manifest.asset} {cell.place}"] = (manifest.fingerprint, manifest.digest, is_reused)


def main(folder: Path, name: str, cells: list[str]) -> None:
    """Makes the cells one after the other."""
    study = open_study(read_settings())
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    with recorded_leases() as held:
        worker = Worker({}, held, [])
        for cell in cells:
            make(study, Cell.parse(cell), worker)
    sys.stdout.write(json.dumps(worker._asdict()))


if __name__ == "__main__":
    keep_quiet()
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
