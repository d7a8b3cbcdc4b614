"""What has to run: which artifacts are missing or out of date, given what Dagster has recorded.

The driver and the sensors ask here, so that both start the same work. Nothing here knows of Dagster: `recorded` is a
function from asset and partition to the digest of the manifest that its latest materialization shows, or None where
there is none or Dagster calls it stale. What is there but not so recorded is run too: it is reused and recorded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from synthpost_dagster.artifacts.store import Plan
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.llm.chat_models import HOLDS_DEVICE
from synthpost_dagster.stages import adapters, data, effort, predictions, report, verdicts
from synthpost_dagster.stages.study import Study

Recorded = Callable[[str, str], str | None]
UPSTREAM = ("catalog", "prompts", "evaluation_prompts", "synthetic_rows", "baseline_predictions", "control_predictions")


def is_upstream_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    """Whether any unpartitioned stage before the report has something to do, where `rows` are to be had."""
    plans = (
        data.catalog_plan,
        data.prompts_plan,
        data.evaluation_prompts_plan,
        predictions.baseline_predictions_plan,
        predictions.control_predictions_plan,
    )
    return any(_is_stale(study, partial(plan, study), recorded) for plan in plans) or are_rows_stale(
        study, recorded, rows
    )


def stale_subsets(study: Study, recorded: Recorded, sizes: Iterable[int]) -> list[int]:
    """The data sizes whose subset is missing or holds other rows than it should."""
    return [size for size in sizes if _is_stale(study, partial(data.data_subsets_plan, study, size), recorded)]


def stale_cells(study: Study, recorded: Recorded, cells: Iterable[Cell]) -> list[Cell]:
    """The cells of which adapter, predictions or verdicts are missing or out of date, under any training seed."""
    return [cell for cell in cells if _is_cell_stale(study, recorded, cell)]


def are_controls_stale(study: Study, recorded: Recorded) -> bool:
    """Whether the controls are missing or out of date."""
    return _is_stale(study, partial(verdicts.control_verdicts_plan, study), recorded)


def is_report_stale(study: Study, recorded: Recorded) -> bool:
    """Whether the report is missing, was made of something else, or is not what lies in the home."""
    try:
        plan = report.ratio_report_plan(study)
    except SynthpostError:
        return True
    manifest = study.store.find(plan.asset, plan.partition, plan.fingerprint)
    if manifest is None or not report.is_put_out(study, manifest):
        return True
    return _is_stale(study, lambda: plan, recorded)


def unfilled(study: Study, cells: Iterable[Cell]) -> list[Cell]:
    """The cells, each under each of its seeds, whose adapter or predictions are not there."""
    trainings = [training for cell in cells for training in study.seeds_of(cell)]
    return [one for one in trainings if not study.has(partial(predictions.predictions_plan, study, one))]


def cells_to_fill(study: Study, cells: Iterable[Cell]) -> list[Cell]:
    """The cells that the job `sweep` is to fill; none where one training is all there is to do, which a cell's own run
    does as well.
    """
    lacking = unfilled(study, cells)
    return list(dict.fromkeys(one._replace(seed=None) for one in lacking)) if len(lacking) > 1 else []


def dealt(study: Study, cells: Sequence[Cell], hands: int) -> list[list[Cell]]:
    """The cells in at most `hands` parts of about equal work: the longest first, each to the part with least so far."""
    work = {cell: work_to_fill(study, [cell]) for cell in cells}
    parts: list[list[Cell]] = [[] for _ in range(min(hands, len(cells)))]
    for cell in sorted(cells, key=work.__getitem__, reverse=True):
        min(parts, key=lambda part: sum(work[other] for other in part)).append(cell)
    return [sorted(part, key=cells.index) for part in parts]


def work_left(study: Study, cells: Iterable[Cell], rows: int) -> float:
    """What a sweep takes yet, in the units of `stages.effort`: the work of all that is not there."""
    return upstream_work(study, rows) + sum(cell_work(study, cell) for cell in cells) + controls_work(study)


def work_to_fill(study: Study, cells: Iterable[Cell]) -> float:
    """The work of the adapters and predictions that the cells lack."""
    return sum(_filling_work(study, training) for cell in cells for training in study.seeds_of(cell))


def cell_work(study: Study, cell: Cell) -> float:
    """The work of all that a cell lacks, under every seed."""
    judged = [study.has(partial(verdicts.verdicts_plan, study, training)) for training in study.seeds_of(cell)]
    return work_to_fill(study, [cell]) + judged.count(False) * sum(effort.of_verdicts(study))


def upstream_work(study: Study, rows: int) -> float:
    """The work of the rows that the teacher has to write, where `rows` are to be had, and of the untuned model's posts
    that are not there.
    """
    try:
        there = data.current_rows(study).parts["rows"]
    except SynthpostError:
        there = 0
    plans = (predictions.baseline_predictions_plan, predictions.control_predictions_plan)
    sets = 2 * [study.has(partial(plan, study)) for plan in plans].count(False)
    return effort.of_rows(max(rows - there, 0)) + effort.of_posts(sets * study.evaluation_count)


def controls_work(study: Study) -> float:
    """The work of the controls' games, where they are not there."""
    return 0.0 if study.has(partial(verdicts.control_verdicts_plan, study)) else sum(effort.of_controls(study))


def _filling_work(study: Study, training: Cell) -> float:
    if study.has(partial(predictions.predictions_plan, study, training)):
        return 0.0
    is_tuned = study.has(partial(adapters.adapters_plan, study, training))
    steps = 0 if is_tuned else adapters.steps_of(study, training)
    return effort.of_steps(study, steps) + effort.of_posts(study.evaluation_count)


def is_judge_in_process(study: Study) -> bool:
    """Whether a judge is a model that this machine's device holds."""
    return any(spec.backend in HOLDS_DEVICE for spec in study.profile.judges)


def _is_cell_stale(study: Study, recorded: Recorded, cell: Cell) -> bool:
    plans = (adapters.adapters_plan, predictions.predictions_plan, verdicts.verdicts_plan)
    if any(_is_stale(study, partial(plan, study, cell), recorded) for plan in plans):
        return True
    # What Dagster has recorded of a cell is what the first seed made.
    return any(study.is_due(partial(plan, study, seed)) for seed in study.seeds_of(cell)[1:] for plan in plans)


def are_rows_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    """Whether fewer than `rows` rows of the present making are there."""
    try:
        manifest = data.current_rows(study)
    except SynthpostError:
        return True
    if manifest.parts["rows"] < rows:
        return True
    return _is_stale(study, lambda: Plan(manifest.asset, manifest.partition, manifest.parts), recorded)


def _is_stale(study: Study, plan: Callable[[], Plan], recorded: Recorded) -> bool:
    """Also true where the plan cannot be made because something before it is missing."""
    if study.is_due(plan):
        return True
    planned = plan()
    manifest = study.store.find(planned.asset, planned.partition, planned.fingerprint)
    return manifest is None or recorded(planned.asset, planned.partition) != manifest.self_digest
