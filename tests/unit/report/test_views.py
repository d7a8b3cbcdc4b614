"""Records of the tables: colours of the surface, gaps, cells in words."""

from __future__ import annotations

import pytest

from synthpost_dagster.cell import Cell
from synthpost_dagster.report.data import of_seed
from synthpost_dagster.report.views import cell_views, criterion_shares, place_text, surface
from tests.helpers.reports import RATIOS, A, B, C, D, ratio_row, ratios, report


@pytest.mark.parametrize(
    ("counts", "heat"),
    [
        ((50, 50, 0, 0), "heat0"),
        ((66, 33, 0, 0), "heat1"),
        ((33, 66, 0, 0), "heat-1"),
        ((80, 20, 0, 0), "heat2"),
        ((100, 0, 0, 0), "heat3"),
        ((0, 100, 0, 0), "heat-3"),
        ((0, 0, 9, 0), "heat"),
    ],
)
def test_colour_goes_by_the_log_of_the_ratio(counts: tuple[int, int, int, int], heat: str) -> None:
    (view,) = cell_views(ratios(ratio_row(A, counts)))
    assert view.base is not None
    assert view.base.score.heat == heat


def test_cells_are_those_of_the_profiles_seed_in_sweep_order() -> None:
    views = cell_views(of_seed(RATIOS, 1))
    assert [view.cell for view in views] == [A, D, B, C]
    assert views[0].base is not None
    assert views[0].base.score.counts == (81, 14, 3, 2)
    assert [view.replicate_group for view in views] == [0, 0, 1, 1]


def test_the_surface_has_a_place_for_every_size_and_length() -> None:
    found = surface(cell_views(of_seed(RATIOS, 1)), [("8800|1-epoch", "not trained"), ("88|50|2", "no verdicts")])
    assert found.lengths == ("50 steps", "1 epoch")
    assert [size for size, _ in found.rows] == [88, 1760, 8800]
    gaps = {tile.cell: tile.note for _, tiles in found.rows for tile in tiles if tile.view is None}
    assert gaps == {Cell(1760, "1-epoch"): "not in the sweep", Cell(8800, "1-epoch"): "missing"}


def test_interval_is_separate_from_the_ratio() -> None:
    (view,) = cell_views(ratios(ratio_row(A, (100, 0, 0, 0))))
    assert view.base is not None
    assert (view.base.score.value, view.base.score.interval) == ("∞", "at least 26.6")


def test_cell_without_the_profiles_seed_is_missing_despite_another_seed() -> None:
    table = ratios(ratio_row(A, (60, 30, 5, 5), seed=2), ratio_row(B, (81, 14, 3, 2)))
    views = cell_views(report(ratios=table).shown_ratios)
    assert [view.cell for view in views] == [B]
    notes = {tile.cell: tile.note for _, tiles in surface(views, [(A.key, "no verdicts")]).rows for tile in tiles}
    assert notes[A] == "missing"


@pytest.mark.parametrize(
    ("key", "text"),
    [("1760|1-epoch", "1,760 rows | 1 epoch"), ("88|50|7", "88 rows | 50 steps | seed 7"), ("<b>", "<b>")],
)
def test_key_is_described_in_words(key: str, text: str) -> None:
    assert place_text(key) == text


def test_a_criterion_that_a_contestant_was_not_asked_for_is_none() -> None:
    data = report()
    data = report(compliance=data.compliance[data.compliance["contestant"] == "tuned"])
    assert criterion_shares(data, "hook").shares == ("70 %",)
    assert criterion_shares(report(), "hook").text == "Open with a hook."
