"""Agreement of the judge with people, or of two judges: Cohen's κ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synthpost_dagster.statistics.games import Array
from synthpost_dagster.statistics.ratio import CONFIDENCE, Share, share

UNSCORED = frozenset({"unscored", ""})


class Agreement(NamedTuple):
    """κ with its interval; NaN, from -1 to 1, where neither list says more than one thing."""

    kappa: float
    low: float
    high: float
    agreed: Share
    """Share of scored items with the same label."""
    scored: int
    unscored: int
    """Items without a label on a side; they are in no other figure."""


def agreement(first: Sequence[str], second: Sequence[str], confidence: float = CONFIDENCE) -> Agreement:
    """Cohen's κ of two lists of labels of the same items, in the same order; `unscored` or an empty label is none.

    κ = (pₒ - pₑ) / (1 - pₑ). The interval is asymptotic (Fleiss, Cohen and Everitt, Psychol. Bull. 72, 1969), around
    the κ of a table to which two items are added, spread evenly over its cells: without them it covers in 20 to 90 %
    where nearly all labels agree, and has no width where all do; with them in 92 % and more from 40 items on. Raises
    ValueError on lists of different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} labels against {len(second)}: both lists must be of the same items")
    both = [(one, other) for one, other in zip(first, second, strict=True) if not {one, other} & UNSCORED]
    agreed = share(sum(one == other for one, other in both), len(both), confidence)
    labels = sorted({label for pair in both for label in pair})
    unscored = len(first) - len(both)
    if len(labels) < 2:
        return Agreement(math.nan, -1.0, 1.0, agreed, len(both), unscored)
    table = np.zeros((len(labels), len(labels)))
    for one, other in both:
        table[labels.index(one), labels.index(other)] += 1
    return Agreement(_kappa(table), *_interval(table, confidence), agreed, len(both), unscored)


def _kappa(table: Array) -> float:
    shares = table / table.sum()
    expected = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - expected) / (1 - expected)


def _interval(table: Array, confidence: float) -> tuple[float, float]:
    from scipy.special import ndtri

    table = table + 2 / table.size
    kappa = _kappa(table)
    half = float(ndtri(1 - (1 - confidence) / 2)) * _standard_error(table, kappa)
    return max(kappa - half, -1.0), min(kappa + half, 1.0)


def _standard_error(table: Array, kappa: float) -> float:
    """Eq. 13 of the paper; rows are the first list's labels."""
    shares = table / table.sum()
    first, second, same = shares.sum(axis=1), shares.sum(axis=0), np.diag(shares)
    expected = float(first @ second)
    apart = (second[:, None] + first[None, :]) ** 2 * shares
    variance = (
        float((same * (1 - (first + second) * (1 - kappa)) ** 2).sum())
        + (1 - kappa) ** 2 * float(apart.sum() - np.trace(apart))
        - (kappa - expected * (1 - kappa)) ** 2
    )
    return math.sqrt(max(variance, 0.0) / float(table.sum())) / (1 - expected)
