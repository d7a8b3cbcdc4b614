"""A cell is known by its partition key."""

from __future__ import annotations

import pytest

from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SpecError


@pytest.mark.parametrize("cell", [Cell(88, "50"), Cell(17_600, "1-epoch")])
def test_a_key_leads_back_to_its_cell(cell: Cell) -> None:
    assert Cell.parse(cell.key) == cell


@pytest.mark.parametrize("key", ["", "88", "88|", "|50", "-88|50", "many|50", "²|50"])
def test_a_key_that_is_no_cell_is_refused_with_an_example(key: str) -> None:
    with pytest.raises(SpecError, match=r"88\|50"):
        Cell.parse(key)
