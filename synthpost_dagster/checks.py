"""Asset checks: one factory turns the gates of a table into checks.

https://docs.dagster.io/guides/test/asset-checks. What a gate looks at is in `rows.gates`; here its verdict on the
artifact that was materialized last is shown, with its figures and the rows at fault.
"""

import math
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetsDefinition,
    MetadataValue,
    asset_check,
)

from synthpost_dagster.assets.common import preview
from synthpost_dagster.errors import StorageError
from synthpost_dagster.records import recorded_in
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.rows.gates import CONTROL_TEXTS, evaluate, gate_names, is_blocking

DESCRIPTIONS = {
    "schema": "Types, ranges, allowed levels, unique ids, no nulls.",
    "duplicates": "No two kept posts are the same apart from case, space and punctuation.",
    "factor_coverage": "Every post type × tone has its share of the rows, within one.",
    "rejected_share": "Few enough prompts stay rejected; the limit is the task's.",
    **{f"control_{name}": f"{text[0].upper()}{text[1:]}." for name, text in CONTROL_TEXTS.items()},
}


def build_checks(assets: list[AssetsDefinition]) -> list[AssetChecksDefinition]:
    """A check for each gate of each asset; all but the controls' are blocking."""
    return [_build_check(asset, name) for asset in assets for name in gate_names(asset.key.to_user_string())]


def _build_check(checked: AssetsDefinition, gate: str) -> AssetChecksDefinition:
    asset = checked.key.to_user_string()

    @asset_check(
        asset=checked.key,
        name=gate,
        blocking=is_blocking(gate),
        description=DESCRIPTIONS[gate],
    )
    def check(context: AssetCheckExecutionContext, study: StudyResource) -> AssetCheckResult:
        opened = study.open()
        partition = context.partition_key if checked.partitions_def is not None else ""
        fingerprint = recorded_in(context.instance)(asset, partition)
        manifest = opened.store.find(asset, partition, fingerprint or "none")
        if manifest is None:
            raise StorageError(f"{asset} {partition} is recorded but not in the storage; materialize it again")
        table, target = opened.store.read_table(manifest), manifest.facts["target_rows"]
        (result,) = evaluate(asset, opened.task, table, gate, target)
        figures = {name: value for name, value in result.figures.items() if math.isfinite(value)}
        metadata: dict[str, Any] = {"finding": MetadataValue.text(result.message), **figures}
        if not result.is_passed:
            metadata["offending"] = preview(result.offending)
        severity = AssetCheckSeverity.ERROR if result.is_severe else AssetCheckSeverity.WARN
        return AssetCheckResult(
            passed=result.is_passed, severity=severity, description=result.message, metadata=metadata
        )

    return check
