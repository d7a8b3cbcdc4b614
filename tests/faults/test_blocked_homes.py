"""A killed run does not block its home: a waiting run reports its holder, sleeps, gets the slot, and can be ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance

from synthpost_dagster import orchestration
from tests.helpers.children import command, environment

TIMEOUT = 120


@pytest.fixture(scope="module")
def _instance_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    shutil.copyfile(Path(orchestration.__file__).with_name("dagster.yaml"), home / "dagster.yaml")
    with DagsterInstance.from_config(str(home)) as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
    return home


@pytest.fixture
def home(_instance_made: Path, tmp_path: Path) -> Path:
    """A Dagster home with its databases made."""
    return shutil.copytree(_instance_made, tmp_path / "home")


class Child:
    """A process with a run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def says(self, start: str) -> str:
        """The next line that starts so."""
        assert self.process.stdout is not None
        killer = threading.Timer(TIMEOUT, self.process.kill)
        killer.start()
        try:
            for line in self.process.stdout:
                self.lines.append(line)
                if line.startswith(start):
                    return line.strip()
        finally:
            killer.cancel()
        raise AssertionError(f"no line starts with {start!r}: {self.lines}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=TIMEOUT)


@contextlib.contextmanager
def child(home: Path, acts: str, host: str = "-") -> Iterator[Child]:
    with subprocess.Popen(
        command("pool_child", home, host, acts),
        env=environment(PYTHONWARNINGS="ignore"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def signs(home: Path) -> list[Path]:
    return [path for path in (home / "alive").iterdir() if not path.name.startswith(".")]


def test_waiting_run_sleeps_and_gets_the_slot_of_a_killed_holder(home: Path) -> None:
    with child(home, "hold") as holder:
        holder.says("holds")
        with child(home, "pass") as waiter:
            assert f"process {holder.process.pid} on " in waiter.says("waiting for a slot of pool gpu: report (run ")
            before = psutil.Process(waiter.process.pid).cpu_times()
            with contextlib.suppress(subprocess.TimeoutExpired):
                waiter.process.wait(timeout=4)
            after = psutil.Process(waiter.process.pid).cpu_times()
            assert after.user + after.system - before.user - before.system < 2, "it uses a core while it waits"
            holder.kill()
            waiter.says("holds")
            waiter.says("done")
    assert signs(home) == []


def test_slot_assigned_to_a_killed_waiter_goes_to_the_next(home: Path) -> None:
    with child(home, "hold") as holder:
        holder.says("holds")
        with child(home, "pass") as killed, child(home, "pass") as last:
            killed.says("waiting")
            os.kill(killed.process.pid, signal.SIGSTOP)
            last.says("waiting")
            assert holder.process.stdin is not None
            holder.process.stdin.close()
            holder.says("done")
            killed.kill()
            last.says("done")


def test_interrupted_waiter_ends_at_once_and_leaves_the_queue(home: Path) -> None:
    with child(home, "hold") as holder:
        holder.says("holds")
        for number in (signal.SIGTERM, signal.SIGINT):
            with child(home, "pass") as waiter:
                waiter.says("waiting")
                waiter.process.send_signal(number)
                waiter.says("stopped")
                assert waiter.process.wait(timeout=TIMEOUT) == 0
        with DagsterInstance.from_config(str(home)) as instance:
            info = instance.event_log_storage.get_concurrency_info("gpu")
            assert (len(info.claimed_slots), len(info.pending_steps)) == (1, 1), "the holder's alone"
        assert len(signs(home)) == 1


def test_holder_on_another_host_keeps_its_slot_while_its_sign_is_locked(home: Path) -> None:
    with child(home, "hold", host="elsewhere") as holder:
        holder.says("holds")
        (sign,) = signs(home)
        os.utime(sign, (0, 0))
        with child(home, "pass") as waiter:
            assert "on elsewhere" in waiter.says("waiting")
            assert sign.exists(), "it is locked: its holder lives"
            holder.kill()
            os.utime(sign, (0, 0))
            waiter.says("done")
