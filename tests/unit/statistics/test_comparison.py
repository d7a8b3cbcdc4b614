"""The figures of one comparison stand together and agree with each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from synthpost_dagster.statistics.comparison import compare, game_figures
from synthpost_dagster.statistics.games import PairOfGames
from synthpost_dagster.statistics.ratio import Counts


def test_figures_of_81_wins_and_14_losses() -> None:
    found = compare(["win"] * 81 + ["loss"] * 14 + ["tie"] * 4 + ["unscored"])
    assert found.counts == Counts(81, 14, 4, 1)
    assert found.ratio.value == pytest.approx(81 / 14)
    assert (found.ratio.low, found.ratio.high) == pytest.approx((3.26, 11.07), abs=0.02)
    assert found.tie_aware == pytest.approx(83 / 16)
    assert found.win_rate == pytest.approx(83 / 99)
    assert found.worst_case.value == pytest.approx(81 / 15)
    assert found.p_value < 1e-10


def test_figures_without_a_decided_pair_are_undefined() -> None:
    found = compare(["tie", "unscored"])
    assert math.isnan(found.ratio.value)
    assert found.p_value == 1.0


def test_unknown_outcome_is_refused() -> None:
    with pytest.raises(KeyError):
        compare(["won"])


def test_order_and_length_are_those_of_the_games() -> None:
    pairs = [PairOfGames(str(number), "win", "loss", 10, 10) for number in range(20)]
    figures = game_figures(pairs, np.random.default_rng(1))
    assert figures.order.consistency.value == 0
    assert figures.order.position_bias.value == 0.5
    assert figures.length_controlled.value == pytest.approx(1, abs=1e-6)
