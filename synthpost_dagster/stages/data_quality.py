"""Reads what the page shows of the data: gate verdicts, variety, coverage, memorisation, supervised tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.errors import ArtifactDamaged
from synthpost_dagster.report import data_quality as quality
from synthpost_dagster.rows.prompts import shares, strata_in
from synthpost_dagster.stages.page_inputs import PageInputs, required

if TYPE_CHECKING:
    import pandas as pd

MAX_RUNS = 12
"""Runs of the teacher that are compared, the present one among them."""


def data_quality(inputs: PageInputs, store: ArtifactStore) -> quality.DataQuality:
    """The data of the report. It includes artifacts that failed their gates, from which nothing was made."""
    rows = required(inputs.rows, "synthetic_rows")
    upstream = [
        inputs.prompts,
        inputs.evaluation_prompts,
        rows,
        *inputs.subsets.values(),
        *inputs.adapters.values(),
        inputs.untuned,
        *inputs.predictions.values(),
    ]
    memorised = {cell: store.read_table(one, "memorisation") for cell, one in inputs.predictions.items()}
    return quality.DataQuality(
        gates=tuple(
            quality.GateLine(manifest.asset, manifest.partition, gate)
            for manifest in upstream
            if manifest
            for gate in manifest.gates
        ),
        subsets={size: store.read_table(manifest, "diversity") for size, manifest in inputs.subsets.items()},
        runs=_runs(store, rows, inputs.earlier_rows),
        coverage=_coverage(inputs, store),
        replies=quality.replies_of(store.read_table(rows)),
        memorised=tuple(
            quality.memorised_of(cell.main, inputs.seed_of(cell), table) for cell, table in memorised.items()
        ),
        shared=quality.longest_runs(
            ((cell.main, table, store.read_table(inputs.predictions[cell])) for cell, table in memorised.items()),
            [name for name in inputs.task.brief_columns if name not in inputs.task.spec.factors],
        ),
        supervised=tuple(
            quality.supervised_of(cell.main, inputs.seed_of(cell), store.read_table(manifest, "supervision"))
            for cell, manifest in inputs.adapters.items()
        ),
    )


def _runs(store: ArtifactStore, present: Manifest, earlier: Sequence[Manifest]) -> tuple[quality.Run, ...]:
    """The newest tables of rows that can be compared with the present one, oldest first, each content once."""
    own = store.read_table(present, "diversity")
    runs, digests = [_run(present, own, is_present=True)], {present.digest}
    for manifest in earlier:
        if len(runs) == MAX_RUNS:
            break
        if manifest.digest in digests:
            continue
        with contextlib.suppress(ArtifactDamaged):  # it is set aside; the page shows the present rows
            table = store.read_table(manifest, "diversity")
            if quality.rows_compared(table) == quality.rows_compared(own):
                runs.append(_run(manifest, table, is_present=False))
                digests.add(manifest.digest)
    return tuple(sorted(runs, key=lambda run: run.made_at))


def _run(manifest: Manifest, table: pd.DataFrame, *, is_present: bool) -> quality.Run:
    teacher = str(manifest.parts["teacher"].get("model", ""))
    return quality.Run(manifest.made_at, teacher, int(table["rows"].max()), is_present, table)


def _coverage(inputs: PageInputs, store: ArtifactStore) -> quality.Coverage | None:
    """The strata of the largest subset, in the task's order."""
    if not inputs.subsets:
        return None
    size = max(inputs.subsets)
    due = shares(inputs.task.capacities("train"), size)
    in_order = {stratum: due[stratum] for stratum in inputs.task.strata}
    strata = strata_in(inputs.task, store.read_table(inputs.subsets[size]))
    return quality.coverage_of(inputs.task.spec.strata_factors, strata, size, in_order)
