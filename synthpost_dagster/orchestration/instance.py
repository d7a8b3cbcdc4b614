"""What a Dagster instance has recorded: the latest materializations, and runs whose process ended.

Checks, sensor, driver and UI use it. `stages.planning` decides what runs next.
"""

from datetime import UTC, datetime, timedelta

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from synthpost_dagster.assets.metadata import MANIFEST_DIGEST
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.resources.study import heartbeat_file
from synthpost_dagster.runtime.heartbeats import HEARTBEAT_TIMEOUT_SECONDS, is_dead
from synthpost_dagster.runtime.processes import is_alive, is_here
from synthpost_dagster.stages.planning import Recorded

DRIVER_TAG = "synthpost/driver"
"""On runs of the command line. It starts the next runs itself, so the sensor waits for it to end."""
PROCESS_TAG = ".dagster/synthpost_process"
"""The process that executes a run inside itself. Dagster's UI hides tags with this prefix."""
UNFINISHED = RunsFilter(statuses=NOT_FINISHED_STATUSES)


def recorded_in(instance: DagsterInstance, graph: AssetGraph) -> Recorded:
    """A function from asset and partition to the digest of the manifest that its latest materialization shows.

    None where there is none, and where Dagster calls it stale. A run that records the artifact again makes it fresh.
    """

    def recorded(asset: str, partition: str) -> str | None:
        shown = metadata_of(instance, asset, partition, MANIFEST_DIGEST)
        if shown is None or stale_status(instance, graph, asset, partition) is not StaleStatus.FRESH:
            return None
        return shown

    return recorded


def stale_status(instance: DagsterInstance, graph: AssetGraph, asset: str, partition: str = "") -> StaleStatus:
    """Dagster's stale status of an asset or a partition."""
    # Despite its name, this is Dagster's loading context for use outside its webserver.
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return resolver.get_status(AssetKey(asset), partition or None)


def metadata_of(instance: DagsterInstance, asset: str, partition: str, name: str) -> str | None:
    """An entry in the metadata of the latest materialization; None where there is none."""
    materialization = latest(instance, asset, partition)
    value = materialization.metadata.get(name) if materialization else None
    return str(value.value) if value and value.value else None


def latest(instance: DagsterInstance, asset: str, partition: str = "") -> AssetMaterialization | None:
    """The latest materialization of an asset or of its partition."""
    chosen = AssetRecordsFilter(AssetKey(asset), asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(chosen, limit=1).records
    return records[0].asset_materialization if records else None


def is_orphan(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether the process that executed an unfinished run has ended."""
    process = run.tags.get(PROCESS_TAG, "")
    if is_here(process):
        return not is_alive(process)
    heartbeat = heartbeat_file(instance, run.run_id)
    if heartbeat.is_file():
        return is_dead(heartbeat)
    # A run that has started has the file from its start to its end.
    if run.status is not DagsterRunStatus.STARTED and not process:
        return False
    record = instance.get_run_record_by_id(run.run_id)
    return record is None or datetime.now(UTC) - record.update_timestamp > timedelta(seconds=HEARTBEAT_TIMEOUT_SECONDS)


def pool_slots(instance: DagsterInstance) -> int:
    """The limit of the device's pool; -1 where none is set."""
    limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    default = instance.global_op_concurrency_default_limit
    return limits.get(POOL, -1 if default is None else default)


def tidy(instance: DagsterInstance, slots: int) -> None:
    """Sets the limit of the device's pool, and frees the slots of processes that ended."""
    storage = instance.event_log_storage
    if instance.global_op_concurrency_default_limit != slots or POOL in storage.get_concurrency_keys():
        storage.set_concurrency_slots(POOL, slots)
    free_abandoned(instance)


def free_abandoned(instance: DagsterInstance) -> None:
    """Marks orphaned runs as failed, and frees the pool slots of ended runs.

    Dagster does not notice that a process which executed a run inside itself was killed, and would wait for its slot.
    """
    for run in instance.get_runs(UNFINISHED):
        if is_orphan(instance, run):
            instance.report_run_failed(run, "the process that executed this run was killed")
    for heartbeat in heartbeat_file(instance, "").glob("[!.]*"):
        if is_dead(heartbeat):
            heartbeat.unlink(missing_ok=True)
    storage = instance.event_log_storage
    for pool in storage.get_concurrency_keys():
        for run_id in holders(instance, pool):
            holder = instance.get_run_by_id(run_id)
            if holder is None or holder.is_finished:
                storage.free_concurrency_slots_for_run(run_id)


def holders(instance: DagsterInstance, pool: str) -> list[str]:
    """Ids of the runs that hold a slot of a pool, were assigned one, or wait for one, in this order."""
    info = instance.event_log_storage.get_concurrency_info(pool)
    return list(dict.fromkeys([*info.active_run_ids, *info.assigned_run_ids, *info.pending_run_ids]))


def run_title(instance: DagsterInstance, run_id: str) -> str:
    """A run for people: job, partition, id and process."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        return f"run {run_id[:8]}"
    partition = run.tags.get("dagster/partition", "")
    host, _, rest = run.tags.get(PROCESS_TAG, "").partition(":")
    process = f", process {rest.partition(':')[0]} on {host}" if rest else ""
    return f"{run.job_name} {partition}".strip() + f" (run {run_id[:8]}{process})"
