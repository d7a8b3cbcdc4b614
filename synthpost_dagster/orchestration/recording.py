"""Records materializations and check results of artifacts that a run made outside the steps of assets.

https://docs.dagster.io/guides/build/assets/external-assets describes materializations that an op logs. They carry the
data version of the artifact and of its inputs, as those of an asset's step do, so that Dagster calls them fresh.
"""

import warnings
from collections.abc import Sequence
from typing import Any, cast

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    MetadataValue,
    OpExecutionContext,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.metadata import normalize_metadata
from dagster_shared.utils.warnings import PreviewWarning

from synthpost_dagster.artifacts.manifest import Manifest, Outcome
from synthpost_dagster.assets.metadata import metadata_of
from synthpost_dagster.assets.partitions import key_of
from synthpost_dagster.assets.table import ROWS
from synthpost_dagster.cell import Cell
from synthpost_dagster.orchestration.asset_checks import shown_result
from synthpost_dagster.quality.gates import gate_names, gate_of
from synthpost_dagster.stages.stage import stage_of
from synthpost_dagster.stages.study import Study


def record_cell(context: OpExecutionContext, study: Study, asset: str, cell: Cell, outcomes: Sequence[Outcome]) -> None:
    """Logs the materialization of a cell's artifact and the results of its gates; `outcomes` are one per seed."""
    key, partition = AssetKey(asset), key_of(cell)
    metadata = normalize_metadata(metadata_of(study, outcomes, ROWS[asset].picture))
    tags = _version_tags(context.instance, context.run_id, asset, cell, outcomes[0].manifest)
    context.log_event(AssetMaterialization(asset_key=key, partition=partition, metadata=metadata, tags=tags))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        for gate in gate_names(asset):
            # Its types do not name check evaluations, which it takes.
            context.log_event(cast(Any, _evaluation(context.instance, key, partition, outcomes[0].manifest, gate)))


def _version_tags(instance: DagsterInstance, run_id: str, asset: str, cell: Cell, manifest: Manifest) -> dict[str, str]:
    """Data versions of the artifact and of the latest materializations that it was made from."""
    tags = {
        CODE_VERSION_TAG: run_id,
        DATA_VERSION_TAG: manifest.digest,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    partitions = {"subsets": str(cell.data_size), "cell": str(key_of(cell))}
    for upstream in stage_of(asset).upstream:
        key, partition = AssetKey(upstream), partitions.get(stage_of(upstream).job)
        record = instance.get_latest_data_version_record(key, partition_key=partition)
        version = extract_data_version_from_entry(record.event_log_entry) if record else None
        tags[get_input_data_version_tag(key)] = (version or DEFAULT_DATA_VERSION).value
        tags[get_input_event_pointer_tag(key)] = str(record.storage_id) if record else NULL_EVENT_POINTER
    return tags


def _evaluation(
    instance: DagsterInstance, key: AssetKey, partition: str, manifest: Manifest, gate: str
) -> AssetCheckEvaluation:
    shown = shown_result(manifest, gate)
    record = instance.get_latest_data_version_record(key, partition_key=partition)
    target = record and AssetCheckEvaluationTargetMaterializationData(
        run_id=record.run_id, storage_id=record.storage_id, timestamp=record.timestamp
    )
    return AssetCheckEvaluation(
        asset_key=key,
        check_name=gate,
        passed=bool(shown.passed),
        metadata={**(shown.metadata or {}), "source": MetadataValue.text("recorded by the job sweep")},
        target_materialization_data=target,
        severity=shown.severity,
        description=shown.description,
        blocking=gate_of(key.to_user_string(), gate).is_blocking,
        partition=partition,
    )
