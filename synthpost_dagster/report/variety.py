"""How varied the posts are, in words: each subset beside draws of as many rows, and a run of the teacher beside others.

The figures themselves are those of `rows.diversity`; they are drawn in `report.quality_figures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.report.data_quality import rows_compared
from synthpost_dagster.report.texts import counted, number_text
from synthpost_dagster.rows.diversity import SPREADS, Spread, is_worse
from synthpost_dagster.schemas import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from synthpost_dagster.report.data_quality import Run

METRIC_NAMES = {
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_3": "distinct-3",
    "compression_ratio": "compression ratio",
    "opening_share": "commonest opening",
    "self_bleu": "self-BLEU",
    "vendi": "Vendi score",
    "semantic_near_share": "alike in meaning",
}
METRIC_MEANINGS = {
    "distinct_1": "Different words, divided by all words. Higher is more varied.",
    "distinct_2": "The same for pairs of words that follow each other.",
    "distinct_3": "The same for three words that follow each other.",
    "compression_ratio": "How many times smaller the posts become when they are packed. Lower is more varied.",
    "opening_share": "Share of the posts that begin with the same five words. Lower is more varied.",
    "self_bleu": "How much the posts of a sample resemble each other, from 0 to 100. Lower is more varied.",
    "vendi": "As how many entirely different posts they count, by what they mean. Higher is more varied.",
    "semantic_near_share": "Share of the posts that say nearly what an earlier one says. Lower is more varied.",
}


SHARES = ("opening_share", "semantic_near_share")
"""Metrics that are printed in per cent."""


class MetricLine(NamedTuple):
    """A metric of one subset beside the draws of as many rows."""

    metric: str
    rows: int
    figure: str
    drawn: str
    is_outside: bool
    """Outside of the draws, on the worse side."""


class RunLine(NamedTuple):
    """A run of the teacher; `figures` in the order of the metrics' columns."""

    number: int
    when: str
    teacher: str
    rows: int
    is_present: bool
    figures: tuple[str, ...]


def measured(tables: Sequence[pd.DataFrame]) -> list[str]:
    """The metrics that have a figure in any of the tables, in the schema's order."""
    found = {str(row.metric) for table in tables for row in table.itertuples() if is_number(row.value)}
    return [metric for metric in METRICS if metric in found]


def metric_lines(metric: str, subsets: Mapping[int, pd.DataFrame]) -> Iterator[MetricLine]:
    """A metric of each subset that it was measured on."""
    for table in subsets.values():
        for row in table[table["metric"] == metric].itertuples():
            if is_number(row.value):
                drawn = spread_of(row)
                ends = f"{figure_text(metric, max(0.0, drawn.low))} to {figure_text(metric, drawn.high)}"
                yield MetricLine(
                    METRIC_NAMES[metric],
                    int(row.rows),
                    figure_text(metric, row.value),
                    ends if is_number(drawn.mean) else "not drawn",
                    is_worse(metric, row.value, drawn),
                )


def spread_of(row: Any) -> Spread:
    """The draws of a row of the schema Diversity; NaN where none were made."""
    return Spread(float(row.draws_mean), float(row.draws_deviation))


def figure_text(metric: str, figure: float) -> str:
    """A metric's figure as it is printed."""
    if not is_number(figure):
        return "not measured"
    return f"{100 * figure:.1f} %" if metric in SHARES else number_text(figure, 3)


def at_equal(run: Run, metric: str) -> Spread | None:
    """A run's figure at the rows that runs are compared at, with the deviation of its draws; None where not measured.

    The deviation is NaN where nothing was drawn.
    """
    for row in run.table[run.table["metric"] == metric].itertuples():
        if is_number(row.draws_mean):
            return spread_of(row)
        if is_number(row.value):
            return Spread(float(row.value), math.nan)
    return None


def run_line(number: int, run: Run, columns: Sequence[str]) -> RunLine:
    """A run's figures for these metrics, as they are printed."""
    figures = (at_equal(run, metric) for metric in columns)
    texts = [figure_text(m, math.nan if f is None else f.mean) for m, f in zip(columns, figures, strict=True)]
    return RunLine(number, _when(run), run.teacher or "unknown", run.rows, run.is_present, tuple(texts))


def _when(run: Run) -> str:
    return run.made_at[:16].replace("T", " ")


def changes(runs: Sequence[Run]) -> Iterator[str]:
    """A sentence for each metric that is worse than in the run before, or one that says that there is none."""
    place = next((at for at, run in enumerate(runs) if run.is_present), None)
    if place is None:
        return
    present = runs[place]
    size = f"{counted(rows_compared(present.table), 'row')}"
    if place == 0:
        yield f"There is no earlier run with figures at {size} to compare with."
        return
    before = runs[place - 1]
    judged = [(m, *pair) for m in METRICS if (pair := _comparable(before, present, m)) is not None]
    worse = [(m, old, new) for m, old, new in judged if is_worse(m, new.mean, old)]
    for metric, old, new in worse:
        verb = "fell" if new.mean < old.mean else "rose"
        texts = f"{figure_text(metric, old.mean)} to {figure_text(metric, new.mean)}"
        yield (
            f"{_sentence(METRIC_NAMES[metric])} at {size} {verb} from {texts} since the run of {_when(before)} "
            f"({before.teacher or 'unknown teacher'}, {counted(before.rows, 'row')}): less variety, by more than "
            f"{SPREADS:g} standard deviations of the draws."
        )
    if not judged:
        yield f"Whether a figure is worse than in the run before cannot be told: no {size} were drawn in either run."
    elif not worse:
        yield f"No figure at {size} is worse than in the run before, of {_when(before)}."


def _comparable(before: Run, present: Run, metric: str) -> tuple[Spread, Spread] | None:
    """The figures of two runs with the wider of their deviations; None where neither has one."""
    old, new = at_equal(before, metric), at_equal(present, metric)
    if old is None or new is None:
        return None
    deviations = [spread.deviation for spread in (old, new) if is_number(spread.deviation)]
    return (old._replace(deviation=max(deviations)), new) if deviations else None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def is_number(figure: float) -> bool:
    """Whether a figure was measured."""
    return math.isfinite(figure)
