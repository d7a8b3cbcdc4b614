"""Gathers what the page says of forgetting from the adapters of the report's cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthpost_dagster.artifacts.store import ArtifactStore, Manifest
from synthpost_dagster.profiles.models import EMBEDDED
from synthpost_dagster.report.forgetting import ForgettingData, Forgotten
from synthpost_dagster.stages.facts import AdapterFacts
from synthpost_dagster.stages.page_inputs import PageInputs

if TYPE_CHECKING:
    import pandas as pd

TABLE = "forgetting"


def forgetting_data(inputs: PageInputs, store: ArtifactStore) -> ForgettingData:
    """The perplexities of each cell and seed, where its adapter was measured on the present general text."""
    return ForgettingData(
        runs=tuple(
            Forgotten(one.cell.main, inputs.seed_of(one.cell), _kinds(inputs, store, one.adapter))
            for one in inputs.made
        ),
        limit=inputs.max_perplexity_ratio,
        training_seed=inputs.seed,
        is_artificial=inputs.student == EMBEDDED,
    )


def _kinds(inputs: PageInputs, store: ArtifactStore, adapter: Manifest) -> pd.DataFrame | None:
    if f"{TABLE}.parquet" not in adapter.files or AdapterFacts.of(adapter).general_text != inputs.general_text:
        return None
    return store.read_table(adapter, TABLE)
