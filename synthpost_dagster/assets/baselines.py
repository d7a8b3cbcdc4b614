"""What the untuned model writes."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, asset

from synthpost_dagster.assets.common import OWNERS, materialized, progress_of, schema_metadata
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


def build_baseline_predictions() -> AssetsDefinition:
    """The asset `baseline_predictions`."""

    @asset(
        group_name="baselines",
        deps=["evaluation_prompts"],
        kinds={"huggingface", "parquet"},
        owners=OWNERS,
        pool=POOL,
        metadata=schema_metadata("baseline_predictions"),
    )
    def baseline_predictions(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """The untuned model's posts, twice: with the student's prompt (base) and with the teacher's (prompted)."""
        opened = study.open()
        return materialized(opened, materialize(opened, "baseline_predictions", "", progress_of(context)))

    return baseline_predictions


def build_control_predictions() -> AssetsDefinition:
    """The asset `control_predictions`."""

    @asset(
        group_name="baselines",
        deps=["evaluation_prompts"],
        kinds={"huggingface", "parquet"},
        owners=OWNERS,
        pool=POOL,
        metadata=schema_metadata("control_predictions"),
    )
    def control_predictions(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult[Any]:
        """The untuned model's posts, sampled twice under different seeds, to be judged against each other."""
        opened = study.open()
        return materialized(opened, materialize(opened, "control_predictions", "", progress_of(context)))

    return control_predictions
