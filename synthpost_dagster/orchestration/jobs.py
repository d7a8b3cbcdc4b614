"""Jobs and the weekly schedule.

https://docs.dagster.io/guides/build/jobs. One job cannot hold assets of both partitionings, so each partitioning has
its own; `sweep` holds no asset, it fills what the cells' assets then adopt. What follows a run is decided in `sensors`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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

from synthpost_dagster.assets.common import progress_of
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SpecError
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages import planning
from synthpost_dagster.stages import sweep as stage
from synthpost_dagster.stages.study import Study

WEEKLY = "0 6 * * 1"


class SweepConfig(Config):
    """Which cells a run of `sweep` fills."""

    cells: list[str] | None = Field(default=None, description="Such as 88|50; by default all cells of the profile")


def sweep_config(cells: Sequence[Cell]) -> dict[str, object]:
    """The configuration of `sweep` for these cells, below `ops`."""
    return {fill.name: {"config": {"cells": [cell.key for cell in cells]}}}


def cells_of(run_config: Mapping[str, Any]) -> list[str] | None:
    """The keys of the cells that a run of `sweep` was asked for; None for all."""
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


@op(pool=POOL, out=Out(Nothing), description="Makes the adapters and predictions that the cells lack.")
def fill(context: OpExecutionContext, config: SweepConfig, study: StudyResource) -> None:
    """The op of the job `sweep`."""
    opened = study.open()
    cells = _chosen(opened, config.cells)
    filled = stage.fill(opened, cells, progress_of(context))
    context.log.info(f"trainings: {filled.text}; models loaded: {filled.model_loads}")
    context.add_output_metadata(
        {
            "made": filled.made,
            "there_before": filled.reused,
            "left_to_another_run": filled.left,
            "failed": filled.failed,
            "skipped": filled.skipped,
            "model_loads": filled.model_loads,
        }
    )


@job(
    description="Tunes and predicts many cells from one loaded student; the runs of `cell` adopt what it made. "
    "`cells` in the configuration names them, by default all of the profile."
)
def sweep() -> None:
    """The job of the op `fill`."""
    fill()


class Jobs(NamedTuple):
    """The jobs, in the order they run."""

    upstream: UnresolvedAssetJobDefinition
    subsets: UnresolvedAssetJobDefinition
    sweep: JobDefinition
    cell: UnresolvedAssetJobDefinition
    controls: UnresolvedAssetJobDefinition
    report: UnresolvedAssetJobDefinition


def build_jobs() -> Jobs:
    """The jobs; each has the partitions of its assets."""
    return Jobs(
        define_asset_job(
            "upstream",
            AssetSelection.assets(*planning.UPSTREAM),
            description="Catalog, prompts, synthetic rows and the untuned model's posts.",
        ),
        define_asset_job(
            "subsets",
            AssetSelection.assets("data_subsets"),
            description="The training rows of one data size.",
        ),
        sweep,
        define_asset_job(
            "cell",
            AssetSelection.assets("adapters", "predictions", "verdicts"),
            description="One point of the sweep: tune, predict, judge. What is there already is adopted.",
        ),
        define_asset_job(
            "controls",
            AssetSelection.assets("control_verdicts"),
            description="Comparisons whose answer is known, which tell whether the judge can be trusted.",
        ),
        define_asset_job(
            "report",
            AssetSelection.assets("ratio_report"),
            description="Ratios with intervals, and the page.",
        ),
    )


def build_schedule(jobs: Jobs) -> ScheduleDefinition:
    """Starts the upstream every Monday at six; the sensors take it from there."""
    return ScheduleDefinition(
        name="weekly",
        job=jobs.upstream,
        cron_schedule=WEEKLY,
        description="Starts the upstream every Monday at 06:00; switch the sensors on to let the rest follow.",
    )
