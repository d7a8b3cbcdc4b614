"""The spread of win ratios between training seeds of one cell."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from synthpost_dagster.statistics.ratio import CONFIDENCE, Counts, Ratio, plotted_ratio, win_ratio

MIN_SEEDS = 5
"""Seeds with a decided pair below which no standard deviation is given: that of two may be off by a factor of 30."""


class SeedSpread(NamedTuple):
    """The win ratios of one cell's seeds and their spread on the scale of log (W+½)/(L+½)."""

    ratios: tuple[Ratio, ...]
    """W/L of each seed with its exact interval, in the order given."""
    lowest: float
    highest: float
    """Smallest and largest (W+½)/(L+½); NaN without a decided pair."""
    decided: int
    """Seeds with a decided pair; only they are in the figures."""
    log_sd: float
    """Standard deviation of the logs between seeds; NaN under five seeds with decided pairs, as is its interval."""
    log_sd_low: float
    log_sd_high: float
    within_log_sd: float
    """The standard deviation expected from sampling of pairs alone: √ of the mean of 1/(W+½) + 1/(L+½)."""


def seed_spread(seeds: Sequence[Counts], confidence: float = CONFIDENCE) -> SeedSpread:
    """The spread between training seeds of one cell, from the counts of each.

    All seeds answer the same prompts, so `log_sd` excludes most of the variation between prompts: a value near
    `within_log_sd` already means that seeds matter. Its interval is the χ² interval for normal logs; log ratio and
    variance follow Gart and Zweifel (Biometrika 54, 1967).
    """
    ratios = tuple(win_ratio(counts, confidence) for counts in seeds)
    decided = [counts for counts in seeds if counts.wins + counts.losses]
    if not decided:
        return SeedSpread(ratios, math.nan, math.nan, 0, math.nan, math.nan, math.nan, math.nan)
    found = [plotted_ratio(counts) for counts in decided]
    within = statistics.fmean(1 / (counts.wins + 0.5) + 1 / (counts.losses + 0.5) for counts in decided)
    between = _standard_deviation([math.log(ratio) for ratio in found], confidence)
    return SeedSpread(ratios, min(found), max(found), len(decided), *between, math.sqrt(within))


def _standard_deviation(logs: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """With its interval: s √(f / χ²) at f = n - 1 degrees of freedom."""
    from scipy.special import chdtri

    if len(logs) < MIN_SEEDS:
        return math.nan, math.nan, math.nan
    sd, freedom, tail = statistics.stdev(logs), len(logs) - 1, (1 - confidence) / 2
    low, high = (sd * math.sqrt(freedom / float(chdtri(freedom, above))) for above in (tail, 1 - tail))
    return sd, low, high
