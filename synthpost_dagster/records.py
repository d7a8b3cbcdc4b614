"""Reads from a Dagster instance what was materialized last, for checks, sensors and the driver."""

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

from synthpost_dagster.planning import Recorded


def recorded_in(instance: DagsterInstance) -> Recorded:
    """A function from asset and partition to the fingerprint of its latest materialization."""

    def recorded(asset: str, partition: str) -> str | None:
        chosen = AssetRecordsFilter(AssetKey(asset), asset_partitions=[partition] if partition else None)
        records = instance.fetch_materializations(chosen, limit=1).records
        materialization = records[0].asset_materialization if records else None
        value = materialization.metadata.get("fingerprint") if materialization else None
        return str(value.value) if value else None

    return recorded
