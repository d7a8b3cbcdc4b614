"""Whether the judge follows the posts or their places: order consistency and slot bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synthpost_dagster.statistics.games import PairOfGames, game_scores, prompt_means, scored
from synthpost_dagster.statistics.paired import DRAWS, mean_interval, mean_share
from synthpost_dagster.statistics.ratio import CONFIDENCE, Share, share

LEAST_CONSISTENCY = 0.75
"""Below this the report warns; what it says is the judge's order as much as the posts."""


class SlotBias(NamedTuple):
    """P(first slot chosen) - ½, with its interval; NaN, from -½ to ½, where no pair has two scored games."""

    value: float
    low: float
    high: float


class OrderFigures(NamedTuple):
    """What swapping the posts does to the judge, over the pairs with both games scored."""

    consistency: Share
    slot_bias: SlotBias
    pairs: int

    @property
    def is_warning(self) -> bool:
        """Whether fewer pairs agree than there should; not where there is none."""
        return self.consistency.value < LEAST_CONSISTENCY


def order_figures(
    pairs: Sequence[PairOfGames],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> OrderFigures:
    """Order consistency and slot bias of one judge."""
    usable = scored(pairs)
    return OrderFigures(
        order_consistency(usable, generator, confidence, draws),
        slot_bias(usable, generator, confidence, draws),
        len(usable),
    )


def order_consistency(
    pairs: Sequence[PairOfGames],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> Share:
    """Share of pairs whose two games say the same; two tied games do, a tie and a win not.

    The interval is exact where each prompt has one pair; else a bootstrap over prompts, each counting once.
    """
    usable = scored(pairs)
    agreeing = np.array([pair.candidate_first == pair.candidate_second for pair in usable], dtype=np.float64)
    if len({pair.prompt_id for pair in usable}) == len(usable):
        return share(int(agreeing.sum()), len(usable), confidence)
    return mean_share(prompt_means(usable, agreeing).tolist(), generator, confidence, draws)


def slot_bias(
    pairs: Sequence[PairOfGames],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> SlotBias:
    """P(first slot chosen) - ½ over games; a tied game chooses each slot by half.

    The first slot is chosen where the candidate wins in A or loses in B. The interval is a paired bootstrap over
    prompts, each counting once, since the games of a prompt are not independent.
    """
    usable = scored(pairs)
    if not usable:
        return SlotBias(math.nan, -0.5, 0.5)
    candidate_first, candidate_second = game_scores(usable)
    excess = prompt_means(usable, (candidate_first - candidate_second) / 2)
    return SlotBias(float(excess.mean()), *mean_interval(excess, 0.5, generator, confidence, draws))
