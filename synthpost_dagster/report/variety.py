"""Variety of the posts: each subset compared with random draws of the same size, each run of the teacher with others.

`rows.diversity` computes the figures, `report.quality_figures` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.report.data_quality import rows_compared
from synthpost_dagster.rows.diversity import Spread, is_worse
from synthpost_dagster.schemas import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.report.data_quality import Run


class MetricLine(NamedTuple):
    """A metric of one subset and of draws of the same size; `is_outside` where it is worse than the draws."""

    metric: str
    rows: int
    value: float
    drawn: Spread
    is_outside: bool


class Change(NamedTuple):
    """A metric that is worse than in the run before."""

    metric: str
    before: float
    now: float


class History(NamedTuple):
    """The present run against the one before it."""

    rows: int
    """Rows at which both are compared."""
    before: Run | None
    is_comparable: bool
    """Whether any metric has draws in one of the two."""
    worse: tuple[Change, ...]


def measured(tables: Sequence[pd.DataFrame]) -> list[str]:
    """The metrics that have a figure in any of the tables, in the schema's order."""
    found = {str(row.metric) for table in tables for row in table.itertuples() if math.isfinite(row.value)}
    return [metric for metric in METRICS if metric in found]


def metric_lines(subsets: Iterable[pd.DataFrame]) -> list[MetricLine]:
    """Each metric of each subset on which it was measured, in the schema's order."""
    rows = [row for table in subsets for row in table.itertuples() if math.isfinite(row.value)]
    lines = [
        MetricLine(row.metric, int(row.rows), float(row.value), drawn, is_worse(row.metric, row.value, drawn))
        for row, drawn in zip(rows, map(spread_of, rows), strict=True)
    ]
    return sorted(lines, key=lambda line: METRICS.index(line.metric))


def spread_of(row: Any) -> Spread:
    """The draws of a row of the schema Diversity; NaN where none were made."""
    return Spread(float(row.draws_mean), float(row.draws_deviation))


def at_equal(run: Run, metric: str) -> Spread | None:
    """A run's figure at the number of rows that all runs have, and the deviation of its draws (NaN without draws).

    None where the figure was not measured.
    """
    for row in run.table[run.table["metric"] == metric].itertuples():
        if math.isfinite(row.draws_mean):
            return spread_of(row)
        if math.isfinite(row.value):
            return Spread(float(row.value), math.nan)
    return None


def history(runs: Sequence[Run]) -> History:
    """The present run against the run before."""
    place = next(at for at, run in enumerate(runs) if run.is_present)
    present, before = runs[place], runs[place - 1] if place else None
    size = rows_compared(present.table)
    if before is None:
        return History(size, None, is_comparable=False, worse=())
    judged = [(metric, *pair) for metric in METRICS if (pair := _comparable(before, present, metric)) is not None]
    worse = tuple(Change(metric, old.mean, new.mean) for metric, old, new in judged if is_worse(metric, new.mean, old))
    return History(size, before, bool(judged), worse)


def _comparable(before: Run, present: Run, metric: str) -> tuple[Spread, Spread] | None:
    """The figures of two runs with the wider of their deviations; None where neither has one."""
    old, new = at_equal(before, metric), at_equal(present, metric)
    if old is None or new is None:
        return None
    deviations = [spread.deviation for spread in (old, new) if math.isfinite(spread.deviation)]
    return (old._replace(deviation=max(deviations)), new) if deviations else None
