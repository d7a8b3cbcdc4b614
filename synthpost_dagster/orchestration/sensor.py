"""The sensors that carry a change through the graph: what is to be started when a run has ended.

https://docs.dagster.io/guides/automate/sensors. Subsets follow the upstream, then come the sweeps, which fill what the
cells lack, the cells, the controls and the report. What is out of date is decided in `planning`.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    RunRequest,
    RunsFilter,
    RunStatusSensorContext,
    RunStatusSensorDefinition,
    SkipReason,
    run_status_sensor,
)
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.cell import Cell
from synthpost_dagster.orchestration.instance import DRIVER_TAG, UNFINISHED, is_orphan, recorded_in
from synthpost_dagster.orchestration.jobs import Jobs, cells_of, sweep_config
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages import planning
from synthpost_dagster.stages.planning import Recorded
from synthpost_dagster.stages.study import Study

Job = JobDefinition | UnresolvedAssetJobDefinition
CAUSE_TAG = "synthpost/cause"
"""On runs of `subsets`: the run that asked for them all. Several may end together, and what follows is their common
doing, which run keys tell by it.
"""


def build_sensors(jobs: Jobs, graph: AssetGraph) -> list[RunStatusSensorDefinition]:
    """One sensor for each job and way to end.

    Where a subset, a sweep, a cell or the controls fail or are cancelled, the rest follows all the same, but for the
    cells that a cancelled sweep had not filled: the report names what is missing.
    """
    sensor = partial(_sensor, graph)
    good, failed, canceled = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED
    return [
        sensor("after_upstream", jobs.upstream, jobs[1:], good),
        sensor("after_subsets", jobs.subsets, jobs[2:], good),
        sensor("after_failed_subsets", jobs.subsets, jobs[2:], failed),
        sensor("after_canceled_subsets", jobs.subsets, jobs[2:], canceled),
        sensor("after_sweep", jobs.sweep, jobs[3:], good),
        sensor("after_failed_sweep", jobs.sweep, jobs[3:], failed),
        sensor("after_canceled_sweep", jobs.sweep, jobs[3:], canceled),
        sensor("after_cell", jobs.cell, jobs[4:], good),
        sensor("after_failed_cell", jobs.cell, jobs[4:], failed),
        sensor("after_canceled_cell", jobs.cell, jobs[4:], canceled),
        sensor("after_controls", jobs.controls, jobs[5:], good),
        sensor("after_failed_controls", jobs.controls, jobs[5:], failed),
        sensor("after_canceled_controls", jobs.controls, jobs[5:], canceled),
    ]


def next_requests(study: Study, instance: DagsterInstance, graph: AssetGraph, finished: DagsterRun) -> list[RunRequest]:
    """The runs to start after a run has ended.

    After the upstream: the changed subsets. When no subset is under way any more: sweeps for the cells that lack
    adapters or predictions, and the other changed cells. After a sweep: those of its cells that have changed. Where
    nothing is under way and nothing is left to do before them: the controls, and after these, judged or failed, the
    report. The keys name what is to be made and the record that it replaces, so that one sensor does not start one
    thing twice; where two of them do, because runs end together in different ways, the second run finds it made.
    """
    recorded = recorded_in(instance, graph)
    sizes = planning.stale_subsets(study, recorded, study.profile.sweep.data_sizes)
    begun = _partitions_under_way(instance, "subsets")
    if finished.job_name == "upstream" and (new := [size for size in sizes if str(size) not in begun]):
        return [_subset_request(size, finished) for size in new]
    if begun:
        return []
    begun = _cells_under_way(study, instance)
    if finished.job_name in ("upstream", "subsets", "sweep"):
        # The cells of another sweep follow that one, which may be under way yet, have ended as well, or been cancelled.
        own = _keys_of(study, finished) if finished.job_name == "sweep" else {cell.key for cell in study.cells}
        ready = [cell for cell in study.cells if cell.data_size not in sizes and cell.key in own - begun]
        if requests := _cell_requests(study, recorded, ready, finished):
            return requests
    if begun or _partitions_under_way(instance, "controls"):
        return []
    if finished.job_name != "controls" and planning.are_controls_stale(study, recorded) and _has_cells(study):
        return [
            RunRequest(run_key=_key(instance, "controls", study.resolver.plan("control_verdicts")), job_name="controls")
        ]
    if planning.is_report_stale(study, recorded):
        return [RunRequest(run_key=_key(instance, "report", study.resolver.plan("ratio_report")), job_name="report")]
    return []


def _key(instance: DagsterInstance, job: str, plan: Plan) -> str:
    """Of the run that makes a plan, or records it again."""
    record = instance.fetch_materializations(AssetKey(plan.asset), limit=1).records
    return f"{job}:{plan.fingerprint}:{record[0].storage_id if record else 0}"


def _sensor(
    graph: AssetGraph,
    name: str,
    monitored: Job,
    requested: Sequence[Job],
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
        requests = next_requests(study.open(), context.instance, graph, run)
        if not requests:
            yield SkipReason("nothing is out of date, or other runs of the sweep are still under way")
        yield from requests

    return sensor


def _subset_request(size: int, upstream: DagsterRun) -> RunRequest:
    return RunRequest(
        run_key=f"{upstream.run_id}:subsets:{size}",
        job_name="subsets",
        partition_key=str(size),
        tags={CAUSE_TAG: upstream.run_id},
    )


def _cell_requests(study: Study, recorded: Recorded, ready: Sequence[Cell], finished: DagsterRun) -> list[RunRequest]:
    """Sweeps for the cells that are to be filled, as many as the device has slots, unless it was a sweep that has just
    ended; runs of their own for others.
    """
    stale = planning.stale_cells(study, recorded, ready)
    if finished.job_name == "sweep" and finished.status is DagsterRunStatus.CANCELED:
        # Whoever stops a sweep does not want its cells to do the same work one by one.
        stale = [cell for cell in stale if not planning.unfilled(study, [cell])]
    filled = [] if finished.job_name == "sweep" else planning.cells_to_fill(study, stale)
    cause = finished.tags.get(CAUSE_TAG, finished.run_id)
    requests = [
        RunRequest(run_key=f"{cause}:cell:{cell.key}", job_name="cell", partition_key=cell.key)
        for cell in stale
        if cell not in filled
    ]
    parts = planning.dealt(study, filled, study.profile.device.max_concurrent_runs)
    return requests + [_sweep_request(part, cause) for part in parts]


def _sweep_request(cells: Sequence[Cell], cause: str) -> RunRequest:
    chosen = fingerprint({"cells": [cell.key for cell in cells]})
    return RunRequest(run_key=f"{cause}:sweep:{chosen}", job_name="sweep", run_config={"ops": sweep_config(cells)})


def _has_cells(study: Study) -> bool:
    """Whether any cell has posts, which the controls need."""
    return any(study.resolver.has("predictions", cell.place) for cell in study.cells)


def _under_way(instance: DagsterInstance, job: str) -> list[DagsterRun]:
    """A job's runs that have not ended; one whose driver was killed never will, and counts not."""
    runs = instance.get_runs(RunsFilter(job_name=job, statuses=list(UNFINISHED)))
    return [run for run in runs if not is_orphan(instance, run)]


def _partitions_under_way(instance: DagsterInstance, job: str) -> set[str]:
    return {run.tags.get("dagster/partition", "") for run in _under_way(instance, job)}


def _cells_under_way(study: Study, instance: DagsterInstance) -> set[str]:
    """Keys of the cells that have a run of their own, or stand in a sweep."""
    begun = _partitions_under_way(instance, "cell")
    for run in _under_way(instance, "sweep"):
        begun |= _keys_of(study, run)
    return begun


def _keys_of(study: Study, sweep: DagsterRun) -> set[str]:
    """Keys of the cells of a sweep, which names none where it fills them all."""
    return set(cells_of(sweep.run_config) or (cell.key for cell in study.cells))
