"""Gathers what the page says of the data: verdicts of gates, variety, coverage, leakage, memorisation, supervision.

Tables that an older version did not make are left out, and the page says that they were not measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.errors import ArtifactDamaged
from synthpost_dagster.report import data_quality as quality
from synthpost_dagster.rows.prompts import shares, shuffled_strata
from synthpost_dagster.stages.page_inputs import PageInputs, there

if TYPE_CHECKING:
    import pandas as pd

MAX_RUNS = 12
"""Runs of the teacher that are compared, the present one among them."""


def data_quality(inputs: PageInputs, store: ArtifactStore) -> quality.DataQuality:
    """What is known of the data behind the report.

    Artifacts whose gates failed are among them, though nothing after them was made.
    """
    rows = there(inputs.rows, "synthetic_rows")
    memorised, shared = _memorised(inputs, store)
    behind = [
        inputs.prompts,
        inputs.evaluation_prompts,
        rows,
        *inputs.subsets.values(),
        *inputs.adapters.values(),
        inputs.untuned,
        *inputs.predictions.values(),
    ]
    varied = {size: _beside(store, manifest, "diversity") for size, manifest in inputs.subsets.items()}
    return quality.DataQuality(
        gates=tuple(
            quality.GateLine(manifest.asset, manifest.partition, gate)
            for manifest in behind
            if manifest
            for gate in manifest.gates
        ),
        subsets={size: table for size, table in varied.items() if table is not None},
        runs=_runs(store, rows, inputs.earlier_rows),
        coverage=_coverage(inputs, store),
        replies=quality.replies_of(store.read_table(rows)),
        memorised=tuple(memorised),
        shared=quality.longest_runs(shared),
        supervised=tuple(_supervised(inputs, store)),
    )


def _beside(store: ArtifactStore, manifest: Manifest, name: str) -> pd.DataFrame | None:
    """A table beside an artifact's own; None where there is none, or where it has no row."""
    if f"{name}.parquet" not in manifest.files:
        return None
    table = store.read_table(manifest, name)
    return table if len(table) else None


def _runs(store: ArtifactStore, present: Manifest, earlier: Sequence[Manifest]) -> tuple[quality.Run, ...]:
    """The newest tables of synthetic rows that can be compared with the present one, oldest first, each content once.

    Empty where the present one was not measured.
    """
    own = _beside(store, present, "diversity")
    if own is None:
        return ()
    runs, digests = [_run(present, own, is_present=True)], {present.digest}
    for manifest in earlier:
        if len(runs) == MAX_RUNS:
            break
        if manifest.digest in digests:
            continue
        table = None
        with contextlib.suppress(ArtifactDamaged):  # it is set aside, and the page is of the present rows
            table = _beside(store, manifest, "diversity")
        if table is not None and quality.rows_compared(table) == quality.rows_compared(own):
            runs.append(_run(manifest, table, is_present=False))
            digests.add(manifest.digest)
    return tuple(sorted(runs, key=lambda run: run.made_at))


def _run(manifest: Manifest, table: pd.DataFrame, *, is_present: bool) -> quality.Run:
    teacher = manifest.parts.get("teacher")
    name = str(teacher.get("model", "")) if isinstance(teacher, dict) else ""
    return quality.Run(manifest.made_at, name, int(table["rows"].max()), is_present, table)


def _coverage(inputs: PageInputs, store: ArtifactStore) -> quality.Coverage | None:
    """The strata of the largest subset, in the task's order."""
    if not inputs.subsets:
        return None
    size = max(inputs.subsets)
    due = shares(shuffled_strata(inputs.task), size)
    in_order = {stratum: due[stratum] for stratum in inputs.task.strata}
    return quality.coverage_of(store.read_table(inputs.subsets[size]), size, in_order)


def _memorised(inputs: PageInputs, store: ArtifactStore) -> tuple[list[quality.Memorised], list[quality.SharedRun]]:
    """The figures of each cell, and the longest runs of all."""
    figures: list[quality.Memorised] = []
    shared: list[quality.SharedRun] = []
    for cell, manifest in inputs.predictions.items():
        table = _beside(store, manifest, "memorisation")
        if table is None:
            continue
        posts = store.read_table(manifest).set_index("prompt_id")["post"].to_dict()
        figures.append(quality.memorised_of(cell.main, inputs.seed_of(cell), table))
        shared += quality.shared_of(cell.main, table, posts)
    return figures, shared


def _supervised(inputs: PageInputs, store: ArtifactStore) -> list[quality.Supervised]:
    found = {cell: _beside(store, manifest, "supervision") for cell, manifest in inputs.adapters.items()}
    return [
        quality.supervised_of(cell.main, inputs.seed_of(cell), table)
        for cell, table in found.items()
        if table is not None
    ]
