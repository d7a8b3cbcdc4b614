"""Two processes cannot hold one device at a time, and a killed holder gives it up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synthpost_dagster.errors import DeviceError
from synthpost_dagster.runtime.devices import Devices

HOLD = """
import sys, time
from pathlib import Path
from synthpost_dagster.runtime.devices import Devices

folder, name = Path(sys.argv[1]), sys.argv[2]
told = lambda message: (folder / f"{name}.waits").write_text(message)
with Devices("cpu", int(sys.argv[3]), folder / "locks").lease(0.01, 60, told):
    (folder / f"{name}.holds").touch()
    time.sleep(float(sys.argv[4]))
(folder / f"{name}.done").touch()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process that holds the lease for some seconds; all are ended afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, slots: int = 1, seconds: float = 60) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), name, str(slots), str(seconds)]))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_second_process_waits_and_gets_the_lease_when_the_first_is_killed(
    start: Callable[..., subprocess.Popen[bytes]], until: Callable[..., object], tmp_path: Path
) -> None:
    first = start("first")
    until("the first process holds the lease", (tmp_path / "first.holds").exists)
    second = start("second", seconds=0)
    until("the second process is told to wait", (tmp_path / "second.waits").exists)
    assert not (tmp_path / "second.holds").exists()
    assert "held by another process" in (tmp_path / "second.waits").read_text()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    until("the second process holds the lease", (tmp_path / "second.holds").exists)
    assert second.wait(timeout=60) == 0
    assert not (tmp_path / "first.done").exists()


def test_lease_that_is_not_freed_in_time_is_an_error(
    start: Callable[..., subprocess.Popen[bytes]], until: Callable[..., object], tmp_path: Path
) -> None:
    start("first")
    until("the first process holds the lease", (tmp_path / "first.holds").exists)
    devices = Devices("cpu", 1, tmp_path / "locks")
    with pytest.raises(DeviceError, match="was not freed within 1 s"), devices.lease(0.01, timeout_seconds=1):
        pytest.fail("two processes hold the lease")


def test_two_slots_let_two_processes_in(
    start: Callable[..., subprocess.Popen[bytes]], until: Callable[..., object], tmp_path: Path
) -> None:
    start("first", slots=2)
    start("second", slots=2)
    until("both hold a lease", lambda: all((tmp_path / f"{name}.holds").exists() for name in ("first", "second")))
    third = Devices("cpu", 2, tmp_path / "locks")
    with pytest.raises(DeviceError), third.lease(0.01, timeout_seconds=0):
        pytest.fail("three processes hold two slots")
