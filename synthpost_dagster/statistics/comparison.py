"""All figures of one comparison: a candidate against an opponent on the same prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synthpost_dagster.statistics.games import PairOfGames
from synthpost_dagster.statistics.length_control import LengthControlled, length_controlled_ratio
from synthpost_dagster.statistics.order import OrderFigures, order_figures
from synthpost_dagster.statistics.ratio import (
    CONFIDENCE,
    Counts,
    Ratio,
    count,
    tie_aware_ratio,
    win_rate,
    win_ratio,
    worst_case,
)
from synthpost_dagster.statistics.sign_test import sign_test


class Comparison(NamedTuple):
    """Figures from the outcomes of comparisons."""

    counts: Counts
    ratio: Ratio
    tie_aware: float
    win_rate: float
    worst_case: Ratio
    p_value: float
    """Of the sign test, not adjusted for other comparisons."""


class GameFigures(NamedTuple):
    """Figures from both orders of the games: position bias, and the ratio at equal length."""

    order: OrderFigures
    length_controlled: LengthControlled


def compare(outcomes: Sequence[str], confidence: float = CONFIDENCE) -> Comparison:
    """The figures of outcomes. Raises KeyError on an unknown outcome."""
    counts = count(outcomes)
    return Comparison(
        counts,
        win_ratio(counts, confidence),
        tie_aware_ratio(counts),
        win_rate(counts),
        worst_case(counts, confidence),
        sign_test(counts),
    )


def game_figures(
    pairs: Sequence[PairOfGames], generator: np.random.Generator, confidence: float = CONFIDENCE
) -> GameFigures:
    """Order and length figures of pairs judged in both orders."""
    return GameFigures(
        order_figures(pairs, generator, confidence), length_controlled_ratio(pairs, generator, confidence)
    )
