"""The driver as a process of its own: killed or stopped in mid-training, with processes of its own for runs that hold a
model, several at a time; and no connection but loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.orchestration import driver as driver_module
from synthpost_dagster.orchestration.instance import PROCESS_TAG
from synthpost_dagster.orchestration.jobs import cells_of
from synthpost_dagster.runtime.devices import Devices
from tests.helpers.small_study import BY_CELL, CELLS, SYNTHPOST, SmallStudy, Whole, done, edit_yaml

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
    """A sweep of one cell of which there are only the untuned model's posts, what holds a model in its own process, all
    connections but loopback refused.
    """

    def __init__(self, study: SmallStudy) -> None:
        self.study, self.refused = study, study.root / "refused"
        for asset in set(BY_CELL) | {"synthetic_rows", "data_subsets", "control_verdicts", "ratio_report"}:
            shutil.rmtree(study.home / "storage" / asset)
        (study.home / "journal.sqlite").unlink()
        shutil.rmtree(study.home / "report")
        edit_yaml(study.profile, lambda profile: profile["device"].__setitem__("process_per_run", True))
        guard = study.root / "guard"
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(REFUSE)
        self.done = study.command(
            "run",
            "--data-sizes",
            "16",
            "--steps",
            "3",
            PYTHONPATH=os.pathsep.join([str(guard), *sys.path]),
            REFUSED=str(self.refused),
        )


@pytest.fixture(scope="module")
def guarded(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded(whole.study.copy_to(tmp_path_factory.mktemp("guarded")))


def test_sweep_connects_to_nothing_but_loopback(guarded: Guarded) -> None:
    assert guarded.done.returncode == 0, guarded.done.stderr
    processes = Path(f"{guarded.refused}.guarded").read_text().split()
    assert len(set(processes)) >= 3, "the upstream's or the cell's own process was not guarded"
    assert not guarded.refused.exists(), guarded.refused.read_text()
    assert (guarded.study.home / "report" / "index.html").is_file()


def test_sweep_writes_nothing_but_its_figures(guarded: Guarded) -> None:
    assert "Traceback" not in guarded.done.stderr
    assert "Warning" not in guarded.done.stderr
    assert "cell 16|3" in guarded.done.stdout


def test_cell_in_its_own_process_gives_the_same_artifacts(guarded: Guarded, whole: Whole) -> None:
    def digests(study: SmallStudy) -> dict[str, str]:
        found = [Manifest.model_validate_json(path.read_text()) for path in study.manifests()]
        return {f"{manifest.asset} {manifest.partition}": manifest.digest for manifest in found}

    apart, inside = digests(guarded.study), digests(whole.study)
    names = ["synthetic_rows ", "data_subsets 16", "adapters 16|3", "predictions 16|3", "verdicts 16|3"]
    assert [apart[name] for name in names] == [inside[name] for name in names]
    assert guarded.study.recorded("verdicts", "16|3") == whole.study.recorded("verdicts", "16|3")


def in_processes_of_their_own(study: SmallStudy, slots: int) -> None:
    edit_yaml(study.profile, lambda profile: profile["device"].update(process_per_run=True, max_concurrent_runs=slots))


@pytest.mark.slow
def test_several_sweeps_at_a_time_give_the_same_artifacts_as_one(changeable: SmallStudy) -> None:
    def digests() -> dict[str, str]:
        found = [Manifest.model_validate_json(path.read_text()) for path in changeable.manifests()]
        return {f"{one.asset} {one.partition}": one.digest for one in found if one.asset in ("adapters", "predictions")}

    before, known = digests(), changeable.run_ids()
    shutil.rmtree(changeable.home / "storage" / "predictions")
    for cell in ("8_3", "16_3"):  # of the others the adapters are there, and their posts are to be written
        shutil.rmtree(changeable.home / "storage" / "adapters" / cell)
    in_processes_of_their_own(changeable, slots=2)
    ran = changeable.command("run")
    assert ran.returncode == 0, ran.stderr
    assert digests() == before
    # Their own artifacts are as they were, so the verdicts and the controls still hold; the page shows other seconds.
    assert changeable.runs(without=known) == [done("sweep"), done("sweep"), done("report")]
    with changeable.instance() as instance:
        records = [one for one in instance.get_run_records() if one.dagster_run.run_id not in known]
    runs = [one.dagster_run for one in records]
    first, second = (one for one in records if one.dagster_run.job_name == "sweep")
    assert first.start_time and second.start_time and first.end_time and second.end_time
    assert max(first.start_time, second.start_time) < min(first.end_time, second.end_time), "one after the other"
    shares = [cells_of(run.run_config) or [] for run in runs if run.job_name == "sweep"]
    assert sorted(cell for share in shares for cell in share) == sorted(CELLS)
    assert all(shares)
    processes = {run.job_name: set[str]() for run in runs}
    for run in runs:
        processes[run.job_name].add(run.tags[PROCESS_TAG])
    assert {job: len(found) for job, found in processes.items()} == {"sweep": 2, "report": 1}
    for place in (1, 2):
        assert f"  sweep (2 cells), {place} of 2: " in ran.stdout
        assert f"✓ sweep (2 cells), {place} of 2 (" in ran.stdout


class Recorded(NamedTuple):
    """Titles of the runs that a driver starts in processes of their own, and of those that it runs itself."""

    apart: list[str]
    inside: list[str]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A driver whose runs do nothing."""
    found = Recorded([], [])

    def run_apart(work: object, calls: dict[str, object], heard: object, ended: Callable[[str, bool], None]) -> None:
        found.apart.extend(calls)
        for title in calls:
            ended(title, True)

    monkeypatch.setattr(driver_module, "run_apart", run_apart)
    monkeypatch.setattr(driver_module, "execute", lambda _, __, run: found.inside.append(run.title))
    return found


def test_run_without_a_model_is_in_the_drivers_process(changeable: SmallStudy, recorded: Recorded) -> None:
    in_processes_of_their_own(changeable, slots=1)
    shutil.rmtree(changeable.home / "storage" / "verdicts")
    (changeable.home / "report" / "index.html").unlink()
    changeable.sweep(*CELLS)
    assert recorded == Recorded([], ["sweep (4 cells)"])


def test_run_with_a_judge_on_the_device_has_its_own_process(changeable: SmallStudy, recorded: Recorded) -> None:
    in_processes_of_their_own(changeable, slots=1)
    edit_yaml(changeable.profile, lambda profile: profile.update(judges=[profile["teacher"]]))
    changeable.sweep("8|3")
    assert recorded == Recorded(["cell 8|3", "controls"], [])


def test_cells_without_adapters_are_one_run(changeable: SmallStudy, recorded: Recorded) -> None:
    in_processes_of_their_own(changeable, slots=1)
    shutil.rmtree(changeable.home / "storage" / "adapters" / "16_3")
    changeable.sweep(*CELLS)
    assert recorded == Recorded(["cell 16|3"], ["report"])
    shutil.rmtree(changeable.home / "storage" / "adapters" / "8_3")
    changeable.sweep(*CELLS)
    assert recorded.apart[1:] == ["sweep (2 cells)"]


def test_ctrl_c_ends_all_sweeps_and_frees_slots_leases_and_drafts(
    changeable: SmallStudy, until: Callable[..., object]
) -> None:
    in_processes_of_their_own(changeable, slots=2)
    for path in (changeable.task / "task.yaml", changeable.profile):
        edit_yaml(path, lambda content: content["sweep"].update(steps=[60]))
    (changeable.root / "tmp").mkdir()
    known = changeable.run_ids()
    process = subprocess.Popen(
        [str(SYNTHPOST), "run"],
        env=changeable.environment(TMPDIR=str(changeable.root / "tmp")),
        cwd=changeable.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until("two sweeps train", lambda: len(changeable.trainings()) == 2)
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert said.strip() == "synthpost: stopped; run again to resume", "a traceback"
    until("no process is left", lambda: not any(child.is_running() for child in started))
    assert not [path for path in (changeable.home / "tmp").rglob("*") if path.is_file()]
    devices = Devices("cpu", 2, changeable.root / "tmp" / "synthpost-devices")
    with devices.lease(0.01, 0), devices.lease(0.01, 0), changeable.instance() as instance:
        held = instance.event_log_storage.get_concurrency_info("gpu")
        assert not held.active_run_ids | held.pending_run_ids
    assert {run.status for run in changeable.runs(without=known)} <= {"FAILURE", "CANCELED"}


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
    until("the driver trains", changeable.trainings)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    with changeable.instance() as instance:
        (left,) = [run for run in instance.get_runs() if run.run_id not in before]
        assert (left.job_name, left.status.value) == ("sweep", "STARTED")
        held = instance.event_log_storage.get_concurrency_info("gpu")
        assert held.active_run_ids == {left.run_id}, "the killed driver held no slot: the test shows nothing"
    assert not changeable.broken_artifacts()

    known = changeable.run_ids()
    # In a process of its own, which can be ended where it waits for the slot for ever.
    successor = changeable.command("run", "--data-sizes", "8", "--steps", "10")
    assert successor.returncode == 0, successor.stderr
    assert changeable.runs(without=known) == [done("sweep"), done("controls"), done("report")]
    with changeable.instance() as instance:
        ended = instance.get_run_by_id(left.run_id)
        assert ended is not None
        assert ended.status.value == "FAILURE"
        held = instance.event_log_storage.get_concurrency_info("gpu")
        assert not held.active_run_ids
        assert not held.pending_run_ids
    assert not changeable.broken_artifacts()
    assert changeable.recorded("verdicts", "8|10")
