"""The gates: what each checks, whether it blocks, the limits that it reads and its remedy; and their evaluation.

A gate is a function of a table and one record here. Stages call `evaluate` when they make an artifact and write the
entries into its manifest, which asset checks and the page show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from synthpost_dagster.artifacts.manifest import GateEntry
from synthpost_dagster.judging.controls import CONTROLS
from synthpost_dagster.quality import evaluation, posts, structure
from synthpost_dagster.quality.result import MAX_CHARACTERS, MAX_ROWS, Finding
from synthpost_dagster.schemas import TABLES, Predictions
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


class Check(Protocol):
    """Checks a table of a task; `target` is the number of rows requested."""

    def __call__(self, task: Task, table: pd.DataFrame, target: int) -> Finding:
        """The finding."""


class Gate(NamedTuple):
    """A gate on an asset. In `remedy`, `{...}` names a key as in `quality.explanations`."""

    name: str
    description: str
    check: Check
    remedy: str = "look at the rows at fault"
    is_blocking: bool = True
    table: str = ""
    """The table that it checks; by default the asset's main one."""
    limits: tuple[str, ...] = ()
    """The keys of the task's `quality` that it reads."""
    figure: str = ""
    """The figure that an explanation shows."""
    limit: str = ""
    """The key of the task's `quality` that limits this figure."""


SCHEMA = Gate(
    "schema",
    "Types, ranges, allowed levels, unique ids, no nulls.",
    partial(structure.schema, ""),
    "delete the artifact and run again; if the failure comes back, report it",
    figure="failures",
)
DUPLICATES = (
    Gate(
        "duplicates",
        "No two kept posts are the same apart from case, space and punctuation.",
        posts.duplicates,
        "raise {teacher.sampling.temperature}",
        figure="duplicates",
    ),
    Gate(
        "near_duplicates",
        "Few posts are nearly an earlier one, by MinHash and the exact Jaccard index of word 3-grams.",
        posts.near_duplicates,
        "raise {teacher.sampling.temperature} or {quality.max_near_duplicate_share}",
        limits=("near_duplicate_jaccard", "max_near_duplicate_share"),
        figure="near_duplicate_share",
        limit="max_near_duplicate_share",
    ),
    Gate(
        "openings",
        "Few posts begin with the same five words.",
        posts.openings,
        "raise {teacher.sampling.temperature} or {quality.max_opening_share}",
        is_blocking=False,
        limits=("max_opening_share",),
        figure="commonest_opening",
    ),
    Gate(
        "diversity",
        "Posts are as varied as the task requires, and a subset as varied as random draws of its size from all rows.",
        posts.diversity,
        "raise {teacher.sampling.temperature}, or change quality.diversity in task.yaml",
        is_blocking=False,
        table="diversity",
        limits=("diversity",),
    ),
)
COVERAGE = Gate(
    "factor_coverage",
    "Every stratum has its share of the rows, within one.",
    partial(structure.factor_coverage, "train"),
    "lower sweep.data_sizes in the profile, or add items to the task",
    limits=("max_rejected_share",),
    figure="strata_off",
)
PERSONAL_DATA = Gate(
    "personal_data",
    "No e-mail address, phone or card number in what may be sent to a hosted model.",
    posts.personal,
    "remove it from the items, or correct {quality.phone_region}",
    is_blocking=False,
    limits=("phone_region",),
)
LEAKAGE = Gate(
    "leakage",
    "No training row names a holdout item or repeats a long run of words of its text.",
    evaluation.leakage,
    "reword what items of both splits share, or raise {holdout.leak.words}",
    figure="leaked_rows",
)
REPLIES = (
    Gate(
        "rejected_share",
        "Few prompts have no kept row; the task sets the limit.",
        posts.rejected_share,
        "raise {quality.max_rejected_share} or {teacher.max_replies_per_row}",
        limits=("max_rejected_share",),
        figure="rejected_share",
        limit="max_rejected_share",
    ),
    Gate(
        "cleaning",
        "Few replies had outer quotes or a preamble.",
        posts.cleaning,
        "reword prompts/teacher.j2 or raise {quality.max_cleaned_share}",
        is_blocking=False,
        limits=("max_cleaned_share",),
        figure="cleaned_share",
        limit="max_cleaned_share",
    ),
    Gate(
        "wrong_length",
        "Few kept posts have another length than requested.",
        posts.wrong_length,
        "change `lengths` in task.yaml, or raise {quality.band_retries} or {quality.max_out_of_band_share}",
        is_blocking=False,
        limits=("max_out_of_band_share",),
        figure="out_of_band_share",
        limit="max_out_of_band_share",
    ),
)
TRAINING = (
    Gate(
        "supervised_tokens",
        "Every row has supervised tokens, and its end of turn is one of them.",
        evaluation.supervised_tokens,
        "check the chat template of {student.model}, or change {training.loss}",
        table="supervision",
        figure="supervised_share",
    ),
    Gate(
        "forgetting",
        "General text stays about as likely to the tuned model as to its base; the task sets the limit.",
        evaluation.forgetting,
        "lower {training.learning_rate} or sweep.steps, or raise {quality.max_perplexity_ratio}",
        is_blocking=False,
        table="forgetting",
        limits=("max_perplexity_ratio",),
        figure="perplexity_ratio",
        limit="max_perplexity_ratio",
    ),
)
MEMORISATION = Gate(
    "memorisation",
    "Reports how much of the tuned posts is copied word for word from training posts; never fails.",
    evaluation.memorisation,
    is_blocking=False,
    table="memorisation",
)
CONTROL_GATES = tuple(
    Gate(
        f"control_{name}",
        f"{structure.CONTROL_TEXTS[name][0].upper()}{structure.CONTROL_TEXTS[name][1:]}.",
        partial(structure.control, name),
        "name another judge in {judges}",
        is_blocking=False,
    )
    for name in CONTROLS
)
GATES: dict[str, tuple[Gate, ...]] = {
    "prompts": (COVERAGE, LEAKAGE, PERSONAL_DATA),
    "evaluation_prompts": (
        COVERAGE._replace(check=partial(structure.factor_coverage, "holdout")),
        PERSONAL_DATA,
    ),
    "synthetic_rows": (*DUPLICATES, COVERAGE, *REPLIES, PERSONAL_DATA),
    "data_subsets": (*DUPLICATES, COVERAGE, LEAKAGE),
    "adapters": TRAINING,
    **{asset: (PERSONAL_DATA,) for asset, table in TABLES.items() if issubclass(table, Predictions)},
    "predictions": (MEMORISATION, PERSONAL_DATA),
    "control_verdicts": CONTROL_GATES,
}
"""Asset → its gates besides the schema, in the order they run."""


def gates_of(asset: str) -> tuple[Gate, ...]:
    """The gates on an asset, in the order they run."""
    return (SCHEMA._replace(check=partial(structure.schema, asset)), *GATES.get(asset, ()))


def gate_names(asset: str) -> list[str]:
    """Names of the gates on an asset, in the order they run."""
    return [gate.name for gate in gates_of(asset)]


def gate_of(asset: str, name: str) -> Gate:
    """The gate of that name on an asset."""
    return next(gate for gate in gates_of(asset) if gate.name == name)


def are_current(asset: str, task: Task, entries: Sequence[GateEntry]) -> bool:
    """Whether there is an entry for every gate of the asset, under the task's present limits."""
    found = {entry.name: entry for entry in entries}
    if (schema := found.get("schema")) and not schema.is_passed:
        return True
    return all(gate.name in found and found[gate.name].limits == limits_of(gate, task) for gate in gates_of(asset))


def limits_of(gate: Gate, task: Task) -> dict[str, Any]:
    """The limits that a gate reads, with their values in the task."""
    return task.spec.quality.model_dump(mode="json", include=set(gate.limits))


def evaluate(
    asset: str,
    task: Task,
    table: pd.DataFrame,
    name: str | None = None,
    target: int | None = None,
    beside: Mapping[str, pd.DataFrame] | None = None,
) -> list[GateEntry]:
    """The entries of all gates on an asset's table, or of the one named.

    `target` is the number of rows requested; by default the number of rows of the table. `beside` holds the artifact's
    other tables by name. A table that breaks its schema gets that entry alone; any other gate that is named then fails.
    """
    tables, rows = {asset: table, **(beside or {})}, len(table) if target is None else target
    schema, *others = gates_of(asset)
    first = _entry(schema, schema.check(task, table, rows), task)
    if not first.is_passed and name not in (None, "schema"):
        message = f"not evaluated, because the table breaks its schema: {first.message}"
        return [_entry(gate_of(asset, str(name)), Finding(False, message, table.head(0), {}), task)]
    chosen: Iterable[Gate] = (gate for gate in others if name in (None, gate.name)) if first.is_passed else ()
    found = [_entry(gate, gate.check(task, tables[gate.table or asset], rows), task) for gate in chosen]
    return [first, *found] if name in (None, "schema") else found


def _entry(gate: Gate, found: Finding, task: Task) -> GateEntry:
    """The finding as a manifest keeps it: finite figures, the first rows at fault, long texts cut."""
    rows = found.rows.head(MAX_ROWS).to_dict("records")
    return GateEntry(
        name=gate.name,
        is_passed=bool(found.is_passed),
        is_blocking=gate.is_blocking,
        message=found.message,
        figures={name: value for name, value in found.figures.items() if math.isfinite(value)},
        offending=tuple({str(name): str(value)[:MAX_CHARACTERS] for name, value in row.items()} for row in rows),
        is_severe=gate.is_blocking if found.is_severe is None else found.is_severe,
        limits=limits_of(gate, task),
    )
