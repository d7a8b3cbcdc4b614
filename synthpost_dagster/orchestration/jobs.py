"""Jobs and the weekly schedule.

https://docs.dagster.io/guides/build/jobs. A job cannot hold assets of different partitions, so each partitioning has
its own. `sweep` holds no asset: its op makes the assets of many cells from one loaded student and records them. What
runs next is decided in `stages.planning`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import (
    AssetSelection,
    Config,
    JobDefinition,
    Nothing,
    OpExecutionContext,
    Out,
    ScheduleDefinition,
    define_asset_job,
    job,
    op,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from synthpost_dagster.artifacts.manifest import Outcome
from synthpost_dagster.assets.progress import progress_of
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import ArtifactDamaged, SpecError, SynthpostError
from synthpost_dagster.orchestration.recording import record_cell
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.planning import UPSTREAM, Run, is_judge_in_process
from synthpost_dagster.stages.stage import BY_CELL
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.sweep import Filled, complete

WEEKLY = "0 6 * * 1"
Job = JobDefinition | UnresolvedAssetJobDefinition


class SweepConfig(Config):
    """The cells that a run of `sweep` completes."""

    cells: list[str] | None = Field(default=None, description="Such as 88|50; by default all cells of the profile")


def ops_config(run: Run) -> dict[str, Any]:
    """The run configuration of a run, below `ops`."""
    if run.job == "sweep":
        return {fill.name: {"config": {"cells": [cell.key for cell in run.cells]}}}
    return {"synthetic_rows": {"config": {"rows": run.rows}}} if run.rows is not None else {}


def cells_of(run_config: Mapping[str, Any]) -> list[str] | None:
    """The keys of the cells in the configuration of a run of `sweep`; None for all."""
    cells: list[str] | None = run_config.get("ops", {}).get(fill.name, {}).get("config", {}).get("cells")
    return cells


def _chosen(study: Study, keys: Sequence[str] | None) -> list[Cell]:
    """The cells of the keys, each once; all without keys. Raises SpecError for one that the profile does not have."""
    known = {cell.key: cell for cell in study.cells}
    if unknown := [key for key in keys or () if key not in known]:
        raise SpecError(
            f"ops.fill.config.cells: {', '.join(unknown)} is none of the profile's cells ({', '.join(known)})"
        )
    return [known[key] for key in dict.fromkeys(known if keys is None else keys)]


@op(pool=POOL, out=Out(Nothing), description="Trains, predicts and judges the cells, and records each of them.")
def fill(context: OpExecutionContext, config: SweepConfig, study: StudyResource) -> None:
    """The op of the job `sweep`."""
    opened = study.open()
    cells = _chosen(opened, config.cells)

    def record(asset: str, cell: Cell, outcomes: Sequence[Outcome]) -> None:
        record_cell(context, opened, asset, cell, outcomes)

    def release_pool() -> None:
        if not is_judge_in_process(opened):
            storage = context.instance.event_log_storage
            storage.free_concurrency_slot_for_step(context.run_id, context.get_step_execution_context().step.key)

    filled = complete(opened, cells, progress_of(context), record, release_pool)
    context.log.info(f"trainings: {filled.text}; models loaded: {filled.model_loads}")
    failed = {place: str(error) for place, error in filled.errors.items()}
    shown = filled.counts | {"failed": failed, "skipped": filled.skipped, "model_loads": filled.model_loads}
    context.add_output_metadata({name.replace(" ", "_"): value for name, value in shown.items()})
    _raise_failures(filled, len(cells))


def _raise_failures(filled: Filled, cells: int) -> None:
    """Raises one error that names every cell that failed; ArtifactDamaged where that is why one of them did."""
    if not filled.errors:
        return
    damaged = next((error for error in filled.errors.values() if isinstance(error, ArtifactDamaged)), None)
    first = damaged or next(iter(filled.errors.values()))
    if cells == 1 or len(filled.errors) == 1:
        place = next(place for place, error in filled.errors.items() if error is first)
        raise type(first)(f"cell {place}: {first}", details=first.details) from first
    reasons = [f"{place}: {error}" for place, error in filled.errors.items()]
    kind = ArtifactDamaged if damaged else SynthpostError
    raise kind(f"{len(reasons)} trainings of {cells} cells failed", details=reasons) from first


@job(
    description="Trains, predicts and judges many cells from one loaded student, and records each of them. `cells` in "
    "the configuration names them, by default all of the profile."
)
def sweep() -> None:
    """The job of the op `fill`."""
    fill()


def build_jobs() -> dict[str, Job]:
    """The jobs by name, in the order they run; each has the partitions of its assets."""
    jobs: tuple[Job, ...] = (
        _asset_job("upstream", UPSTREAM, "Catalog, prompts, synthetic rows and the untuned model's outputs."),
        _asset_job("subsets", ("data_subsets",), "The training rows of one data size."),
        sweep,
        _asset_job("cell", BY_CELL, "One cell: train, predict, judge. What exists is reused."),
        _asset_job("controls", ("control_verdicts",), "Comparisons whose answer is known: they test the judge."),
        _asset_job("report", ("ratio_report",), "Win ratios with intervals, and the page."),
    )
    return {one.name: one for one in jobs}


def _asset_job(name: str, assets: Sequence[str], description: str) -> UnresolvedAssetJobDefinition:
    return define_asset_job(name, AssetSelection.assets(*assets), description=description)


def build_schedule(upstream: Job) -> ScheduleDefinition:
    """Starts the upstream every Monday at six."""
    return ScheduleDefinition(
        name="weekly",
        job=upstream,
        cron_schedule=WEEKLY,
        description="Starts `upstream` every Monday at 06:00. Switch the sensor `next_runs` on to let the rest follow.",
    )
