"""The report's page: combines values, tables and drawings. The layout is in `templates/page.html.j2`.

The decision comes from `answer`, tables from `views`, drawings from `figures`, posts from `browser`, sentences from the
templates. Counts, ratios and intervals come with the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from synthpost_dagster.report import figures, quality_figures, views
from synthpost_dagster.report.answer import answer_of
from synthpost_dagster.report.browser import report_browser
from synthpost_dagster.report.quality_views import HEATS, heat, quality_view
from synthpost_dagster.report.rendering import render
from synthpost_dagster.statistics.choice import MAX_UNSCORED
from synthpost_dagster.statistics.power import PLANNED_SHARE, pairs_to_detect, planned_widths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synthpost_dagster.cell import Cell
    from synthpost_dagster.report.data import ReportData


def render_page(data: ReportData) -> str:
    """The whole page as HTML, without a reference to anything outside it; the same text for the same data."""
    cells = views.cell_views(data.shown_ratios)
    answer = answer_of(data, cells)
    best = answer.best.cell if answer.best else None
    shown = best or (cells[-1].cell if cells else None)
    breakdowns = [(view.cell, views.breakdowns(data, view.cell)) for view in cells]
    context = {
        "data": data,
        "answer": answer,
        "best": best,
        "choice": data.choice if best else None,
        "max_unscored": MAX_UNSCORED,
        "cells": cells,
        "cells_by_length": sorted(cells, key=lambda view: (view.cell.sweep_order[1:], view.cell.data_size)),
        "surface": views.surface(cells, data.missing),
        "replicates": views.replicates(cells),
        "steps": [step for step in data.worth if step.smaller == best],
        "other_steps": [step for step in data.worth if step.smaller != best],
        "planned_widths": planned_widths(),
        "planned_share": (PLANNED_SHARE, pairs_to_detect(PLANNED_SHARE)),
        "looks": sum(map(len, views.breakdowns(data, best).values())) if best else 0,
        "shown": shown,
        "breakdowns": breakdowns,
        "compliance_columns": views.compliance_columns(data.compliance),
        "compliance": list(views.criterion_shares(data)),
        "quality": quality_view(data.quality),
        "heat": heat,
        "heats": HEATS,
        "training": sorted(data.training, key=lambda run: (run.cell.sweep_order, run.seed)),
        "figures": _figures(data, views.checked_criteria(data), shown),
        "browser": report_browser(data, best),
    }
    return render("page.html.j2", context)


def _figures(data: ReportData, criteria: Sequence[str], shown: Cell | None) -> dict[str, Markup]:
    """SVG by the name that the template asks for."""
    drawn = {
        "all_cells": figures.all_cells(data.shown_ratios),
        "ratio_by_size": figures.ratio_by_size(data.shown_ratios),
        "ratio_by_length": figures.ratio_by_length(data.shown_ratios),
        "compliance": figures.compliance(data.compliance, criteria, shown),
        "loss_curves": figures.loss_curves(data.training),
        "variety": quality_figures.variety(data.quality.subsets),
        "earlier_runs": quality_figures.earlier_runs(data.quality.runs),
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes its text
