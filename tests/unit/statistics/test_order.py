"""Order consistency and slot bias, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from synthpost_dagster.statistics.games import PairOfGames
from synthpost_dagster.statistics.order import order_consistency, order_figures, position_bias
from synthpost_dagster.statistics.ratio import Counts, count, win_ratio


def pairs(*games: tuple[str, str, int]) -> list[PairOfGames]:
    """So many pairs with these outcomes, tuned first and tuned second."""
    return [
        PairOfGames(f"{first}-{second}-{index}", first, second, 20, 20)
        for first, second, times in games
        for index in range(times)
    ]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


ALWAYS_A = pairs(("win", "loss", 50))
"""The judge names the first slot, whatever is in it."""


def test_judge_that_always_picks_a_has_full_bias() -> None:
    figures = order_figures(ALWAYS_A, generator())
    assert figures.consistency.value == 0
    assert figures.position_bias.value == figures.position_bias.high == 0.5
    assert 0.4 < figures.position_bias.low < 0.5
    assert figures.is_warning
    counts = count(pair.outcome for pair in ALWAYS_A)
    assert counts == Counts(0, 0, 50, 0)
    assert math.isnan(win_ratio(counts).value)


def test_judge_that_always_picks_b_has_the_opposite_bias() -> None:
    bias = position_bias(pairs(("loss", "win", 50)), generator())
    assert bias.value == bias.low == -0.5
    assert -0.5 < bias.high < -0.4


def test_consistency_is_the_share_of_agreeing_pairs() -> None:
    # 3 wins + 2 losses + 1 tie-tie agree, of 10; a tie and a win do not.
    consistency = order_consistency(
        pairs(("win", "win", 3), ("loss", "loss", 2), ("tie", "tie", 1), ("win", "loss", 2), ("tie", "win", 2)),
        generator(),
    )
    assert consistency.value == 0.6
    # Published: 6 of 10, exact 95 % interval 0.262 to 0.878.
    assert (consistency.low, consistency.high) == pytest.approx((0.2624, 0.8784), abs=0.0001)


def test_position_bias_is_counted_over_games() -> None:
    # First slot chosen in 2·3 (always A) + 0·1 (always B) + 1·4 (consistent) = 10 of 16 games.
    bias = position_bias(pairs(("win", "loss", 3), ("loss", "win", 1), ("win", "win", 4)), generator())
    assert bias.value == pytest.approx(10 / 16 - 0.5)


def test_tied_game_counts_half_for_each_position() -> None:
    # tie (½) and tuned wins in B (0), so ½ of 2 games; with one consistent pair 1½ of 4.
    bias = position_bias(pairs(("tie", "win", 1), ("loss", "loss", 1)), generator())
    assert bias.value == pytest.approx(1.5 / 4 - 0.5)


def test_pairs_of_one_prompt_are_one_piece_of_evidence() -> None:
    """The same 40 prompts in fifteen cells that come out alike."""
    once = pairs(("win", "loss", 8), ("loss", "win", 2), ("win", "win", 30))
    often = once * 15
    assert position_bias(often, generator()) == position_bias(once, generator())
    few, many = (order_consistency(each, generator()) for each in (once, often))
    assert many.value == few.value == 0.75
    # The bootstrap with two made-up prompts stands in for the exact interval.
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=0.02)


def test_pair_with_an_unscored_game_is_in_neither_figure() -> None:
    clean, spoilt = pairs(("win", "loss", 3), ("win", "win", 5)), pairs(("unscored", "loss", 9), ("win", "unscored", 9))
    assert order_figures(clean + spoilt, generator()) == order_figures(clean, generator())
    assert order_figures(clean + spoilt, generator()).pairs == 8


def test_figures_without_a_scored_pair_are_undefined() -> None:
    figures = order_figures(pairs(("unscored", "win", 5)), generator())
    assert math.isnan(figures.consistency.value)
    assert math.isnan(figures.position_bias.value)
    assert (figures.position_bias.low, figures.position_bias.high) == (-0.5, 0.5)
    assert not figures.is_warning


@pytest.mark.parametrize(("agreeing", "is_warning"), [(74, True), (75, False), (76, False)])
def test_warning_is_below_three_quarters(agreeing: int, is_warning: bool) -> None:
    figures = order_figures(pairs(("win", "win", agreeing), ("loss", "win", 100 - agreeing)), generator())
    assert figures.is_warning is is_warning


def test_only_the_bias_of_an_unfair_judge_is_significant() -> None:
    fair = position_bias(pairs(("win", "loss", 30), ("loss", "win", 28), ("win", "win", 382)), generator())
    assert fair.low < 0 < fair.high
    # 50 against 16 of 440: 34/880 = 0.039, its standard error √(66 - 34²/440) / 880 = 0.0090
    clear = position_bias(pairs(("win", "loss", 50), ("loss", "win", 16), ("win", "win", 374)), generator())
    assert clear.value == pytest.approx(34 / 880)
    assert (clear.low, clear.high) == pytest.approx((0.039 - 1.96 * 0.009, 0.039 + 1.96 * 0.009), abs=0.002)
