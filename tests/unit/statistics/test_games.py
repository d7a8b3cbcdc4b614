"""Verdicts become pairs of games, each with one game in each order."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.statistics.games import PairOfGames, game_scores, pairs_of_games, scored


def verdicts(*games: tuple[str, bool, str]) -> pd.DataFrame:
    """Rows (pair, tuned first, outcome); pair p is of prompt P, 30 words against 20."""
    return pd.DataFrame(
        [
            {
                "pair_id": pair,
                "prompt_id": pair.upper(),
                "is_candidate_first": first,
                "outcome": outcome,
                "candidate_words": 30,
                "opponent_words": 20,
            }
            for pair, first, outcome in games
        ]
    )


def test_games_of_a_pair_are_joined_in_any_order() -> None:
    table = verdicts(("p", False, "loss"), ("q", True, "tie"), ("p", True, "win"), ("q", False, "unscored"))
    assert pairs_of_games(table) == [
        PairOfGames("Q", candidate_first="tie", candidate_second="unscored", candidate_words=30, opponent_words=20),
        PairOfGames("P", candidate_first="win", candidate_second="loss", candidate_words=30, opponent_words=20),
    ]


@pytest.mark.parametrize(
    "games",
    [
        [("p", False, "win"), ("p", True, "win"), ("q", False, "win")],
        [("p", False, "win"), ("p", True, "win"), ("q", True, "win"), ("q", True, "win")],
        [("q", False, "win"), ("q", True, "win"), ("q", True, "win")],
        [("q", False, "win"), ("q", False, "win"), ("q", True, "win")],
    ],
)
def test_pair_without_one_game_in_each_order_is_named(games: list[tuple[str, bool, str]]) -> None:
    with pytest.raises(ValueError, match="pair q does not have one game in each order"):
        pairs_of_games(verdicts(*games))


def test_no_verdicts_are_no_pairs() -> None:
    assert pairs_of_games(verdicts(("p", True, "win")).head(0)) == []


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("win", "win", "win"),
        ("loss", "loss", "loss"),
        ("win", "loss", "tie"),
        ("tie", "win", "tie"),
        ("tie", "tie", "tie"),
        ("unscored", "win", "unscored"),
        ("tie", "unscored", "unscored"),
    ],
)
def test_pairs_outcome_is_that_of_the_verdicts(first: str, second: str, outcome: str) -> None:
    assert PairOfGames("p", first, second, 1, 1).outcome == outcome


def test_scores_are_one_half_and_zero() -> None:
    pairs = [PairOfGames("p", *games, 1, 1) for games in (("win", "loss"), ("unscored", "win"), ("tie", "win"))]
    first, second = game_scores(scored(pairs))
    assert first.tolist() == [1, 0.5]
    assert second.tolist() == [0, 1]
