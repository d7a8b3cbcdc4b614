"""The page of `synthpost pairs`: comparisons from elsewhere. The layout is in `templates/pairs.html.j2`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from synthpost_dagster.report.browser import pairs_browser
from synthpost_dagster.report.rendering import render
from synthpost_dagster.report.views import Score

if TYPE_CHECKING:
    from synthpost_dagster.report.data import PairsData

MAX_REPAIRS = 200
"""Labels that were not exact, on the page."""


def render_pairs_page(data: PairsData) -> str:
    """The whole page as HTML, without a reference to anything outside it; the same text for the same data."""
    context = {
        "data": data,
        "score": Score(data.comparison.counts, data.comparison.ratio),
        "breakdowns": {
            factor: {level: (Score(one.counts, one.ratio),) for level, one in levels.items()}
            for factor, levels in data.levels.items()
        },
        "browser": pairs_browser(data),
        "repairs": data.repairs[:MAX_REPAIRS],
    }
    return render("pairs.html.j2", context)


def notice_texts(data: PairsData) -> tuple[str, ...]:
    """The notices of the page as plain text, for the terminal."""
    _, *notices = render("_pairs_notices.html.j2", {"data": data}).split('<div class="notice')
    return tuple(Markup(f"<div{notice}").striptags() for notice in notices)  # noqa: S704 - for its text alone
