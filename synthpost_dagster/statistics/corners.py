"""Weak levels: levels of a factor on which the candidate wins less often than on the other levels."""

from collections.abc import Mapping
from math import comb
from typing import NamedTuple

from synthpost_dagster.statistics.ratio import Counts
from synthpost_dagster.statistics.sign_test import holm

LEVEL = 0.05
"""Adjusted p-value under which a level is named."""
MAX_EXACT = 5_000
"""Decided comparisons up to which binomial coefficients are summed; beyond, their digits take minutes."""


class Corner(NamedTuple):
    """A level of a factor, its counts against those of all other levels together."""

    factor: str
    level: str
    counts: Counts
    others: Counts
    p_value: float
    """Holm-adjusted over all levels of all factors; of Fisher's exact test that the level wins as often as others."""


def weak_corners(levels: Mapping[tuple[str, str], Counts], level: float = LEVEL) -> list[Corner]:
    """The levels that win less often than the other levels of their factor, the lowest p-value first.

    `levels`: (factor, level) → counts, for every level of every factor. One-sided exact test on won and lost
    comparisons (Fisher, J. R. Stat. Soc. 98, 1935). Holm's adjustment over all levels keeps the probability that chance
    names any of them under `level`.
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
    """P of at most these wins, if the decided comparisons were assigned to the levels at random (hypergeometric).

    Small counts are summed in whole numbers, which takes less time than the import of scipy.stats.
    """
    decided = counts.wins + counts.losses
    everything, won = decided + others.wins + others.losses, counts.wins + others.wins
    if everything > MAX_EXACT:
        from scipy.stats import hypergeom

        return float(hypergeom.cdf(counts.wins, everything, won, decided))
    ways = sum(comb(won, wins) * comb(everything - won, decided - wins) for wins in range(counts.wins + 1))
    return ways / comb(everything, decided)
