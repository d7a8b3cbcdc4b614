"""Counts of pairs, the win ratio with its exact interval, and the tie-aware ratio."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

CONFIDENCE = 0.95


class Counts(NamedTuple):
    """Pairs won, lost, tied and unscored; they sum to the number of pairs."""

    wins: int
    losses: int
    ties: int
    unscored: int

    @property
    def pairs(self) -> int:
        """Their sum."""
        return sum(self)


class Ratio(NamedTuple):
    """A win ratio with its interval; infinite where nothing was lost, NaN where no pair was decided."""

    value: float
    low: float
    high: float


def count(outcomes: Iterable[str]) -> Counts:
    """Counts of pair outcomes. Raises KeyError on a word that is none."""
    found = Counter(outcomes)
    counts = Counts(*(found.pop(name, 0) for name in ("win", "loss", "tie", "unscored")))
    if found:
        raise KeyError(f"not an outcome: {sorted(found)}")
    return counts


def proportion_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934). (0, 1) where trials is 0."""
    from scipy.special import betaincinv

    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return low, high


def win_ratio(counts: Counts, confidence: float = CONFIDENCE) -> Ratio:
    """R = W/L; its interval is that of p = W/(W+L), carried over by p/(1-p)."""
    decided = counts.wins + counts.losses
    if decided == 0:
        return Ratio(math.nan, math.nan, math.nan)
    low, high = proportion_interval(counts.wins, decided, confidence)
    value = counts.wins / counts.losses if counts.losses else math.inf
    return Ratio(value, low / (1 - low) if low < 1 else math.inf, high / (1 - high) if high < 1 else math.inf)


def tie_aware_ratio(counts: Counts) -> float:
    """(W + T/2) / (L + T/2): a tie counts half for each side. Infinite or NaN where nothing speaks for the baseline."""
    won, lost = counts.wins + counts.ties / 2, counts.losses + counts.ties / 2
    if lost == 0:
        return math.inf if won else math.nan
    return won / lost
