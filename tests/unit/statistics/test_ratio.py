"""The figures of a comparison, against values computed by hand."""

from __future__ import annotations

import math

import pytest

from synthpost_dagster.statistics.ratio import (
    Counts,
    count,
    plotted_ratio,
    proportion_interval,
    share,
    simultaneous_confidence,
    tie_aware_ratio,
    win_rate,
    win_ratio,
    worst_case,
)


def test_studys_best_cell_as_published() -> None:
    assert win_ratio(Counts(80, 11, 0, 4)).value == pytest.approx(7.27, abs=0.005)


def test_studys_best_cell_read_correctly() -> None:
    ratio = win_ratio(Counts(81, 14, 0, 0))
    assert ratio.value == pytest.approx(5.79, abs=0.005)
    assert ratio.low == pytest.approx(3.3, abs=0.05)
    assert ratio.high == pytest.approx(11.1, abs=0.05)


def test_ratio_without_a_loss_is_infinite_with_a_lower_bound() -> None:
    ratio = win_ratio(Counts(100, 0, 0, 0))
    assert (ratio.value, ratio.high) == (math.inf, math.inf)
    # (0.025)^(1/100) = p, p / (1 - p)
    assert ratio.low == pytest.approx(0.025 ** (1 / 100) / (1 - 0.025 ** (1 / 100)))
    assert ratio.low == pytest.approx(26.6, abs=0.05)


def test_ratio_without_a_win_is_zero_with_an_upper_bound() -> None:
    ratio = win_ratio(Counts(0, 100, 0, 0))
    assert (ratio.value, ratio.low) == (0, 0)
    assert ratio.high == pytest.approx(1 / 26.6, abs=0.0005)


@pytest.mark.parametrize("counts", [Counts(0, 0, 0, 0), Counts(0, 0, 40, 0), Counts(0, 0, 0, 40)])
def test_ratio_without_a_decided_pair_is_undefined(counts: Counts) -> None:
    assert all(math.isnan(value) for value in win_ratio(counts))


def test_ties_and_unscored_pairs_leave_the_win_ratio_and_its_interval() -> None:
    assert win_ratio(Counts(81, 14, 30, 7)) == win_ratio(Counts(81, 14, 0, 0))


def test_swapping_the_sides_inverts_the_ratio_and_its_interval() -> None:
    ratio, other = win_ratio(Counts(81, 14, 0, 0)), win_ratio(Counts(14, 81, 0, 0))
    assert (other.value, other.low, other.high) == pytest.approx((1 / ratio.value, 1 / ratio.high, 1 / ratio.low))


def test_interval_depends_on_pairs_and_confidence() -> None:
    few, many = win_ratio(Counts(20, 10, 0, 0)), win_ratio(Counts(200, 100, 0, 0))
    assert few.low < many.low < 2 < many.high < few.high
    sure = win_ratio(Counts(20, 10, 0, 0), confidence=0.999)
    assert sure.low < few.low
    assert sure.high > few.high


def test_proportions_exact_interval() -> None:
    assert proportion_interval(0, 0) == (0, 1)
    # Published: 4 of 20, exact 95 % interval 0.057 to 0.437.
    assert proportion_interval(4, 20) == pytest.approx((0.0573, 0.4366), abs=0.0001)
    assert proportion_interval(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert proportion_interval(10, 10) == pytest.approx((0.025**0.1, 1))


def test_interval_of_fractional_counts_lies_between_whole_ones() -> None:
    # 7.5 of 15
    (low, high), less, more = proportion_interval(7.5, 15), proportion_interval(7, 15), proportion_interval(8, 15)
    assert less[0] < low < more[0]
    assert less[1] < high < more[1]
    assert low + high == pytest.approx(1)


def test_share_has_an_exact_interval_and_is_undefined_of_none() -> None:
    assert share(4, 20) == pytest.approx((0.2, 0.0573, 0.4366), abs=0.0001)
    nothing = share(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0, 1)


@pytest.mark.parametrize(
    ("counts", "ratio"),
    [
        (Counts(81, 14, 0, 0), 81 / 14),
        (Counts(6, 2, 4, 9), 8 / 4),
        (Counts(0, 0, 10, 0), 1),
        (Counts(10, 0, 2, 0), 11),
        (Counts(10, 0, 0, 5), math.inf),
        (Counts(0, 10, 0, 0), 0),
    ],
)
def test_tie_counts_half_for_each_side(counts: Counts, ratio: float) -> None:
    assert tie_aware_ratio(counts) == pytest.approx(ratio)


@pytest.mark.parametrize("counts", [Counts(0, 0, 0, 0), Counts(0, 0, 0, 8)])
def test_tie_aware_ratio_without_a_scored_pair_is_undefined(counts: Counts) -> None:
    assert math.isnan(tie_aware_ratio(counts))


def test_outcomes_are_counted_and_sum_to_the_pairs() -> None:
    counts = count(["win", "tie", "win", "unscored", "loss", "win"])
    assert counts == Counts(wins=3, losses=1, ties=1, unscored=1)
    assert counts.pairs == 6
    assert count([]) == Counts(0, 0, 0, 0)


@pytest.mark.parametrize("word", ["wins", "Win", "", "lost"])
def test_unknown_outcome_is_refused(word: str) -> None:
    with pytest.raises(KeyError, match="not an outcome"):
        count(["win", word])


def test_win_rate_counts_a_tie_half_and_leaves_unscored_pairs_out() -> None:
    # 6 won and 4/2 of the ties, of 6 + 2 + 4 scored pairs
    assert win_rate(Counts(6, 2, 4, 9)) == pytest.approx(8 / 12)
    assert win_rate(Counts(0, 0, 3, 0)) == 0.5
    assert math.isnan(win_rate(Counts(0, 0, 0, 8)))


def test_at_worst_every_unscored_pair_was_lost() -> None:
    # 11 + 4 = 15
    assert worst_case(Counts(80, 11, 3, 4)) == win_ratio(Counts(80, 15, 0, 0))
    assert worst_case(Counts(80, 11, 3, 4), confidence=0.9) == win_ratio(Counts(80, 15, 0, 0), confidence=0.9)
    assert worst_case(Counts(80, 11, 3, 0)) == win_ratio(Counts(80, 11, 3, 0))
    assert worst_case(Counts(0, 0, 0, 5)).value == 0


def test_plotted_ratio_is_finite_where_anything_was_decided() -> None:
    assert plotted_ratio(Counts(81, 14, 9, 9)) == pytest.approx(81.5 / 14.5)
    assert plotted_ratio(Counts(100, 0, 0, 0)) == pytest.approx(201)
    assert plotted_ratio(Counts(0, 2, 0, 0)) == pytest.approx(0.2)
    assert math.isnan(plotted_ratio(Counts(0, 0, 5, 5)))


def test_simultaneous_confidence_multiplies_to_that_of_all_cells() -> None:
    assert simultaneous_confidence(0.95, 1) == 0.95
    # 0.975² = 0.950625
    assert simultaneous_confidence(0.950625, 2) == pytest.approx(0.975)
    assert simultaneous_confidence(0.95, 15) == pytest.approx(0.996586, abs=1e-6)
    with pytest.raises(ValueError, match="at least one"):
        simultaneous_confidence(0.95, 0)
