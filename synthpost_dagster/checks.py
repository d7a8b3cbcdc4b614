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

from synthpost_dagster.artifacts.store import gate_failure
from synthpost_dagster.assets.common import as_markdown, preview
from synthpost_dagster.errors import StorageError
from synthpost_dagster.records import recorded_in
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.rows.gates import CONTROL_TEXTS, evaluate, gate_names, is_blocking, table_of

DESCRIPTIONS = {
    "schema": "Types, ranges, allowed levels, unique ids, no nulls.",
    "duplicates": "No two kept posts are the same apart from case, space and punctuation.",
    "factor_coverage": "Every post type × tone has its share of the rows, within one.",
    "near_duplicates": "Few posts are nearly an earlier one, by MinHash and the exact Jaccard index of word 3-grams.",
    "openings": "No first five words begin too many posts.",
    "diversity": "As varied as the task asks, and a subset as varied as draws of its size from all rows.",
    "rejected_share": "Few enough prompts stay rejected; the limit is the task's.",
    "cleaning": "Few replies came with outer quotes or a preamble.",
    "sentence_band": "Few enough kept posts have too few or too many sentences for their length.",
    "personal_data": "No e-mail address, phone or card number in what may be sent to a hosted model.",
    "leakage": "No training row names a holdout product or holds a long run of words of its text.",
    "supervised_tokens": "Every row teaches something, its end among it.",
    "forgetting": "General text stays about as likely to the tuned model as to its base; the limit is the task's.",
    "memorisation": "How much of the tuned posts stands word for word in training posts; reported.",
    **{f"control_{name}": f"{text[0].upper()}{text[1:]}." for name, text in CONTROL_TEXTS.items()},
}


def build_checks(assets: list[AssetsDefinition]) -> list[AssetChecksDefinition]:
    """A check for each gate of each asset."""
    return [_build_check(asset, name) for asset in assets for name in gate_names(asset.key.to_user_string())]


def _build_check(checked: AssetsDefinition, gate: str) -> AssetChecksDefinition:
    asset = checked.key.to_user_string()

    @asset_check(
        asset=checked.key,
        name=gate,
        blocking=is_blocking(asset, gate),
        description=DESCRIPTIONS[gate],
    )
    def check(context: AssetCheckExecutionContext, study: StudyResource) -> Any:
        opened = study.open()
        partition = context.partition_key if checked.partitions_def is not None else ""
        fingerprint = recorded_in(context.instance)(asset, partition)
        manifest = opened.store.find(asset, partition, fingerprint or "none")
        if manifest is None:
            raise StorageError(f"{asset} {partition} is recorded but not in the storage; materialize it again")
        table, target, name = opened.store.read_table(manifest), manifest.facts["target_rows"], table_of(asset, gate)
        if f"{name}.parquet" not in manifest.files:
            raise StorageError(
                f"{asset} {partition} was made by an earlier version, without the table {name}; delete "
                f"{opened.store.location(manifest)} and materialize it again"
            )
        beside = {} if name == asset else {name: opened.store.read_table(manifest, name)}
        (result,) = evaluate(asset, opened.task, table, gate, target, beside)
        figures = {name: value for name, value in result.figures.items() if math.isfinite(value)}
        metadata: dict[str, Any] = {"finding": MetadataValue.text(result.message), **figures}
        if len(result.offending):
            metadata["offending"] = preview(result.offending)
        severity = AssetCheckSeverity.ERROR if result.is_severe else AssetCheckSeverity.WARN
        failed = next((entry for entry in manifest.gates if entry.name == gate and not result.is_passed), None)
        failure = gate_failure(f"{asset} {partition}".strip(), failed) if failed else None
        description = str(failure) if failure else result.message
        metadata |= {"explanation": MetadataValue.md(as_markdown(failure.details))} if failure else {}
        yield AssetCheckResult(passed=result.is_passed, severity=severity, description=description, metadata=metadata)
        if failure and result.is_blocking:
            # Dagster's own error would name the check alone. It takes generators, which its types do not say.
            raise failure

    return check
