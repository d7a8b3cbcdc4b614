"""The headline: the best cell of a sweep, with an interval that stays true after it was chosen as the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from synthpost_dagster.statistics.ratio import CONFIDENCE, Counts, Ratio, simultaneous_confidence, win_ratio

Key = TypeVar("Key")


class Chosen(NamedTuple, Generic[Key]):
    """The best cell and its win ratio, the interval being simultaneous over `cells` cells."""

    key: Key
    ratio: Ratio
    cells: int


def headline_ratio(counts: Counts, cells: int, confidence: float = CONFIDENCE) -> Ratio:
    """The win ratio of a cell that was chosen among `cells` for its figures: the exact interval at Šidák's confidence.

    All intervals of the sweep cover at once with `confidence`, so the chosen one does, by whatever rule it was chosen.
    """
    return win_ratio(counts, simultaneous_confidence(confidence, cells))


def best_of(cells: Mapping[Key, Counts], confidence: float = CONFIDENCE) -> Chosen[Key] | None:
    """The cell whose win ratio has the highest lower bound, the first of equals; None where no pair was decided.

    Put the cells that are cheaper to train first. Only cells with a decided pair could have been chosen and count.
    """
    decided = {key: counts for key, counts in cells.items() if counts.wins + counts.losses}
    if not decided:
        return None
    best = max(decided, key=lambda key: win_ratio(decided[key], confidence).low)
    return Chosen(best, headline_ratio(decided[best], len(decided), confidence), len(decided))
