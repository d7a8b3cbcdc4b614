"""The sensor that carries a change through the graph.

https://docs.dagster.io/guides/automate/sensors. It yields what `stages.planning.next_runs` decides. It never starts the
upstream, which may cost money: that is the schedule's, or a person's, decision.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from synthpost_dagster.cell import Cell
from synthpost_dagster.orchestration.instance import DRIVER_TAG, UNFINISHED, is_orphan, recorded_in
from synthpost_dagster.orchestration.jobs import Job, cells_of, ops_config
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.planning import Run, next_runs
from synthpost_dagster.stages.study import Study

INTERVAL_SECONDS = 30
MAX_RUNS_AN_HOUR = 5
"""Successful runs of one job and partition, so that an artifact that never becomes current causes no loop."""
PARTITION_TAG = "dagster/partition"


def build_sensor(jobs: Sequence[Job], graph: AssetGraph) -> SensorDefinition:
    """The sensor, which starts these jobs; it is off until someone switches it on."""

    def evaluate(context: SensorEvaluationContext, study: StudyResource) -> Iterator[RunRequest | SkipReason]:
        runs, reason = requested(study.open(), context.instance, graph)
        for run in runs:
            partition = str(run.size) if run.size is not None else None
            yield RunRequest(job_name=run.job, partition_key=partition, run_config={"ops": ops_config(run)})
        if not runs:
            yield SkipReason(reason)

    decorate = sensor(
        name="next_runs",
        jobs=jobs,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.STOPPED,
        description="Starts what is missing or out of date after the upstream: subsets, sweeps, controls, report. What "
        "fails or is cancelled waits for the next run of `upstream`, or for a person.",
    )
    return decorate(evaluate)


def requested(study: Study, instance: DagsterInstance, graph: AssetGraph) -> tuple[list[Run], str]:
    """The runs to request, or why there are none."""
    unfinished = [run for run in instance.get_runs(UNFINISHED) if not is_orphan(instance, run)]
    if any(DRIVER_TAG in run.tags for run in unfinished):
        return [], "the command line is running this study"
    in_progress = [one for run in unfinished if (one := _as_run(study, run))]
    if any(run.job == "upstream" for run in in_progress):
        return [], "the upstream is in progress"
    runs = next_runs(study, recorded_in(instance, graph), in_progress, _given_up(study, instance))
    if any(run.job == "upstream" for run in runs):
        return [], "the upstream is out of date; start the job `upstream`"
    return runs, "everything is current, has failed, or waits for a run in progress"


def _given_up(study: Study, instance: DagsterInstance) -> list[Run]:
    """Runs that failed or were cancelled since the upstream last started, and those that have run too often."""

    def ended(after: datetime | None, *statuses: DagsterRunStatus) -> list[Run]:
        runs = instance.get_runs(RunsFilter(statuses=list(statuses), created_after=after))
        return [one for run in runs if DRIVER_TAG not in run.tags and (one := _as_run(study, run))]

    latest = instance.get_run_records(RunsFilter(job_name="upstream"), limit=1)
    since = latest[0].create_timestamp if latest else None
    made = ended(datetime.now(UTC) - timedelta(hours=1), DagsterRunStatus.SUCCESS)
    too_often = [run for run in made if made.count(run) >= MAX_RUNS_AN_HOUR]
    return ended(since, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED) + too_often


def _as_run(study: Study, run: DagsterRun) -> Run | None:
    """A Dagster run as the planning sees it; None for other jobs, such as an asset materialized on its own."""
    partition = run.tags.get(PARTITION_TAG, "")
    if run.job_name == "subsets" and partition.isdecimal():
        return Run("subsets", size=int(partition))
    if run.job_name == "cell" and partition:
        return Run("cell", cells=(Cell.parse(partition),))
    if run.job_name == "sweep":
        keys = cells_of(run.run_config)
        return Run("sweep", cells=tuple(study.cells if keys is None else map(Cell.parse, keys)))
    return Run(run.job_name) if run.job_name in ("upstream", "controls", "report") else None
