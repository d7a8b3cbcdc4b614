"""Training seeds: how far the same cell, trained again, comes out elsewhere, beside the interval within one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from synthpost_dagster.statistics.ratio import CONFIDENCE, Counts, Ratio, plotted_ratio, win_ratio


class SeedSpread(NamedTuple):
    """The win ratios of one cell's seeds and how far they lie apart, on the scale of log (W+½)/(L+½)."""

    ratios: tuple[Ratio, ...]
    """W/L of each seed with its exact interval, in the order given."""
    lowest: float
    highest: float
    """Least and largest (W+½)/(L+½); NaN where no seed has a decided pair."""
    log_sd: float
    """Standard deviation of the logs between seeds; NaN under two seeds with decided pairs."""
    within_log_sd: float
    """What one seed's sample of pairs alone would give: the root mean square of √(1/(W+½) + 1/(L+½))."""


def seed_spread(seeds: Sequence[Counts], confidence: float = CONFIDENCE) -> SeedSpread:
    """The spread between training seeds of one cell, from the counts of each.

    The seeds answer the same prompts, so that luck with prompts moves them together: a `log_sd` near `within_log_sd`
    already means that seeds matter, and one under it that they may still. Seeds without a decided pair are left out of
    the spread. The log ratio and its variance are Gart and Zweifel's (Biometrika 54, 1967).
    """
    ratios = tuple(win_ratio(counts, confidence) for counts in seeds)
    decided = [counts for counts in seeds if counts.wins + counts.losses]
    if not decided:
        return SeedSpread(ratios, math.nan, math.nan, math.nan, math.nan)
    found = [plotted_ratio(counts) for counts in decided]
    log_sd = statistics.stdev(math.log(ratio) for ratio in found) if len(found) > 1 else math.nan
    within = statistics.fmean(1 / (counts.wins + 0.5) + 1 / (counts.losses + 0.5) for counts in decided)
    return SeedSpread(ratios, min(found), max(found), log_sd, math.sqrt(within))
