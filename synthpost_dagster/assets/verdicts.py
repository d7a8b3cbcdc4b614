"""Every game, judged."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, PartitionsDefinition, asset

from synthpost_dagster.assets.common import OWNERS, materialized, progress_of, schema_metadata
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages import evaluation
from synthpost_dagster.stages.study import Cell


def build_verdicts(cells: PartitionsDefinition, pool: str | None) -> AssetsDefinition:
    """The asset `verdicts`; `pool` where the judge holds a model in this process."""

    @asset(
        group_name="verdicts",
        deps=["predictions", "baseline_predictions"],
        partitions_def=cells,
        kinds={"pandas", "parquet"},
        owners=OWNERS,
        pool=pool,
        metadata=schema_metadata("verdicts"),
    )
    def verdicts(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """The tuned post against each baseline's, in both orders: raw reply, pick, outcome or the reason for none."""
        opened = study.open()
        return materialized(
            opened, evaluation.verdicts(opened, Cell.parse(context.partition_key), progress_of(context))
        )

    return verdicts
