"""Nested, stratified subsets of the kept rows, one a data size."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, PartitionsDefinition, asset

from synthpost_dagster.assets.common import OWNERS, materialized, schema_metadata
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


def build_data_subsets(sizes: PartitionsDefinition) -> AssetsDefinition:
    """The asset `data_subsets`."""

    @asset(
        group_name="subsets",
        deps=["synthetic_rows"],
        partitions_def=sizes,
        kinds={"pandas", "parquet"},
        owners=OWNERS,
        metadata=schema_metadata("data_subsets"),
    )
    def data_subsets(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """Training conversations of one data size; each subset holds the smaller ones."""
        opened = study.open()
        return materialized(opened, materialize(opened, "data_subsets", context.partition_key))

    return data_subsets
