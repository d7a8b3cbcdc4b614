"""Fixtures of the graph tests: one small study made whole once, and copies of it that a test may change."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.prepared import prepared
from tests.helpers.small_study import CELLS, SIZES, Made, Offline, SmallStudy, Whole, write_small_study

THIRD_PARTY_WARNINGS = (
    # Dagster calls its own deprecated property while it builds resources.
    "ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning",
    # torch's own modules, at import.
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


LONGEST = ("test_driver", "test_stopped_runs", "test_ui", "test_served_models", "test_filling", "test_whole_graph")
"""Modules that begin first: what begins last is then short, and no worker waits long for another's end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors, but for these, which other libraries raise about themselves."""
    here = Path(__file__).parent
    places = {module: place for place, module in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    for item in items:
        if item.path.is_relative_to(here):
            for line in THIRD_PARTY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(line), append=False)


@contextmanager
def environment_kept() -> Iterator[None]:
    """`settings.prepare` writes the environment; afterwards it is as it was."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    with environment_kept():
        yield


def seconds_without_core() -> float:
    """How long this process's main thread could have run and got no core; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


@pytest.fixture(scope="session")
def offline() -> Offline:
    """Refuses connections while it is entered; an audit hook cannot be taken off, so there is one for all."""
    return Offline()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, offline: Offline) -> Whole:
    """The small study with all four cells, made without a connection. Look at it; `changeable` is for changes."""

    def fill(root: Path) -> None:
        import synthpost_dagster.orchestration.driver  # noqa: F401 - its import is no part of the time

        study = write_small_study(root)
        with environment_kept(), offline:
            started = time.monotonic() - seconds_without_core()
            runs = study.sweep(*CELLS)
            seconds = time.monotonic() - seconds_without_core() - started
        made = {"runs": runs, "seconds": seconds, "refused": [str(call) for call in offline.refused]}
        (root / "made.json").write_text(json.dumps(made), encoding="utf-8")

    root = prepared(tmp_path_factory, "whole", fill)
    made = json.loads((root / "made.json").read_text(encoding="utf-8"))
    runs = [Made(*run) for run in made["runs"]]
    return Whole(SmallStudy(root), runs, made["seconds"], made["refused"], offline)


@pytest.fixture
def changeable(whole: Whole, tmp_path: Path) -> SmallStudy:
    """A copy of the whole study, with all it has made."""
    return whole.study.copy_to(tmp_path / "study")


@pytest.fixture(scope="session")
def _retuned(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    from synthpost_dagster.runtime.progress import SILENT
    from synthpost_dagster.stages.sweep import fill

    def retune(root: Path) -> None:
        study = whole.study.copy_to(root)
        study.choose_learning_rate(1.0e-3, steps=[3])
        with environment_kept():
            filled = fill(study.open(), study.open().cells, SILENT)
        assert filled.made == len(SIZES)

    return SmallStudy(prepared(tmp_path_factory, "retuned", retune))


@pytest.fixture
def retuned(_retuned: SmallStudy, tmp_path: Path) -> SmallStudy:
    """A copy of the whole study, cut down to the cells of 3 steps, and these filled at another learning rate; neither
    judged nor recorded by Dagster.
    """
    return _retuned.copy_to(tmp_path / "retuned")


@pytest.fixture(scope="session")
def _unmade(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return SmallStudy(prepared(tmp_path_factory, "unmade", write_small_study))


@pytest.fixture
def fresh(_unmade: SmallStudy, tmp_path: Path) -> SmallStudy:
    """A study of which nothing has been made."""
    return _unmade.copy_to(tmp_path / "study")


@pytest.fixture
def until() -> Callable[..., object]:
    """Calls a function until it gives something true; fails after five minutes, saying what was awaited."""

    def wait(what: str, ask: Callable[[], object], every: float = 0.05) -> object:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if found := ask():
                return found
            time.sleep(every)
        pytest.fail(f"{what}: not within five minutes")

    return wait
