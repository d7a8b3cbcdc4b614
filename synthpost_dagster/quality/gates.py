"""The gates on tables, by asset, and their evaluation.

Each gate is a function of a table that says whether it passed, with its figure and the rows at fault. Stages call
`evaluate` when they make an artifact and write the verdicts into its manifest; asset checks and the page show those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from synthpost_dagster.artifacts.manifest import GateEntry
from synthpost_dagster.judging.controls import CONTROLS
from synthpost_dagster.quality import evaluation, posts, structure
from synthpost_dagster.quality.result import PREVIEW_ROWS, GateResult
from synthpost_dagster.quality.structure import CONTROL_TEXTS
from synthpost_dagster.schemas import TABLES, Predictions
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTROL_TEXTS", "PREVIEW_ROWS", "GateResult", "are_current", "evaluate", "gate_names", "is_blocking"]


class Judge(Protocol):
    """Judges a table of a task; `target` is the number of rows that was asked for."""

    def __call__(self, task: Task, table: pd.DataFrame, target: int) -> GateResult:
        """The verdict."""


class Gate(NamedTuple):
    """A gate on an asset."""

    judge: Judge
    is_blocking: bool = True
    table: str = ""
    """Which table of the artifact it looks at; by default the asset's own."""
    limits: tuple[str, ...] = ()
    """The keys of the task's `quality` that it reads."""


DUPLICATES = {
    "duplicates": Gate(posts.duplicates),
    "near_duplicates": Gate(posts.near_duplicates, limits=("near_duplicate_jaccard", "max_near_duplicate_share")),
    "openings": Gate(posts.openings, is_blocking=False, limits=("max_opening_share",)),
    "diversity": Gate(posts.diversity, is_blocking=False, table="diversity", limits=("diversity",)),
}
COVERAGE = {"factor_coverage": Gate(structure.factor_coverage, limits=("max_rejected_share",))}
PERSONAL = {"personal_data": Gate(posts.personal, is_blocking=False, limits=("phone_region",))}
LEAKAGE = {"leakage": Gate(evaluation.leakage, limits=("leaked_words",))}
GATES: dict[str, dict[str, Gate]] = {
    "prompts": COVERAGE | LEAKAGE | PERSONAL,
    "evaluation_prompts": COVERAGE | PERSONAL,
    "synthetic_rows": DUPLICATES
    | COVERAGE
    | {
        "rejected_share": Gate(posts.rejected_share, limits=("max_rejected_share",)),
        "cleaning": Gate(posts.cleaning, is_blocking=False, limits=("max_cleaned_share",)),
        "sentence_band": Gate(posts.sentence_band, is_blocking=False, limits=("max_out_of_band_share",)),
    }
    | PERSONAL,
    "data_subsets": DUPLICATES | COVERAGE | LEAKAGE,
    "adapters": {
        "supervised_tokens": Gate(evaluation.supervised_tokens, table="supervision"),
        "forgetting": Gate(
            evaluation.forgetting, is_blocking=False, table="forgetting", limits=("max_perplexity_ratio",)
        ),
    },
    **{asset: PERSONAL for asset, table in TABLES.items() if issubclass(table, Predictions)},
    "predictions": {"memorisation": Gate(evaluation.memorisation, is_blocking=False, table="memorisation")} | PERSONAL,
    "control_verdicts": {
        f"control_{name}": Gate(partial(structure.control, name), is_blocking=False) for name in CONTROLS
    },
}
"""Asset → its gates by name, in the order they run, less the schema, which every asset has."""


def gate_names(asset: str) -> list[str]:
    """Names of the gates on an asset, in the order they run."""
    return ["schema", *GATES.get(asset, {})]


def is_blocking(asset: str, name: str) -> bool:
    """Whether a gate that fails stops what is downstream."""
    return name == "schema" or GATES[asset][name].is_blocking


def are_current(asset: str, task: Task, entries: Sequence[GateEntry]) -> bool:
    """Whether the verdicts are of all gates that the asset has, each under the task's limits."""
    found = {entry.name: entry for entry in entries}
    if (schema := found.get("schema")) and not schema.is_passed:
        return True
    return all(name in found and found[name].limits == _limits(asset, task, name) for name in gate_names(asset))


def _limits(asset: str, task: Task, name: str) -> dict[str, Any]:
    if name == "schema":
        return {}
    return task.spec.quality.model_dump(mode="json", include=set(GATES[asset][name].limits))


def evaluate(
    asset: str,
    task: Task,
    table: pd.DataFrame,
    name: str | None = None,
    target: int | None = None,
    beside: Mapping[str, pd.DataFrame] | None = None,
) -> list[GateResult]:
    """The verdicts of all gates on an asset's table, or of the one named.

    `target` is the number of rows that was asked for, where it is not the number of rows there. `beside` holds the
    artifact's other tables by name. Where the schema does not hold, the other gates cannot be trusted to run, and only
    its verdict is given; one whose table is not there is not evaluated, and stops nothing.
    """
    rows = len(table) if target is None else target
    schema = structure.schema(asset, task, table, rows)
    if name == "schema" or (name is None and not schema.is_passed):
        return [schema]
    if not schema.is_passed:
        message = f"not evaluated, because the schema does not hold: {schema.message}"
        stops = is_blocking(asset, str(name))
        return [GateResult(str(name), False, stops, message, {}, table.head(0), is_severe=stops)]
    tables = {asset: table, **(beside or {})}
    judged = [_judged(asset, task, key, tables, rows) for key in GATES.get(asset, {}) if name in (None, key)]
    return ([schema] if name is None else []) + judged


def _judged(asset: str, task: Task, name: str, tables: Mapping[str, pd.DataFrame], target: int) -> GateResult:
    gate, limits = GATES[asset][name], _limits(asset, task, name)
    table = tables.get(gate.table or asset)
    if table is None:
        message = f"not evaluated: an earlier version made the artifact, without the table {gate.table}"
        return GateResult(name, False, False, message, {}, tables[asset].head(0), is_severe=False, limits=limits)
    return replace(gate.judge(task, table, target), limits=limits)
