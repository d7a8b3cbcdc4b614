"""Weighted preferences: a number between that of a loss and that of a win, such as AlpacaEval's 1.0000048889."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from synthpost_dagster.pairs.labels import Meaning, Read

WEIGHTED = "weighted preference"


class Scale(NamedTuple):
    """The numbers that stand for a loss and for a win."""

    loss: float
    win: float

    def share(self, label: str) -> float | None:
        """How far a label lies from the loss to the win, from 0 to 1; None where it is no number between them."""
        value = _number(label)
        if value is None or not min(self) <= value <= max(self):
            return None
        return (value - self.loss) / (self.win - self.loss)

    def read(self, label: str) -> Read | None:
        """The outcome of the nearer end of the scale; None for an end itself, and for a label not between them."""
        share = self.share(label)
        if share is None or share in (0, 1):
            return None
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


def nearness(counts: Mapping[str, int], scale: Scale) -> tuple[str, str]:
    """The range of labels that were read as one outcome, and their mean distance from its end, as text."""
    values = {label: (float(label), scale.share(label) or 0.0) for label in counts}
    low, high = (end(value for value, _ in values.values()) for end in (min, max))
    pairs = sum(counts.values())
    distance = sum(min(share, 1 - share) * counts[label] for label, (_, share) in values.items()) / pairs
    text = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return text, f"{WEIGHTED}; on average {distance:.2g} of the scale away from its end"


def _number(text: str) -> float | None:
    try:
        value = float(text.strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None
