"""The ratio report and its page."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, asset

from synthpost_dagster.assets.common import OWNERS, materialized, progress_of, schema_metadata
from synthpost_dagster.report.data import of_seed
from synthpost_dagster.report.figures import cells_png
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


def build_ratio_report() -> AssetsDefinition:
    """The asset `ratio_report`."""

    @asset(
        group_name="report",
        deps=["verdicts", "control_verdicts"],
        kinds={"pandas", "html"},
        owners=OWNERS,
        metadata=schema_metadata("ratio_report"),
    )
    def ratio_report(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """Win ratios with their intervals, by cell and factor, as parquet, CSV and a page."""
        opened = study.open()
        outcome = materialize(opened, "ratio_report", "", progress_of(context))
        shown = of_seed(opened.store.read_table(outcome.manifest), opened.profile.training.seed)
        return materialized(opened, outcome, picture=cells_png(shown))

    return ratio_report
