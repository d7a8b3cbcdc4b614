"""Draws the report's figures: tables in, SVG text (or PNG bytes) out, the same bytes for the same data.

What the figures say in words, and the tables beside them, are in the templates; ratios and intervals are
computed in `statistics` and only drawn here.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.cell import Cell, steps_label, steps_order
from synthpost_dagster.report.texts import CONTESTANT_NAMES, NO_DECISIVE_PAIR
from synthpost_dagster.schemas import OPPONENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synthpost_dagster.report.data import Training

_WIDTH = 4.7  # inches: one column on a phone without shrinking, and scaled up on a desk
_INK, _FAINT = "#24292f", "#d5d9de"
_CONTESTANT_COLORS = {"tuned": "#009e73", "base": "#0b5fa5", "prompted": "#d98200"}
_CONTESTANT_MARKERS = {"tuned": "s", "base": "o", "prompted": "D"}
# Okabe and Ito's palette, without the yellow that vanishes on white; the marker tells lines apart without colour.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_RATIO_TICKS = (1, 2, 5)
_MAX_LOSS_POINTS = 200
_ARROW_ROOM = 8.0  # points between the labels and an arrow at the edge of the axis
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a criterion or a company may hold a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8b949e",
    "axes.labelcolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def all_cells(ratios: pd.DataFrame) -> str:
    """Win ratio of every cell in sweep order, with intervals, as SVG. `ratios` follows RatioReport, of one seed."""
    return _svg("all-cells", lambda: _draw_all_cells(_marks(ratios)))


def ratio_by_size(ratios: pd.DataFrame) -> str:
    """Win ratio against the rows of the subset, one line a length of training, as SVG."""
    return _svg("ratio-by-size", lambda: _draw_by_size(_marks(ratios)))


def ratio_by_length(ratios: pd.DataFrame) -> str:
    """Win ratio against the optimizer steps done, one line a data size, as SVG."""
    return _svg("ratio-by-length", lambda: _draw_by_length(_marks(ratios)))


def loss_curves(training: Sequence[Training]) -> str:
    """Training loss by optimizer step, one panel a length of training, one line a run, as SVG.

    Curves of more than 200 steps are drawn as the means of at most 200 equal blocks.
    """
    return _svg("loss-curves", lambda: _draw_loss_curves(training))


def compliance(shares: pd.DataFrame, criteria: Sequence[str], tuned: Cell | None) -> str:
    """Share of posts that meet each criterion: both baselines and one tuned cell, as SVG.

    `shares` follows the schema Compliance; `criteria` are the ids to draw, top to bottom.
    """
    return _svg("compliance", lambda: _draw_compliance(shares, criteria, tuned))


def cells_png(ratios: pd.DataFrame) -> bytes:
    """The picture of `all_cells` as PNG, for a preview elsewhere."""
    with _style("cells"):
        buffer = io.BytesIO()
        figure = _draw_all_cells(_marks(ratios))
        figure.savefig(buffer, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


class _Mark(NamedTuple):
    """One ratio as it is drawn: NaN where no pair is decisive; an interval may begin at 0 and end at infinity."""

    cell: Cell
    optimizer_steps: int
    opponent: str
    ratio: float
    low: float
    high: float


class _Look(NamedTuple):
    """Colour and marker of a series; `is_hollow` and dashes tell the second opponent from the first."""

    color: str
    marker: str
    is_hollow: bool

    def of_marker(self) -> dict[str, Any]:
        face = "white" if self.is_hollow else self.color
        return {"color": self.color, "marker": self.marker, "markerfacecolor": face, "markersize": 5}


def _marks(ratios: pd.DataFrame) -> list[_Mark]:
    whole = ratios[ratios["factor"] == "all"]
    return [
        _Mark(
            Cell(int(row.data_size), str(row.steps)),
            int(row.optimizer_steps),
            str(row.opponent),
            (row.wins + 0.5) / (row.losses + 0.5) if row.wins + row.losses else math.nan,
            float(row.win_ratio_low),
            float(row.win_ratio_high),
        )
        for row in whole.itertuples()
    ]


@contextmanager
def _style(name: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({**_RC, "svg.hashsalt": f"synthpost-{name}"}), warnings.catch_warnings():
        # The reader's browser sets the text in its own fonts, so a glyph that ours lacks is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _svg(name: str, draw: Callable[[], Figure]) -> str:
    """The figure as SVG without prolog, fixed size, metadata, or the numbered ids that clash within one page."""
    with _style(name):
        buffer = io.StringIO()
        draw().savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r'(<[a-z]+) id="[a-z][\w.]*_\d+"', r"\1", text)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height))


def _note(text: str) -> Figure:
    figure = _figure(1.0)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def _draw_all_cells(marks: list[_Mark]) -> Figure:
    if not marks:
        return _note("No cell has been judged yet.")
    cells = sorted({mark.cell for mark in marks}, key=lambda cell: cell.sweep_order)
    figure = _figure(1.2 + 0.34 * len(cells))
    axes = figure.subplots()
    limits = _limits(marks)
    _ratio_axis(axes, limits, is_upright=False)
    for mark in marks:
        offset = -0.16 if mark.opponent == "base" else 0.16
        _draw_mark(axes, mark, cells.index(mark.cell) + offset, limits, _opponent_look(mark.opponent), is_upright=False)
    axes.set_yticks(range(len(cells)), [cell.label for cell in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=_ARROW_ROOM)
    axes.set_xlabel("win ratio, tuned against untuned (log scale)")
    _opponent_legend(figure, axes, {mark.opponent for mark in marks})
    return figure


def _draw_by_size(marks: list[_Mark]) -> Figure:
    sizes = sorted({mark.cell.data_size for mark in marks})
    lengths = sorted({mark.cell.steps for mark in marks}, key=steps_order)
    figure = _draw_lines(
        marks,
        {steps: steps_label(steps) for steps in lengths},
        series_of=lambda mark: mark.cell.steps,
        place_of=lambda mark: mark.cell.data_size,
    )
    _name_positions(figure, [(size, f"{size:,}") for size in sizes], "rows of training data (log scale)")
    return figure


def _draw_by_length(marks: list[_Mark]) -> Figure:
    sizes = sorted({mark.cell.data_size for mark in marks})
    figure = _draw_lines(
        marks,
        {size: _rows_label(size) for size in sizes},
        series_of=lambda mark: mark.cell.data_size,
        place_of=lambda mark: mark.optimizer_steps,
    )
    _name_positions(figure, _length_ticks(marks), "optimizer steps (log scale)")
    return figure


def _length_ticks(marks: list[_Mark]) -> list[tuple[int, str]]:
    """Steps done, with what was asked for where that was epochs."""
    asked: dict[int, set[str]] = {}
    for mark in marks:
        asked.setdefault(mark.optimizer_steps, set()).add(mark.cell.steps)
    return [
        (done, "\n".join([f"{done:,}", *(steps_label(steps) for steps in sorted(asked[done]) if "-" in steps)]))
        for done in sorted(asked)
    ]


def _draw_lines(
    marks: list[_Mark],
    series: dict[Hashable, str],
    series_of: Callable[[_Mark], Hashable],
    place_of: Callable[[_Mark], int],
) -> Figure:
    """One panel an opponent, stacked, on the same axes; one line a series (its value → its name)."""
    if not marks:
        return _note("No cell has been judged yet.")
    opponents = [opponent for opponent in OPPONENTS if any(mark.opponent == opponent for mark in marks)]
    figure = _figure(0.9 + 2.5 * len(opponents))
    panels = figure.subplots(len(opponents), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    limits = _limits(marks)
    places = [place_of(mark) for mark in marks]
    for panel, opponent in zip(panels, opponents, strict=True):
        _ratio_axis(panel, limits, is_upright=True)
        panel.set_title(f"against {CONTESTANT_NAMES[opponent]}")
        panel.set_ylabel("win ratio (log scale)")
        _position_axis(panel, min(places), max(places))
        for index, (value, name) in enumerate(series.items()):
            dodge = _dodge(index, len(series), min(places), max(places))
            line = [
                (place_of(mark) * dodge, mark)
                for mark in marks
                if (mark.opponent, series_of(mark)) == (opponent, value)
            ]
            look = _Look(_pick(_COLORS, index), _pick(_MARKERS, index), opponent != "base")
            _draw_line(panel, name, line, limits, look)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _draw_line(
    axes: Axes, name: str, line: list[tuple[float, _Mark]], limits: tuple[float, float], look: _Look
) -> None:
    line = sorted(line, key=lambda entry: entry[0])
    axes.plot(
        [place for place, _ in line],
        [mark.ratio for _, mark in line],
        linestyle="--" if look.is_hollow else "-",
        linewidth=1.2,
        label=name,
        **look.of_marker(),
    )
    for place, mark in line:
        _draw_mark(axes, mark, place, limits, look, is_upright=True)


def _draw_mark(
    axes: Axes, mark: _Mark, place: float, limits: tuple[float, float], look: _Look, *, is_upright: bool
) -> None:
    """A ratio's point and interval at `place` across the ratio axis; arrows where the interval is open."""

    def xy(across: list[float], along: list[float]) -> tuple[list[float], list[float]]:
        return (across, along) if is_upright else (along, across)

    if math.isnan(mark.ratio):
        _draw_gap(axes, place, is_upright=is_upright)
        return
    low, high = max(mark.low, limits[0]), min(mark.high, limits[1])
    axes.plot(*xy([place, place], [low, high]), color=look.color, linewidth=1.2, alpha=0.75)
    arrows = "v^" if is_upright else "<>"
    for end, is_open, arrow in ((low, mark.low < limits[0], arrows[0]), (high, mark.high > limits[1], arrows[1])):
        if is_open:
            axes.plot(*xy([place], [end]), color=look.color, marker=arrow, markersize=5, clip_on=False)
    axes.plot(*xy([place], [mark.ratio]), **look.of_marker(), linestyle="none", zorder=3)


def _draw_gap(axes: Axes, place: float, *, is_upright: bool) -> None:
    """Words in place of a ratio: right of 1, or in a panel of lines at its top, clear of the other lines."""
    if is_upright:
        edge = axes.get_xaxis_transform()
        axes.text(place, 0.98, NO_DECISIVE_PAIR, fontsize=7, rotation=90, ha="center", va="top", transform=edge)
    else:
        axes.text(1.05, place, NO_DECISIVE_PAIR, fontsize=7, ha="left", va="center")


def _limits(marks: list[_Mark]) -> tuple[float, float]:
    """Ends of the ratio axis: every finite point and interval, and 1, with room for the arrows of open intervals."""
    ends = [value for mark in marks for value in (mark.ratio, mark.low, mark.high) if 0 < value < math.inf]
    return min([*ends, 0.8]) / 1.4, max([*ends, 1.25]) * 1.4


def _ratio_axis(axes: Axes, limits: tuple[float, float], *, is_upright: bool) -> None:
    ticks = _ratio_ticks(limits)
    labels = [f"{tick:g}" for tick in ticks]
    axis, line = (axes.yaxis, axes.axhline) if is_upright else (axes.xaxis, axes.axvline)
    (axes.set_yscale if is_upright else axes.set_xscale)("log")
    (axes.set_ylim if is_upright else axes.set_xlim)(*limits)
    axis.set_ticks(ticks, labels)
    axis.set_ticks([], minor=True)
    axis.grid(color=_FAINT, linewidth=0.6)
    line(1.0, color=_INK, linewidth=1.0)
    axes.set_axisbelow(True)


def _ratio_ticks(limits: tuple[float, float]) -> list[float]:
    """1, 2, 5 times powers of ten within the limits; the powers alone where those are many."""
    powers = [10.0**power for power in range(math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1])) + 1)]
    fine = [round(factor * power, 9) for power in powers for factor in _RATIO_TICKS]
    ticks = [tick for tick in fine if limits[0] <= tick <= limits[1]]
    return ticks if len(ticks) <= 9 else [power for power in powers if limits[0] <= power <= limits[1]]


def _position_axis(axes: Axes, first: float, last: float) -> None:
    room = (last / first) ** 0.06 * 1.05
    axes.set_xscale("log")
    axes.set_xlim(first / room, last * room)
    axes.xaxis.set_ticks([], minor=True)


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


def _dodge(index: int, count: int, first: float, last: float) -> float:
    """Factor that moves a series' points aside, so that intervals at one place do not hide each other."""
    step = max((last / first) ** 0.012, 1.01)
    return float(step ** (index - (count - 1) / 2))


def _pick(values: tuple[str, ...], index: int) -> str:
    return values[index % len(values)]


def _opponent_look(opponent: str) -> _Look:
    return _Look(_CONTESTANT_COLORS[opponent], _CONTESTANT_MARKERS[opponent], opponent == "prompted")


def _opponent_legend(figure: Figure, axes: Axes, opponents: set[str]) -> None:
    for opponent in OPPONENTS:
        if opponent in opponents:
            look = _opponent_look(opponent)
            axes.plot([], [], **look.of_marker(), linewidth=1.2, label=f"against {CONTESTANT_NAMES[opponent]}")
    figure.legend(loc="outside upper left", ncols=1)


def _draw_loss_curves(training: Sequence[Training]) -> Figure:
    lengths = sorted({run.cell.steps for run in training}, key=steps_order)
    if not lengths:
        return _note("No cell has been trained yet.")
    sizes = sorted({run.cell.data_size for run in training})
    figure = _figure(0.9 + 1.7 * len(lengths))
    panels = figure.subplots(len(lengths), 1, sharey=True, squeeze=False)[:, 0]
    for panel, steps in zip(panels, lengths, strict=True):
        panel.set_title(steps_label(steps))
        panel.set_ylabel("loss")
        runs = sorted((run for run in training if run.cell.steps == steps), key=lambda run: run.cell.data_size)
        _step_axis(panel, max((len(run.loss) for run in runs), default=1))
        for run in runs:
            index = sizes.index(run.cell.data_size)
            _draw_loss(panel, run, _Look(_pick(_COLORS, index), _pick(_MARKERS, index), is_hollow=False))
    panels[-1].set_xlabel("optimizer step (log scale)")
    named = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    ordered = [label for label in map(_rows_label, sizes) if label in named]
    figure.legend([named[label] for label in ordered], ordered, loc="outside upper left", ncols=3)
    return figure


def _rows_label(data_size: int) -> str:
    return f"{data_size:,} rows"


def _step_axis(axes: Axes, most_steps: int) -> None:
    factors = (1, 2, 5) if most_steps <= 200 else (1,)
    ticks = [factor * 10**power for power in range(7) for factor in factors if factor * 10**power <= most_steps]
    axes.set_xscale("log")
    axes.set_xlim(0.9, most_steps * 1.1)
    axes.xaxis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_ticks([], minor=True)
    axes.grid(color=_FAINT, linewidth=0.6)


def _draw_loss(axes: Axes, run: Training, look: _Look) -> None:
    points = _block_means(run.loss)
    if not points:
        return
    every = max(1, len(points) // 5)
    axes.plot(
        [step for step, _ in points],
        [loss for _, loss in points],
        linewidth=1.1,
        markevery=every,
        label=_rows_label(run.cell.data_size),
        **look.of_marker() | {"markersize": 3.5},
    )


def _block_means(loss: pd.DataFrame) -> list[tuple[float, float]]:
    """(middle step, mean loss) of at most 200 blocks of equal length; steps with an infinite loss are left out."""
    rows = sorted((int(step), float(value)) for step, value in zip(loss["step"], loss["loss"], strict=True))
    rows = [row for row in rows if math.isfinite(row[1])]
    block = math.ceil(len(rows) / _MAX_LOSS_POINTS) or 1
    blocks = [rows[start : start + block] for start in range(0, len(rows), block)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in blocks]


def _draw_compliance(shares: pd.DataFrame, criteria: Sequence[str], tuned: Cell | None) -> Figure:
    if not criteria:
        return _note("No criterion has been checked yet.")
    figure = _figure(1.3 + 0.27 * len(criteria))
    axes = figure.subplots()
    for contestant, offset in (("base", -0.2), ("prompted", 0.0), ("tuned", 0.2)):
        points = _shares_of(shares, contestant, tuned)
        name = CONTESTANT_NAMES[contestant]
        if contestant == "tuned" and tuned is not None:
            name = f"tuned, {tuned.label}"
        places = [index + offset for index, criterion in enumerate(criteria) if criterion in points]
        values = [points[criterion] for criterion in criteria if criterion in points]
        look = _Look(_CONTESTANT_COLORS[contestant], _CONTESTANT_MARKERS[contestant], contestant == "prompted")
        axes.plot(values, places, linestyle="none", alpha=0.9, label=name, **look.of_marker() | {"markersize": 5.5})
    axes.hlines(range(len(criteria)), 0, 100, color=_FAINT, linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(criteria)), [criterion.replace("_", " ") for criterion in criteria])
    axes.set_ylim(len(criteria) - 0.4, -0.6)
    axes.set_xlim(-3, 103)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("posts that meet the criterion, %")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def _shares_of(shares: pd.DataFrame, contestant: str, tuned: Cell | None) -> dict[str, float]:
    """Criterion → share in percent, of a baseline or of the chosen cell."""
    rows = shares[shares["contestant"] == contestant]
    if contestant == "tuned":
        cell = tuned or Cell(0, "")
        rows = rows[(rows["data_size"] == cell.data_size) & (rows["steps"] == cell.steps)]
    return {str(row.criterion): 100 * row.met / row.posts for row in rows.itertuples()}
