"""Whether a trait of style, such as length, separates the outcomes of a comparison.

If the side with more of a trait wins nearly all decided pairs that differ in it, and more of them than either side
wins, the outcomes show the trait and not the contestants.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from synthpost_dagster.statistics.games import Array
from synthpost_dagster.text.normalize import word_count

MIN_AGREEMENT = 0.95
"""Share of the decided pairs that differ in a trait, above which the trait separates the outcomes."""
MAX_CHANCE = 1e-3
"""Largest p-value of Fisher's exact test; low, since several traits are tested."""

_EMOJI = re.compile(r"[\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]")
TRAITS: dict[str, Callable[[str], int]] = {
    "words": word_count,
    "characters": len,
    "sentence ends": lambda text: len(re.findall(r"[.!?。！？]+(?=\s|$|[^\x00-\x7f])", text)),
    "line breaks": lambda text: text.strip().count("\n"),
    "hashtags": lambda text: len(re.findall(r"(?<!\w)#\w", text)),
    "emoji": lambda text: len(_EMOJI.findall(text)),
    "exclamation marks": lambda text: text.count("!"),
    "question marks": lambda text: text.count("?"),
    "bold or list marks": lambda text: len(re.findall(r"\*\*|^\s*(?:[-*•]|\d+\.)\s", text, re.MULTILINE)),
    "capital letters": lambda text: sum(map(str.isupper, text)),
}
"""Trait → its count in a text."""


class Separation(NamedTuple):
    """A trait that separates the outcomes."""

    trait: str
    is_more_preferred: bool
    """Whether the side with more of it wins; else the side with less."""
    followed: int
    """Decided pairs in which that side won."""
    unlike: int
    """Decided pairs that differ in the trait."""


def separations(candidates: Sequence[str], baselines: Sequence[str], outcomes: Sequence[str]) -> list[Separation]:
    """The traits that separate the outcomes, the strongest first. One entry per pair; ties are not used."""
    decided = [place for place, outcome in enumerate(outcomes) if outcome in ("win", "loss")]
    won = np.array([outcomes[place] == "win" for place in decided], dtype=bool)
    found = []
    for trait, count in TRAITS.items():
        difference = np.array([count(candidates[place]) - count(baselines[place]) for place in decided], dtype=float)
        if one := separation(trait, difference, won):
            found.append(one)
    return sorted(found, key=lambda one: (one.followed / one.unlike, one.unlike), reverse=True)


def separation(trait: str, difference: Array, won: npt.NDArray[np.bool_]) -> Separation | None:
    """The separation of decided pairs by a trait; None where it does not separate them.

    `difference` is the candidate's count minus the opponent's, `won` whether the candidate won; one entry per pair.
    """
    from scipy.stats import fisher_exact

    more, won = (difference > 0)[difference != 0], won[difference != 0]
    if not len(won):
        return None
    table = [[int((more & won).sum()), int((more & ~won).sum())], [int((~more & won).sum()), int((~more & ~won).sum())]]
    agreeing, against = table[0][0] + table[1][1], table[0][1] + table[1][0]
    followed = max(agreeing, against)
    if followed <= MIN_AGREEMENT * len(won) or followed <= max(won.sum(), (~won).sum()):
        return None
    if fisher_exact(table).pvalue > MAX_CHANCE:
        return None
    return Separation(trait, agreeing > against, followed, len(won))
