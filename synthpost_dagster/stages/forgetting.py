"""Gathers what the page says of forgetting from the adapters of the report's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthpost_dagster.artifacts.store import Manifest
from synthpost_dagster.profiles.models import EMBEDDED
from synthpost_dagster.report import data as page
from synthpost_dagster.report.forgetting import ForgettingData, Forgotten
from synthpost_dagster.stages.study import Study
from synthpost_dagster.training.forgetting import general_text

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.stages.report import Made

TABLE = "forgetting"


def forgetting_data(study: Study, made: Sequence[Made]) -> ForgettingData:
    """The perplexities of each cell and seed, where its adapter was measured on the present general text."""
    return ForgettingData(
        runs=tuple(
            Forgotten(page.Cell(*one.cell[:2]), study.training_of(one.cell).seed, _kinds(study, one.adapter))
            for one in made
        ),
        limit=study.task.spec.quality.max_perplexity_ratio,
        training_seed=study.profile.training.seed,
        is_artificial=study.profile.student.model == EMBEDDED,
    )


def _kinds(study: Study, adapter: Manifest) -> pd.DataFrame | None:
    if f"{TABLE}.parquet" not in adapter.files or adapter.facts.get("general_text") != general_text().digest:
        return None
    return study.store.read_table(adapter, TABLE)
