"""The help, the errors and the page read as their snapshots; `python -m tests.helpers.snapshots` writes them again."""

from __future__ import annotations

import pytest

from tests.helpers.snapshots import FOLDER, SNAPSHOTS


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_text_is_as_in_its_snapshot(name: str) -> None:
    assert SNAPSHOTS[name]().splitlines() == (FOLDER / name).read_text(encoding="utf-8").splitlines()


def test_no_snapshot_is_unused() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(SNAPSHOTS)
