"""Child processes forward events and errors, finish when a sibling fails, and end with their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.runtime.child_processes import run_apart
from synthpost_dagster.runtime.progress import SILENT, Event

PARENT = """
import sys
from pathlib import Path
from synthpost_dagster.runtime.child_processes import run_apart
from tests.unit.runtime.test_child_processes import sleep

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        run_apart(sleep, {name: (folder, name) for name in ("one", "two")}, lambda *_: None, lambda *_: None)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def report(steps: int, error: str) -> None:
    """Reports its steps, then raises the error, if any."""
    for step in range(1, steps + 1):
        SILENT.update("training", step, steps, "steps")
    if error:
        raise SynthpostError(error)


def meet(folder: Path, name: str, error: str) -> None:
    """Waits for the other child; then fails, or waits until the other has failed."""
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    if error:
        raise SynthpostError(error)
    while not (folder / "failed").exists():
        time.sleep(0.01)
    SILENT.update("after the other failed", 1, 1, "step")


def die(status: int) -> None:
    """Ends without an exception."""
    os._exit(status)


def sleep(folder: Path, name: str) -> None:
    """Sleeps, and cleans up when interrupted."""
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        (folder / f"{name}.freed").touch()


def test_events_arrive_with_their_title() -> None:
    heard: list[tuple[str, Event]] = []
    ended: list[tuple[str, bool]] = []
    run_apart(
        report,
        {"one": (2, ""), "two": (1, "")},
        lambda event, title: heard.append((title, event)),
        lambda title, is_good: ended.append((title, is_good)),
    )
    assert sorted(heard) == [
        ("one", Event("training", 1, 2, "steps")),
        ("one", Event("training", 2, 2, "steps")),
        ("two", Event("training", 1, 1, "steps")),
    ]
    assert sorted(ended) == [("one", True), ("two", True)]


def test_error_of_a_child_is_raised_after_the_others_finish(tmp_path: Path) -> None:
    heard: list[str] = []
    ended: list[tuple[str, bool]] = []

    def note(title: str, is_good: bool) -> None:
        ended.append((title, is_good))
        (tmp_path / "failed").touch()

    with pytest.raises(SynthpostError, match=r"^the loss is not a number$"):
        run_apart(
            meet,
            {"fails": (tmp_path, "fails", "the loss is not a number"), "works": (tmp_path, "works", "")},
            lambda event, title: heard.append(f"{title} {event.what}"),
            note,
        )
    assert ended == [("fails", False), ("works", True)]
    assert heard == ["works after the other failed"]


def test_exit_status_of_a_child_is_an_error() -> None:
    with pytest.raises(SynthpostError, match=r"cell 8\|3: its process ended with status 7"):
        run_apart(die, {"cell 8|3": (7,)}, lambda *_: None, lambda *_: None)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with two sleeping children, in its own process group as under a terminal."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    process.kill()
    for place in tmp_path.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(place.read_text()), signal.SIGKILL)
    process.communicate()


def wait_for(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def children(parent: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    """The two children, once they sleep."""
    places = [folder / "one.pid", folder / "two.pid"]

    def are_started() -> bool:
        assert parent.poll() is None, parent.communicate()[1]
        return all(place.exists() and place.read_text() for place in places)

    wait_for(are_started, "the processes did not start")
    return [psutil.Process(int(place.read_text())) for place in places]


def is_over(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("send", [os.killpg, os.kill])
def test_ctrl_c_ends_the_children_after_their_cleanup(
    parent: subprocess.Popen[str], tmp_path: Path, send: Callable[[int, int], None]
) -> None:
    started = children(parent, tmp_path)
    # The signal to the terminal's group does not reach them; their parent forwards it once.
    assert parent.pid not in {os.getpgid(process.pid) for process in started}
    send(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=300)
    assert parent.returncode == 130
    assert all(is_over(process) for process in started)
    assert {path.name for path in tmp_path.glob("*.freed")} == {"one.freed", "two.freed"}
    assert said == "", "a person who stops a run is shown no traceback"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_children_end_with_a_killed_parent(
    parent: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    started = children(parent, tmp_path)
    os.kill(parent.pid, number)
    wait_for(lambda: all(is_over(process) for process in started), "they go on without their parent")
    assert {path.name for path in tmp_path.glob("*.freed")} == {"one.freed", "two.freed"}


def fail_in_detail(line: str) -> None:
    """Fails with a line under its message."""
    raise SynthpostError("one sentence", details=[line])


def test_details_of_errors_reach_the_parent() -> None:
    with pytest.raises(SynthpostError) as raised:
        run_apart(fail_in_detail, {"one": ("a",), "two": ("b",)}, lambda *_: None, lambda *_: None)
    assert str(raised.value) == "one sentence"
    assert sorted(raised.value.details) == ["a", "b"]


def kill_itself() -> None:
    """Kills its own process."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_error_for_a_killed_child_names_memory() -> None:
    with pytest.raises(SynthpostError, match=r"^cell 8\|3: its process was killed .SIGKILL.*memory"):
        run_apart(kill_itself, {"cell 8|3": ()}, lambda *_: None, lambda *_: None)
