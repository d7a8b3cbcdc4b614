"""How numbers are printed, on the page and in the terminal."""

from __future__ import annotations

import math

from synthpost_dagster.report.figures import NO_DECISIVE_PAIR


def ratio_text(ratio: float, low: float, high: float) -> str:
    """A ratio with its interval: `5.8 (3.3 to 11)`, `∞ (at least 26.6)` or `undefined (no decisive pair)`."""
    if math.isnan(ratio):
        return f"undefined ({NO_DECISIVE_PAIR})"
    if math.isinf(ratio):
        return f"∞ (at least {number_text(low, 3)})"
    return f"{number_text(ratio)} ({number_text(low)} to {number_text(high)})"


def number_text(value: float, digits: int = 2) -> str:
    """A number of at least 0 to so many significant digits, never in exponent form; integers keep all of theirs."""
    if math.isnan(value):
        return "undefined"
    if value == 0 or math.isinf(value):
        return "∞" if value else "0"
    rounded = float(f"{value:.{digits}g}")  # 9.96 is written 10, not 10.0
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    return f"{value:,.{decimals}f}"


def duration_text(seconds: float) -> str:
    """A duration in its two largest units: `8.4 s`, `1 min 37 s`, `2 h 5 min`."""
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
