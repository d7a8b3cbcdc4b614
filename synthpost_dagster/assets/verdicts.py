"""Every game, judged."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, PartitionsDefinition, asset

from synthpost_dagster.assets.common import OWNERS, materialized, progress_of, schema_metadata
from synthpost_dagster.cell import Cell
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


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
        cells = opened.seeds_of(Cell.parse(context.partition_key))
        return materialized(
            opened, *[materialize(opened, "verdicts", cell.place, progress_of(context)) for cell in cells]
        )

    return verdicts


def build_control_verdicts(pool: str | None) -> AssetsDefinition:
    """The asset `control_verdicts`; `pool` as for the verdicts."""

    @asset(
        group_name="verdicts",
        deps=["baseline_predictions", "control_predictions", "predictions"],
        kinds={"pandas", "parquet"},
        owners=OWNERS,
        pool=pool,
        metadata=schema_metadata("control_verdicts"),
    )
    def control_verdicts(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """Comparisons whose answer is known: the untuned model against itself, empty posts, posts of other prompts."""
        opened = study.open()
        return materialized(opened, materialize(opened, "control_verdicts", "", progress_of(context)))

    return control_verdicts
