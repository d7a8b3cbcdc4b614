"""What has to run: which artifacts are missing or out of date, given what Dagster has recorded.

The driver and the sensors ask here, so that both start the same work. Nothing here knows of Dagster: `recorded` is a
function from asset and partition to the fingerprint of its latest materialization, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from synthpost_dagster.artifacts.store import Plan
from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.stages import data, evaluation, models
from synthpost_dagster.stages.study import Cell, Study

Recorded = Callable[[str, str], str | None]
UPSTREAM = ("catalog", "prompts", "evaluation_prompts", "synthetic_rows", "baseline_predictions")


def is_upstream_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    """Whether any unpartitioned stage before the report has something to do, where `rows` are to be had."""
    plans = (
        data.catalog_plan,
        data.prompts_plan,
        data.evaluation_prompts_plan,
        models.baseline_predictions_plan,
    )
    return any(_is_stale(study, partial(plan, study), recorded) for plan in plans) or _are_rows_stale(
        study, recorded, rows
    )


def stale_subsets(study: Study, recorded: Recorded, sizes: Iterable[int]) -> list[int]:
    """The data sizes whose subset is missing or holds other rows than it should."""
    return [size for size in sizes if _is_stale(study, partial(data.data_subsets_plan, study, size), recorded)]


def stale_cells(study: Study, recorded: Recorded, cells: Iterable[Cell]) -> list[Cell]:
    """The cells of which adapter, predictions or verdicts are missing or out of date."""
    return [
        cell
        for cell in cells
        if any(
            _is_stale(study, partial(plan, study, cell), recorded)
            for plan in (models.adapters_plan, models.predictions_plan, evaluation.verdicts_plan)
        )
    ]


def is_report_stale(study: Study, recorded: Recorded) -> bool:
    """Whether the report is missing, or was made of other verdicts."""
    is_put_out = (study.settings.home / "report" / "index.html").is_file()
    return not is_put_out or _is_stale(study, partial(evaluation.ratio_report_plan, study), recorded)


def cell_work(study: Study, cell: Cell) -> float:
    """A rough measure of a cell's work, for telling how long a sweep takes yet: rows trained and posts written."""
    from synthpost_dagster.training.schedule import optimizer_steps

    batch = study.profile.training.rows_per_step
    return 0.6 * batch * optimizer_steps(cell.steps, cell.data_size, batch) + study.evaluation_count


def upstream_work(study: Study, rows: int) -> float:
    """The same for the upstream: rows to be written by the teacher, and both baselines' posts."""
    return 1.5 * rows + 2 * study.evaluation_count


def _are_rows_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    try:
        manifest = data.current_rows(study)
    except SynthpostError:
        return True
    return bool(manifest.parts["rows"] < rows) or recorded("synthetic_rows", "") != manifest.fingerprint


def _is_stale(study: Study, plan: Callable[[], Plan], recorded: Recorded) -> bool:
    """Also true where the plan cannot be made because something before it is missing."""
    try:
        planned = plan()
    except SynthpostError:
        return True
    manifest = study.store.find(planned.asset, planned.partition, planned.fingerprint)
    if manifest is None or manifest.failed_gates:
        return True
    return recorded(planned.asset, planned.partition) != planned.fingerprint
