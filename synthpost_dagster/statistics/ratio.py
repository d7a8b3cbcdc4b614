"""Counts of won, lost, tied and unscored pairs; ratios, rates and shares from them, with exact intervals."""

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
    """A win ratio with its interval; infinite without a loss, NaN without a decided pair."""

    value: float
    low: float
    high: float


class Share(NamedTuple):
    """A proportion with its interval; NaN, from 0 to 1, of no trials."""

    value: float
    low: float
    high: float


def count(outcomes: Iterable[str]) -> Counts:
    """Counts of pair outcomes. Raises KeyError on an unknown outcome."""
    found = Counter(outcomes)
    counts = Counts(*(found.pop(name, 0) for name in ("win", "loss", "tie", "unscored")))
    if found:
        raise KeyError(f"not an outcome: {sorted(found)}")
    return counts


def proportion_interval(successes: float, trials: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934); (0, 1) of no trials.

    Expected counts may be fractions.
    """
    from scipy.special import betaincinv

    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return low, high


def share(successes: int, trials: int, confidence: float = CONFIDENCE) -> Share:
    """A share of independent posts or pairs with its exact interval."""
    return Share(successes / trials if trials else math.nan, *proportion_interval(successes, trials, confidence))


def simultaneous_confidence(confidence: float, cells: int) -> float:
    """Confidence of each of `cells` intervals with which all hold at once with `confidence` (Šidák, JASA 62, 1967).

    Exact for independent cells, conservative for cells judged on the same prompts. Raises ValueError without a cell.
    """
    if cells < 1:
        raise ValueError(f"{cells} cells: a simultaneous interval needs at least one")
    return float(confidence ** (1 / cells))


def win_ratio(counts: Counts, confidence: float = CONFIDENCE) -> Ratio:
    """R = W/L; its interval is that of p = W/(W+L), transformed by p/(1-p)."""
    decided = counts.wins + counts.losses
    if decided == 0:
        return Ratio(math.nan, math.nan, math.nan)
    low, high = proportion_interval(counts.wins, decided, confidence)
    value = counts.wins / counts.losses if counts.losses else math.inf
    return Ratio(value, low / (1 - low) if low < 1 else math.inf, high / (1 - high) if high < 1 else math.inf)


def tie_aware_ratio(counts: Counts) -> float:
    """(W + T/2) / (L + T/2): a tie counts half for each side. Infinite or NaN without losses and ties."""
    won, lost = counts.wins + counts.ties / 2, counts.losses + counts.ties / 2
    if lost == 0:
        return math.inf if won else math.nan
    return won / lost


def win_rate(counts: Counts) -> float:
    """(W + T/2) / (W + L + T); NaN without a scored pair."""
    pairs = counts.wins + counts.losses + counts.ties
    return (counts.wins + counts.ties / 2) / pairs if pairs else math.nan


def worst_case(counts: Counts, confidence: float = CONFIDENCE) -> Ratio:
    """The win ratio with every unscored pair counted as lost."""
    return win_ratio(Counts(counts.wins, counts.losses + counts.unscored, counts.ties, 0), confidence)


def plotted_ratio(counts: Counts) -> float:
    """(W + ½) / (L + ½), finite and above 0, for plots and logarithms; NaN without a decided pair."""
    if counts.wins + counts.losses == 0:
        return math.nan
    return (counts.wins + 0.5) / (counts.losses + 0.5)
