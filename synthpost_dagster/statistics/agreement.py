"""Agreement of the judge with people, or of two judges: Cohen's κ."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from synthpost_dagster.statistics.games import Array
from synthpost_dagster.statistics.ratio import CONFIDENCE

Places = npt.NDArray[np.intp]
UNSCORED = frozenset({"unscored", ""})


class Agreement(NamedTuple):
    """κ with its interval; NaN, from -1 to 1, where only one label occurs."""

    kappa: float
    low: float
    high: float
    agreed: float
    """Share of scored items with the same label; NaN where none is scored."""
    scored: int
    unscored: int
    """Items that lack a label in either list; no other figure counts them."""


def agreement(
    first: Sequence[str], second: Sequence[str], prompts: Sequence[str] = (), confidence: float = CONFIDENCE
) -> Agreement:
    """Cohen's κ = (pₒ - pₑ) / (1 - pₑ) of two lists of labels for the same items; `unscored` or empty is no label.

    `prompts` gives the prompt of each item; by default each item has its own. The interval is asymptotic and clustered
    by prompt (Liang and Zeger, Biometrika 73, 1986); with one item a prompt it is that of Fleiss, Cohen and Everitt
    (Psychol. Bull. 72, 1969). It is computed from the table plus two prompts of mean size, spread over all cells:
    without them its coverage is 20 to 90 % where nearly all labels agree, with them at least 92 % from 40 prompts on.
    Raises ValueError on lists of different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} labels against {len(second)}: both lists must be of the same items")
    items = zip(first, second, prompts or map(str, range(len(first))), strict=True)
    both = [(one, other, prompt) for one, other, prompt in items if not {one, other} & UNSCORED]
    agreed = sum(one == other for one, other, _ in both) / len(both) if both else math.nan
    labels = sorted({label for item in both for label in item[:2]})
    unscored = len(first) - len(both)
    if len(labels) < 2:
        return Agreement(math.nan, -1.0, 1.0, agreed, len(both), unscored)
    place = np.array([labels.index(one) * len(labels) + labels.index(other) for one, other, _ in both])
    of_prompt = np.unique([prompt for *_, prompt in both], return_inverse=True)[1]
    table = np.bincount(place, minlength=len(labels) ** 2).reshape(len(labels), len(labels)).astype(np.float64)
    return Agreement(_kappa(table), *_interval(table, place, of_prompt, confidence), agreed, len(both), unscored)


def _kappa(table: Array) -> float:
    shares = table / table.sum()
    expected = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - expected) / (1 - expected)


def _interval(table: Array, place: Places, of_prompt: Places, confidence: float) -> tuple[float, float]:
    """`place` is the index of each item's cell in the flattened table, `of_prompt` that of its prompt."""
    from scipy.special import ndtri

    size = len(place) / (int(of_prompt.max()) + 1)
    table = table + 2 * size / table.size
    slopes = _slopes(table)
    pseudo = 2 / table.size * float(((size * slopes) ** 2).sum())
    variance = (float((np.bincount(of_prompt, slopes.ravel()[place]) ** 2).sum()) + pseudo) / float(table.sum()) ** 2
    kappa, half = _kappa(table), float(ndtri(1 - (1 - confidence) / 2)) * math.sqrt(variance)
    return max(kappa - half, -1.0), min(kappa + half, 1.0)


def _slopes(table: Array) -> Array:
    """The derivative of κ by the share of each cell, minus its mean over items; rows are the first list's labels."""
    shares = table / table.sum()
    first, second, kappa = shares.sum(axis=1), shares.sum(axis=0), _kappa(table)
    slopes = (np.eye(len(table)) - (1 - kappa) * (second[:, None] + first[None, :])) / (1 - float(first @ second))
    return np.asarray(slopes - (shares * slopes).sum(), dtype=np.float64)
