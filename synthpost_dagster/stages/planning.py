"""What has to run: which artifacts are missing or out of date, given what Dagster has recorded.

The driver and the sensors ask here, so that both start the same work. Nothing here knows of Dagster: `recorded` is a
function from asset and partition to the digest of the manifest that its latest materialization shows, or None where
there is none or Dagster calls it stale. What is there but not so recorded is run too: it is reused and recorded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from synthpost_dagster.artifacts.resolver import State
from synthpost_dagster.cell import Cell
from synthpost_dagster.llm.chat_models import HOLDS_DEVICE
from synthpost_dagster.stages import adapters, effort, report
from synthpost_dagster.stages.stage import BASELINE, CONTROL, STAGES, stage_of
from synthpost_dagster.stages.study import Study

Recorded = Callable[[str, str], str | None]
UPSTREAM = tuple(asset for asset in STAGES if stage_of(asset).job == "upstream")
BY_CELL = tuple(asset for asset in STAGES if stage_of(asset).job == "cell")


def is_upstream_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    """Whether any unpartitioned stage before the report has something to do, where `rows` are to be had."""
    assets = [asset for asset in UPSTREAM if asset != "synthetic_rows"]
    return any(_is_stale(study, asset, "", recorded) for asset in assets) or are_rows_stale(study, recorded, rows)


def stale_subsets(study: Study, recorded: Recorded, sizes: Iterable[int]) -> list[int]:
    """The data sizes whose subset is missing or holds other rows than it should."""
    return [size for size in sizes if _is_stale(study, "data_subsets", str(size), recorded)]


def stale_cells(study: Study, recorded: Recorded, cells: Iterable[Cell]) -> list[Cell]:
    """The cells of which adapter, predictions or verdicts are missing or out of date, under any training seed."""
    return [cell for cell in cells if _is_cell_stale(study, recorded, cell)]


def are_controls_stale(study: Study, recorded: Recorded) -> bool:
    """Whether the controls are missing or out of date."""
    return _is_stale(study, "control_verdicts", "", recorded)


def is_report_stale(study: Study, recorded: Recorded) -> bool:
    """Whether the report is missing, was made of something else, or is not what lies in the home."""
    manifest = study.resolver.find("ratio_report")
    if manifest is None or not report.is_put_out(study, manifest):
        return True
    return _is_stale(study, "ratio_report", "", recorded)


def unfilled(study: Study, cells: Iterable[Cell]) -> list[Cell]:
    """The cells, each under each of its seeds, whose adapter or predictions are not there."""
    trainings = [training for cell in cells for training in study.seeds_of(cell)]
    return [one for one in trainings if not study.resolver.has("predictions", one.place)]


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
    judged = [study.resolver.has("verdicts", training.place) for training in study.seeds_of(cell)]
    return work_to_fill(study, [cell]) + judged.count(False) * sum(effort.of_verdicts(study))


def upstream_work(study: Study, rows: int) -> float:
    """The work of the rows that the teacher has to write, where `rows` are to be had, and of the untuned model's posts
    that are not there.
    """
    there = study.resolver.need("synthetic_rows").parts["rows"] if study.resolver.has("synthetic_rows") else 0
    sets = 2 * [study.resolver.has(asset) for asset in (BASELINE, CONTROL)].count(False)
    return effort.of_rows(max(rows - there, 0)) + effort.of_posts(sets * study.evaluation_count)


def controls_work(study: Study) -> float:
    """The work of the controls' games, where they are not there."""
    return 0.0 if study.resolver.has("control_verdicts") else sum(effort.of_controls(study))


def _filling_work(study: Study, training: Cell) -> float:
    if study.resolver.has("predictions", training.place):
        return 0.0
    is_tuned = study.resolver.has("adapters", training.place)
    steps = 0 if is_tuned else adapters.steps_of(study, training)
    return effort.of_steps(study, steps) + effort.of_posts(study.evaluation_count)


def is_judge_in_process(study: Study) -> bool:
    """Whether a judge is a model that this machine's device holds."""
    return any(spec.backend in HOLDS_DEVICE for spec in study.profile.judges)


def _is_cell_stale(study: Study, recorded: Recorded, cell: Cell) -> bool:
    if any(_is_stale(study, asset, cell.place, recorded) for asset in BY_CELL):
        return True
    # What Dagster has recorded of a cell is what the first seed made.
    seeds = study.seeds_of(cell)[1:]
    return any(study.resolver.state(asset, one.place) is not State.CURRENT for one in seeds for asset in BY_CELL)


def are_rows_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    """Whether fewer than `rows` rows of the present making are there."""
    manifest = study.resolver.find("synthetic_rows")
    if manifest is None or manifest.parts["rows"] < rows:
        return True
    return _is_stale(study, "synthetic_rows", "", recorded)


def _is_stale(study: Study, asset: str, partition: str, recorded: Recorded) -> bool:
    """Also true where something before the artifact is missing."""
    if study.resolver.state(asset, partition) is not State.CURRENT:
        return True
    return recorded(asset, partition) != study.resolver.need(asset, partition).self_digest
