"""Asset checks: one factory turns the gates of a table into checks.

https://docs.dagster.io/guides/test/asset-checks. What a gate looks at is in `quality`. It is evaluated when the
artifact is made; a check shows the result that the manifest keeps, with the partition of its asset.
"""

import warnings
from typing import Any, NamedTuple

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
from synthpost_dagster.errors import GateFailed, UpstreamMissing
from synthpost_dagster.orchestration.instance import metadata_of
from synthpost_dagster.quality.gates import gate_names, gate_of, is_blocking
from synthpost_dagster.resources.study import StudyResource


def build_checks(assets: list[AssetsDefinition]) -> list[AssetChecksDefinition]:
    """A check for each gate of each asset, by partition where the asset has any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        return [_build_check(asset, name) for asset in assets for name in gate_names(asset.key.to_user_string())]


def _build_check(checked: AssetsDefinition, gate: str) -> AssetChecksDefinition:
    asset = checked.key.to_user_string()

    @asset_check(
        asset=checked.key,
        name=gate,
        blocking=is_blocking(asset, gate),
        description=gate_of(asset, gate).description,
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
        shown = shown_result(manifest, gate)
        yield AssetCheckResult(
            passed=shown.is_passed, severity=shown.severity, description=shown.description, metadata=shown.metadata
        )
        if shown.failure and shown.is_blocking:
            # Dagster's own error would name the check alone. It takes generators, which its types do not say.
            raise shown.failure

    return check


class ShownResult(NamedTuple):
    """The result of a gate as Dagster shows it; `failure` is the error of one that did not pass."""

    is_passed: bool
    is_blocking: bool
    severity: AssetCheckSeverity
    description: str
    metadata: dict[str, Any]
    failure: GateFailed | None


def shown_result(manifest: Manifest, gate: str) -> ShownResult:
    """The result that the manifest keeps of a gate."""
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
    return ShownResult(entry.is_passed, entry.is_blocking, severity, description, metadata, failure)


def _entry(manifest: Manifest, gate: str) -> GateEntry:
    """The verdict of a gate. One that is not there was not evaluated, because the table breaks its schema."""
    found = {entry.name: entry for entry in manifest.gates}
    if gate in found:
        return found[gate]
    why = f": {found['schema'].message}" if "schema" in found else ""
    stops = is_blocking(manifest.asset, gate)
    message = f"not evaluated{why}"
    return GateEntry(name=gate, is_passed=False, is_blocking=stops, message=message, is_severe=stops)
