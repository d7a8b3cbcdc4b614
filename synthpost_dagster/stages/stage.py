"""A stage: how one asset is made from typed inputs. The functions of this module materialize all stages.

`inputs(study, partition)` builds a frozen record from the study and its upstream artifacts; the hash of the record is
the fingerprint. `make(inputs, draft, workbench)` writes the tables and returns the facts. It sees the record, and tools
that do not change the result. Gates are evaluated here, on the tables that `make` wrote.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from synthpost_dagster.artifacts.manifest import Manifest, Outcome, Plan
from synthpost_dagster.artifacts.resolver import Record
from synthpost_dagster.artifacts.store import ArtifactStore, Draft
from synthpost_dagster.errors import ArtifactBusy
from synthpost_dagster.quality.explanations import explained_rejections, explained_unscored
from synthpost_dagster.runtime.progress import SILENT, Progress
from synthpost_dagster.schemas import BESIDE
from synthpost_dagster.stages.facts import Facts
from synthpost_dagster.stages.student import Student, holding

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.artifacts.explanation import Explanation
    from synthpost_dagster.llm.estimate import Expected
    from synthpost_dagster.stages.study import Study

BASELINE, CONTROL = "baseline_predictions", "control_predictions"
STAGES = {
    "catalog": "catalog",
    "prompts": "prompts",
    "evaluation_prompts": "prompts",
    "synthetic_rows": "synthetic_rows",
    "data_subsets": "data_subsets",
    "adapters": "adapters",
    BASELINE: "untuned",
    CONTROL: "untuned",
    "predictions": "predictions",
    "verdicts": "verdicts",
    "control_verdicts": "verdicts",
    "ratio_report": "report",
}
"""Asset → the module of `stages` whose list `STAGES` holds its stage, in the order data flows."""
InputsT = TypeVar("InputsT", bound=Record)


@dataclass(frozen=True, slots=True)
class Workbench:
    """The tools of `make`. None of them changes the artifact."""

    store: ArtifactStore
    """To read the tables of the manifests in the record, and earlier rows."""
    progress: Progress
    student: Student
    """Loaded on first use."""
    checkpoints: Path
    """Folder of this training's checkpoints."""
    explain_rejections: Callable[[pd.DataFrame], Explanation | None]
    explain_unscored: Callable[[pd.DataFrame], list[Explanation]]


Make = Callable[[InputsT, Draft, Workbench], Facts]


@dataclass(frozen=True, slots=True)
class Stage(Generic[InputsT]):
    """One asset, the Dagster job that makes it, and the assets that its inputs are built from (`upstream`).

    The hooks see the whole study and may not change the artifact.
    """

    asset: str
    job: str
    inputs: Callable[[Study, str], InputsT]
    make: Make[InputsT]
    upstream: tuple[str, ...] = ()
    announce: Callable[[Study, InputsT, Progress], Expected | None] | None = None
    """Called before `make`: raises where it cannot succeed, warns, and estimates time and cost."""
    grow: Callable[[Study, InputsT, int | None], InputsT] | None = None
    """The inputs for the requested number of rows, if it differs from that of the existing artifact."""
    make_apart: Callable[[Study, str, Progress], bool] | None = None
    """Makes the artifact in a process of its own if that is necessary; whether it did."""
    finish: Callable[[Study, Manifest], None] | None = None
    """Called with the artifact, made or reused."""
    companion: str = ""
    """An asset that is made with the same loaded student, unless another process is making it."""
    notes_failed_gates: bool = False


BY_CELL = ("adapters", "predictions", "verdicts")
"""The assets of a cell, in the order data flows."""


@cache
def stage_of(asset: str) -> Stage[Any]:
    """The stage of an asset."""
    stages: tuple[Stage[Any], ...] = import_module(f"{__package__}.{STAGES[asset]}").STAGES
    return next(stage for stage in stages if stage.asset == asset)


def materialize(
    study: Study, asset: str, partition: str = "", progress: Progress = SILENT, rows: int | None = None
) -> Outcome:
    """The artifact, reused or made. `rows` is the number of kept rows that synthetic_rows grows to, by default the
    largest data size.

    Raises UpstreamMissing or GateFailed where an upstream artifact is missing or failed, and what `make` raises.
    """
    stage = stage_of(asset)
    with holding(study, progress) as student:
        if (
            stage.make_apart
            and not study.resolver.has(asset, partition)
            and stage.make_apart(study, partition, progress)
        ):
            return Outcome(study.resolver.need(asset, partition), is_reused=False)
        outcome = materialize_with(student, study, asset, partition, progress, rows)
        if stage.companion:
            with contextlib.suppress(ArtifactBusy):
                materialize_with(student, study, stage.companion, "", progress, wait=False)
        return outcome


def materialize_with(
    student: Student,
    study: Study,
    asset: str,
    partition: str,
    progress: Progress,
    rows: int | None = None,
    *,
    wait: bool = True,
) -> Outcome:
    """As `materialize`, with a student that the caller holds.

    Without `wait`, it raises ArtifactBusy where another process is making the artifact: that process may be waiting for
    the device that this one holds.
    """
    stage, inputs = stage_of(asset), study.resolver.inputs(asset, partition)
    if stage.grow:
        inputs = stage.grow(study, inputs, rows)
    return publish(student, study, asset, partition, inputs, stage.make, progress, wait=wait)


def publish(
    student: Student,
    study: Study,
    asset: str,
    partition: str,
    inputs: Record,
    make: Make[Any],
    progress: Progress,
    *,
    wait: bool = True,
) -> Outcome:
    """The artifact of these inputs; `make` fills a draft where it does not exist, is damaged, or failed a gate.

    The gates of a reused artifact are evaluated again where limits changed. Raises ArtifactBusy as `materialize_with`.
    """
    stage, plan = stage_of(asset), Plan(asset, partition, inputs.parts)

    def fill(draft: Draft) -> None:
        expected = stage.announce(study, inputs, progress) if stage.announce else None
        bench = Workbench(
            study.store,
            progress,
            student,
            study.checkpoints_of(partition, plan.fingerprint),
            lambda rows: explained_rejections(rows, study.task, study.profile),
            lambda games: explained_unscored(games, study.task, study.profile),
        )
        draft.facts |= make(inputs, draft, bench).content
        if expected is not None:
            draft.facts["estimate"] = expected._asdict()
        _add_gates(study, draft, stage, progress)

    outcome = study.store.reuse_or_make(plan, fill, progress.note, wait=wait)
    if outcome.is_reused:
        outcome = outcome._replace(manifest=study.with_current_gates(outcome.manifest))
    study.resolver.renew(outcome.manifest)
    if stage.finish:
        stage.finish(study, outcome.manifest)
    return outcome


def _add_gates(study: Study, draft: Draft, stage: Stage[Any], progress: Progress) -> None:
    beside = {name: BESIDE[name].validate(table) for name, table in draft.tables.items() if name != stage.asset}
    table = draft.tables[stage.asset]
    draft.facts |= {"rows": len(table), "target_rows": len(table) if draft.target_rows is None else draft.target_rows}
    draft.gates += study.gate_entries(stage.asset, table, draft.target_rows, beside)
    for gate in draft.gates if stage.notes_failed_gates else ():
        if not gate.is_passed:
            progress.note(gate.message)
