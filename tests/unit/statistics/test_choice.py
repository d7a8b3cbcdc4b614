"""The best cell of a sweep and its simultaneous interval."""

from __future__ import annotations

import pytest

from synthpost_dagster.statistics.choice import best_of, headline_ratio
from synthpost_dagster.statistics.ratio import Counts, win_ratio


def test_best_of_15_has_the_interval_at_sidaks_confidence() -> None:
    # 0.95^(1/15) = 0.996586
    found, alone = headline_ratio(Counts(81, 14, 0, 0), 15), win_ratio(Counts(81, 14, 0, 0))
    assert found.value == alone.value
    assert (found.low, found.high) == pytest.approx(win_ratio(Counts(81, 14, 0, 0), 0.996586)[1:], rel=1e-5)
    assert found.low < alone.low
    assert found.high > alone.high


def test_one_cell_was_not_chosen_and_keeps_its_interval() -> None:
    assert headline_ratio(Counts(81, 14, 0, 0), 1) == win_ratio(Counts(81, 14, 0, 0))


def test_cell_with_the_highest_lower_bound_is_chosen() -> None:
    best = best_of({"few pairs": Counts(9, 1, 0, 0), "many": Counts(400, 60, 0, 0), "worse": Counts(300, 160, 0, 0)})
    assert best is not None
    assert (best.key, best.cells) == ("many", 3)
    assert best.ratio == headline_ratio(Counts(400, 60, 0, 0), 3)


@pytest.mark.parametrize(("unscored", "key"), [(25, "few scored"), (26, "whole")])
def test_cell_with_more_than_a_fifth_unscored_is_not_chosen(unscored: int, key: str) -> None:
    best = best_of({"few scored": Counts(100, 0, 0, unscored), "whole": Counts(90, 40, 10, 0)})
    assert best is not None
    assert best.key == key


def test_worst_case_is_simultaneous_too() -> None:
    best = best_of({"one": Counts(81, 14, 3, 2), "other": Counts(50, 45, 0, 0)})
    assert best is not None
    assert best.worst_case == headline_ratio(Counts(81, 16, 3, 0), 2)


def test_of_equal_cells_the_first_is_chosen() -> None:
    best = best_of({"cheap": Counts(81, 14, 0, 0), "dear": Counts(81, 14, 0, 0)})
    assert best is not None
    assert best.key == "cheap"


def test_cell_without_a_decided_pair_could_not_be_chosen() -> None:
    best = best_of({"empty": Counts(0, 0, 95, 0), "one": Counts(1, 9, 0, 0)})
    assert best is not None
    assert (best.key, best.cells) == ("one", 1)
    assert best.ratio == win_ratio(Counts(1, 9, 0, 0))
    assert best_of({"empty": Counts(0, 0, 95, 0)}) is None
    assert best_of({}) is None
