"""The page of `synthpost pairs`: comparisons made elsewhere. The layout is in `templates/pairs.html.j2`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synthpost_dagster.report import advice, views
from synthpost_dagster.report.browser import pairs_browser
from synthpost_dagster.report.headline import pairs_headline, pairs_notices
from synthpost_dagster.report.rendering import render
from synthpost_dagster.report.texts import (
    number_text,
    p_text,
    percent_text,
    points_text,
    ratio_text,
)
from synthpost_dagster.report.trust import judge_cards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synthpost_dagster.report.data import PairsData
    from synthpost_dagster.statistics.comparison import GameFigures

MOST_LISTED = 20
"""So many names stand in a list of pairs or columns."""
MAX_REPAIRS = 200
"""Labels that were not exact, on the page."""


def render_pairs_page(data: PairsData) -> str:
    """The whole page as HTML, without a reference to anything outside it; the same text for the same data."""
    return render("pairs.html.j2", _context(data))


def _context(data: PairsData) -> dict[str, Any]:
    return {
        "data": data,
        "headline": pairs_headline(data),
        "notices": pairs_notices(data),
        "score": views.score_of(data.comparison),
        "figures": [*_outcome_figures(data), *(_game_figures(data.games) if data.games else [])],
        "breakdowns": views.outer_breakdowns(data),
        "corners": advice.corner_lines(data.corners, len(data.levels)),
        "expected": advice.expected_lines(data.expected, data.comparison.counts.pairs, "pair"),
        "trust": judge_cards(data.judges, {}),
        "browser": pairs_browser(data),
        "ignored": _listed(data.ignored),
        "repairs": data.repairs[:MAX_REPAIRS],
        "more_repairs": max(0, len(data.repairs) - MAX_REPAIRS),
        "missing": [(one.reason, len(one.pair_ids), _listed(one.pair_ids)) for one in data.missing],
    }


def _listed(pair_ids: Sequence[str]) -> str:
    more = len(pair_ids) - MOST_LISTED
    return ", ".join(pair_ids[:MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _outcome_figures(data: PairsData) -> list[tuple[str, str, str]]:
    """(name, figure, what it is)."""
    compared = data.comparison
    return [
        ("Win ratio", ratio_text(*compared.ratio), "W / L with its exact 95 % interval"),
        ("Tie-aware ratio", number_text(compared.tie_aware), "a tie counts half a win and half a loss"),
        ("Win rate", percent_text(compared.win_rate), "(W + T/2) of the scored pairs"),
        ("Worst case", ratio_text(*compared.worst_case), "every unscored pair counted as lost"),
        ("Sign test", p_text(compared.p_value), "that both are equally good"),
    ]


def _game_figures(games: GameFigures) -> list[tuple[str, str, str]]:
    order, controlled = games
    if controlled.is_identifiable:
        ratio = number_text(controlled.value)
        if not controlled.reason:
            ratio = ratio_text(controlled.value, controlled.low, controlled.high)
    else:
        ratio = "none"
    consistency = percent_text(order.consistency.value)
    return [
        ("Length-controlled ratio", ratio, controlled.reason or "as if both posts were equally long"),
        ("Order consistency", consistency, "pairs whose two games agree; under 75 % is a warning"),
        ("Slot bias", f"{points_text(order.slot_bias.value)} points", "above 0 the first post is favoured"),
    ]
