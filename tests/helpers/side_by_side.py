"""Processes that make cells beside each other, for the graph and gpu tests."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

CHILD = Path(__file__).with_name("sharing_child.py")


class Worker(NamedTuple):
    """What a process says: fingerprint, digest and whether it was there, by asset and cell; when it held the device;
    notes, each after its cell.
    """

    made: dict[str, tuple[str, str, bool]]
    held: list[tuple[float, float]]
    notes: list[str]


def side_by_side(environment: Mapping[str, str], ready: Path, one: list[str], other: list[str]) -> list[Worker]:
    """Two processes that make these cells and begin together; `ready` is an empty folder."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(CHILD), str(ready), str(place), *cells],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for place, cells in enumerate((one, other))
    ]
    try:
        return [_said(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _said(process: subprocess.Popen[str]) -> Worker:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, "a process failed; what it said of it stands above"
    return Worker(**json.loads(said))


def assert_made_once(workers: list[Worker], cell: str) -> None:
    """One of them made the cell, and both end with the same artifacts."""
    for asset in ("adapters", "predictions"):
        (fingerprint, digest, is_reused), other = (worker.made[f"{asset} {cell}"] for worker in workers)
        assert [fingerprint, digest] == other[:2]
        assert {is_reused, other[2]} == {False, True}


def assert_apart(workers: list[Worker], times: int) -> None:
    """The device was held so often, and never by two at a time."""
    intervals = sorted(tuple(interval) for worker in workers for interval in worker.held)
    assert len(intervals) == times
    for (_, ended), (began, _) in itertools.pairwise(intervals):
        assert ended <= began, "two processes held one device at a time"
