"""Two adapters on the same prompts, and how the other cells stand to a chosen one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from synthpost_dagster.statistics.paired import OtherCells, compare_cells, mean_interval, win_rate_difference
from synthpost_dagster.statistics.ratio import count, win_ratio


def outcomes(*runs: tuple[str, int]) -> dict[str, str]:
    """Outcomes by prompt, in runs: prompt 0, 1, 2 …"""
    words = [word for word, times in runs for _ in range(times)]
    return {str(index): word for index, word in enumerate(words)}


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_difference_is_that_of_the_win_rates() -> None:
    first = outcomes(("win", 6), ("tie", 2), ("loss", 2))
    second = outcomes(("win", 4), ("tie", 1), ("loss", 5))
    difference = win_rate_difference(first, second, generator())
    # (6 + 1) / 10 - (4 + ½) / 10
    assert difference.value == pytest.approx(0.7 - 0.45)
    assert (difference.prompts, difference.left_out) == (10, 0)


def test_same_prompts_tell_apart_what_two_ratios_do_not() -> None:
    first, second = outcomes(("win", 68), ("loss", 32)), outcomes(("win", 60), ("loss", 40))
    ratios = [win_ratio(count(each.values())) for each in (first, second)]
    assert ratios[0].low < ratios[1].value < ratios[1].high
    assert ratios[1].high > ratios[0].value
    assert win_rate_difference(first, second, generator()).excludes_zero


def test_sign_of_the_difference_follows_the_better_adapter() -> None:
    better, worse = outcomes(("win", 70), ("loss", 30)), outcomes(("win", 50), ("loss", 50))
    assert win_rate_difference(better, worse, generator()).low > 0
    assert win_rate_difference(worse, better, generator()).high < 0


def test_interval_of_equal_adapters_has_a_width() -> None:
    same = outcomes(("win", 70), ("loss", 30))
    difference = win_rate_difference(same, same, generator())
    assert difference.value == 0
    assert difference.low < 0 < difference.high
    assert not difference.excludes_zero


def test_prompts_not_scored_on_both_sides_are_excluded_and_counted() -> None:
    first = outcomes(("win", 4), ("unscored", 1), ("loss", 1))
    second = outcomes(("loss", 1), ("win", 2), ("unscored", 1), ("win", 1)) | {"other": "win"}
    difference = win_rate_difference(first, second, generator())
    # Left: prompts 0, 1, 2. Out: 3 and 4 unscored, 5 and "other" on one side alone.
    assert (difference.prompts, difference.left_out) == (3, 4)
    assert difference.value == pytest.approx(1 / 3)


def test_difference_without_a_common_prompt_is_undefined() -> None:
    difference = win_rate_difference({"a": "win"}, {"b": "win"}, generator())
    assert math.isnan(difference.value)
    assert (difference.low, difference.high, difference.left_out) == (-1, 1, 2)
    assert not difference.excludes_zero


def test_unknown_outcome_is_refused() -> None:
    with pytest.raises(KeyError, match="won"):
        win_rate_difference({"a": "won"}, {"a": "win"}, generator())


def test_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = np.array([1.0] * 600 + [-1.0] * 400)
    low, high = mean_interval(values, 1.0, generator())
    # With one of each added: 0.2 · 1000/1002 ± 1.96 √((1 - 0.2²) / 1002)
    assert (low, high) == pytest.approx((0.1996 - 0.0607, 0.1996 + 0.0607), abs=0.003)
    wide = mean_interval(values, 1.0, generator(), confidence=0.999)
    # 3.29 instead of 1.96
    assert wide[1] - wide[0] == pytest.approx((high - low) * 3.29 / 1.96, rel=0.05)


def test_same_seed_gives_the_same_interval() -> None:
    first, second = outcomes(("win", 70), ("loss", 30)), outcomes(("win", 60), ("loss", 40))
    assert win_rate_difference(first, second, generator()) == win_rate_difference(first, second, generator())


def test_cells_without_a_significant_difference_are_alike() -> None:
    cells = {
        "worst": outcomes(("win", 100), ("loss", 340)),
        "best": outcomes(("win", 400), ("loss", 40)),
        "near": outcomes(("win", 398), ("loss", 42)),
        "same": outcomes(("win", 400), ("loss", 40)),
    }
    assert compare_cells("best", cells, generator()) == OtherCells([], ["near", "same"], ["worst"])


def test_cell_that_beats_the_chosen_one_is_not_like_it() -> None:
    often_tied = outcomes(("win", 100), ("loss", 5), ("tie", 335))
    cells = {"chosen": often_tied, "decided": outcomes(("win", 330), ("loss", 60), ("tie", 50))}
    assert compare_cells("chosen", cells, generator()) == OtherCells(["decided"], [], [])


def test_cell_without_a_common_prompt_is_alike() -> None:
    cells = {"best": outcomes(("win", 400)), "other": {"x": "loss"}}
    assert compare_cells("best", cells, generator()) == OtherCells([], ["other"], [])
    assert compare_cells("best", {"best": outcomes(("win", 400))}, generator()) == OtherCells([], [], [])


def test_more_cells_need_more_evidence() -> None:
    best, other = outcomes(("win", 100), ("loss", 100)), outcomes(("win", 92), ("loss", 108))
    assert compare_cells("best", {"best": best, "other": other}, generator()).worse == ["other"]
    # Šidák over 40 comparisons: 99.87 % instead of 95 %
    many = {"best": best} | {f"other {index}": other for index in range(40)}
    assert len(compare_cells("best", many, generator()).alike) == 40
