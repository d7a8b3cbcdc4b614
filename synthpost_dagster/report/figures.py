"""Draws the report's figures from its tables, as SVG text or PNG bytes.

The sentences and tables beside the figures are in the templates. Ratios and intervals come from `statistics`.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from synthpost_dagster.cell import Cell, steps_label, steps_order
from synthpost_dagster.report.drawing import COLORS, FAINT, INK, MARKERS, empty_figure, note, png, svg
from synthpost_dagster.report.texts import CONTESTANT_NAMES, NO_DECISIVE_PAIR
from synthpost_dagster.schemas import OPPONENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synthpost_dagster.report.data import Training

Direction = Literal["x", "y"]
_MAX_LOSS_POINTS = 200
_ARROW_ROOM = 8.0  # points between the labels and an arrow at the edge of the axis


def all_cells(ratios: pd.DataFrame) -> str:
    """Win ratio of every cell in sweep order, with intervals, as SVG. `ratios` follows RatioReport, of one seed."""
    return svg("all-cells", lambda: _draw_all_cells(_marks(ratios)))


def cells_png(ratios: pd.DataFrame) -> bytes:
    """The picture of `all_cells` as PNG, for Dagster."""
    return png("cells", lambda: _draw_all_cells(_marks(ratios)))


def ratio_by_size(ratios: pd.DataFrame) -> str:
    """Win ratio against the rows of the subset, one line a length of training, as SVG."""
    return svg("ratio-by-size", lambda: _draw_by_size(_marks(ratios)))


def ratio_by_length(ratios: pd.DataFrame) -> str:
    """Win ratio against the optimizer steps, one line a data size, as SVG."""
    return svg("ratio-by-length", lambda: _draw_by_length(_marks(ratios)))


def loss_curves(training: Sequence[Training]) -> str:
    """Training loss by optimizer step, one panel a length of training, one line a run, as SVG.

    Curves of more than 200 steps are drawn as the means of at most 200 equal blocks.
    """
    return svg("loss-curves", lambda: _draw_loss_curves(training))


def loss_png(curve: pd.DataFrame) -> bytes:
    """The loss (schema LossCurve) by optimizer step as PNG, for Dagster."""

    def draw() -> Figure:
        figure = empty_figure(2.4)
        axes = figure.subplots()
        axes.plot(curve["step"], curve["loss"], color=COLORS[0])
        axes.set(xlabel="optimizer step", ylabel="loss of the supervised tokens", ylim=(0, None))
        return figure

    return png("loss", draw)


def compliance(shares: pd.DataFrame, criteria: Sequence[str], tuned: Cell | None) -> str:
    """Share of posts that meet each criterion: both baselines and one tuned cell, as SVG.

    `shares` follows the schema Compliance; `criteria` are the ids to draw, top to bottom.
    """
    return svg("compliance", lambda: _draw_compliance(shares, criteria, tuned))


class _Mark(NamedTuple):
    """A drawn ratio: NaN where no pair is decisive; an interval may begin at 0 and end at infinity."""

    cell: Cell
    optimizer_steps: int
    opponent: str
    ratio: float
    low: float
    high: float


class _Look(NamedTuple):
    """Colour and marker of a series; series against the second opponent are hollow and dashed."""

    color: str
    marker: str
    is_hollow: bool = False

    @property
    def of_marker(self) -> dict[str, Any]:
        face = "white" if self.is_hollow else self.color
        return {"color": self.color, "marker": self.marker, "markerfacecolor": face, "markersize": 5}


_CONTESTANTS = {
    "tuned": _Look("#009e73", "s"),
    "base": _Look("#0b5fa5", "o"),
    "prompted": _Look("#d98200", "D", is_hollow=True),
}


def _series_look(index: int, *, is_hollow: bool = False) -> _Look:
    return _Look(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], is_hollow)


def _marks(ratios: pd.DataFrame) -> list[_Mark]:
    return [
        _Mark(
            Cell(int(row.data_size), str(row.steps)),
            int(row.optimizer_steps),
            str(row.opponent),
            (row.wins + 0.5) / (row.losses + 0.5) if row.wins + row.losses else math.nan,
            float(row.win_ratio_low),
            float(row.win_ratio_high),
        )
        for row in ratios[ratios["factor"] == "all"].itertuples()
    ]


def _draw_all_cells(marks: list[_Mark]) -> Figure:
    if not marks:
        return note("No cell has been judged yet.")
    cells = sorted({mark.cell for mark in marks}, key=lambda cell: cell.sweep_order)
    figure = empty_figure(1.2 + 0.34 * len(cells))
    axes = figure.subplots()
    limits = _limits(marks)
    _ratio_axis(axes, limits, "x")
    for mark in marks:
        offset = -0.16 if mark.opponent == "base" else 0.16
        _draw_mark(axes, mark, cells.index(mark.cell) + offset, limits, _CONTESTANTS[mark.opponent], "x")
    axes.set_yticks(range(len(cells)), [cell.label for cell in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=_ARROW_ROOM)
    axes.set_xlabel("win ratio, tuned against untuned (log scale)")
    for opponent in OPPONENTS:
        if any(mark.opponent == opponent for mark in marks):
            label = f"against {CONTESTANT_NAMES[opponent]}"
            axes.plot([], [], **_CONTESTANTS[opponent].of_marker, linewidth=1.2, label=label)
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def _draw_by_size(marks: list[_Mark]) -> Figure:
    sizes = sorted({mark.cell.data_size for mark in marks})
    lengths = sorted({mark.cell.steps for mark in marks}, key=steps_order)
    series = {steps: steps_label(steps) for steps in lengths}
    figure = _draw_lines(marks, series, lambda mark: mark.cell.steps, lambda mark: mark.cell.data_size)
    _name_positions(figure, [(size, f"{size:,}") for size in sizes], "rows of training data (log scale)")
    return figure


def _draw_by_length(marks: list[_Mark]) -> Figure:
    series = {size: f"{size:,} rows" for size in sorted({mark.cell.data_size for mark in marks})}
    figure = _draw_lines(marks, series, lambda mark: mark.cell.data_size, lambda mark: mark.optimizer_steps)
    ticks = []
    for steps in sorted({mark.optimizer_steps for mark in marks}):
        lengths = {mark.cell.steps for mark in marks if mark.optimizer_steps == steps}
        epochs = [steps_label(length) for length in sorted(lengths) if "-" in length]
        ticks.append((steps, "\n".join([f"{steps:,}", *epochs])))
    _name_positions(figure, ticks, "optimizer steps (log scale)")
    return figure


def _draw_lines(
    marks: list[_Mark],
    series: Mapping[Any, str],
    series_of: Callable[[_Mark], Hashable],
    place_of: Callable[[_Mark], int],
) -> Figure:
    """One panel an opponent, stacked, on the same axes; one line a series (its value → its name)."""
    if not marks:
        return note("No cell has been judged yet.")
    opponents = [opponent for opponent in OPPONENTS if any(mark.opponent == opponent for mark in marks)]
    figure = empty_figure(0.9 + 2.5 * len(opponents))
    panels = figure.subplots(len(opponents), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    limits, places = _limits(marks), [place_of(mark) for mark in marks]
    span = max(places) / min(places)
    room, dodge = span**0.06 * 1.05, max(span**0.012, 1.01)
    for panel, opponent in zip(panels, opponents, strict=True):
        _ratio_axis(panel, limits, "y")
        panel.set(title=f"against {CONTESTANT_NAMES[opponent]}", ylabel="win ratio (log scale)", xscale="log")
        panel.set_xlim(min(places) / room, max(places) * room)
        for index, (value, name) in enumerate(series.items()):
            # Points are moved aside, so that intervals at one place do not hide each other.
            aside = dodge ** (index - (len(series) - 1) / 2)
            line = [mark for mark in marks if (mark.opponent, series_of(mark)) == (opponent, value)]
            points = sorted(((place_of(mark) * aside, mark) for mark in line), key=lambda point: point[0])
            look = _series_look(index, is_hollow=opponent != "base")
            x, y = [place for place, _ in points], [mark.ratio for _, mark in points]
            dashes = "--" if look.is_hollow else "-"
            panel.plot(x, y, linestyle=dashes, linewidth=1.2, label=name, **look.of_marker)
            for place, mark in points:
                _draw_mark(panel, mark, place, limits, look, "y")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _draw_mark(
    axes: Axes, mark: _Mark, place: float, limits: tuple[float, float], look: _Look, axis: Direction
) -> None:
    """A ratio's point and interval along the ratio axis (x or y) at `place`; arrows where the interval is open."""

    def plot(across: list[float], along: list[float], **style: Any) -> None:
        axes.plot(*((along, across) if axis == "x" else (across, along)), **style)

    if math.isnan(mark.ratio):
        _draw_gap(axes, place, axis)
        return
    low, high = max(mark.low, limits[0]), min(mark.high, limits[1])
    plot([place, place], [low, high], color=look.color, linewidth=1.2, alpha=0.75)
    arrows = "<>" if axis == "x" else "v^"
    for end, is_open, arrow in ((low, mark.low < limits[0], arrows[0]), (high, mark.high > limits[1], arrows[1])):
        if is_open:
            plot([place], [end], color=look.color, marker=arrow, markersize=5, clip_on=False)
    plot([place], [mark.ratio], **look.of_marker, linestyle="none", zorder=3)


def _draw_gap(axes: Axes, place: float, axis: Direction) -> None:
    """Words in place of a ratio: right of 1, or at the top of a panel of lines."""
    if axis == "x":
        axes.text(1.05, place, NO_DECISIVE_PAIR, fontsize=7, ha="left", va="center")
    else:
        edge = axes.get_xaxis_transform()
        axes.text(place, 0.98, NO_DECISIVE_PAIR, fontsize=7, rotation=90, ha="center", va="top", transform=edge)


def _limits(marks: list[_Mark]) -> tuple[float, float]:
    """Ends of the ratio axis: every finite point and interval, and 1, with room for the arrows of open intervals."""
    ends = [value for mark in marks for value in (mark.ratio, mark.low, mark.high) if 0 < value < math.inf]
    return min([*ends, 0.8]) / 1.4, max([*ends, 1.25]) * 1.4


def _ratio_axis(axes: Axes, limits: tuple[float, float], axis: Direction) -> None:
    axes.set(**{f"{axis}scale": "log", f"{axis}lim": limits})
    decades = math.log10(limits[1] / limits[0])
    _log_ticks(axes, axis, (1.0, 2.0, 5.0) if decades < 3 else (1.0,))
    (axes.axvline if axis == "x" else axes.axhline)(1.0, color=INK, linewidth=1.0)
    axes.set_axisbelow(True)


def _log_ticks(axes: Axes, axis: Direction, factors: Sequence[float]) -> None:
    """Ticks at these factors times powers of ten, with a grid."""
    from matplotlib.ticker import LogLocator

    ticks = axes.xaxis if axis == "x" else axes.yaxis
    ticks.set_major_locator(LogLocator(subs=factors, numticks=20))
    ticks.set_major_formatter("{x:,g}")
    ticks.set_ticks([], minor=True)
    axes.grid(color=FAINT, linewidth=0.6, axis=axis)


def _name_positions(figure: Figure, ticks: list[tuple[int, str]], label: str) -> None:
    if not ticks:
        return
    span = math.log(ticks[-1][0] / ticks[0][0]) or 1.0
    gaps = [math.log(b[0] / a[0]) / span for a, b in itertools.pairwise(ticks)]
    is_narrow = min(gaps, default=1.0) < 0.12
    for axes in figure.axes:
        axes.xaxis.set_ticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.xaxis.set_ticks([], minor=True)
        axes.tick_params(axis="x", labelsize=8, rotation=90 if is_narrow else 0)
    figure.axes[-1].set_xlabel(label)


def _draw_loss_curves(training: Sequence[Training]) -> Figure:
    lengths = sorted({run.cell.steps for run in training}, key=steps_order)
    if not lengths:
        return note("No cell has been trained yet.")
    sizes = sorted({run.cell.data_size for run in training})
    figure = empty_figure(0.9 + 1.7 * len(lengths))
    panels = figure.subplots(len(lengths), 1, sharey=True, squeeze=False)[:, 0]
    lines = {}
    for panel, steps in zip(panels, lengths, strict=True):
        runs = [run for run in training if run.cell.steps == steps]
        most_steps = max(len(run.loss) for run in runs)
        panel.set(title=steps_label(steps), ylabel="loss", xscale="log", xlim=(0.9, max(1, most_steps) * 1.1))
        _log_ticks(panel, "x", (1.0, 2.0, 5.0) if most_steps <= _MAX_LOSS_POINTS else (1.0,))
        panel.grid(color=FAINT, linewidth=0.6, axis="y")
        for run in runs:
            if points := _block_means(run.loss):
                size = run.cell.data_size
                style = _series_look(sizes.index(size)).of_marker | {"markersize": 3.5}
                every = max(1, len(points) // 5)
                (lines[size],) = panel.plot(*zip(*points, strict=True), linewidth=1.1, markevery=every, **style)
    panels[-1].set_xlabel("optimizer step (log scale)")
    named = [f"{size:,} rows" for size in sorted(lines)]
    figure.legend([lines[size] for size in sorted(lines)], named, loc="outside upper left", ncols=3)
    return figure


def _block_means(loss: pd.DataFrame) -> list[tuple[float, float]]:
    """(middle step, mean loss) of at most 200 blocks of equal length; steps with an infinite loss are left out."""
    rows = sorted((step, value) for step, value in zip(loss["step"], loss["loss"], strict=True) if math.isfinite(value))
    block = math.ceil(len(rows) / _MAX_LOSS_POINTS) or 1
    blocks = [rows[start : start + block] for start in range(0, len(rows), block)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in blocks]


def _draw_compliance(shares: pd.DataFrame, criteria: Sequence[str], tuned: Cell | None) -> Figure:
    if not criteria:
        return note("No criterion has been checked yet.")
    figure = empty_figure(1.3 + 0.27 * len(criteria))
    axes = figure.subplots()
    for contestant, offset in (("base", -0.2), ("prompted", 0.0), ("tuned", 0.2)):
        points = _shares_of(shares, contestant, tuned)
        name = f"tuned, {tuned.label}" if contestant == "tuned" and tuned else CONTESTANT_NAMES[contestant]
        found = [(points[criterion], place + offset) for place, criterion in enumerate(criteria) if criterion in points]
        style = _CONTESTANTS[contestant].of_marker | {"markersize": 5.5}
        x, y = [share for share, _ in found], [place for _, place in found]
        axes.plot(x, y, linestyle="none", alpha=0.9, label=name, **style)
    axes.hlines(range(len(criteria)), 0, 100, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(criteria)), [criterion.replace("_", " ") for criterion in criteria])
    axes.set(ylim=(len(criteria) - 0.4, -0.6), xlim=(-3, 103), xlabel="posts that meet the criterion, %")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def _shares_of(shares: pd.DataFrame, contestant: str, tuned: Cell | None) -> dict[str, float]:
    """Criterion → share in percent, of a baseline or of the chosen cell."""
    rows = shares[shares["contestant"] == contestant]
    if contestant == "tuned":
        cell = tuned or Cell(0, "")
        rows = rows[(rows["data_size"] == cell.data_size) & (rows["steps"] == cell.steps)]
    return {str(row.criterion): 100 * row.met / row.posts for row in rows.itertuples()}
