"""The spread between training seeds, against values computed by hand."""

from __future__ import annotations

import math

import pytest

from synthpost_dagster.statistics.ratio import Counts, win_ratio
from synthpost_dagster.statistics.seeds import seed_spread


def test_two_seeds_of_one_cell() -> None:
    spread = seed_spread([Counts(15, 7, 0, 0), Counts(31, 7, 2, 0)])
    # (15 + ½) / (7 + ½) and (31 + ½) / (7 + ½)
    assert (spread.lowest, spread.highest) == pytest.approx((15.5 / 7.5, 31.5 / 7.5))
    assert (spread.decided, math.isnan(spread.log_sd)) == (2, True), "two seeds do not tell a spread"
    assert spread.within_log_sd == pytest.approx(math.sqrt((1 / 15.5 + 1 / 7.5 + 1 / 31.5 + 1 / 7.5) / 2))
    assert spread.ratios == (win_ratio(Counts(15, 7, 0, 0)), win_ratio(Counts(31, 7, 2, 0)))


def test_five_seeds_have_a_standard_deviation_with_its_interval() -> None:
    spread = seed_spread([*(Counts(wins, 7, 0, 0) for wins in (7, 15, 15, 15, 31)), Counts(0, 0, 9, 0)])
    logs = [math.log((wins + 0.5) / 7.5) for wins in (7, 15, 15, 15, 31)]
    sd = math.sqrt(sum((log - sum(logs) / 5) ** 2 for log in logs) / 4)
    assert (spread.decided, spread.log_sd) == (5, pytest.approx(sd))
    # χ² at 4 degrees of freedom: 11.143 and 0.4844
    assert (spread.log_sd_low, spread.log_sd_high) == pytest.approx(
        (sd * math.sqrt(4 / 11.143), sd * math.sqrt(4 / 0.4844)), rel=1e-4
    )


def test_one_seed_has_no_standard_deviation() -> None:
    spread = seed_spread([Counts(15, 7, 0, 0)])
    assert math.isnan(spread.log_sd)
    assert spread.lowest == spread.highest == pytest.approx(15.5 / 7.5)


def test_seed_counts_if_it_has_a_decided_pair() -> None:
    spread = seed_spread([Counts(20, 0, 0, 0), Counts(10, 10, 0, 0), Counts(0, 0, 20, 0)])
    assert (spread.lowest, spread.highest) == pytest.approx((1, 41))
    assert spread.ratios[0].value == math.inf
    assert math.isnan(spread.ratios[2].value)


def test_no_decided_pair_at_all_is_undefined() -> None:
    for seeds in ([], [Counts(0, 0, 5, 0)] * 2):
        spread = seed_spread(seeds)
        assert spread.decided == 0
        assert all(math.isnan(value) for value in (*spread[1:3], *spread[4:]))
