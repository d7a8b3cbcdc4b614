"""Position bias of a judge: how often it picks the first post, and whether it agrees in both orders."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synthpost_dagster.statistics.games import PairOfGames, game_scores, prompt_means, scored
from synthpost_dagster.statistics.paired import DRAWS, mean_interval, mean_share
from synthpost_dagster.statistics.ratio import CONFIDENCE, Share, share

MIN_CONSISTENCY = 0.75
"""Below this the report warns: the order of the posts decides too many games."""


class PositionBias(NamedTuple):
    """Position bias, P(first post chosen) - ½, with its interval; NaN, from -½ to ½, without scored pairs."""

    value: float
    low: float
    high: float


class OrderFigures(NamedTuple):
    """The effect of the order on the judge, over the pairs with both games scored."""

    consistency: Share
    position_bias: PositionBias
    pairs: int

    @property
    def is_warning(self) -> bool:
        """Whether the consistency is too low; False without scored pairs."""
        return self.consistency.value < MIN_CONSISTENCY


def order_figures(
    pairs: Sequence[PairOfGames],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> OrderFigures:
    """Order consistency and position bias of one judge."""
    usable = scored(pairs)
    return OrderFigures(
        order_consistency(usable, generator, confidence, draws),
        position_bias(usable, generator, confidence, draws),
        len(usable),
    )


def order_consistency(
    pairs: Sequence[PairOfGames],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> Share:
    """Share of pairs with the same outcome in both games; a tie and a win differ.

    The interval is exact where each prompt has one pair, else a bootstrap over prompts, each counted once.
    """
    usable = scored(pairs)
    agreeing = np.array([pair.candidate_first == pair.candidate_second for pair in usable], dtype=np.float64)
    if len({pair.prompt_id for pair in usable}) == len(usable):
        return share(int(agreeing.sum()), len(usable), confidence)
    return mean_share(prompt_means(usable, agreeing).tolist(), generator, confidence, draws)


def position_bias(
    pairs: Sequence[PairOfGames],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> PositionBias:
    """P(first post chosen) - ½ over games; a tied game counts half for each position.

    The interval is a paired bootstrap over prompts, each counted once, since the games of a prompt are not independent.
    """
    usable = scored(pairs)
    if not usable:
        return PositionBias(math.nan, -0.5, 0.5)
    candidate_first, candidate_second = game_scores(usable)
    excess = prompt_means(usable, (candidate_first - candidate_second) / 2)
    return PositionBias(float(excess.mean()), *mean_interval(excess, 0.5, generator, confidence, draws))
