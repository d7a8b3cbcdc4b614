"""Draws the variety of the data: each subset with draws of the same size, and the runs of the teacher in order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from synthpost_dagster.report.drawing import COLORS, FAINT, INK, empty_figure, note, svg
from synthpost_dagster.report.texts import METRIC_NAMES
from synthpost_dagster.report.variety import at_equal, metric_lines
from synthpost_dagster.rows.diversity import IS_MORE_BETTER, SPREADS, Spread
from synthpost_dagster.schemas import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synthpost_dagster.report.data_quality import Run

_BLUE, _RED, *_ = COLORS
_BAND = "#9cc3e0"
_COLUMNS = 2
_PANEL_HEIGHT = 1.35
_POINT: dict[str, Any] = {"marker": "o", "color": _BLUE, "markersize": 4.5, "linestyle": "none"}
_OUTSIDE: dict[str, Any] = {"marker": "X", "color": _RED, "markersize": 6.5, "linestyle": "none"}
_DRAWN = f"draws of the same size: mean ± {SPREADS:g} standard deviations"


def variety(subsets: Mapping[int, pd.DataFrame]) -> str:
    """Each metric of each subset (data size → schema Diversity) with the draws of the same size, as SVG."""
    return svg("variety", lambda: _draw_variety(subsets))


def earlier_runs(runs: Sequence[Run]) -> str:
    """Each metric of each run at equal rows, oldest first, the present run marked, as SVG."""
    return svg("earlier-runs", lambda: _draw_runs(runs))


def _draw_variety(subsets: Mapping[int, pd.DataFrame]) -> Figure:
    lines = metric_lines(subsets.values())
    if not lines:
        return note("Variety was not measured.")
    rows = [int(table["rows"].max()) for table in subsets.values()]
    figure, panels = _panels([line.metric for line in lines])
    for line in lines:
        axes, place = panels[line.metric], rows.index(line.rows)
        _draw_band(axes, place, line.drawn)
        axes.plot([place], [line.value], **(_OUTSIDE if line.is_outside else _POINT), zorder=3)
    for metric, axes in panels.items():
        _finish(axes, metric, [f"{size:,}" for size in rows])
    _name_columns(panels, "rows of the subset")
    _legend(figure, {"the subset": _POINT, "worse than the draws": _OUTSIDE})
    return figure


def _draw_runs(runs: Sequence[Run]) -> Figure:
    metrics = [metric for metric in METRICS if any(at_equal(run, metric) for run in runs)]
    if not metrics:
        return note("Variety was not measured.")
    present: dict[str, Any] = {"marker": "D", "color": INK, "markersize": 5.5, "linestyle": "none"}
    figure, panels = _panels(metrics)
    for metric, axes in panels.items():
        found = [(place, run, at) for place, run in enumerate(runs) if (at := at_equal(run, metric))]
        axes.plot([place for place, *_ in found], [at.mean for *_, at in found], color=_BLUE, linewidth=0.9)
        for place, run, at in found:
            _draw_band(axes, place, at)
            axes.plot([place], [at.mean], **(present if run.is_present else _POINT), zorder=3)
        _finish(axes, metric, [str(number) for number in range(1, len(runs) + 1)])
    _name_columns(panels, "run, by its number in the table")
    _legend(figure, {"an earlier run": _POINT, "this report's": present})
    return figure


def _panels(metrics: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each of the metrics, in the schema's order."""
    ordered = [metric for metric in METRICS if metric in metrics]
    lines = math.ceil(len(ordered) / _COLUMNS)
    figure = empty_figure(0.95 + _PANEL_HEIGHT * lines)
    grid = list(figure.subplots(lines, _COLUMNS, squeeze=False).flat)
    for axes in grid[len(ordered) :]:
        axes.set_axis_off()
    return figure, dict(zip(ordered, grid, strict=False))


def _draw_band(axes: Axes, place: int, drawn: Spread) -> None:
    if math.isfinite(drawn.mean) and math.isfinite(drawn.deviation):
        ends = [max(0.0, drawn.low), drawn.high]
        axes.plot([place, place], ends, color=_BAND, linewidth=8, solid_capstyle="butt", zorder=1)


def _finish(axes: Axes, metric: str, labels: Sequence[str]) -> None:
    name = METRIC_NAMES[metric]
    axes.set_title(f"{name[:1].upper()}{name[1:]} {'▲' if IS_MORE_BETTER.get(metric, True) else '▼'}")
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(labelsize=7.5)
    axes.margins(y=0.18)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    if metric == "opening_share":
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")


def _name_columns(panels: Mapping[str, Axes], what: str) -> None:
    for axes in list(panels.values())[-_COLUMNS:]:
        axes.set_xlabel(what, fontsize=7.5)


def _legend(figure: Figure, looks: Mapping[str, dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    handles.append(Line2D([], [], color=_BAND, linewidth=8, solid_capstyle="butt", label=_DRAWN))
    title = "▲ higher is more varied, ▼ lower is more varied"
    figure.legend(handles=handles, loc="outside upper left", ncols=1, title=title, alignment="left")
