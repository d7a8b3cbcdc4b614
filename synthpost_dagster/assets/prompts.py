"""Training prompts on train products, and evaluation prompts on holdout products."""

from typing import Any

from dagster import AssetsDefinition, MaterializeResult, asset

from synthpost_dagster.assets.common import OWNERS, materialized, schema_metadata
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


def build_prompts() -> AssetsDefinition:
    """The asset `prompts`."""

    @asset(
        group_name="prompts",
        deps=["catalog"],
        kinds={"jinja", "parquet"},
        owners=OWNERS,
        metadata=schema_metadata("prompts"),
    )
    def prompts(study: StudyResource) -> MaterializeResult[Any]:
        """Every training prompt: factors, the teacher's and the student's wording, rank in the stratified order."""
        opened = study.open()
        return materialized(opened, materialize(opened, "prompts"))

    return prompts


def build_evaluation_prompts() -> AssetsDefinition:
    """The asset `evaluation_prompts`."""

    @asset(
        group_name="prompts",
        deps=["catalog"],
        kinds={"jinja", "parquet"},
        owners=OWNERS,
        metadata=schema_metadata("evaluation_prompts"),
    )
    def evaluation_prompts(study: StudyResource) -> MaterializeResult[Any]:
        """Prompts that every contestant answers, on holdout products alone, balanced over post type × tone."""
        opened = study.open()
        return materialized(opened, materialize(opened, "evaluation_prompts"))

    return evaluation_prompts
