"""Draws how varied the data is: each subset beside draws of as many rows, and the runs of the teacher in a row.

The same looks as in `report.figures`; tables below the pictures give the figures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from synthpost_dagster.report.figures import _COLORS, _FAINT, _INK, _figure, _note, _svg
from synthpost_dagster.report.texts import METRIC_NAMES
from synthpost_dagster.report.variety import at_equal, spread_of
from synthpost_dagster.rows.diversity import IS_MORE_BETTER, SPREADS, Spread, is_worse
from synthpost_dagster.schemas import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synthpost_dagster.report.data_quality import Run

_BLUE, _RED, *_ = _COLORS
_BAND = "#9cc3e0"
_COLUMNS = 2
_PANEL_HEIGHT = 1.35
_POINT: dict[str, Any] = {"marker": "o", "color": _BLUE, "markersize": 4.5, "linestyle": "none"}
_OUTSIDE: dict[str, Any] = {"marker": "X", "color": _RED, "markersize": 6.5, "linestyle": "none"}
_DRAWN = f"draws of the same size: mean ± {SPREADS:g} standard deviations"


def variety(subsets: Mapping[int, pd.DataFrame]) -> str:
    """Each metric of each subset (data size → schema Diversity) beside the draws of as many rows, as SVG."""
    return _svg("variety", lambda: _draw_variety(subsets))


def earlier_runs(runs: Sequence[Run]) -> str:
    """Each metric of each run at equal rows, oldest first, the present run marked, as SVG."""
    return _svg("earlier-runs", lambda: _draw_runs(runs))


def _draw_variety(subsets: Mapping[int, pd.DataFrame]) -> Figure:
    points: dict[str, list[tuple[int, int, float, Spread]]] = {}
    for place, table in enumerate(subsets.values()):
        for row in table.itertuples():
            if math.isfinite(row.value):
                point = (place, int(row.rows), float(row.value), spread_of(row))
                points.setdefault(str(row.metric), []).append(point)
    if not points:
        return _note("Variety was not measured.")
    labels = [f"{int(table['rows'].max()):,}" for table in subsets.values()]
    figure, panels = _panels(list(points))
    for metric, axes in panels.items():
        for place, _, value, drawn in points[metric]:
            _draw_band(axes, place, drawn)
            look = _OUTSIDE if is_worse(metric, value, drawn) else _POINT
            axes.plot([place], [value], **look, zorder=3)
        _finish(axes, metric, labels)
    _name_columns(panels, "rows of the subset")
    _legend(figure, {"the subset": _POINT, "worse than the draws": _OUTSIDE})
    return figure


def _draw_runs(runs: Sequence[Run]) -> Figure:
    metrics = [metric for metric in METRICS if any(at_equal(run, metric) for run in runs)]
    if not metrics:
        return _note("Variety was not measured.")
    present: dict[str, Any] = {"marker": "D", "color": _INK, "markersize": 5.5, "linestyle": "none"}
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
    """A panel for each metric that is there, in the order of the schema."""
    ordered = [metric for metric in METRICS if metric in metrics]
    lines = math.ceil(len(ordered) / _COLUMNS)
    figure = _figure(0.95 + _PANEL_HEIGHT * lines)
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
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    if metric == "opening_share":
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")


def _name_columns(panels: Mapping[str, Axes], what: str) -> None:
    """Says below the last panel of each column what lies across."""
    for axes in list(panels.values())[-_COLUMNS:]:
        axes.set_xlabel(what, fontsize=7.5)


def _legend(figure: Figure, looks: Mapping[str, dict[str, Any]]) -> None:
    """Names the marks; below them what the arrows mean."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    handles.append(Line2D([], [], color=_BAND, linewidth=8, solid_capstyle="butt", label=_DRAWN))
    title = "▲ higher is more varied, ▼ lower is more varied"
    figure.legend(handles=handles, loc="outside upper left", ncols=1, title=title, alignment="left")
