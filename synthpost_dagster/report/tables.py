"""The report's tables: counts and figures of each cell, whole and by factor, and the criteria that posts meet.

Ratios and intervals are computed in `statistics`; what is here puts them into rows.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from synthpost_dagster.cell import Cell
from synthpost_dagster.judging.criteria import criteria_met
from synthpost_dagster.judging.verdicts import panel_games
from synthpost_dagster.schemas import OPPONENTS
from synthpost_dagster.statistics.comparison import Comparison, GameFigures, compare, game_figures
from synthpost_dagster.statistics.games import pairs_of_games
from synthpost_dagster.statistics.length_control import LengthControlled
from synthpost_dagster.statistics.order import OrderFigures, PositionBias
from synthpost_dagster.statistics.paired import mean_share
from synthpost_dagster.statistics.ratio import Share
from synthpost_dagster.statistics.replicates import Trained
from synthpost_dagster.statistics.sign_test import holm
from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.task import Brief, Task

if TYPE_CHECKING:
    import pandas as pd

_NO_GAMES = GameFigures(
    OrderFigures(Share(math.nan, math.nan, math.nan), PositionBias(math.nan, math.nan, math.nan), 0), LengthControlled()
)
"""Of the rows by factor, and of all rows in study mode."""


class Judged(NamedTuple):
    """A cell under one training seed, with its games and what the criteria say of its posts."""

    cell: Cell
    seed: int
    trained: Trained
    verdicts: pd.DataFrame
    """Schema Verdicts."""
    outcomes: pd.DataFrame
    """One row a pair and opponent, with its `outcome`."""
    met: dict[str, dict[str, bool]]
    """Prompt id → criterion id → whether the tuned post meets it."""

    def against(self, opponent: str) -> dict[str, str]:
        """Prompt id → the pair's outcome."""
        of_opponent = self.outcomes[self.outcomes["opponent"] == opponent]
        return dict(zip(of_opponent["prompt_id"], of_opponent["outcome"], strict=True))


def generator_of(*names: str) -> np.random.Generator:
    """Random numbers of one figure, which do not depend on other figures."""
    return np.random.default_rng(int(short_hash(*names), 16))


def met_by_prompt(posts: pd.DataFrame, briefs: Mapping[str, Brief], task: Task) -> dict[str, dict[str, bool]]:
    """Prompt id → criterion id → whether the post (schema Predictions, one contestant) meets it."""
    return {row.prompt_id: criteria_met(row.post, briefs[row.prompt_id], task) for row in posts.itertuples()}


def ratio_rows(
    cells: Iterable[Judged],
    factors: Sequence[str],
    groups: Mapping[Cell, int],
    are_both_orders: bool,
    training_seed: int,
) -> list[dict[str, Any]]:
    """Rows of RatioReport: each cell and opponent whole, then by factor; further seeds whole alone.

    `factors` are the columns to break results down by; `groups` numbers the cells that are replicates. Holm's
    adjustment is over the cells of `training_seed`, the profile's.
    """

    def of_cell(one: Judged) -> list[dict[str, Any]]:
        broken_down = factors if one.seed == training_seed else ()
        return _rows_of(one, broken_down, groups.get(one.cell, 0), are_both_orders)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy's draws run without the GIL, while `cells` reads the next
        rows = list(chain.from_iterable(pool.map(of_cell, cells)))
    for opponent in OPPONENTS:
        place = ("all", opponent, training_seed)
        whole = [row for row in rows if (row["factor"], row["opponent"], row["seed"]) == place]
        for row, adjusted in zip(whole, holm([row["p_value"] for row in whole]), strict=True):
            row["p_adjusted"] = adjusted
    return rows


def compliance_rows(
    contestant: str, met: Mapping[str, Mapping[str, bool]], cell: Cell | None = None
) -> list[dict[str, Any]]:
    """Rows of Compliance: how many posts of a contestant meet each criterion that can be checked on text."""
    found: dict[str, list[bool]] = {}
    for of_post in met.values():
        for criterion, is_met in of_post.items():
            found.setdefault(criterion, []).append(is_met)
    return [
        {
            "data_size": cell.data_size if cell else 0,
            "steps": cell.steps if cell else "",
            "contestant": contestant,
            "criterion": criterion,
            "posts": len(of_criterion),
            "met": sum(of_criterion),
        }
        for criterion, of_criterion in found.items()
    ]


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(table.columns)
    for row in table.itertuples(index=False):
        writer.writerow(
            [f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell for cell in row]
        )
    return out.getvalue()


def _games_of(one: Judged, opponent: str, key: tuple[str, ...]) -> GameFigures:
    games = panel_games(one.verdicts[one.verdicts["opponent"] == opponent])
    return game_figures(pairs_of_games(games), generator_of("games", *key))


def _rows_of(one: Judged, factors: Sequence[str], group: int, are_both_orders: bool) -> list[dict[str, Any]]:
    names = {
        "data_size": one.cell.data_size,
        "steps": one.cell.steps,
        "seed": one.seed,
        "optimizer_steps": one.trained.optimizer_steps,
        "rows_seen": one.trained.rows_seen,
        "replicate_group": group,
    }
    rows = []
    compliance: dict[tuple[str, ...], dict[str, float]] = {}  # of the same posts, whatever they are compared with
    for opponent in OPPONENTS:
        outcomes = one.outcomes[one.outcomes["opponent"] == opponent]
        key = (one.cell.key, str(one.seed), opponent)
        parts = [("all", "all", outcomes)]
        parts += [(name, level, part) for name in factors for level, part in outcomes.groupby(name, sort=False)]
        for factor, level, part in parts:
            is_whole = factor == "all"
            prompts = tuple(part["prompt_id"])
            if prompts not in compliance:
                compliance[prompts] = _compliance(one, prompts, key if is_whole else (*key, factor, str(level)))
            games = _games_of(one, opponent, key) if is_whole and are_both_orders and len(part) else _NO_GAMES
            figures = {**figures_of(compare(part["outcome"].to_list())), "p_adjusted": math.nan}
            what = {**names, "opponent": opponent, "factor": factor, "level": level}
            rows.append({**what, **figures, **compliance[prompts], **game_figures_of(games)})
    return rows


def _compliance(one: Judged, prompts: Sequence[str], key: tuple[str, ...]) -> dict[str, float]:
    shares = [float(np.mean(list(one.met[prompt].values()))) for prompt in prompts if one.met[prompt]]
    found = mean_share(shares, generator_of("compliance", *key))
    return {"compliance": found.value, "compliance_low": found.low, "compliance_high": found.high}


def figures_of(compared: Comparison) -> dict[str, Any]:
    """The figures of a comparison, by column."""
    return {
        "pairs": compared.counts.pairs,
        **compared.counts._asdict(),
        "win_ratio": compared.ratio.value,
        "win_ratio_low": compared.ratio.low,
        "win_ratio_high": compared.ratio.high,
        "tie_aware_ratio": compared.tie_aware,
        "win_rate": compared.win_rate,
        "worst_case_ratio": compared.worst_case.value,
        "p_value": compared.p_value,
    }


def game_figures_of(figures: GameFigures) -> dict[str, Any]:
    """The figures of both orders, by column."""
    order, controlled = figures
    return {
        "order_consistency": order.consistency.value,
        "slot_bias": order.position_bias.value,
        "length_controlled_ratio": controlled.value,
        "length_controlled_low": controlled.low,
        "length_controlled_high": controlled.high,
        "length_coefficient": controlled.length_coefficient,
        "length_coefficient_low": controlled.length_coefficient_low,
        "length_coefficient_high": controlled.length_coefficient_high,
        "length_note": controlled.reason,
    }
