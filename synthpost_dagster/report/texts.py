"""Text of figures, on the page and in the terminal, and display names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SpecError

if TYPE_CHECKING:
    from synthpost_dagster.statistics.ratio import Counts

CONTESTANT_NAMES = {"tuned": "tuned", "base": "untuned, short prompt", "prompted": "untuned, long prompt"}
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
SHARES = ("opening_share", "semantic_near_share")
"""Metrics that are printed in percent."""
NO_DECISIVE_PAIR = "no decisive pair"
MINUS = "\u2212"
MAX_LISTED = 20
"""Names in a list of pairs or columns."""


def heading_text(name: str) -> str:
    """A column's name as a title: `post_type` → `Post type`."""
    return name.replace("_", " ").capitalize()


def ratio_text(ratio: float, low: float, high: float) -> str:
    """A ratio with its interval: `5.8 (3.3 to 11)`, `∞ (at least 26.6)` or `undefined (no decisive pair)`."""
    if math.isnan(ratio):
        return f"undefined ({NO_DECISIVE_PAIR})"
    return f"{number_text(ratio)} ({interval_text(low, high)})"


def interval_text(low: float, high: float) -> str:
    """The ends of an interval: `3.3 to 11`, or `at least 26.6` where there is no upper one."""
    if math.isinf(high):
        return f"at least {number_text(low, 3)}"
    return f"{number_text(low)} to {number_text(high)}"


def number_text(value: float, digits: int = 2) -> str:
    """A number of at least 0 to `digits` significant digits, never in exponent form; integers keep all of theirs."""
    if math.isnan(value):
        return "undefined"
    if value == 0 or math.isinf(value):
        return "∞" if value else "0"
    rounded = float(f"{value:.{digits}g}")  # 9.96 is written 10, not 10.0
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    return f"{value:,.{decimals}f}"


def signed_text(value: float, decimals: int) -> str:
    """A number with its sign: `+3`, `−2`, `0`."""
    rounded = round(value, decimals)
    if rounded == 0:
        return f"{0:.{decimals}f}"
    return f"{'+' if rounded > 0 else MINUS}{abs(rounded):.{decimals}f}"


def points_text(share: float) -> str:
    """A difference of shares in percentage points: `+3`, `−2`; `unknown` where it is NaN."""
    return "unknown" if math.isnan(share) else signed_text(100 * share, 0)


def percent_text(share: float) -> str:
    """A share in whole percent; `unknown` where it is NaN. Only all and none are written 100 % and 0 %."""
    if math.isnan(share):
        return "unknown"
    percent = round(100 * share)
    if percent in (0, 100) and share not in (0, 1):
        return "under 1 %" if percent == 0 else "over 99 %"
    return f"{percent} %"


def probability_text(p: float) -> str:
    """A p-value to two digits, `< 0.001` below that, `unknown` where it is NaN."""
    if math.isnan(p):
        return "unknown"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def p_text(p: float) -> str:
    """A p-value within a sentence: `p = 0.03`, `p < 0.001`."""
    text = probability_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def counts_text(counts: Counts) -> str:
    """The four counts in one phrase."""
    return f"W {counts.wins}, L {counts.losses}, T {counts.ties}, X {counts.unscored} of {counts.pairs} pairs"


def counted(count: int, noun: str) -> str:
    """A number of things: `1 cell`, `3 cells`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def cell_text(cell: Cell) -> str:
    """A cell within a sentence: `1,760 rows for 1 epoch`."""
    rows, length = cell.label.split(" | ")
    return f"{rows} for {length}"


def place_text(place: str) -> str:
    """A cell's place with its seed, if any: `88|50|7` → `88 rows | 50 steps | seed 7`; other text as it is."""
    try:
        cell = Cell.at(place)
        return f"{cell.label} | seed {cell.seed}" if cell.seed is not None else cell.label
    except (SpecError, ValueError):
        return place


def times_text(ratio: float) -> str:
    """A ratio of perplexities: two decimals below 10, `undefined` where it is NaN."""
    if math.isnan(ratio):
        return "undefined"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def metric_text(figure: float, metric: str) -> str:
    """The figure of a metric of variety."""
    if not math.isfinite(figure):
        return "not measured"
    return f"{100 * figure:.1f} %" if metric in SHARES else number_text(figure, 3)


def cut(text: str, most: int) -> str:
    """The text, or its first words in at most `most` characters."""
    return text if len(text) <= most else f"{text[:most].rpartition(' ')[0] or text[:most]} …"


def listed(names: Sequence[str]) -> str:
    """At most 20 names, and how many more there are."""
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def duration_text(seconds: float) -> str:
    """A duration in its two largest units: `8.4 s`, `1 min 37 s`, `2 h 5 min`; `unknown` where it is NaN."""
    if math.isnan(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def dollars_text(usd: float) -> str:
    """Dollars: whole cents, or more digits below a cent; `none` where nothing is paid."""
    if usd == 0:
        return "none"
    return f"${usd:,.2f}" if usd >= 0.01 else f"${number_text(usd)}"


def count_text(count: int) -> str:
    """A count in full up to a million, then in millions: `74,096`, `61.0 M`."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1_000_000:,.1f} M"


def needed_lines() -> list[str]:
    """How many decided pairs a precise ratio, and a clear winner, take."""
    from synthpost_dagster.statistics.power import PLANNED_SHARE, pairs_to_detect, planned_widths

    lines = [
        f"To know a ratio of {number_text(ratio, 1)} to within a factor of {number_text(factor, 3)} takes "
        f"{counted(decided, 'decided pair')}."
        for ratio, factor, decided in planned_widths()
    ]
    won = f"To tell {percent_text(PLANNED_SHARE)} of the pairs won from half of them takes"
    return [*lines, f"{won} {counted(pairs_to_detect(PLANNED_SHARE), 'decided pair')}."]
