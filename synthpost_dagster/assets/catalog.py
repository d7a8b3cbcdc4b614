"""Companies and products."""

from typing import Any

from dagster import AssetsDefinition, MaterializeResult, asset

from synthpost_dagster.assets.common import OWNERS, materialized, schema_metadata
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize


def build_catalog() -> AssetsDefinition:
    """The asset `catalog`."""

    @asset(group_name="catalog", kinds={"yaml", "parquet"}, owners=OWNERS, metadata=schema_metadata("catalog"))
    def catalog(study: StudyResource) -> MaterializeResult[Any]:
        """Companies and products of the task; each product is marked train or holdout."""
        opened = study.open()
        return materialized(opened, materialize(opened, "catalog"))

    return catalog
