"""What the tuned models write."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, PartitionsDefinition, asset

from synthpost_dagster.assets.common import OWNERS, materialized, progress_of, schema_metadata
from synthpost_dagster.cell import Cell
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


def build_predictions(cells: PartitionsDefinition) -> AssetsDefinition:
    """The asset `predictions`."""

    @asset(
        group_name="predictions",
        deps=["adapters", "evaluation_prompts"],
        partitions_def=cells,
        kinds={"huggingface", "parquet"},
        owners=OWNERS,
        pool=POOL,
        metadata=schema_metadata("predictions"),
    )
    def predictions(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """The tuned model's posts on the evaluation prompts, from the student's prompt."""
        opened = study.open()
        cells = opened.seeds_of(Cell.parse(context.partition_key))
        return materialized(
            opened, *[materialize(opened, "predictions", cell.place, progress_of(context)) for cell in cells]
        )

    return predictions
