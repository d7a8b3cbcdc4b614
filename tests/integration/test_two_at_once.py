"""Two processes on one cell, and two that want the device: one waits, and nothing is mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.side_by_side import Worker, assert_apart, assert_made_once, side_by_side
from tests.helpers.small_study import SmallStudy, edit_yaml


@pytest.fixture
def study(changeable: SmallStudy) -> SmallStudy:
    """A study whose cells have all to be tuned anew."""
    edit_yaml(changeable.profile, lambda profile: profile["training"].update(learning_rate=1.0e-3))
    (changeable.root / "ready").mkdir()
    (changeable.root / "tmp").mkdir()
    return changeable


def work(study: SmallStudy, *cells: str) -> list[Worker]:
    """A process a cell."""
    variables = study.environment(TMPDIR=str(study.root / "tmp"))
    return side_by_side(variables, study.root / "ready", *([cell] for cell in cells))


def test_two_processes_on_one_cell_train_it_once(study: SmallStudy) -> None:
    before = set(study.manifests())
    workers = work(study, "16|3", "16|3")
    assert_made_once(workers, "16|3")
    assert_apart(workers, times=2)
    assert len(set(study.manifests()) - before) == 2
    assert not study.broken_artifacts()
    assert not [path for path in (study.home / "tmp").rglob("*") if path.is_file()]


def test_two_processes_on_two_cells_take_turns_on_the_device(study: SmallStudy) -> None:
    workers = work(study, "8|3", "16|3")
    assert [one[2] for worker in workers for one in worker.made.values()] == [False] * 4
    assert_apart(workers, times=4)
    assert any("held by another process" in note for worker in workers for note in worker.notes), "none had to wait"
    assert not study.broken_artifacts()
    made = {Path(path).parts[-4:-2] for path in study.manifests()}
    assert {("adapters", "8_3"), ("adapters", "16_3")} <= made
