"""A stage is named where it is declared, where it is used as an input, and where its columns are described."""

from __future__ import annotations

from pathlib import Path

import pytest

import synthpost_dagster
from synthpost_dagster.assets.table import ROWS
from synthpost_dagster.schemas import TABLES
from synthpost_dagster.stages.stage import CONTROL, STAGES, stage_of

FILES = sorted(Path(synthpost_dagster.__file__).parent.rglob("*.py"))


def test_name_of_an_asset_is_in_at_most_four_files() -> None:
    assert len(FILES) > 100
    assert len([path for path in FILES if CONTROL in path.read_text(encoding="utf-8")]) <= 4


@pytest.mark.parametrize("asset", STAGES)
def test_each_stage_is_declared_under_its_asset(asset: str) -> None:
    assert stage_of(asset).asset == asset
    assert set(stage_of(asset).upstream) <= set(STAGES)


def test_each_stage_has_a_schema_and_a_row_in_the_table_of_assets() -> None:
    assert list(ROWS) == list(STAGES)
    assert set(TABLES) == set(STAGES)
