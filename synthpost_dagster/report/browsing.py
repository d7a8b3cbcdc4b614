"""The posts of a cell side by side with the games that were played over them, as the page's browser shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from synthpost_dagster.judging.verdicts import game_outcome
from synthpost_dagster.report.data import Game, Match, Pair
from synthpost_dagster.report.tables import Judged
from synthpost_dagster.schemas import OPPONENTS
from synthpost_dagster.tasks.prompting import Brief

if TYPE_CHECKING:
    import pandas as pd


def sides(one: Judged, tuned: pd.DataFrame, baselines: pd.DataFrame, briefs: Mapping[str, Brief]) -> Iterator[Pair]:
    """The posts of a cell by their prompts' ids, which are hashes, so that companies and types are mixed.

    `tuned` and `baselines` follow the schema Predictions.
    """
    post = baselines.set_index(["contestant", "prompt_id"])["post"].to_dict()
    matches = _matches(one)
    for row in tuned.sort_values("prompt_id").itertuples():
        yield Pair(
            cell=one.cell,
            company=row.company,
            product=row.product,
            product_description=briefs[row.prompt_id].product.description,
            post_type=row.post_type,
            tone=row.tone,
            length=row.length,
            tuned=row.post,
            base=post["base", row.prompt_id],
            prompted=post["prompted", row.prompt_id],
            matches=tuple(matches[row.prompt_id, opponent] for opponent in OPPONENTS),
        )


def games_of(verdicts: pd.DataFrame) -> dict[str, tuple[Game, ...]]:
    """Pair id → its games, from a table of schema Games."""
    found: dict[str, list[Game]] = {}
    for row in verdicts.itertuples():
        found.setdefault(row.pair_id, []).append(_game(row))
    return {pair_id: tuple(games) for pair_id, games in found.items()}


def _matches(one: Judged) -> dict[tuple[str, str], Match]:
    games = games_of(one.verdicts)
    return {
        (row.prompt_id, row.opponent): Match(row.opponent, row.pair_id, row.outcome, games[row.pair_id])
        for row in one.outcomes.itertuples()
    }


def _game(row: Any) -> Game:
    criteria = tuple(
        (name, game_outcome(pick, row.is_candidate_first)) for name, pick in json.loads(row.criteria).items()
    )
    return Game(row.judge, bool(row.is_candidate_first), row.outcome, row.why or row.reason, criteria)
