"""Sample size: the interval that n comparisons would give, and the comparisons that an interval needs."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from synthpost_dagster.statistics.ratio import CONFIDENCE, Ratio, proportion_interval

PLANNED_RATIOS = (2.0, 5.0, 7.0)
PLANNED_FACTOR = 1.25
PLANNED_SHARE = 0.6


class Width(NamedTuple):
    """Decisive pairs for which the interval of a win ratio is at most ×÷ `factor` wide."""

    ratio: float
    factor: float
    decided: int


def expected_interval(ratio: float, decided: float, confidence: float = CONFIDENCE) -> Ratio:
    """The exact interval of a win ratio R if decided·R/(R+1) of `decided` pairs are won, which may be a fraction.

    Raises ValueError on a ratio that is not above 0 and finite.
    """
    if not 0 < ratio < math.inf:
        raise ValueError(f"a planned ratio is above 0 and finite, not {ratio}")
    low, high = proportion_interval(decided * ratio / (1 + ratio), decided, confidence)
    return Ratio(ratio, low / (1 - low), high / (1 - high) if high < 1 else math.inf)


def expected_intervals(
    prompts: int,
    decisive_share: float = 1.0,
    ratios: Sequence[float] = PLANNED_RATIOS,
    confidence: float = CONFIDENCE,
) -> list[Ratio]:
    """The expected interval of each ratio with `prompts` pairs, of which `decisive_share` are won or lost."""
    return [expected_interval(ratio, prompts * decisive_share, confidence) for ratio in ratios]


def relative_half_width(ratio: float, decided: float, confidence: float = CONFIDENCE) -> float:
    """The factor f of an interval written R ×÷ f: √(high / low), for the expected counts."""
    expected = expected_interval(ratio, decided, confidence)
    return math.sqrt(expected.high / expected.low) if expected.low else math.inf


def pairs_for_width(ratio: float, factor: float, confidence: float = CONFIDENCE) -> int:
    """Fewest decisive pairs at which a win ratio's interval is no wider than ×÷ `factor`, a number above 1."""
    if factor <= 1:
        raise ValueError(f"an interval is ×÷ a factor above 1, not {factor}")
    return _smallest(lambda decided: relative_half_width(ratio, decided, confidence) <= factor)


def planned_widths(
    ratios: Sequence[float] = PLANNED_RATIOS, factor: float = PLANNED_FACTOR, confidence: float = CONFIDENCE
) -> list[Width]:
    """The decisive pairs that each of the ratios needs."""
    return [Width(ratio, factor, pairs_for_width(ratio, factor, confidence)) for ratio in ratios]


def pairs_to_detect(share: float, other: float = 0.5, power: float = 0.8, confidence: float = CONFIDENCE) -> int:
    """Decisive pairs with which a two-sided test against `other` detects a true share with `power`.

    Normal approximation: n = ((z₁√(p₀q₀) + z₂√(p₁q₁)) / (p₁ - p₀))², as in Fleiss, Levin and Paik, Statistical Methods
    for Rates and Proportions, 3rd ed., eq. 2.7. Raises ValueError where the shares are equal.
    """
    from scipy.special import ndtri

    if share == other:
        raise ValueError(f"no number of pairs shows a difference between {share} and itself")
    error = float(ndtri(1 - (1 - confidence) / 2)) * math.sqrt(other * (1 - other))
    miss = float(ndtri(power)) * math.sqrt(share * (1 - share))
    return math.ceil(((error + miss) / (share - other)) ** 2)


def _smallest(is_enough: Callable[[int], bool]) -> int:
    """The smallest sufficient count; every larger one must be sufficient too."""
    enough = 1
    while not is_enough(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if is_enough(middle) else (middle, enough)
    return enough
