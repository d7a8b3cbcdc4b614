"""The headline: the best cell of a sweep, with an interval that accounts for the choice."""

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from synthpost_dagster.statistics.ratio import (
    CONFIDENCE,
    Counts,
    Ratio,
    simultaneous_confidence,
    win_ratio,
    worst_case,
)

MAX_UNSCORED = 0.20
"""Share of a cell's pairs. With more unscored pairs the cell is not chosen: the scored ones may not be typical."""
Key = TypeVar("Key")


class Chosen(NamedTuple, Generic[Key]):
    """The best cell and its win ratio, with intervals that are simultaneous over `cells` cells."""

    key: Key
    ratio: Ratio
    worst_case: Ratio
    """With every unscored pair counted as lost."""
    cells: int


def is_too_unscored(counts: Counts) -> bool:
    """Whether too many pairs are unscored to choose or compare the cell."""
    return counts.unscored > MAX_UNSCORED * counts.pairs


def is_placeable(counts: Counts) -> bool:
    """Whether a pair was won or lost and enough were scored, so that the cell can be chosen and compared."""
    return counts.wins + counts.losses > 0 and not is_too_unscored(counts)


def headline_ratio(counts: Counts, cells: int, confidence: float = CONFIDENCE) -> Ratio:
    """The win ratio of a cell that was chosen among `cells`, with the exact interval at Šidák's confidence.

    All intervals of the sweep are simultaneous at `confidence`, so the interval of the chosen cell is valid under any
    rule of choice.
    """
    return win_ratio(counts, simultaneous_confidence(confidence, cells))


def best_of(cells: Mapping[Key, Counts], confidence: float = CONFIDENCE) -> Chosen[Key] | None:
    """The cell whose win ratio has the highest lower bound, the first of equals; None where none can be chosen.

    Give cheaper cells first. Cells that cannot be chosen do not count for the simultaneous confidence.
    """
    placeable = {key: counts for key, counts in cells.items() if is_placeable(counts)}
    if not placeable:
        return None
    best = max(placeable, key=lambda key: win_ratio(placeable[key], confidence).low)
    worst = worst_case(placeable[best], simultaneous_confidence(confidence, len(placeable)))
    return Chosen(best, headline_ratio(placeable[best], len(placeable), confidence), worst, len(placeable))
