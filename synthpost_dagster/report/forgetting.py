"""What the page says of forgetting: the perplexity of general text, of each cell beside the untuned model.

How it is measured is in `training.forgetting`; what is drawn is in `report.forgetting_figures`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.report.texts import counted
from synthpost_dagster.statistics.perplexity import Perplexities, whole, worst

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.cell import Cell

ARTIFICIAL = (
    "The embedded model has never seen general text, only an artificial grammar of sales posts. What follows shows "
    "that the machinery works, and nothing about forgetting: there was nothing to forget."
)
NOT_MEASURED = (
    "Not measured: these adapters were made by an earlier version, or measured on other general text. Delete them and "
    "run again to have it measured."
)
ABOVE = "above the limit"
UNDEFINED = "undefined"


class Forgotten(NamedTuple):
    """General text under the adapter of a cell and seed (schema Forgetting); None where it was not measured."""

    cell: Cell
    seed: int
    kinds: pd.DataFrame | None

    @property
    def whole(self) -> Perplexities:
        """Of all kinds; undefined where it was not measured."""
        return Perplexities(math.nan, math.nan) if self.kinds is None else whole(self.kinds)


@dataclass(frozen=True)
class ForgettingData:
    """All cells and seeds of the report, and what limits their reading."""

    runs: tuple[Forgotten, ...]
    limit: float
    """quality.max_perplexity_ratio of the task."""
    training_seed: int
    """The profile's, which the page shows; further ones stand beside it."""
    is_artificial: bool
    """Whether the student is the embedded model, which has never seen general text."""

    @property
    def measured(self) -> tuple[Forgotten, ...]:
        """In sweep order, the profile's seed first."""
        found = [run for run in self.runs if run.kinds is not None]
        return tuple(sorted(found, key=lambda run: (run.cell.sweep_order, run.seed != self.training_seed, run.seed)))


class ForgettingLine(NamedTuple):
    """One cell's line; `spread` is empty where one seed was measured."""

    cell: Cell
    base: str
    tuned: str
    ratio: str
    spread: str
    worst: str
    warning: str
    """What is wrong under one of its seeds: above the limit, else undefined, else empty."""


class KindLine(NamedTuple):
    """One kind of text: its passages, and the ratio in each cell, in the order of the lines."""

    kind: str
    passages: int
    ratios: tuple[str, ...]


class ForgettingView(NamedTuple):
    """The section; without lines nothing was measured."""

    caution: str
    summary: str
    lines: tuple[ForgettingLine, ...]
    kinds: tuple[KindLine, ...]
    text: str
    """What the general text is."""
    has_seeds: bool


def forgetting_view(data: ForgettingData) -> ForgettingView:
    """The section's words and figures."""
    caution = ARTIFICIAL if data.is_artificial else ""
    cells = sorted({run.cell for run in data.runs}, key=lambda cell: cell.sweep_order)
    if not data.measured:
        return ForgettingView(caution, NOT_MEASURED if cells else "No cell has been trained yet.", (), (), "", False)
    lines = tuple(_line(cell, [run for run in data.measured if run.cell == cell], data) for cell in cells)
    return ForgettingView(
        caution,
        _summary(lines, data.limit),
        lines,
        _kind_lines(cells, data),
        _text(data.measured[0]),
        any(line.spread for line in lines),
    )


def times_text(ratio: float) -> str:
    """A ratio of perplexities: two decimals below 10, `undefined` where it is NaN."""
    if math.isnan(ratio):
        return UNDEFINED
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def _perplexity_text(value: float) -> str:
    if math.isnan(value):
        return UNDEFINED
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _line(cell: Cell, runs: list[Forgotten], data: ForgettingData) -> ForgettingLine:
    """`runs` are the cell's measured ones, the profile's seed first."""
    if not runs or runs[0].seed != data.training_seed:
        return ForgettingLine(cell, "", "", "not measured", _spread(runs), "", _warning(runs, data.limit))
    shown = runs[0].whole
    return ForgettingLine(
        cell,
        _perplexity_text(shown.base),
        _perplexity_text(shown.tuned),
        times_text(shown.ratio),
        _spread(runs),
        _worst_text(runs[0]),
        _warning(runs, data.limit),
    )


def _worst_text(run: Forgotten) -> str:
    found = worst(run.kinds) if run.kinds is not None else None
    return f"{found[0]} {times_text(found[1].ratio)}" if found else UNDEFINED


def _spread(runs: list[Forgotten]) -> str:
    """The lowest and the highest ratio of a cell's seeds."""
    ratios = sorted(run.whole.ratio for run in runs if not math.isnan(run.whole.ratio))
    if len(runs) < 2 or not ratios:
        return ""
    undefined = f", {UNDEFINED} under {len(runs) - len(ratios)}" if len(ratios) < len(runs) else ""
    return f"{times_text(ratios[0])} to {times_text(ratios[-1])} ({len(runs)} seeds{undefined})"


def _warning(runs: list[Forgotten], limit: float) -> str:
    ratios = [run.whole.ratio for run in runs]
    if any(ratio > limit for ratio in ratios):
        return ABOVE
    return UNDEFINED if any(map(math.isnan, ratios)) else ""


def _summary(lines: tuple[ForgettingLine, ...], limit: float) -> str:
    above, name = (
        sum(line.warning == ABOVE for line in lines),
        f"the task's limit of {limit:g} (quality.max_perplexity_ratio)",
    )
    unmeasured = sum(line.ratio == "not measured" for line in lines)
    undefined = sum(line.warning == UNDEFINED for line in lines)
    left_out = f" {counted(unmeasured, 'cell')} of {len(lines)} not measured." if unmeasured else ""
    left_out += (
        f" {counted(undefined, 'cell')} of {len(lines)} undefined: the model gave no number." if undefined else ""
    )
    if not above:
        return f"No cell is above {name}.{left_out}"
    return f"{counted(above, 'cell')} of {len(lines)} {'is' if above == 1 else 'are'} above {name}.{left_out}"


def _kind_lines(cells: list[Cell], data: ForgettingData) -> tuple[KindLine, ...]:
    """Under the profile's seed; all cells were measured on the same text."""
    shown = {
        run.cell: run.kinds.set_index("kind")
        for run in data.measured
        if run.kinds is not None and run.seed == data.training_seed
    }
    if not shown:
        return ()
    first = next(iter(shown.values()))
    return tuple(
        KindLine(
            str(kind),
            int(first.loc[kind, "passages"]),
            tuple(_kind_ratio(shown[cell].loc[kind]) if cell in shown else "not measured" for cell in cells),
        )
        for kind in first.index
    )


def _kind_ratio(row: pd.Series) -> str:
    return times_text(Perplexities(float(row["base_perplexity"]), float(row["tuned_perplexity"])).ratio)


def _text(run: Forgotten) -> str:
    kinds = run.kinds
    if kinds is None:
        return ""
    return (
        f"{int(kinds['passages'].sum())} short passages of {len(kinds)} kinds, {int(kinds['tokens'].sum()):,} tokens "
        "of this student, written for the project; none reads like a sales post"
    )
