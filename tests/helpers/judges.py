"""Judges whose preference is known, and the comparisons that they make."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from synthpost_dagster.statistics.games import PairOfGames

SD_WORDS = 10.0


def lengths(random: np.random.Generator, prompts: int, longer: float = 0.5) -> npt.NDArray[np.int64]:
    """Words tuned less words of the opponent, `longer` standard deviations in the mean."""
    return np.rint(random.normal(longer * SD_WORDS, SD_WORDS, size=prompts)).astype(np.int64)


def logistic_judge(
    random: np.random.Generator,
    words: npt.NDArray[np.int64],
    ratio: float = 1.0,
    length: float = 0.0,
    slot: float = 0.0,
    same_mind: float = 0.0,
) -> list[PairOfGames]:
    """Names the tuned post in a game with log odds log(ratio) + length·tanh(Δ/sd) ± slot/2.

    `same_mind` correlates the judge's mood in the two games of a pair: at 0 they are independent, at 1 one throw.
    """
    mood = random.standard_normal(len(words))
    games = []
    for side in (0.5, -0.5):
        own = math.sqrt(same_mind) * mood + math.sqrt(1 - same_mind) * random.standard_normal(len(words))
        log_odds = math.log(ratio) + length * np.tanh(words / SD_WORDS) + slot * side
        games.append(np.where(ndtr(own) < 1 / (1 + np.exp(-log_odds)), "win", "loss"))
    return as_pairs(*games, words)


def as_pairs(first: npt.ArrayLike, second: npt.ArrayLike, words: npt.NDArray[np.int64]) -> list[PairOfGames]:
    """One pair a prompt, the opponent's post of 100 words."""
    games = zip(np.asarray(first).tolist(), np.asarray(second).tolist(), words.tolist(), strict=True)
    return [PairOfGames(str(index), one, two, 100 + more, 100) for index, (one, two, more) in enumerate(games)]


def until_decided(pairs: list[PairOfGames], decided: int) -> list[PairOfGames]:
    """The first pairs, up to the one that is the last of `decided` wins and losses."""
    places = [place for place, pair in enumerate(pairs) if pair.outcome in ("win", "loss")]
    return pairs[: places[decided - 1] + 1]
