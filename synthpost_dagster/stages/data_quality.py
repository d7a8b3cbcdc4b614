"""Gathers what the page says of the data: verdicts of gates, variety, coverage, leakage, memorisation, supervision.

Tables that an older version did not make are left out, and the page says that they were not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from synthpost_dagster.artifacts.store import Manifest, Plan
from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.report import data as page
from synthpost_dagster.report import data_quality as quality
from synthpost_dagster.rows.prompts import shares, shuffled_strata
from synthpost_dagster.stages.adapters import adapters_plan
from synthpost_dagster.stages.data import current_rows, data_subsets_plan, evaluation_prompts_plan, prompts_plan
from synthpost_dagster.stages.predictions import predictions_plan
from synthpost_dagster.stages.study import Cell, Study

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.stages.report import Made

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
MOST_RUNS = 12
"""Runs of the teacher that are compared, the present one among them."""


def data_quality(study: Study, made: Sequence[Made], untuned: Manifest) -> quality.DataQuality:
    """What is known of the data behind the report; `made` are its cells, `untuned` the baselines.

    Artifacts whose gates failed are among them, though nothing after them was made.
    """
    rows = current_rows(study)
    sizes = dict.fromkeys(cell.data_size for cell in study.cells)
    subsets = _there({size: _found(study, partial(data_subsets_plan, study, size)) for size in sizes})
    adapters, predictions = _of_cells(study, made)
    memorised, shared = _memorised(study, predictions)
    behind = [
        _found(study, partial(prompts_plan, study)),
        _found(study, partial(evaluation_prompts_plan, study)),
        rows,
        *subsets.values(),
        *adapters.values(),
        untuned,
        *predictions.values(),
    ]
    return quality.DataQuality(
        gates=tuple(
            quality.GateLine(manifest.asset, manifest.partition, gate)
            for manifest in behind
            if manifest
            for gate in manifest.gates
        ),
        subsets=_there({size: _beside(study, manifest, "diversity") for size, manifest in subsets.items()}),
        runs=_runs(study, rows),
        coverage=_coverage(study, subsets),
        replies=quality.replies_of(study.store.read_table(rows)),
        memorised=tuple(memorised),
        shared=quality.longest_runs(shared),
        supervised=tuple(_supervised(study, adapters)),
    )


def _found(study: Study, plan: Callable[[], Plan]) -> Manifest | None:
    """The artifact of a plan, whatever its gates say; None where it is not there or cannot be planned."""
    try:
        planned = plan()
    except SynthpostError:
        return None
    return study.store.find(planned.asset, planned.partition, planned.fingerprint)


def _there(found: dict[_Key, _Value | None]) -> dict[_Key, _Value]:
    return {key: value for key, value in found.items() if value is not None}


def _of_cells(study: Study, made: Sequence[Made]) -> tuple[dict[Cell, Manifest], dict[Cell, Manifest]]:
    """Adapters and predictions of the report's cells, and of those that came no further."""
    known = {one.cell: one for one in made}
    adapters: dict[Cell, Manifest | None] = {}
    predictions: dict[Cell, Manifest | None] = {}
    for cell in study.trainings:
        one = known.get(cell)
        adapters[cell] = one.adapter if one else _found(study, partial(adapters_plan, study, cell))
        predictions[cell] = one.predictions if one else _found(study, partial(predictions_plan, study, cell))
    return _there(adapters), _there(predictions)


def _beside(study: Study, manifest: Manifest, name: str) -> pd.DataFrame | None:
    """A table beside an artifact's own; None where there is none, or where it has no row."""
    if f"{name}.parquet" not in manifest.files:
        return None
    table = study.store.read_table(manifest, name)
    return table if len(table) else None


def _runs(study: Study, present: Manifest) -> tuple[quality.Run, ...]:
    """The newest tables of synthetic rows that can be compared with the present one, oldest first, each content once.

    Empty where the present one was not measured.
    """
    own = _beside(study, present, "diversity")
    if own is None:
        return ()
    runs, digests = [_run(present, own, is_present=True)], {present.digest}
    of_task = [m for m in study.store.all_of("synthetic_rows") if m.parts.get("task") == present.parts.get("task")]
    for manifest in reversed(of_task):
        if len(runs) == MOST_RUNS:
            break
        if manifest.digest in digests or (table := _beside(study, manifest, "diversity")) is None:
            continue
        if quality.rows_compared(table) == quality.rows_compared(own):
            runs.append(_run(manifest, table, is_present=False))
            digests.add(manifest.digest)
    return tuple(sorted(runs, key=lambda run: run.made_at))


def _run(manifest: Manifest, table: pd.DataFrame, *, is_present: bool) -> quality.Run:
    teacher = manifest.parts.get("teacher")
    name = str(teacher.get("model", "")) if isinstance(teacher, dict) else ""
    return quality.Run(manifest.made_at, name, int(table["rows"].max()), is_present, table)


def _coverage(study: Study, subsets: dict[int, Manifest]) -> quality.Coverage | None:
    """The strata of the largest subset, in the task's order."""
    if not subsets:
        return None
    size = max(subsets)
    due = shares(shuffled_strata(study.task), size)
    in_order = {stratum: due[stratum] for stratum in study.task.strata}
    return quality.coverage_of(study.store.read_table(subsets[size]), size, in_order)


def _memorised(
    study: Study, predictions: dict[Cell, Manifest]
) -> tuple[list[quality.Memorised], list[quality.SharedRun]]:
    """The figures of each cell, and the longest runs of all."""
    figures: list[quality.Memorised] = []
    shared: list[quality.SharedRun] = []
    for cell, manifest in predictions.items():
        table = _beside(study, manifest, "memorisation")
        if table is None:
            continue
        posts = study.store.read_table(manifest).set_index("prompt_id")["post"].to_dict()
        figures.append(quality.memorised_of(_cell(cell), study.training_of(cell).seed, table))
        shared += quality.shared_of(_cell(cell), table, posts)
    return figures, shared


def _supervised(study: Study, adapters: dict[Cell, Manifest]) -> list[quality.Supervised]:
    found = _there({cell: _beside(study, manifest, "supervision") for cell, manifest in adapters.items()})
    return [quality.supervised_of(_cell(cell), study.training_of(cell).seed, table) for cell, table in found.items()]


def _cell(cell: Cell) -> page.Cell:
    return page.Cell(cell.data_size, cell.steps)
