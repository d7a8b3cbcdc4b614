"""One LoRA adapter a cell of the sweep."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, PartitionsDefinition, asset

from synthpost_dagster.assets.common import OWNERS, materialized, progress_of, schema_metadata
from synthpost_dagster.cell import Cell
from synthpost_dagster.report.previews import loss_png
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


def build_adapters(cells: PartitionsDefinition) -> AssetsDefinition:
    """The asset `adapters`."""

    @asset(
        group_name="adapters",
        deps=["data_subsets"],
        partitions_def=cells,
        kinds={"pytorch", "huggingface"},
        owners=OWNERS,
        pool=POOL,
        metadata=schema_metadata("adapters"),
    )
    def adapters(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """A PEFT adapter with its loss curve: the student tuned on one subset for one length of training."""
        opened = study.open()
        cells = opened.seeds_of(Cell.parse(context.partition_key))
        outcomes = [materialize(opened, "adapters", cell.place, progress_of(context)) for cell in cells]
        picture = loss_png(opened.store.read_table(outcomes[0].manifest))
        return materialized(opened, *outcomes, picture=picture)

    return adapters
