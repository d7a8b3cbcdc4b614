"""Makes cells' adapters and predictions beside another process that does: `sharing_child.py FOLDER NAME CELL...`.

Begins once two have put their names into the folder. Says, as JSON, what `side_by_side.Worker` holds.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthpost_dagster.cell import Cell
from synthpost_dagster.runtime.devices import Devices, Lease
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import keep_quiet, read_settings
from synthpost_dagster.stages import adapters, predictions
from synthpost_dagster.stages.study import open_study

held: list[tuple[float, float]] = []
lease = Devices.lease


@contextlib.contextmanager
def recorded(self: Devices, *arguments: Any, **more: Any) -> Iterator[Lease]:
    """A lease whose beginning and end are put down."""
    with lease(self, *arguments, **more) as device:
        began = time.monotonic()
        try:
            yield device
        finally:
            held.append((began, time.monotonic()))


def main(folder: Path, name: str, cells: list[str]) -> None:
    """Makes the cells one after the other."""
    study, made, notes = open_study(read_settings()), {}, []
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    for cell in map(Cell.parse, cells):

        def note(event: Event, place: str = cell.place) -> None:
            if not event.total:
                notes.append(f"{place}: {event.what}")

        progress = Progress(note)
        for stage in (adapters.adapters, predictions.predictions):
            manifest, is_reused = stage(study, cell, progress)
            made[f"{manifest.asset} {cell.place}"] = (manifest.fingerprint, manifest.digest, is_reused)
    sys.stdout.write(json.dumps({"made": made, "held": held, "notes": notes}))


if __name__ == "__main__":
    keep_quiet()
    Devices.lease = recorded
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
