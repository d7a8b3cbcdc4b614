"""The assets, one file a stage.

https://docs.dagster.io/guides/build/assets. An asset calls one function of `stages` and reports the outcome; what is
decided, is decided there. Each file has a builder, because partitions and pools depend on task and profile.
"""

from collections.abc import Sequence

from dagster import AssetsDefinition

from synthpost_dagster.assets.adapters import build_adapters
from synthpost_dagster.assets.baselines import build_baseline_predictions, build_control_predictions
from synthpost_dagster.assets.catalog import build_catalog
from synthpost_dagster.assets.predictions import build_predictions
from synthpost_dagster.assets.prompts import build_evaluation_prompts, build_prompts
from synthpost_dagster.assets.report import build_ratio_report
from synthpost_dagster.assets.rows import build_synthetic_rows
from synthpost_dagster.assets.subsets import build_data_subsets
from synthpost_dagster.assets.verdicts import build_control_verdicts, build_verdicts
from synthpost_dagster.llm.chat_models import HOLDS_DEVICE
from synthpost_dagster.orchestration.partitions import Partitions
from synthpost_dagster.profiles import Profile
from synthpost_dagster.profiles.models import ChatSpec, HostedChat, JudgeSpec
from synthpost_dagster.resources.gpu import POOL


def build_assets(partitions: Partitions, profile: Profile) -> list[AssetsDefinition]:
    """All assets in the order data flows."""
    teacher_pool, judge_pool = pool_of([profile.teacher]), pool_of(profile.judges)
    return [
        build_catalog(),
        build_prompts(),
        build_evaluation_prompts(),
        build_synthetic_rows(teacher_pool),
        build_data_subsets(partitions.size),
        build_adapters(partitions.cell),
        build_baseline_predictions(),
        build_control_predictions(),
        build_predictions(partitions.cell),
        build_verdicts(partitions.cell, judge_pool),
        build_control_verdicts(judge_pool),
        build_ratio_report(),
    ]


def pool_of(specs: Sequence[ChatSpec | JudgeSpec]) -> str | None:
    """`gpu` where any of the models is in this process, else the first endpoint's own pool: its limits a minute hold in
    one process.
    """
    if any(spec.backend in HOLDS_DEVICE for spec in specs):
        return POOL
    return next((f"endpoint_{spec.endpoint}" for spec in specs if isinstance(spec, HostedChat)), None)
