"""The report's tables as records whose figures are printed: cells, the surface, factors, criteria, training, stages.

Sentences are in `report.headline`, the trust card in `report.trust`; what is drawn is in `report.figures`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.cell import Cell, steps_label, steps_order
from synthpost_dagster.report.texts import (
    FACTOR_NAMES,
    dollars_text,
    duration_text,
    number_text,
    percent_text,
    points_text,
    probability_text,
    ratio_text,
)
from synthpost_dagster.schemas import OPPONENTS
from synthpost_dagster.statistics.order import LEAST_CONSISTENCY
from synthpost_dagster.statistics.ratio import Counts, plotted_ratio

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.report.data import PairsData, ReportData, Took, Training
    from synthpost_dagster.statistics.comparison import Comparison

MOST_HEAT = 3
"""Steps of colour to each side of a ratio of 1; a step is a factor of two."""
_KEY = re.compile(r"([1-9]\d*)\|([1-9]\d*(?:-epoch)?)(?:\|(\d+))?")


class Score(NamedTuple):
    """Counts and figures of one comparison, as they are printed; `low` and `high` end the ratio's interval."""

    counts: Counts
    low: float
    high: float
    ratio: str
    compliance: str = ""

    @property
    def is_decisive(self) -> bool:
        """Whether any pair was won or lost, so that there is a ratio."""
        return self.counts.wins + self.counts.losses > 0

    @property
    def value(self) -> str:
        """The ratio without its interval."""
        return self.ratio.partition(" (")[0]

    @property
    def interval(self) -> str:
        """The interval alone."""
        return self.ratio.partition(" (")[2].rstrip(")")

    @property
    def heat(self) -> str:
        """Class of the colour, by the log of the ratio: `heat-3` to `heat3`, or `heat` where there is no ratio."""
        if not self.is_decisive:
            return "heat"
        step = round(math.log2(plotted_ratio(self.counts)))
        return f"heat{max(-MOST_HEAT, min(MOST_HEAT, step))}"


class Figures(NamedTuple):
    """What a cell's row holds beside its ratio, as it is printed."""

    tie_aware: str
    win_rate: str
    worst_case: str
    p_adjusted: str
    length_controlled: str
    length_note: str
    order_consistency: str
    is_order_warning: bool
    slot_bias: str


class CellScore(NamedTuple):
    """One cell against one opponent."""

    score: Score
    figures: Figures


class CellView(NamedTuple):
    """One cell's line in the tables; a score is None where that comparison was not made."""

    cell: Cell
    rows_seen: int
    optimizer_steps: int
    replicate_group: int
    """Cells with the same number, from 1, are replicates of each other; 0 for the others."""
    base: CellScore | None
    prompted: CellScore | None

    def against(self, opponent: str) -> CellScore | None:
        """The score against `base` or `prompted`."""
        return self.base if opponent == "base" else self.prompted


class Tile(NamedTuple):
    """A place of the surface; `view` is None in a gap, and `note` says why."""

    cell: Cell
    view: CellView | None
    note: str


class Surface(NamedTuple):
    """The cells by data size (rows) and length of training (columns)."""

    lengths: tuple[str, ...]
    rows: tuple[tuple[int, tuple[Tile, ...]], ...]


class Level(NamedTuple):
    """One level of a factor; a score is None where that comparison was not made."""

    name: str
    scores: tuple[Score | None, ...]


class Breakdown(NamedTuple):
    """One comparison, or one cell, by one factor."""

    title: str
    levels: tuple[Level, ...]


class CriterionShares(NamedTuple):
    """One criterion's line: the share of posts that meet it, by contestant, in the order of the table's columns."""

    name: str
    text: str
    posts: str
    shares: tuple[str, ...]


class TrainingView(NamedTuple):
    """One line in the table of training runs."""

    cell: Cell
    seed: int
    steps_done: int
    first_loss: str
    last_loss: str
    wall_time: str
    peak: str
    device: str


class TookView(NamedTuple):
    """One stage's line in the table of what the study took: what it came to, and what was expected."""

    stage: str
    work: str
    requests: str
    tokens: str
    cost: str
    time: str


def cell_views(ratios: pd.DataFrame) -> list[CellView]:
    """The cells in sweep order. `ratios` follows RatioReport, of one training seed."""
    rows: dict[Cell, dict[str, Any]] = {}
    for row in ratios[ratios["factor"] == "all"].itertuples():
        rows.setdefault(Cell(int(row.data_size), str(row.steps)), {})[str(row.opponent)] = row
    return [_cell_view(cell, rows[cell]) for cell in sorted(rows, key=lambda cell: cell.sweep_order)]


def _cell_view(cell: Cell, of_opponent: dict[str, Any]) -> CellView:
    row = next(iter(of_opponent.values()))
    base, prompted = (
        CellScore(_score(of_opponent[name]), _figures(of_opponent[name])) if name in of_opponent else None
        for name in OPPONENTS
    )
    return CellView(cell, int(row.rows_seen), int(row.optimizer_steps), int(row.replicate_group), base, prompted)


def _counts(row: Any) -> Counts:
    return Counts(int(row.wins), int(row.losses), int(row.ties), int(row.unscored))


def _score(row: Any) -> Score:
    compliance = ""
    if not math.isnan(row.compliance):
        ends = f"{percent_text(row.compliance_low)} to {percent_text(row.compliance_high)}".replace(" % to", " to")
        compliance = f"{percent_text(row.compliance)} ({ends})"
    return Score(
        _counts(row),
        float(row.win_ratio_low),
        float(row.win_ratio_high),
        ratio_text(row.win_ratio, row.win_ratio_low, row.win_ratio_high),
        compliance,
    )


def score_of(comparison: Comparison) -> Score:
    """A comparison's counts and ratio."""
    return Score(comparison.counts, comparison.ratio.low, comparison.ratio.high, ratio_text(*comparison.ratio))


def _figures(row: Any) -> Figures:
    return Figures(
        tie_aware=number_text(row.tie_aware_ratio),
        win_rate=percent_text(row.win_rate),
        worst_case=number_text(row.worst_case_ratio),
        p_adjusted=probability_text(row.p_adjusted),
        length_controlled=_length_controlled(row),
        length_note=row.length_note,
        order_consistency=percent_text(row.order_consistency),
        is_order_warning=row.order_consistency < LEAST_CONSISTENCY,
        slot_bias=points_text(row.slot_bias),
    )


def _length_controlled(row: Any) -> str:
    if math.isnan(row.length_controlled_ratio):
        return "none"
    if math.isnan(row.length_controlled_low):
        return number_text(row.length_controlled_ratio)
    return ratio_text(row.length_controlled_ratio, row.length_controlled_low, row.length_controlled_high)


def surface(cells: Sequence[CellView], missing: Sequence[tuple[str, str]]) -> Surface:
    """The cells in their places, with those that are missing (key, reason) and those that no sweep named as gaps."""
    views = {view.cell: view for view in cells}
    reasons = {found[0]: reason for key, reason in missing if (found := _cell_and_seed(key)) and not found[1]}
    places = [*views, *reasons]
    sizes = sorted({cell.data_size for cell in places})
    lengths = sorted({cell.steps for cell in places}, key=steps_order)
    rows = tuple(
        (
            size,
            tuple(
                Tile(cell, views.get(cell), "missing" if cell in reasons else "not in the sweep")
                for cell in (Cell(size, steps) for steps in lengths)
            ),
        )
        for size in sizes
    )
    return Surface(tuple(steps_label(steps) for steps in lengths), rows)


def place_text(key: str) -> str:
    """A cell's key in words, with its seed where it names one: `88|50|7` → `88 rows | 50 steps | seed 7`."""
    found = _cell_and_seed(key)
    if found is None:
        return key
    cell, seed = found
    return f"{cell.label} | seed {seed}" if seed else cell.label


def _cell_and_seed(key: str) -> tuple[Cell, str] | None:
    match = _KEY.fullmatch(key)
    return (Cell(int(match[1]), match[2]), match[3] or "") if match else None


def replicate_notes(cells: Sequence[CellView]) -> list[str]:
    """A sentence for each group of replicates."""
    notes = []
    for number in range(1, max((view.replicate_group for view in cells), default=0) + 1):
        group = [view for view in cells if view.replicate_group == number]
        names = "; ".join(view.cell.label for view in group)
        notes.append(
            f"Replicates {number}: {names}. Each sees {group[0].rows_seen:,} rows in {group[0].optimizer_steps:,} "
            "steps, fewer than the smallest of these subsets holds. They are repeats of one experiment: read no "
            "effect of data size into the differences."
        )
    return notes


def breakdowns(data: ReportData, cell: Cell) -> tuple[Breakdown, ...]:
    """One cell by each factor, the levels in the task's order."""
    ratios = data.shown_ratios
    of_cell = ratios[(ratios["data_size"] == cell.data_size) & (ratios["steps"] == cell.steps)]
    return tuple(
        Breakdown(title, _levels(of_cell[of_cell["factor"] == factor], data.levels.get(factor, ())))
        for factor, title in FACTOR_NAMES.items()
    )


def _levels(rows: pd.DataFrame, order: Sequence[str]) -> tuple[Level, ...]:
    found: dict[str, dict[str, Score]] = {}
    for row in rows.itertuples():
        found.setdefault(str(row.level), {})[str(row.opponent)] = _score(row)
    return tuple(Level(level, tuple(map(found[level].get, OPPONENTS))) for level in in_order(found, order))


def outer_breakdowns(data: PairsData) -> tuple[Breakdown, ...]:
    """Comparisons made elsewhere by each of their factors."""
    found: dict[str, list[Level]] = {}
    for one in data.levels:
        found.setdefault(one.factor, []).append(Level(one.level, (score_of(one.comparison),)))
    return tuple(Breakdown(factor, tuple(levels)) for factor, levels in found.items())


def in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Each name once in the order given; those that it lacks come last."""
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


def criterion_shares(data: ReportData, criterion: str) -> CriterionShares:
    """One criterion's shares, in the order of `compliance_columns`."""
    rows = data.compliance[data.compliance["criterion"] == criterion]
    met = {(str(row.contestant), int(row.data_size), str(row.steps)): row.met / row.posts for row in rows.itertuples()}
    columns = [
        (contestant, cell.data_size, cell.steps) if cell else (contestant, 0, "")
        for contestant, cell in compliance_columns(data.compliance)
    ]
    low, high = min(rows["posts"]), max(rows["posts"])
    return CriterionShares(
        criterion.replace("_", " "),
        data.criteria.get(criterion, ""),
        f"{low:,}" if low == high else f"{low:,} to {high:,}",
        tuple(percent_text(met[column]) if column in met else "none" for column in columns),
    )


def training_views(training: Sequence[Training]) -> list[TrainingView]:
    """The runs in sweep order."""
    return [_training_view(run) for run in sorted(training, key=lambda run: (run.cell.sweep_order, run.seed))]


def _training_view(run: Training) -> TrainingView:
    losses = [float(loss) for loss in run.loss.sort_values("step")["loss"]]
    tenth = math.ceil(len(losses) / 10)
    return TrainingView(
        run.cell,
        run.seed,
        len(losses),
        _mean_text(losses[:tenth]),
        _mean_text(losses[-tenth:]),
        duration_text(run.wall_seconds),
        f"{run.peak_gib:.1f} GiB",
        run.device,
    )


def _mean_text(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "none"


def took_view(took: Took) -> TookView:
    """A stage's figures, each beside what was expected of it."""
    return TookView(
        took.stage,
        took.work,
        _beside(f"{took.requests:,}", None if not took.requests else f"{took.expected_requests:,}"),
        _beside(f"{took.tokens:,}", None if not took.requests else f"{took.expected_tokens:,}"),
        _beside(dollars_text(took.usd), None if not took.requests else dollars_text(took.expected_usd)),
        _beside(
            duration_text(took.seconds), None if took.expected_seconds is None else duration_text(took.expected_seconds)
        ),
    )


def _beside(actual: str, expected: str | None) -> str:
    return actual if expected is None else f"{actual} ({expected})"
