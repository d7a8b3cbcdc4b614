"""Jobs, the weekly schedule and the sensors that carry a change through the graph.

https://docs.dagster.io/guides/automate. One job cannot hold assets of both partitionings, so there are five: the
schedule starts `upstream`, sensors start the changed subsets, then the changed cells, then the controls, then the
report. What is changed is decided in `planning`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from dagster import (
    AssetSelection,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRequest,
    RunsFilter,
    RunStatusSensorContext,
    RunStatusSensorDefinition,
    ScheduleDefinition,
    SkipReason,
    define_asset_job,
    run_status_sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from synthpost_dagster import planning
from synthpost_dagster.records import DRIVER_TAG, UNFINISHED, is_orphan, recorded_in
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.models import predictions_plan
from synthpost_dagster.stages.report import ratio_report_plan
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.verdicts import control_verdicts_plan

WEEKLY = "0 6 * * 1"


class Jobs(NamedTuple):
    """The five jobs, in the order they run."""

    upstream: UnresolvedAssetJobDefinition
    subsets: UnresolvedAssetJobDefinition
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
        define_asset_job(
            "cell",
            AssetSelection.assets("adapters", "predictions", "verdicts"),
            description="One point of the sweep: tune, predict, judge.",
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


def build_sensors(jobs: Jobs) -> list[RunStatusSensorDefinition]:
    """One sensor a step of the chain.

    A cell that fails or is cancelled also lets the report follow, which then names it missing.
    """
    return [
        _sensor("after_upstream", jobs.upstream, jobs[1:], DagsterRunStatus.SUCCESS),
        _sensor("after_subsets", jobs.subsets, jobs[2:], DagsterRunStatus.SUCCESS),
        _sensor("after_cell", jobs.cell, jobs[3:], DagsterRunStatus.SUCCESS),
        _sensor("after_failed_cell", jobs.cell, jobs[3:], DagsterRunStatus.FAILURE),
        _sensor("after_canceled_cell", jobs.cell, jobs[3:], DagsterRunStatus.CANCELED),
        _sensor("after_controls", jobs.controls, jobs[4:], DagsterRunStatus.SUCCESS),
        _sensor("after_failed_controls", jobs.controls, jobs[4:], DagsterRunStatus.FAILURE),
    ]


def next_requests(study: Study, instance: DagsterInstance, finished: DagsterRun) -> list[RunRequest]:
    """The runs to start after a run has ended.

    After the upstream: the changed subsets, and the changed cells whose subset is as it was. After a subset: the
    changed cells of its size. Where nothing is under way and nothing is left to do before them: the controls, and after
    these, judged or failed, the report. The keys name what is to be made, so that two runs that end together do not
    start one thing twice.
    """
    recorded = recorded_in(instance)
    sizes = planning.stale_subsets(study, recorded, study.profile.sweep.data_sizes)
    requests: list[RunRequest] = []
    if finished.job_name == "upstream":
        requests += [_request("subsets", str(size), finished) for size in sizes]
        ready = [cell for cell in study.cells if cell.data_size not in sizes]
    else:
        done = finished.tags.get("dagster/partition", "")
        ready = [cell for cell in study.cells if str(cell.data_size) == done and finished.job_name == "subsets"]
    underway = _underway(instance, "cell")
    stale = planning.stale_cells(study, recorded, ready)
    requests += [_request("cell", cell.key, finished) for cell in stale if cell.key not in underway]
    if requests or underway or _underway(instance, "subsets") or _underway(instance, "controls"):
        return requests
    if finished.job_name != "controls" and planning.are_controls_stale(study, recorded) and _has_cells(study):
        plan = control_verdicts_plan(study)
        return [RunRequest(run_key=f"controls:{plan.fingerprint}", job_name="controls")]
    if planning.is_report_stale(study, recorded):
        plan = ratio_report_plan(study)
        return [RunRequest(run_key=f"report:{plan.fingerprint}", job_name="report")]
    return []


def _sensor(
    name: str,
    monitored: UnresolvedAssetJobDefinition,
    requested: Sequence[UnresolvedAssetJobDefinition],
    status: DagsterRunStatus,
) -> RunStatusSensorDefinition:
    @run_status_sensor(
        run_status=status,
        name=name,
        monitored_jobs=[monitored],
        request_jobs=requested,
        description=f"When a run of `{monitored.name}` ends with {status.value}, starts what is out of date after it.",
    )
    def sensor(context: RunStatusSensorContext, study: StudyResource) -> Iterator[RunRequest | SkipReason]:
        run = context.dagster_run
        if DRIVER_TAG in run.tags:
            yield SkipReason("the command line started this run and starts what follows by itself")
            return
        requests = next_requests(study.open(), context.instance, run)
        if not requests:
            yield SkipReason("nothing is out of date, or other runs of the sweep are still under way")
        yield from requests

    return sensor


def _request(job: str, partition: str, cause: DagsterRun) -> RunRequest:
    return RunRequest(run_key=f"{cause.run_id}:{job}:{partition}", job_name=job, partition_key=partition)


def _has_cells(study: Study) -> bool:
    """Whether any cell has posts, which the controls need."""
    return any(study.has(partial(predictions_plan, study, cell)) for cell in study.cells)


def _underway(instance: DagsterInstance, job: str) -> set[str]:
    """Partition keys of a job's runs that have not ended; a run whose driver was killed never will, and counts not."""
    runs = instance.get_runs(RunsFilter(job_name=job, statuses=list(UNFINISHED)))
    return {run.tags.get("dagster/partition", "") for run in runs if not is_orphan(run)}
