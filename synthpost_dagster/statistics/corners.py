"""Weak corners: levels of a factor on which a candidate fares worse than on the others, seen and not over-read."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import NamedTuple

from synthpost_dagster.statistics.ratio import Counts
from synthpost_dagster.statistics.sign_test import holm

LEVEL = 0.05
"""Adjusted p-value under which a corner is named."""


class Corner(NamedTuple):
    """A level of a factor, its counts against those of all other levels together."""

    factor: str
    level: str
    counts: Counts
    others: Counts
    p_value: float
    """Holm-adjusted over all levels of all factors; of Fisher's exact test that the level wins as often as others."""


def weak_corners(levels: Mapping[tuple[str, str], Counts], level: float = LEVEL) -> list[Corner]:
    """The (factor, level)s that win less often than the other levels of their factor, the worst first.

    `levels` are the counts of every level of every factor, each factor's together being the whole. One-sided exact
    test on won and lost pairs (Fisher, J. R. Stat. Soc. 98, 1935), adjusted over all that were looked at, so that one
    of forty levels is not named for bad luck.
    """
    corners = [
        Corner(factor, name, counts, _others(levels, factor, name), _fisher(counts, _others(levels, factor, name)))
        for (factor, name), counts in levels.items()
    ]
    adjusted = holm([corner.p_value for corner in corners])
    weak = [corner._replace(p_value=p) for corner, p in zip(corners, adjusted, strict=True) if p < level]
    return sorted(weak, key=lambda corner: corner.p_value)


def _others(levels: Mapping[tuple[str, str], Counts], factor: str, name: str) -> Counts:
    rest = [counts for (of, level), counts in levels.items() if of == factor and level != name]
    return Counts(*(sum(column) for column in zip(*rest, strict=True))) if rest else Counts(0, 0, 0, 0)


def _fisher(counts: Counts, others: Counts) -> float:
    """P that the level wins so few of the pairs decided, were all decided pairs dealt at random.

    The hypergeometric distribution in whole numbers: scipy.stats takes longer to import than this to sum.
    """
    decided = counts.wins + counts.losses
    everything, won = decided + others.wins + others.losses, counts.wins + others.wins
    ways = sum(comb(won, wins) * comb(everything - won, decided - wins) for wins in range(counts.wins + 1))
    return ways / comb(everything, decided)
