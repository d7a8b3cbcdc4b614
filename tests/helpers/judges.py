"""Simulated judges whose preference is known, and the comparisons that they make."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from synthpost_dagster.statistics.games import PairOfGames

SD_WORDS = 10.0


def lengths(random: np.random.Generator, prompts: int, longer: float = 0.5) -> npt.NDArray[np.int64]:
    """Words of the tuned post minus words of the opponent's, with a mean of `longer` standard deviations."""
    return np.rint(random.normal(longer * SD_WORDS, SD_WORDS, size=prompts)).astype(np.int64)


def logistic_judge(
    random: np.random.Generator,
    words: npt.NDArray[np.int64],
    ratio: float = 1.0,
    length: float = 0.0,
    position: float = 0.0,
    correlation: float = 0.0,
) -> list[PairOfGames]:
    """Names the tuned post in a game with log odds log(ratio) + length·tanh(Δ/sd) ± position/2.

    `correlation` is between the two games of a pair: at 0 they are independent, at 1 one random draw decides both.
    """
    shared = random.standard_normal(len(words))
    games: list[npt.NDArray[np.str_]] = []
    for side in (0.5, -0.5):
        own = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * random.standard_normal(len(words))
        log_odds = math.log(ratio) + length * np.tanh(words / SD_WORDS) + position * side
        games.append(np.where(ndtr(own) < 1 / (1 + np.exp(-log_odds)), "win", "loss"))
    return as_pairs(games[0], games[1], words)


def as_pairs(first: npt.ArrayLike, second: npt.ArrayLike, words: npt.NDArray[np.int64]) -> list[PairOfGames]:
    """One pair per prompt; the opponent's posts have 100 words."""
    games = zip(np.asarray(first).tolist(), np.asarray(second).tolist(), words.tolist(), strict=True)
    return [PairOfGames(str(index), one, two, 100 + more, 100) for index, (one, two, more) in enumerate(games)]


def until_decided(pairs: list[PairOfGames], decided: int) -> list[PairOfGames]:
    """The first pairs, up to the one that completes `decided` wins and losses."""
    places = [place for place, pair in enumerate(pairs) if pair.outcome in ("win", "loss")]
    return pairs[: places[decided - 1] + 1]
