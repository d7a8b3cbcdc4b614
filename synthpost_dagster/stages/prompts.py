"""The stages `prompts` (on train items, in their stratified order) and `evaluation_prompts` (on holdout items)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.errors import ArtifactDamaged
from synthpost_dagster.rows.prompts import evaluation_prompts, training_prompts
from synthpost_dagster.stages.facts import Facts
from synthpost_dagster.stages.inputs import WORDING, HashedAs, Inputs, items_fingerprint, narrowed
from synthpost_dagster.stages.stage import Stage, Workbench
from synthpost_dagster.stages.study import Study
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.artifacts.store import ArtifactStore


SELECTION = ("exclude", "strata", "samples_per_prompt", "holdout")


@dataclass(frozen=True, slots=True)
class PromptsInputs(Inputs):
    """The items of one split, and the wording."""

    task: Task
    items: str
    """Hash of the items."""
    wording: str
    """Hash of words, templates, factors, lengths and criteria."""
    selection: dict[str, object]
    """Which combinations there are, how often, in which split and stratum, and what leaks."""
    phone_region: str
    hashed_as: ClassVar[HashedAs] = {"task": lambda task: task.spec.name}


@dataclass(frozen=True, slots=True)
class EvaluationPromptsInputs(PromptsInputs):
    """As of the training prompts, and how many prompts are wanted."""

    count: int


def _inputs_of(study: Study, split: str) -> dict[str, Any]:
    """The fields of `PromptsInputs`."""
    study.resolver.need("catalog")
    task = study.task
    return {
        "task": narrowed(task, WORDING, split, ("teacher", "student")),
        "items": items_fingerprint(task, split),
        "wording": task.wording_fingerprint,
        "selection": task.spec.model_dump(mode="json", include=set(SELECTION)),
        "phone_region": task.spec.quality.phone_region,
    }


def _inputs(study: Study, _partition: str) -> PromptsInputs:
    return PromptsInputs(**_inputs_of(study, "train"))


def _evaluation_inputs(study: Study, _partition: str) -> EvaluationPromptsInputs:
    return EvaluationPromptsInputs(**_inputs_of(study, "holdout"), count=study.evaluation_count)


def _make_prompts(inputs: PromptsInputs, draft: Draft, bench: Workbench) -> Facts:
    table = training_prompts(inputs.task)
    draft.table("prompts", table)
    return _changes(bench.store, table)


def _make_evaluation(inputs: EvaluationPromptsInputs, draft: Draft, _bench: Workbench) -> Facts:
    draft.table("evaluation_prompts", evaluation_prompts(inputs.task, inputs.count))
    return Facts()


def _changes(store: ArtifactStore, table: pd.DataFrame) -> Facts:
    """How many prompts differ from those of the last table."""
    try:
        earlier = store.read_table(store.all_of("prompts")[-1])
    except (IndexError, ArtifactDamaged):
        return Facts()
    before = earlier.set_index("prompt_id")["teacher_prompt"]
    now = table.set_index("prompt_id")["teacher_prompt"]
    known = now.index.intersection(before.index)
    changes = {
        "new_prompts": len(now) - len(known),
        "changed_prompts": int((now[known] != before[known]).sum()),
        "gone_prompts": len(before) - len(known),
    }
    return Facts().with_figures(changes)


STAGES = (
    Stage("prompts", "upstream", _inputs, _make_prompts, ("catalog",)),
    Stage("evaluation_prompts", "upstream", _evaluation_inputs, _make_evaluation, ("catalog",)),
)
