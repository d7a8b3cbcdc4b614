"""The gates on tables, by asset, and their evaluation.

Each gate is a function of a table that says whether it passed, with its figure and the rows at fault. Stages write
the verdicts into the manifest, asset checks show them; both call `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from synthpost_dagster.judging.controls import CONTROLS
from synthpost_dagster.rows.gates import evaluation, posts, structure
from synthpost_dagster.rows.gates.result import PREVIEW_ROWS, GateResult
from synthpost_dagster.rows.gates.structure import CONTROL_TEXTS
from synthpost_dagster.tasks.loading import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTROL_TEXTS", "PREVIEW_ROWS", "GateResult", "evaluate", "gate_names", "is_blocking", "table_of"]


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


DUPLICATES = {
    "duplicates": Gate(posts.duplicates),
    "near_duplicates": Gate(posts.near_duplicates),
    "openings": Gate(posts.openings, is_blocking=False),
    "diversity": Gate(posts.diversity, is_blocking=False, table="diversity"),
}
COVERAGE = {"factor_coverage": Gate(structure.factor_coverage)}
PERSONAL = {"personal_data": Gate(posts.personal, is_blocking=False)}
LEAKAGE = {"leakage": Gate(evaluation.leakage)}
GATES: dict[str, dict[str, Gate]] = {
    "prompts": COVERAGE | LEAKAGE | PERSONAL,
    "evaluation_prompts": COVERAGE | PERSONAL,
    "synthetic_rows": DUPLICATES
    | COVERAGE
    | {
        "rejected_share": Gate(posts.rejected_share),
        "cleaning": Gate(posts.cleaning, is_blocking=False),
        "sentence_band": Gate(posts.sentence_band, is_blocking=False),
    }
    | PERSONAL,
    "data_subsets": DUPLICATES | COVERAGE | LEAKAGE,
    "adapters": {
        "supervised_tokens": Gate(evaluation.supervised_tokens, table="supervision"),
        "forgetting": Gate(evaluation.forgetting, is_blocking=False, table="forgetting"),
    },
    "baseline_predictions": PERSONAL,
    "control_predictions": PERSONAL,
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


def table_of(asset: str, name: str) -> str:
    """The name of the table that a gate looks at."""
    return asset if name == "schema" else GATES[asset][name].table or asset


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
    its verdict is given.
    """
    rows = len(table) if target is None else target
    schema = structure.schema(asset, task, table, rows)
    if name == "schema" or (name is None and not schema.is_passed):
        return [schema]
    if not schema.is_passed:
        message = f"not evaluated, because the schema does not hold: {schema.message}"
        stops = is_blocking(asset, str(name))
        return [GateResult(str(name), False, stops, message, {}, table.head(0), is_severe=stops)]
    chosen = {key: gate for key, gate in GATES.get(asset, {}).items() if name in (None, key)}
    tables = {asset: table, **(beside or {})}
    judged = [gate.judge(task, tables[table_of(asset, key)], rows) for key, gate in chosen.items()]
    return ([schema] if name is None else []) + judged
