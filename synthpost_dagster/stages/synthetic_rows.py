"""The stage `synthetic_rows`: the teacher's posts, kept or rejected with a reason.

The table grows and never shrinks: a reply of an earlier table is used again if everything that shaped it is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.artifacts.store import ArtifactStore, Draft
from synthpost_dagster.errors import ArtifactDamaged, GateFailed, SpecError, UpstreamMissing
from synthpost_dagster.inference.models import check_suits_task
from synthpost_dagster.llm.chat_models import ChatModel, chat_model
from synthpost_dagster.llm.estimate import Expected, expect
from synthpost_dagster.profiles.models import HostedChat, InProcessChat
from synthpost_dagster.rows.diversity import diversity_facts, diversity_table
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.rows.rejection import RULES
from synthpost_dagster.rows.synthesis import ROWS, EarlyStop, first_asks, rows_so_far, synthesize
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.stages.facts import RowsFacts
from synthpost_dagster.stages.inputs import WORDING, HashedAs, Inputs, items_fingerprint, narrowed
from synthpost_dagster.stages.stage import Stage, Workbench
from synthpost_dagster.stages.study import Study
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

ASSET = "synthetic_rows"
REJECTION_LIMITS = ("band_retries", "near_duplicate_jaccard")
"""Keys of the task's `quality` that decide whether a row is kept."""


@dataclass(frozen=True, slots=True)
class RowRules(Inputs):
    """Everything that decides which rows are kept, and what their gates depend on."""

    quality: dict[str, Any]
    rules: int
    language: str
    embedder: str | None
    equal_rows: int
    """Number of rows at which the variety of tables is compared."""
    holdout: str
    """Hash of the holdout items, which no row may mention."""
    leak: dict[str, Any]
    """What of them leaks."""


@dataclass(frozen=True, slots=True)
class RowsInputs(RowRules):
    """Prompts, teacher, and the requested number of kept rows."""

    task: Task
    prompts: Manifest
    teacher: ChatModel
    attempts: int
    rows: int
    stop_on_bad_start: bool
    is_hosted: bool
    hashed_as: ClassVar[HashedAs] = {
        "task": lambda task: task.spec.name,
        "teacher": lambda teacher: teacher.identity,
        "stop_on_bad_start": None,
        "is_hosted": None,
    }


class RowsFound(NamedTuple):
    """Rows, kept and rejected (schema SyntheticRows), and their artifact; None for replies that no table holds yet."""

    table: pd.DataFrame
    manifest: Manifest | None


def teacher_of(study: Study) -> ChatModel:
    """The profile's teacher."""
    return chat_model(study.profile.teacher, study.context)


def row_rules(study: Study) -> dict[str, Any]:
    """The fields of `RowRules`."""
    spec = study.task.spec
    return {
        "quality": spec.quality.model_dump(mode="json", exclude={"max_perplexity_ratio"}),
        "rules": RULES,
        "language": spec.language,
        "embedder": study.profile.embedder,
        "equal_rows": spec.sweep.data_sizes[0],
        "holdout": items_fingerprint(study.task, "holdout"),
        "leak": spec.holdout.leak.model_dump(mode="json"),
    }


def embedder_of(inputs: RowRules) -> Path | None:
    """The folder of the sentence embedder."""
    return Path(inputs.embedder).expanduser() if inputs.embedder else None


def _inputs(study: Study, _partition: str) -> RowsInputs:
    """Inputs of the largest table that passed its gates, or of the smallest that did not; 0 rows without a table."""
    inputs = _of_rows(study, 0)
    tables = _present_tables(study, inputs)
    chosen = [manifest for manifest in tables if not manifest.failed_gates][-1:] or tables[:1]
    return replace(inputs, rows=chosen[0].parts["rows"]) if chosen else inputs


def _of_rows(study: Study, rows: int) -> RowsInputs:
    profile = study.profile
    return RowsInputs(
        task=narrowed(study.task, (*WORDING, "language", "quality")),
        prompts=study.resolver.need("prompts"),
        teacher=teacher_of(study),
        attempts=profile.teacher.max_replies_per_row,
        rows=rows,
        stop_on_bad_start=profile.stop_on_bad_start,
        is_hosted=isinstance(profile.teacher, HostedChat),
        **row_rules(study),
    )


def _present_tables(study: Study, inputs: RowsInputs) -> list[Manifest]:
    """The tables with the present inputs and any number of rows, smallest first."""
    return sorted(_alike(inputs, study.resolver.all_of(ASSET)), key=lambda manifest: manifest.parts["rows"])


def _alike(inputs: RowsInputs, tables: Sequence[Manifest]) -> list[Manifest]:
    parts = inputs.parts | {"rows": None}
    return [manifest for manifest in tables if manifest.parts | {"rows": None} == parts]


def _grow(study: Study, inputs: RowsInputs, rows: int | None) -> RowsInputs:
    """The inputs for `rows`, or for the rows of the largest table that passed its gates or was damaged."""
    target = rows or max(study.profile.sweep.data_sizes)
    if target > study.task.training_prompts:
        raise SpecError(
            f"{target} rows are requested and the task has {study.task.training_prompts} training prompts; lower `rows`"
        )
    good = [manifest for manifest in _present_tables(study, inputs) if not manifest.failed_gates]
    tables = good + _alike(inputs, study.store.set_aside(ASSET))
    return replace(inputs, rows=max(target, *(manifest.parts["rows"] for manifest in tables), 0))


def _announce(study: Study, inputs: RowsInputs, progress: Progress) -> Expected:
    teacher = study.profile.teacher
    if isinstance(teacher, InProcessChat):
        check_suits_task(teacher.model, study.task, study.profile.allow_untrained_task)
    study.warn_of_personal_data("teacher", [inputs.prompts], progress)
    expected = expected_rows(study, study.store.read_table(inputs.prompts), inputs.rows)
    progress.note(expected.text)
    return expected


def _make(inputs: RowsInputs, draft: Draft, bench: Workbench) -> RowsFacts:
    task, teacher = inputs.task, inputs.teacher
    prompts, known = bench.store.read_table(inputs.prompts), _known_rows(bench.store, inputs.parts)
    progress = bench.progress
    early = _early_stop(inputs, bench) if inputs.stop_on_bad_start else None
    rows = synthesize(task, prompts, teacher, inputs.attempts, inputs.rows, known, progress, early)
    kept = rows["status"] == "kept"
    varied = diversity_table(rows[kept], rows[kept], task, inputs.equal_rows, embedder_of(inputs))
    draft.table(ASSET, rows)
    draft.table("diversity", varied)
    draft.target_rows = inputs.rows
    return RowsFacts(
        kept=int(kept.sum()),
        rejected=int((~kept).sum()),
        in_band=round(float(rows.loc[kept, "is_in_band"].mean()), 4),
        completion_tokens=int(rows["completion_tokens"].sum()),
        reasons=rows.loc[~kept, "reason"].value_counts().to_dict(),
        **teacher.tally.facts,
    ).with_figures(diversity_facts(varied))


def _early_stop(inputs: RowsInputs, bench: Workbench) -> EarlyStop:
    """Ends the run if the first replies were rejected for a common reason, before more are paid for."""

    def stop(rows: pd.DataFrame) -> None:
        why = bench.explain_rejections(rows[rows["reason"] != ""])
        if why is not None:
            raise GateFailed(
                f"synthetic_rows: {why.cause}; the teacher was stopped after its first {len(rows)} replies "
                "(`stop_on_bad_start: false` in the profile continues)",
                details=why.lines,
            )

    return EarlyStop(stop, inputs.is_hosted)


def known_rows(study: Study) -> pd.DataFrame | None:
    """The rows of all tables, each reply once; None where there is no table.

    `is_settled` marks rows that were judged by the rules of the present task.
    """
    return _known_rows(study.store, row_rules(study))


def _known_rows(store: ArtifactStore, parts: Mapping[str, Any]) -> pd.DataFrame | None:
    import pandas as pd

    rules, tables = _rules(parts), []
    for manifest in store.all_of(ASSET):
        with contextlib.suppress(ArtifactDamaged):  # the journal has its replies
            tables.append(store.read_table(manifest).assign(is_settled=_rules(manifest.parts) == rules))
    if not tables:
        return None
    rows = pd.concat(tables, ignore_index=True).sort_values("is_settled", kind="stable", ignore_index=True)
    return rows.drop_duplicates("reply_key", keep="last")


def _rules(parts: Mapping[str, Any]) -> tuple[object, ...]:
    """The parts that decide whether a row is kept."""
    quality = parts.get("quality", {})
    limits = (quality.get(name) for name in REJECTION_LIMITS)
    return (parts.get("rules"), parts.get("language"), parts.get("holdout"), parts.get("leak"), *limits)


def expected_rows(study: Study, prompts: pd.DataFrame, target: int) -> Expected:
    """The estimate of the rows for a data size of `target`, without known replies.

    Each prompt counts with this teacher's mean number of replies per kept row.
    """
    spec, known = study.profile.teacher, known_rows(study)
    asks = first_asks(study.task, prompts, teacher_of(study), spec.max_replies_per_row, target, known)
    found = study.journal.find([ask.key for ask in asks])
    own = [] if known is None else list(known.loc[known["teacher_model"] == spec.name, "status"])
    attempts = len(own) / own.count("kept") if "kept" in own else 1.0
    return expect(
        study.journal,
        spec,
        ROWS,
        [ask.characters for ask in asks if ask.key not in found],
        tries=min(attempts, spec.max_replies_per_row),
        max_tries=spec.max_replies_per_row * _max_replaced(study, target),
    )


def _max_replaced(study: Study, target: int) -> float:
    """Maximum prompts per kept row: a rejected prompt is replaced, up to the share that may be rejected."""
    left = 1 - study.task.spec.quality.max_rejected_share
    all_prompts = study.task.training_prompts / target
    return min(1 / left, all_prompts) if left else all_prompts


def has_rows_to_ask(study: Study, target: int) -> bool:
    """Whether the rows for a data size of `target` need replies that no table and no journal holds."""
    return expected_rows(study, training_prompts(study.task), target).requests > 0


def latest_rows(study: Study) -> RowsFound:
    """The newest table for this task and profile, even if it failed its gates, or else the replies in the journal.

    Raises UpstreamMissing where there is neither.
    """
    inputs = _of_rows(study, max(study.profile.sweep.data_sizes))
    if tables := _present_tables(study, inputs):
        manifest = max(tables, key=lambda table: table.made_at)
        return RowsFound(study.store.read_table(manifest), manifest)
    prompts, known = study.store.read_table(inputs.prompts), known_rows(study)
    rows = rows_so_far(study.task, prompts, inputs.teacher, inputs.attempts, inputs.rows, known, study.journal.find)
    if rows.empty:
        remedy = study.remedy_of(ASSET, "")
        raise UpstreamMissing(f"{ASSET} does not exist for this task and profile yet; {remedy}")
    return RowsFound(rows, None)


STAGES = (Stage(ASSET, "upstream", _inputs, _make, ("prompts",), announce=_announce, grow=_grow),)
