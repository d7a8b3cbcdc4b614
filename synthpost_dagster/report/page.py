"""The report's page: puts words, tables and drawings together. The layout is in `templates/page.html.j2`.

Sentences come from `headline`, `advice` and `trust`, tables from `views`, drawings from `figures`, the posts from
`browser`. Counts, ratios and intervals come with the data; none is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from synthpost_dagster.report import advice, figures, forgetting_figures, quality_figures, views
from synthpost_dagster.report.browser import report_browser
from synthpost_dagster.report.forgetting import forgetting_view
from synthpost_dagster.report.headline import Headline, headline, notices, tokens_saved
from synthpost_dagster.report.quality_views import HEAT_KEY, quality_view
from synthpost_dagster.report.rendering import render
from synthpost_dagster.report.texts import CONTESTANT_NAMES, FACTOR_NAMES, ratio_text
from synthpost_dagster.report.trust import trust_cards
from synthpost_dagster.schemas import OPPONENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synthpost_dagster.cell import Cell
    from synthpost_dagster.report.data import ReportData


def render_page(data: ReportData) -> str:
    """The whole page as HTML, without a reference to anything outside it; the same text for the same data."""
    return render("page.html.j2", _context(data))


def _context(data: ReportData) -> dict[str, Any]:
    cells = views.cell_views(data.shown_ratios)
    first = headline(data, cells)
    best = first.view.cell if first.view else None
    shown = best or (cells[-1].cell if cells else None)
    begin, other = advice.steps_from(data.worth, best)
    breakdowns = [(view.cell, views.breakdowns(data, view.cell)) for view in cells]
    criteria = views.checked_criteria(data)
    return {
        "data": data,
        "names": CONTESTANT_NAMES,
        "opponents": OPPONENTS,
        "headline": first,
        "notices": notices(data),
        "best": best,
        "best_ratio": ratio_text(*data.choice.ratio) if best and data.choice else "",
        "best_against_prompted": ratio_text(*data.choice.against_prompted) if best and data.choice else "",
        "alike": data.choice.alike if best and data.choice else (),
        "better": data.choice.better if best and data.choice else (),
        "prompting": ratio_text(*data.prompting.ratio) if data.prompting else "",
        "tokens_saved": tokens_saved(data.prompt_tokens),
        "trust": trust_cards(data, _length_note(first)),
        "cells": cells,
        "cells_by_length": sorted(cells, key=lambda view: (view.cell.sweep_order[1:], view.cell.data_size)),
        "surface": views.surface(cells, data.missing),
        "replicates": views.replicate_notes(cells),
        "seeds": advice.seed_lines(data.seeds),
        "steps": begin,
        "other_steps": other,
        "expected": [
            *advice.expected_lines(data.expected, data.evaluation_prompts, "prompt", data.decisive_share),
            *advice.needed_lines(data.decisive_share),
        ],
        "corners": advice.corner_lines(data.corners, _looks(dict(breakdowns).get(best, ()) if best else ())),
        "shown": shown,
        "breakdowns": breakdowns,
        "compliance_columns": views.compliance_columns(data.compliance),
        "compliance": [views.criterion_shares(data, criterion) for criterion in criteria],
        "quality": quality_view(data.quality),
        "heat_key": HEAT_KEY,
        "training": views.training_views(data.training),
        "forgetting": forgetting_view(data.forgetting),
        "took": [views.took_view(took) for took in data.took],
        "figures": _figures(data, criteria, shown),
        "browser": report_browser(data, best),
        "factor_list": ", ".join(FACTOR_NAMES.values()).lower(),
    }


def _length_note(first: Headline) -> str:
    return first.view.base.figures.length_note if first.view and first.view.base else ""


def _looks(breakdowns: Sequence[views.Breakdown]) -> int:
    return sum(len(table.levels) for table in breakdowns)


def _figures(data: ReportData, criteria: Sequence[str], shown: Cell | None) -> dict[str, Markup]:
    """SVG by the name that the template asks for."""
    drawn = {
        "all_cells": figures.all_cells(data.shown_ratios),
        "ratio_by_size": figures.ratio_by_size(data.shown_ratios),
        "ratio_by_length": figures.ratio_by_length(data.shown_ratios),
        "compliance": figures.compliance(data.compliance, criteria, shown),
        "loss_curves": figures.loss_curves(data.training),
        "forgetting": forgetting_figures.forgetting(data.forgetting),
        "variety": quality_figures.variety(data.quality.subsets),
        "earlier_runs": quality_figures.earlier_runs(data.quality.runs),
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes its text
