"""Draws forgetting: how many times the perplexity of general text grew, one line a cell.

The same looks as in `report.figures`; the figures stand in a table below the picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from synthpost_dagster.report.figures import _COLORS, _FAINT, _INK, _figure, _note, _svg
from synthpost_dagster.statistics.perplexity import worst

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synthpost_dagster.cell import Cell
    from synthpost_dagster.report.forgetting import ForgettingData, Forgotten

_BLUE, _RED, *_ = _COLORS
_WHOLE: dict[str, Any] = {"marker": "o", "color": _BLUE, "markersize": 6, "linestyle": "none"}
_SEED: dict[str, Any] = {**_WHOLE, "markerfacecolor": "white", "markersize": 4.5}
_WORST: dict[str, Any] = {**_SEED, "marker": "D", "color": _RED, "markersize": 5}
_LIMIT: dict[str, Any] = {"color": _RED, "linewidth": 1.0, "linestyle": (0, (4, 3))}
_MOST_TICKS = 7
_TICK_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def forgetting(data: ForgettingData) -> str:
    """The ratio of each measured cell, of its other seeds and of its worst kind of text, as SVG."""
    return _svg("forgetting", lambda: _draw(data))


def _draw(data: ForgettingData) -> Figure:
    runs = [run for run in data.measured if not math.isnan(run.whole.ratio)]
    if not runs:
        return _note("No perplexity to draw.")
    cells = list(dict.fromkeys(run.cell for run in runs))
    figure = _figure(1.45 + 0.34 * len(cells))
    axes = figure.subplots()
    _axis(axes, [data.limit, *(ratio for run in runs for ratio in (run.whole.ratio, _worst_ratio(run)))])
    axes.axvline(data.limit, **_LIMIT)
    for run in sorted(runs, key=lambda run: run.seed == data.training_seed):
        _draw_run(axes, run, cells.index(run.cell), is_shown=run.seed == data.training_seed)
    _name_cells(axes, cells)
    _legend(figure, data, has_seeds=any(run.seed != data.training_seed for run in runs))
    return figure


def _draw_run(axes: Axes, run: Forgotten, place: int, *, is_shown: bool) -> None:
    ratio = run.whole.ratio
    if is_shown:
        top = _worst_ratio(run)
        axes.plot([ratio, top], [place, place], color=_RED, linewidth=0.9, alpha=0.6, zorder=2)
        axes.plot([top], [place], **_WORST, zorder=3)
    axes.plot([ratio], [place], **(_WHOLE if is_shown else _SEED), zorder=4)


def _worst_ratio(run: Forgotten) -> float:
    found = worst(run.kinds) if run.kinds is not None else None
    return found[1].ratio if found else run.whole.ratio


def _axis(axes: Axes, ratios: list[float]) -> None:
    """A log axis over all ratios and 1, with a line at 1."""
    low, high = min([*ratios, 1.0]), max([*ratios, 1.0])
    room = (high / low) ** 0.08
    limits = (low / room, high * room)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    ticks = _ticks(*limits)
    axes.xaxis.set_ticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    axes.xaxis.set_ticks([], minor=True)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.axvline(1.0, color=_INK, linewidth=1.0)
    axes.set_axisbelow(True)


def _ticks(low: float, high: float) -> list[float]:
    """1 and its neighbours in equal steps while few fit; over a wide range 1, 2, 5 times powers of ten, or these."""
    if high / low < 4:
        for step in _TICK_STEPS:
            count = math.floor(high / step) - math.ceil(low / step) + 1
            if count <= _MOST_TICKS:
                return [round(number * step, 2) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    fine = [factor * power for power in powers for factor in (1, 2, 5) if low <= factor * power <= high]
    if len(fine) <= _MOST_TICKS:
        return fine
    inside = [power for power in powers if low <= power <= high]
    return inside[:: math.ceil(len(inside) / _MOST_TICKS)]


def _name_cells(axes: Axes, cells: list[Cell]) -> None:
    axes.set_yticks(range(len(cells)), [cell.label for cell in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("perplexity, tuned / untuned (log scale)")


def _legend(figure: Figure, data: ForgettingData, *, has_seeds: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label="all general text", **_WHOLE)]
    if has_seeds:
        handles.append(Line2D([], [], label="the same, another training seed", **_SEED))
    handles.append(Line2D([], [], label="its worst kind of text", **_WORST))
    handles.append(Line2D([], [], label=f"the task's limit, {data.limit:g}", **_LIMIT))
    figure.legend(handles=handles, loc="outside upper left", ncols=1)
