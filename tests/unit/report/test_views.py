"""Records of the tables: colours of the surface, gaps, cells in words."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.cell import Cell
from synthpost_dagster.report.texts import place_text
from synthpost_dagster.report.views import cell_views, criterion_shares, surface
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
def test_colour_depends_on_the_log_of_the_ratio(counts: tuple[int, int, int, int], heat: str) -> None:
    (view,) = cell_views(ratios(ratio_row(A, counts)))
    assert view.scores["base"].heat == heat


def test_cells_are_those_of_the_profiles_seed_in_sweep_order() -> None:
    views = cell_views(RATIOS[RATIOS["seed"] == 1])
    assert [view.cell for view in views] == [A, D, B, C]
    assert views[0].scores["base"].counts == (81, 14, 3, 2)
    assert [view.replicate_group for view in views] == [0, 0, 1, 1]


def test_the_surface_has_a_place_for_every_size_and_length() -> None:
    found = surface(
        cell_views(RATIOS[RATIOS["seed"] == 1]), [("8800|1-epoch", "not trained"), ("88|50|2", "no verdicts")]
    )
    assert found.lengths == ("50", "1-epoch")
    assert [size for size, _ in found.rows] == [88, 1760, 8800]
    gaps = [cell for _, tiles in found.rows for cell, view in tiles if view is None]
    assert gaps == [Cell(1760, "1-epoch"), Cell(8800, "1-epoch")]
    assert found.missing == {Cell(8800, "1-epoch")}


def test_cell_without_the_profiles_seed_is_missing() -> None:
    table = ratios(ratio_row(A, (60, 30, 5, 5), seed=2), ratio_row(B, (81, 14, 3, 2)))
    views = cell_views(report(ratios=table).shown_ratios)
    assert [view.cell for view in views] == [B]
    assert surface(views, [(A.key, "no verdicts")]).missing == {A}


@pytest.mark.parametrize(
    ("key", "text"),
    [("1760|1-epoch", "1,760 rows | 1 epoch"), ("88|50|7", "88 rows | 50 steps | seed 7"), ("<b>", "<b>")],
)
def test_key_is_described_in_words(key: str, text: str) -> None:
    assert place_text(key) == text


def test_a_criterion_that_a_contestant_was_not_asked_for_has_no_share() -> None:
    (both,) = criterion_shares(report())
    assert (both.text, both.posts, both.shares) == ("Open with a hook.", (10, 10), (0.2, 0.7))
    rows = report().compliance
    other = rows.assign(criterion="offer")[rows["contestant"] == "tuned"]
    hook, offer = criterion_shares(report(compliance=pd.concat([rows, other])))
    assert (hook.shares, offer.shares) == ((0.2, 0.7), (None, 0.7))
