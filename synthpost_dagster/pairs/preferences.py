"""Weighted preferences: a number between that of a loss and that of a win, such as AlpacaEval's 1.0000048889."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from synthpost_dagster.pairs.labels import Meaning, Read

WEIGHTED = "weighted preference"


class Scale(NamedTuple):
    """The numbers that stand for a loss and for a win."""

    loss: float
    win: float

    def read(self, label: str) -> Read | None:
        """The outcome of the nearer end of the scale; None for an end itself and for any label outside."""
        value = _number(label)
        if value is None or not min(self) < value < max(self):
            return None
        share = (value - self.loss) / (self.win - self.loss)
        return Read("tie" if share == 0.5 else "win" if share > 0.5 else "loss", WEIGHTED)


def scale_of(meaning: Meaning) -> Scale | None:
    """The scale between two labels that are different numbers."""
    loss, win = _number(meaning.loss), _number(meaning.win)
    return None if loss is None or win is None or loss == win else Scale(loss, win)


def guessed_scale(labels: Iterable[str]) -> str:
    """For a message: the likely ends of the scale of these numbers; empty if there are none."""
    numbers = [_number(label) for label in labels]
    values = [number for number in numbers if number is not None]
    if len(values) < len(numbers) or not values or all(value == int(value) for value in values):
        return ""
    for low, high in ((1, 2), (0, 1), (-1, 1)):
        if all(low <= value <= high for value in values):
            return f"they look like weighted preferences: try --loss {low} --win {high}"
    return ""


def range_text(labels: Iterable[str]) -> str:
    """The range of labels that are numbers."""
    values = sorted(map(float, labels))
    return f"{values[0]:.4g}" if values[0] == values[-1] else f"{values[0]:.4g} to {values[-1]:.4g}"


def _number(text: str) -> float | None:
    try:
        value = float(text.strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None
