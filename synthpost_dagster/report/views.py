"""Arranges the values of the report's tables: cells, the surface, factors, criteria.

Figures stay numbers; the filters of `report.rendering` print them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.cell import Cell, steps_order
from synthpost_dagster.report.texts import heading_text
from synthpost_dagster.schemas import OPPONENTS
from synthpost_dagster.statistics.ratio import Counts, Ratio, plotted_ratio

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.report.data import ReportData

MAX_HEAT = 3
"""Steps of colour to each side of a ratio of 1; a step is a factor of two."""


class Score(NamedTuple):
    """One comparison: its counts and the ratio with its interval."""

    counts: Counts
    ratio: Ratio
    row: Any = None
    """The row of RatioReport with the other figures; None for comparisons from elsewhere."""

    @property
    def is_decisive(self) -> bool:
        """Whether any pair was won or lost, so that there is a ratio."""
        return self.counts.wins + self.counts.losses > 0

    @property
    def heat(self) -> str:
        """Class of the colour, by the log of the ratio: `heat-3` to `heat3`, or `heat` where there is no ratio."""
        if not self.is_decisive:
            return "heat"
        step = round(math.log2(plotted_ratio(self.counts)))
        return f"heat{max(-MAX_HEAT, min(MAX_HEAT, step))}"


class CellView(NamedTuple):
    """A cell with its scores by opponent."""

    cell: Cell
    rows_seen: int
    optimizer_steps: int
    replicate_group: int
    """Cells with the same number, from 1, are replicates of each other; 0 for the others."""
    scores: dict[str, Score]


class Surface(NamedTuple):
    """The cells by data size (rows) and length of training (columns); a gap is a cell without a view."""

    lengths: tuple[str, ...]
    rows: tuple[tuple[int, tuple[tuple[Cell, CellView | None], ...]], ...]
    missing: frozenset[Cell]
    """Gaps that are in the sweep."""


Levels = dict[str, tuple[Score | None, ...]]
"""Level of a factor → its scores; None where a comparison was not made."""


class CriterionShares(NamedTuple):
    """A criterion, the lowest and highest number of posts that it applies to, and the share that meets it by column."""

    criterion: str
    text: str
    posts: tuple[int, int]
    shares: tuple[float | None, ...]


def cell_views(ratios: pd.DataFrame) -> list[CellView]:
    """The cells in sweep order. `ratios` follows RatioReport, of one training seed."""
    views: dict[Cell, CellView] = {}
    for row in ratios[ratios["factor"] == "all"].itertuples():
        cell = Cell(int(row.data_size), str(row.steps))
        view = CellView(cell, int(row.rows_seen), int(row.optimizer_steps), int(row.replicate_group), {})
        views.setdefault(cell, view).scores[str(row.opponent)] = _score(row)
    return sorted(views.values(), key=lambda view: view.cell.sweep_order)


def _score(row: Any) -> Score:
    counts = Counts(int(row.wins), int(row.losses), int(row.ties), int(row.unscored))
    return Score(counts, Ratio(float(row.win_ratio), float(row.win_ratio_low), float(row.win_ratio_high)), row)


def surface(cells: Sequence[CellView], missing: Sequence[tuple[str, str]]) -> Surface:
    """The cells in their places, with gaps for those that are missing (place, reason) or in no sweep."""
    views = {view.cell: view for view in cells}
    absent = frozenset(
        Cell(int(parts[0]), parts[1]) for place, _ in missing if len(parts := place.split("|")) == 2 and parts[1]
    )
    sizes = sorted({cell.data_size for cell in (*views, *absent)})
    lengths = sorted({cell.steps for cell in (*views, *absent)}, key=steps_order)
    rows = tuple(
        (size, tuple((cell, views.get(cell)) for cell in (Cell(size, steps) for steps in lengths))) for size in sizes
    )
    return Surface(tuple(lengths), rows, absent)


def replicates(cells: Sequence[CellView]) -> list[list[CellView]]:
    """The groups of replicates, by their number."""
    most = max((view.replicate_group for view in cells), default=0)
    return [[view for view in cells if view.replicate_group == number] for number in range(1, most + 1)]


def breakdowns(data: ReportData, cell: Cell) -> dict[str, Levels]:
    """One cell by each factor (its title), the levels in the task's order."""
    ratios = data.shown_ratios
    of_cell = ratios[(ratios["data_size"] == cell.data_size) & (ratios["steps"] == cell.steps)]
    return {
        heading_text(factor): _levels(of_cell[of_cell["factor"] == factor], levels)
        for factor, levels in data.levels.items()
    }


def _levels(rows: pd.DataFrame, order: Sequence[str]) -> Levels:
    scores = {(str(row.level), str(row.opponent)): _score(row) for row in rows.itertuples()}
    levels = in_order((level for level, _ in scores), order)
    return {level: tuple(scores.get((level, opponent)) for opponent in OPPONENTS) for level in levels}


def in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Each name once in the order given, then the names that the order lacks."""
    present = set(names)
    return [*(name for name in dict.fromkeys(order) if name in present), *sorted(present - set(order))]


def checked_criteria(data: ReportData) -> list[str]:
    """Ids of the criteria that were checked on text, in the task's order."""
    return in_order(map(str, data.compliance["criterion"]), list(data.criteria))


def compliance_columns(shares: pd.DataFrame) -> list[tuple[str, Cell | None]]:
    """(contestant, its cell) of each column: the baselines, then the tuned cells in sweep order."""
    present = set(map(str, shares["contestant"]))
    tuned = shares[shares["contestant"] == "tuned"]
    cells = {Cell(int(row.data_size), str(row.steps)) for row in tuned.itertuples()}
    baselines: list[tuple[str, Cell | None]] = [(name, None) for name in OPPONENTS if name in present]
    return [*baselines, *(("tuned", cell) for cell in sorted(cells, key=lambda cell: cell.sweep_order))]


def criterion_shares(data: ReportData) -> Iterator[CriterionShares]:
    """The shares of each criterion, in the order of `compliance_columns`."""
    columns = [
        (name, cell.data_size if cell else 0, cell.steps if cell else "")
        for name, cell in compliance_columns(data.compliance)
    ]
    for criterion in checked_criteria(data):
        rows = data.compliance[data.compliance["criterion"] == criterion]
        met = {
            (str(row.contestant), int(row.data_size), str(row.steps)): row.met / row.posts for row in rows.itertuples()
        }
        posts = (int(min(rows["posts"])), int(max(rows["posts"])))
        yield CriterionShares(criterion, data.criteria.get(criterion, ""), posts, tuple(map(met.get, columns)))
