"""What the report concludes from the judged cells: the choice, the advice, seeds, weak corners, the trust card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from synthpost_dagster.cell import Cell
from synthpost_dagster.judging.verdicts import pairs, panel_games
from synthpost_dagster.report.data import Choice, Cost, JudgeFigures, LengthEffect, Seeds, Worth
from synthpost_dagster.report.tables import Judged, generator_of
from synthpost_dagster.statistics.advice import SurfaceCell, worth_of_steps
from synthpost_dagster.statistics.agreement import Agreement, agreement
from synthpost_dagster.statistics.choice import best_of, headline_ratio, is_placeable
from synthpost_dagster.statistics.corners import Corner, weak_corners
from synthpost_dagster.statistics.games import pairs_of_games
from synthpost_dagster.statistics.order import order_figures
from synthpost_dagster.statistics.paired import compare_cells
from synthpost_dagster.statistics.ratio import count
from synthpost_dagster.statistics.seeds import seed_spread

if TYPE_CHECKING:
    import pandas as pd

BASE, PROMPTED = "base", "prompted"


def choose(cells: Sequence[Judged]) -> Choice | None:
    """The best cell against `base`, of equals the one that takes least to make; None where none can be chosen."""
    cheap_first = sorted(cells, key=lambda one: (one.trained.optimizer_steps, one.cell.sweep_order))
    outcomes = {one.cell: one.against(BASE) for one in cheap_first}
    counts = {cell: count(found.values()) for cell, found in outcomes.items()}
    chosen = best_of(counts)
    if chosen is None:
        return None
    placed = {cell: found for cell, found in outcomes.items() if is_placeable(counts[cell])}
    others = compare_cells(chosen.key, placed, generator_of("alike", chosen.key.key))
    better, same = (tuple(sorted(group, key=lambda cell: cell.sweep_order)) for group in (others.better, others.alike))
    prompted = next(one for one in cells if one.cell == chosen.key).against(PROMPTED)
    return Choice(*chosen, better, same, headline_ratio(count(prompted.values()), chosen.cells))


def worth(cells: Sequence[Judged], costs: Mapping[Cell, Cost]) -> tuple[Worth, ...]:
    """What each step of the surface gains against `base`, and costs more."""
    surface = {(one.trained.data_size, one.trained.optimizer_steps): one.cell for one in reversed(cells)}
    steps = worth_of_steps([SurfaceCell(one.trained, one.against(BASE)) for one in cells], generator_of("worth"))
    found = []
    for step in steps:
        smaller, larger = (
            surface[cell.trained.data_size, cell.trained.optimizer_steps] for cell in (step.smaller, step.larger)
        )
        more = Cost(*(after - before for before, after in zip(costs[smaller], costs[larger], strict=True)))
        found.append(Worth(step.axis, smaller, larger, step.difference, step.finding, more))
    return tuple(found)


def seeds_of(cells: Sequence[Judged]) -> tuple[Seeds, ...]:
    """The spread between the training seeds of each cell that was trained under several."""
    by_cell: dict[Cell, list[Judged]] = {}
    for one in cells:
        by_cell.setdefault(one.cell, []).append(one)
    return tuple(
        Seeds(
            cell,
            tuple(one.seed for one in trained),
            seed_spread([count(one.against(BASE).values()) for one in trained]),
        )
        for cell, trained in by_cell.items()
        if len(trained) > 1
    )


def decisive_share(one: Judged) -> float:
    """The share of a cell's pairs against `base` that were won or lost."""
    counts = count(one.against(BASE).values())
    return (counts.wins + counts.losses) / counts.pairs


def corners(one: Judged, factors: Sequence[str]) -> tuple[Corner, ...]:
    """The weak corners of a cell against `base`, among the levels of the factors."""
    outcomes = one.outcomes[one.outcomes["opponent"] == BASE]
    levels = {
        (factor, str(level)): count(part["outcome"])
        for factor in factors
        for level, part in outcomes.groupby(factor, sort=False)
    }
    return tuple(weak_corners(levels))


def judge_figures(
    verdicts: pd.DataFrame, families: Mapping[str, str], are_both_orders: bool
) -> tuple[JudgeFigures, ...]:
    """How each judge played the games of a table (schema Games), and the panel where there are several.

    `families` says of which family each judge is.
    """
    members = [
        _figures_of(str(name), families[str(name)], games, are_both_orders)
        for name, games in verdicts.groupby("judge", sort=False)
    ]
    if len(members) > 1:
        members.append(_figures_of("panel", "", panel_games(verdicts), are_both_orders))
    return tuple(members)


def _figures_of(name: str, family: str, games: pd.DataFrame, are_both_orders: bool) -> JudgeFigures:
    order = order_figures(pairs_of_games(games), generator_of("order", name)) if are_both_orders else None
    return JudgeFigures(name, family, len(games), int((games["outcome"] == "unscored").sum()), order)


def between_judges(verdicts: pd.DataFrame) -> tuple[tuple[str, str, Agreement], ...]:
    """How the pair outcomes of every two members of a panel agree."""
    if verdicts["judge"].nunique() < 2:
        return ()
    said = {str(name): _by_pair(games) for name, games in verdicts.groupby("judge", sort=False)}
    of_prompt = _prompts(verdicts)
    return tuple((one, other, _agreement(said[one], said[other], of_prompt)) for one, other in combinations(said, 2))


def with_people(verdicts: pd.DataFrame, labels: Mapping[str, str]) -> tuple[Agreement | None, int]:
    """How the pairs' outcomes agree with people's, and how many labels are of pairs that are not there.

    `labels` is empty where nobody was asked, and then there is no agreement.
    """
    if not labels:
        return None, 0
    outcomes = _by_pair(verdicts)
    known = {pair_id: outcome for pair_id, outcome in labels.items() if pair_id in outcomes}
    judged = {pair_id: outcomes[pair_id] for pair_id in known}
    return _agreement(judged, known, _prompts(verdicts)), len(labels) - len(known)


def length_effect(ratios: pd.DataFrame, cell: Cell | None) -> LengthEffect:
    """Of a cell against `base`, from the rows of RatioReport of one training seed."""
    if cell is None:
        return LengthEffect()
    is_cell = (ratios["data_size"] == cell.data_size) & (ratios["steps"] == cell.steps) & (ratios["factor"] == "all")
    columns = ["length_coefficient", "length_coefficient_low", "length_coefficient_high"]
    return LengthEffect(*map(float, ratios.loc[is_cell & (ratios["opponent"] == BASE), columns].iloc[0]))


def _by_pair(games: pd.DataFrame) -> dict[str, str]:
    found = pairs(games)
    return dict(zip(found["pair_id"], found["outcome"], strict=True))


def _prompts(verdicts: pd.DataFrame) -> dict[str, str]:
    """Pair id → the id of its prompt."""
    return dict(zip(verdicts["pair_id"], verdicts["prompt_id"], strict=True))


def _agreement(first: Mapping[str, str], second: Mapping[str, str], of_prompt: Mapping[str, str]) -> Agreement:
    names = [pair_id for pair_id in first if pair_id in second]
    one, other, prompts = ([said[name] for name in names] for said in (first, second, of_prompt))
    return agreement(one, other, prompts)
