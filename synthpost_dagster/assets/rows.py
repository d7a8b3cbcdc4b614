"""The teacher's posts."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, Config, MaterializeResult, asset
from pydantic import Field

from synthpost_dagster.assets.common import OWNERS, materialized, progress_of, schema_metadata
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


class SynthesisConfig(Config):
    """How many rows a run asks for."""

    rows: int | None = Field(default=None, description="Kept rows wanted; by default the profile's largest data size")


def build_synthetic_rows(pool: str | None) -> AssetsDefinition:
    """The asset `synthetic_rows`; `pool` where the teacher holds a model in this process."""

    @asset(
        group_name="rows",
        deps=["prompts"],
        kinds={"huggingface", "parquet"},
        owners=OWNERS,
        pool=pool,
        metadata=schema_metadata("synthetic_rows"),
    )
    def synthetic_rows(
        context: AssetExecutionContext, config: SynthesisConfig, study: StudyResource
    ) -> MaterializeResult[Any]:
        """The teacher's posts in rank order, kept or rejected with a reason; the table grows and never shrinks."""
        opened = study.open()
        return materialized(opened, materialize(opened, "synthetic_rows", "", progress_of(context), config.rows))

    return synthetic_rows
