"""The stage `catalog`: the task's items as a table."""

from dataclasses import dataclass
from typing import ClassVar

from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.rows.prompts import catalog_table
from synthpost_dagster.stages.facts import Facts
from synthpost_dagster.stages.inputs import HashedAs, Inputs, items_fingerprint, narrowed
from synthpost_dagster.stages.stage import Stage, Workbench
from synthpost_dagster.stages.study import Study
from synthpost_dagster.tasks.task import Task


@dataclass(frozen=True, slots=True)
class CatalogInputs(Inputs):
    """The items of a task."""

    task: Task
    items: str
    """Hash of the items."""
    hashed_as: ClassVar[HashedAs] = {"task": lambda task: task.spec.name}


def _inputs(study: Study, _partition: str) -> CatalogInputs:
    return CatalogInputs(narrowed(study.task, ["name", "words", "items"]), items_fingerprint(study.task, ""))


def _make(inputs: CatalogInputs, draft: Draft, _bench: Workbench) -> Facts:
    table = catalog_table(inputs.task)
    draft.table("catalog", table)
    return Facts().with_figures(table["split"].value_counts().to_dict())


STAGES = (Stage("catalog", "upstream", _inputs, _make),)
