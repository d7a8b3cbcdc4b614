"""The factory that turns the table and the stages into Dagster assets.

https://docs.dagster.io/guides/build/assets
"""

from collections.abc import Sequence
from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, Config, DataVersion, MaterializeResult, asset
from pydantic import Field

from synthpost_dagster.assets.metadata import metadata_of, schema_metadata
from synthpost_dagster.assets.partitions import Partitions
from synthpost_dagster.assets.progress import progress_of
from synthpost_dagster.assets.table import ROWS, Row
from synthpost_dagster.llm.chat_models import HOLDS_DEVICE
from synthpost_dagster.profiles.models import ChatSpec, HostedChat, JudgeSpec
from synthpost_dagster.profiles.spec import Profile
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.stages.stage import materialize, stage_of
from synthpost_dagster.tasks.task import Task


class RowsConfig(Config):
    """The number of rows that a run requests."""

    rows: int | None = Field(default=None, description="Kept rows wanted; by default the profile's largest data size")


def build_assets(partitions: Partitions, profile: Profile, task: Task) -> list[AssetsDefinition]:
    """All assets in the order data flows."""
    return [_build(name, row, partitions, profile, task) for name, row in ROWS.items()]


def _build(name: str, row: Row, partitions: Partitions, profile: Profile, task: Task) -> AssetsDefinition:
    stage = stage_of(name)
    decorate = asset(
        name=name,
        description=row.description,
        group_name=row.group,
        deps=list(stage.upstream),
        partitions_def={"subsets": partitions.size, "cell": partitions.cell}.get(stage.job),
        kinds=set(row.kinds),
        owners=["team:ml-engineering"],
        pool=_pool(row, profile),
        metadata=schema_metadata(name, task.spec.prompt_columns),
    )

    def made(context: AssetExecutionContext, study: StudyResource, rows: int | None = None) -> MaterializeResult[Any]:
        opened = study.open()
        key = context.partition_key if stage.job in ("subsets", "cell") else ""
        progress = progress_of(context)
        outcomes = [materialize(opened, name, place, progress, rows) for place in opened.places(name, key)]
        return MaterializeResult(
            metadata=metadata_of(opened, outcomes, row.picture), data_version=DataVersion(outcomes[0].manifest.digest)
        )

    if name == "synthetic_rows":

        def with_rows(context: AssetExecutionContext, config: RowsConfig, study: StudyResource) -> Any:
            return made(context, study, config.rows)

        return decorate(with_rows)

    def without_config(context: AssetExecutionContext, study: StudyResource) -> Any:
        return made(context, study)

    return decorate(without_config)


def _pool(row: Row, profile: Profile) -> str | None:
    """The pool of an asset's steps: `gpu` if they hold a model in this process, else that of the first endpoint.

    The rate limits of an endpoint hold within one process.
    """
    models: dict[str, Sequence[ChatSpec | JudgeSpec]] = {"teacher": [profile.teacher], "judge": profile.judges}
    specs = models.get(row.holds, ())
    if row.holds == "student" or any(spec.backend in HOLDS_DEVICE for spec in specs):
        return POOL
    return next((f"endpoint_{spec.endpoint}" for spec in specs if isinstance(spec, HostedChat)), None)
