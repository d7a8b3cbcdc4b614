"""Asset checks: one factory turns the gates of a table into checks.

https://docs.dagster.io/guides/test/asset-checks. What a gate looks at is in `quality`. It is evaluated when the
artifact is made; a check shows the result that the manifest keeps, with the partition of its asset.
"""

import warnings
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
from dagster_shared.utils.warnings import PreviewWarning

from synthpost_dagster.artifacts.manifest import GateEntry, Manifest, gate_failure
from synthpost_dagster.assets.metadata import as_markdown, preview
from synthpost_dagster.errors import UpstreamMissing
from synthpost_dagster.orchestration.instance import metadata_of
from synthpost_dagster.quality.gates import gate_names, gate_of
from synthpost_dagster.resources.study import StudyResource


def build_checks(assets: list[AssetsDefinition]) -> list[AssetChecksDefinition]:
    """A check for each gate of each asset, by partition where the asset has any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        return [_build_check(asset, name) for asset in assets for name in gate_names(asset.key.to_user_string())]


def _build_check(checked: AssetsDefinition, gate: str) -> AssetChecksDefinition:
    asset = checked.key.to_user_string()
    record = gate_of(asset, gate)

    @asset_check(
        asset=checked.key,
        name=gate,
        blocking=record.is_blocking,
        description=record.description,
        partitions_def=checked.partitions_def,
    )
    def check(context: AssetCheckExecutionContext, study: StudyResource) -> Any:
        opened = study.open()
        partition = context.partition_key if checked.partitions_def is not None else ""
        fingerprint = metadata_of(context.instance, asset, partition, "fingerprint")
        manifest = opened.store.find(asset, partition, fingerprint or "none")
        if manifest is None:
            raise UpstreamMissing(
                f"{asset} {partition}".strip() + " is recorded but not in the storage; the next run makes it again"
            )
        yield shown_result(manifest, gate)
        entry = _entry(manifest, gate)
        if entry.is_blocking and not entry.is_passed:
            # Dagster's own error would only name the check. It accepts generators, though its types do not say so.
            raise gate_failure(manifest.title, entry)

    return check


def shown_result(manifest: Manifest, gate: str) -> AssetCheckResult:
    """The verdict of a gate that the manifest holds, as Dagster shows it."""
    entry = _entry(manifest, gate)
    failure = None if entry.is_passed else gate_failure(manifest.title, entry)
    metadata: dict[str, Any] = {"finding": MetadataValue.text(entry.message), **entry.figures}
    if entry.limits:
        metadata["limits"] = MetadataValue.json(entry.limits)
    if failure and failure.details:
        metadata["explanation"] = MetadataValue.md(as_markdown(failure.details))
    if entry.offending:
        metadata["offending"] = preview(entry.offending)
    severity = AssetCheckSeverity.ERROR if entry.is_severe else AssetCheckSeverity.WARN
    description = str(failure) if failure and entry.explanation else entry.message
    return AssetCheckResult(passed=entry.is_passed, severity=severity, description=description, metadata=metadata)


def _entry(manifest: Manifest, gate: str) -> GateEntry:
    """The verdict of a gate. A missing one was not evaluated, because the table breaks its schema."""
    found = {entry.name: entry for entry in manifest.gates}
    why = f": {found['schema'].message}" if "schema" in found else ""
    stops, message = gate_of(manifest.asset, gate).is_blocking, f"not evaluated{why}"
    missing = GateEntry(name=gate, is_passed=False, is_blocking=stops, message=message, is_severe=stops)
    return found.get(gate, missing)
