"""The driver as a process of its own: killed in mid-training, a process a cell, and no connection but loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_study import SYNTHPOST, SmallStudy, Whole, done, edit_yaml, write_small_study

from synthpost_dagster.artifacts.store import Manifest

REFUSE = '''
"""Refuses every connection and every look-up of a name but loopback, and keeps a list of what it refused."""
import os, socket

def _refuse(what):
    with open(os.environ["REFUSED"], "a") as file:
        file.write(f"{what}\\n")
    raise OSError(f"refused: {what}")

def _is_local(family, address):
    local = ("127.0.0.1", "::1", "localhost")
    return family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in local)

class Socket(socket.socket):
    def connect(self, address):
        return super().connect(address) if _is_local(self.family, address) else _refuse(address)

    def connect_ex(self, address):
        return super().connect_ex(address) if _is_local(self.family, address) else _refuse(address)

    def sendto(self, data, *rest):
        return super().sendto(data, *rest) if _is_local(self.family, rest[-1]) else _refuse(rest[-1])

look_up = socket.getaddrinfo

def getaddrinfo(host, *rest, **more):
    return look_up(host, *rest, **more) if host in (None, "127.0.0.1", "::1", "localhost") else _refuse(host)

socket.socket, socket.getaddrinfo = Socket, getaddrinfo
with open(os.environ["REFUSED"] + ".guarded", "a") as file:
    file.write(f"{os.getpid()}\\n")
'''


class Guarded:
    """A sweep of one cell from nothing, each cell in its own process, with all connections but loopback refused."""

    def __init__(self, study: SmallStudy) -> None:
        self.study, self.refused = study, study.root / "refused"
        edit_yaml(study.profile, lambda profile: profile["device"].__setitem__("own_process", True))
        guard = study.root / "guard"
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(REFUSE)
        self.done = study.command(
            "run", "--data-sizes", "16", "--steps", "3", PYTHONPATH=os.pathsep.join([str(guard), *sys.path]), REFUSED=str(self.refused)
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded(write_small_study(tmp_path_factory.mktemp("guarded")))


def test_sweep_connects_to_nothing_but_loopback(guarded: Guarded) -> None:
    assert guarded.done.returncode == 0, guarded.done.stderr
    processes = Path(f"{guarded.refused}.guarded").read_text().split()
    assert len(set(processes)) >= 2, "the cell's own process was not guarded"
    assert not guarded.refused.exists(), guarded.refused.read_text()
    assert (guarded.study.home / "report" / "index.html").is_file()


def test_sweep_writes_nothing_but_its_figures(guarded: Guarded) -> None:
    assert "Traceback" not in guarded.done.stderr
    assert "Warning" not in guarded.done.stderr
    assert "cell 16|3" in guarded.done.stdout


def test_cell_in_a_process_of_its_own_gives_what_it_gives_in_the_driver(guarded: Guarded, whole: Whole) -> None:
    def digests(study: SmallStudy) -> dict[str, str]:
        found = [Manifest.model_validate_json(path.read_text()) for path in study.manifests()]
        return {f"{manifest.asset} {manifest.partition}": manifest.digest for manifest in found}

    apart, inside = digests(guarded.study), digests(whole.study)
    names = ["synthetic_rows ", "data_subsets 16", "adapters 16|3", "predictions 16|3", "verdicts 16|3"]
    assert [apart[name] for name in names] == [inside[name] for name in names]
    assert guarded.study.recorded("verdicts", "16|3") == whole.study.recorded("verdicts", "16|3")


@pytest.fixture
def driver(changeable: SmallStudy) -> Iterator[subprocess.Popen[bytes]]:
    """`synthpost run` of a cell that trains for some seconds, in its own process."""

    def longer(content: dict[str, dict[str, list[object]]]) -> None:
        content["sweep"]["steps"] = [3, 10]

    edit_yaml(changeable.task / "task.yaml", longer)
    edit_yaml(changeable.profile, longer)
    process = subprocess.Popen(
        [str(SYNTHPOST), "run", "--data-sizes", "8", "--steps", "10"],
        env=changeable.environment(),
        cwd=changeable.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.kill()
    process.wait()


def test_successor_of_a_killed_driver_frees_its_slot_and_completes(
    changeable: SmallStudy, driver: subprocess.Popen[bytes], until: Callable[..., object]
) -> None:
    before = changeable.run_ids()
    until("the driver trains", lambda: list((changeable.home / "tmp").glob("*/trainer")))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    with changeable.instance() as instance:
        (left,) = [run for run in instance.get_runs() if run.run_id not in before]
        assert (left.job_name, left.status.value) == ("cell", "STARTED")
        held = instance.event_log_storage.get_concurrency_info("gpu")
        assert held.active_run_ids == {left.run_id}, "the killed driver held no slot: the test shows nothing"
    assert not changeable.broken_artifacts()

    known = changeable.run_ids()
    # In a process of its own, which can be ended where it waits for the slot for ever.
    successor = changeable.command("run", "--data-sizes", "8", "--steps", "10", timeout=90)
    assert successor.returncode == 0, successor.stderr
    assert changeable.runs(without=known) == [done("cell", "8|10"), done("controls"), done("report")]
    with changeable.instance() as instance:
        ended = instance.get_run_by_id(left.run_id)
        assert ended is not None
        assert ended.status.value == "FAILURE"
        held = instance.event_log_storage.get_concurrency_info("gpu")
        assert not held.active_run_ids
        assert not held.pending_run_ids
    assert not changeable.broken_artifacts()
    assert changeable.recorded("verdicts", "8|10")
