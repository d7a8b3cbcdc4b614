"""A comparison's two games in one record, its outcome, and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

SCORES = {"win": 1.0, "tie": 0.5, "loss": 0.0}
"""The candidate's score of a game or comparison: a tie counts half for each side."""


def pair_outcome(games: Iterable[str]) -> str:
    """A pair from its games: unscored if any is, a win or loss if all agree on it, else a tie."""
    outcomes = set(games)
    if "unscored" in outcomes:
        return "unscored"
    return outcomes.pop() if len(outcomes) == 1 else "tie"


class PairOfGames(NamedTuple):
    """A candidate's and an opponent's post, judged in both orders; outcomes are the candidate's."""

    prompt_id: str
    candidate_first: str
    """Outcome of the game with the candidate as A."""
    candidate_second: str
    """Outcome of the game with the candidate as B."""
    candidate_words: int
    opponent_words: int

    @property
    def outcome(self) -> str:
        """win, loss, tie or unscored."""
        return pair_outcome((self.candidate_first, self.candidate_second))


def pairs_of_games(verdicts: pd.DataFrame) -> list[PairOfGames]:
    """The pairs in the rows of one opponent (schema Verdicts), in their order.

    Raises ValueError where a pair does not have exactly one game in each order, as in study mode.
    """
    first, second = (verdicts[verdicts["is_candidate_first"] == order].set_index("pair_id") for order in (True, False))
    odd = set(first.index) ^ set(second.index) | set(first.index[first.index.duplicated()])
    odd |= set(second.index[second.index.duplicated()])
    if odd:
        raise ValueError(f"pair {min(odd)} does not have one game in each order; play both orders")
    other = second["outcome"].to_dict()
    return [
        PairOfGames(row.prompt_id, row.outcome, other[row.Index], int(row.candidate_words), int(row.opponent_words))
        for row in first.itertuples()
    ]


def scored(pairs: Sequence[PairOfGames]) -> list[PairOfGames]:
    """The pairs with both games scored."""
    return [pair for pair in pairs if pair.outcome != "unscored"]


def prompt_means(pairs: Sequence[PairOfGames], values: Array) -> Array:
    """The mean value of each prompt's pairs, which are not independent; `values` has one entry per pair."""
    place = np.unique([pair.prompt_id for pair in pairs], return_inverse=True)[1]
    return np.asarray(np.bincount(place, values) / np.bincount(place), dtype=np.float64)


def game_scores(pairs: Sequence[PairOfGames]) -> tuple[Array, Array]:
    """Scores of the games with the candidate first, and second; one entry per pair, all scored."""
    first = np.array([SCORES[pair.candidate_first] for pair in pairs], dtype=np.float64)
    second = np.array([SCORES[pair.candidate_second] for pair in pairs], dtype=np.float64)
    return first, second
