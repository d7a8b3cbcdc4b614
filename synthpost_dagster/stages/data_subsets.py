"""The stage `data_subsets`: nested, stratified subsets of the kept rows, one a data size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from synthpost_dagster.artifacts.fingerprint import table_digest
from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.rows.diversity import diversity_facts, diversity_table
from synthpost_dagster.rows.subsets import subset
from synthpost_dagster.stages.facts import Facts
from synthpost_dagster.stages.inputs import WORDING, HashedAs, narrowed
from synthpost_dagster.stages.stage import Stage, Workbench
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.synthetic_rows import RowRules, embedder_of, row_rules
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class SubsetInputs(RowRules):
    """The rows of the subset, so that rows added later change nothing, and what its gates look at."""

    rows: pd.DataFrame
    size: int
    """Of the partition."""
    task: Task
    """For the strata of the draws that the subset's variety is compared with."""
    kept: pd.DataFrame
    """All kept rows, which these draws are made from."""
    hashed_as: ClassVar[HashedAs] = {"rows": table_digest, "size": None, "task": None, "kept": None}


def _inputs(study: Study, partition: str) -> SubsetInputs:
    rows, size = study.store.read_table(study.resolver.need("synthetic_rows")), int(partition)
    return SubsetInputs(
        rows=subset(study.task, rows, size),
        size=size,
        task=narrowed(study.task, WORDING),
        kept=rows[rows["status"] == "kept"],
        **row_rules(study),
    )


def _make(inputs: SubsetInputs, draft: Draft, _bench: Workbench) -> Facts:
    table = inputs.rows
    varied = diversity_table(table, inputs.kept, inputs.task, len(table), embedder_of(inputs))
    draft.table("data_subsets", table)
    draft.table("diversity", varied)
    draft.target_rows = inputs.size
    return Facts().with_figures(diversity_facts(varied))


STAGES = (Stage("data_subsets", "subsets", _inputs, _make, ("synthetic_rows",)),)
