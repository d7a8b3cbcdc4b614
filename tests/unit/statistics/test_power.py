"""How many prompts it takes, against the figures that the evaluation was planned with."""

from __future__ import annotations

import math

import pytest

from synthpost_dagster.statistics.power import (
    expected_interval,
    expected_intervals,
    pairs_for_width,
    pairs_to_detect,
    planned_widths,
    relative_half_width,
)
from synthpost_dagster.statistics.ratio import Counts, win_ratio


def test_telling_60_percent_from_50_takes_194_pairs() -> None:
    # ((1.9600 · 0.5 + 0.8416 · √0.24) / 0.1)² = 193.8
    assert pairs_to_detect(0.6) == 194
    assert pairs_to_detect(0.4) == 194


def test_power_confidence_and_small_differences_need_more_pairs() -> None:
    assert pairs_to_detect(0.55) > pairs_to_detect(0.6, power=0.9) > 194
    assert pairs_to_detect(0.6, confidence=0.99) > 194
    with pytest.raises(ValueError, match="itself"):
        pairs_to_detect(0.5)


def test_ratio_of_7_within_a_quarter_takes_about_730_pairs() -> None:
    # Without the exact interval's caution: (1 + 7)²/7 · (1.96 / ln 1.25)² = 705
    assert pairs_for_width(7, 1.25) == 747
    assert pairs_for_width(7, 1.25) == pytest.approx(730, rel=0.03)
    assert relative_half_width(7, 730) == pytest.approx(1.25, abs=0.005)
    assert relative_half_width(7, 747) <= 1.25 < relative_half_width(7, 746)


def test_planned_widths_are_those_of_the_planned_ratios() -> None:
    found = planned_widths()
    assert [(width.ratio, width.factor) for width in found] == [(2, 1.25), (5, 1.25), (7, 1.25)]
    assert [width.decided for width in found] == [pairs_for_width(ratio, 1.25) for ratio in (2, 5, 7)]


def test_wanted_width_must_be_one() -> None:
    with pytest.raises(ValueError, match="factor above 1"):
        pairs_for_width(7, 1)


def test_expected_interval_is_the_exact_one_of_the_expected_counts() -> None:
    # 440 pairs at 7: 385 won, 55 lost
    assert expected_interval(7, 440) == pytest.approx(win_ratio(Counts(385, 55, 0, 0)))
    assert expected_intervals(440)[2] == expected_interval(7, 440)


def test_with_n_prompts_the_planned_ratios_get_these_intervals() -> None:
    two, five, seven = expected_intervals(440)
    assert (two.value, five.value, seven.value) == (2, 5, 7)
    # log R ± 1.96 √(1/W + 1/L): 1.63 to 2.45; the exact one a little wider
    assert (two.low, two.high) == pytest.approx((1.63, 2.46), abs=0.02)
    assert seven.low < 5.4 < 7 < 9.2 < seven.high


def test_ties_leave_fewer_pairs_to_decide() -> None:
    assert expected_intervals(440, decisive_share=0.5) == expected_intervals(220)


def test_few_pairs_may_have_no_upper_bound() -> None:
    assert expected_interval(7, 0) == (7, 0, math.inf)
    assert relative_half_width(7, 0) == math.inf


@pytest.mark.parametrize("ratio", [0, -1, math.inf, math.nan])
def test_ratio_that_cannot_be_planned_for_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="above 0 and finite"):
        expected_interval(ratio, 440)
