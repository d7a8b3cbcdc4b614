"""The stages that make data: catalog, prompts, evaluation_prompts, synthetic_rows, data_subsets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.artifacts.fingerprint import fingerprint, table_digest
from synthpost_dagster.artifacts.store import Draft, Manifest, Outcome, Plan, refuse_failed
from synthpost_dagster.errors import ArtifactDamaged, GateFailed, SpecError, UpstreamMissing
from synthpost_dagster.inference.models import check_suits_task
from synthpost_dagster.llm.chat_models import ChatModel, chat_model
from synthpost_dagster.llm.estimate import Expected, expect
from synthpost_dagster.profiles.models import HostedChat, InProcessChat
from synthpost_dagster.quality.explanations import explained_rejections
from synthpost_dagster.rows.diversity import diversity_facts, diversity_table
from synthpost_dagster.rows.prompts import catalog_table, training_prompts
from synthpost_dagster.rows.prompts import evaluation_prompts as select_evaluation
from synthpost_dagster.rows.replies import RULES
from synthpost_dagster.rows.subsets import subset
from synthpost_dagster.rows.synthesis import ROWS, EarlyStop, first_asks, rows_so_far, synthesize
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.stages import effort
from synthpost_dagster.stages.study import Study

if TYPE_CHECKING:
    import pandas as pd

ROW_RULES = ("band_retries", "near_duplicate_jaccard", "leaked_words")
"""Of the task's `quality`, what decides whether a row is kept."""
UPSTREAM_REMEDY = "materialize the job `upstream` first, or use `synthpost run`"


def catalog_plan(study: Study) -> Plan:
    """Shaped by the catalog file."""
    listed = fingerprint({"catalog": study.task.catalog})
    return Plan("catalog", "", {"task": study.task.spec.name, "catalog": listed})


def catalog(study: Study) -> Outcome:
    """The catalog as a table, each product marked train or holdout."""

    def make(draft: Draft) -> None:
        table = catalog_table(study.task)
        study.add_gated_table(draft, "catalog", table)
        draft.facts |= {"companies": int(table["company"].nunique()), **table["split"].value_counts().to_dict()}

    return study.reuse_or_make(catalog_plan(study), make)


def prompts_plan(study: Study) -> Plan:
    """Shaped by the train products and the task's wording."""
    return Plan("prompts", "", _prompt_parts(study, "train"))


def prompts(study: Study) -> Outcome:
    """Every training prompt, in its stratified order."""
    study.store.need(catalog_plan(study), UPSTREAM_REMEDY)

    def make(draft: Draft) -> None:
        table = training_prompts(study.task)
        study.add_gated_table(draft, "prompts", table)
        draft.facts |= _changes(study, table)

    return study.reuse_or_make(prompts_plan(study), make)


def _changes(study: Study, table: pd.DataFrame) -> dict[str, int]:
    """How many prompts are new or read otherwise than when prompts were made last, and how many are gone."""
    try:
        earlier = study.store.read_table(study.store.all_of("prompts")[-1])
    except (IndexError, ArtifactDamaged):
        return {}
    before = earlier.set_index("prompt_id")["teacher_prompt"]
    now = table.set_index("prompt_id")["teacher_prompt"]
    known = now.index.intersection(before.index)
    return {
        "new_prompts": len(now) - len(known),
        "changed_prompts": int((now[known] != before[known]).sum()),
        "gone_prompts": len(before) - len(known),
    }


def evaluation_prompts_plan(study: Study) -> Plan:
    """Shaped by the holdout products, the task's wording and the number of prompts."""
    return Plan("evaluation_prompts", "", {**_prompt_parts(study, "holdout"), "count": study.evaluation_count})


def evaluation_prompts(study: Study) -> Outcome:
    """Prompts on holdout products, balanced over type × tone."""
    study.store.need(catalog_plan(study), UPSTREAM_REMEDY)

    def make(draft: Draft) -> None:
        table = select_evaluation(study.task, study.evaluation_count)
        study.add_gated_table(draft, "evaluation_prompts", table)

    return study.reuse_or_make(evaluation_prompts_plan(study), make)


def _prompt_parts(study: Study, split: str) -> dict[str, object]:
    listed = [
        (company.model_dump(exclude={"products"}), product.model_dump())
        for company, product in study.task.companies_of(split)
    ]
    return {
        "task": study.task.spec.name,
        "products": fingerprint({"products": listed}),
        "wording": study.task.wording_fingerprint,
        "gates": {name: getattr(study.task.spec.quality, name) for name in ("phone_region", "leaked_words")},
    }


def teacher_of(study: Study) -> ChatModel:
    """The profile's teacher."""
    return chat_model(study.profile.teacher, study.context)


def synthetic_rows_plan(study: Study, rows: int) -> Plan:
    """Shaped by the prompts, the teacher, and how many rows are asked for."""
    need = study.store.need(prompts_plan(study), UPSTREAM_REMEDY)
    parts = {
        "task": study.task.spec.name,
        "prompts": need.digest,
        "teacher": teacher_of(study).identity,
        "attempts": study.profile.teacher.max_replies_per_row,
        "rows": rows,
        **_quality_parts(study),
    }
    return Plan("synthetic_rows", "", parts)


def _quality_parts(study: Study) -> dict[str, object]:
    """What decides which posts are kept, and what the gates say of them."""
    quality = study.task.spec.quality.model_dump(mode="json", exclude={"max_perplexity_ratio"})
    return {
        "quality": quality,
        "rules": RULES,
        "language": study.task.spec.language,
        "embedder": study.profile.embedder,
        "equal_rows": study.task.spec.sweep.data_sizes[0],
    }


def synthetic_rows(study: Study, progress: Progress, rows: int | None = None) -> Outcome:
    """The teacher's posts for a data size of `rows`; by default the largest that the profile covers.

    The table never shrinks: where more rows of the same making are there already, they are the outcome. Replies that
    any earlier table holds are used again where all that shaped them is the same.
    """
    target = rows or max(study.profile.sweep.data_sizes)
    if target > study.task.training_prompts:
        raise SpecError(f"{target} rows are asked for and the task has {study.task.training_prompts}; lower `rows`")
    size = max(target, _largest_size(study))
    plan = synthetic_rows_plan(study, size)
    return study.reuse_or_make(plan, lambda draft: _synthesize(study, size, draft, progress), progress)


def expected_rows(study: Study, prompts: pd.DataFrame, target: int) -> Expected:
    """What the rows for a data size of `target` will take, less the replies that are there.

    A prompt is reckoned to be asked as often as those of this teacher's earlier rows were, until one reply was kept.
    """
    spec, known = study.profile.teacher, known_rows(study)
    asks = first_asks(study.task, prompts, teacher_of(study), spec.max_replies_per_row, target, known)
    there = study.journal.find([ask.key for ask in asks])
    own = [] if known is None else list(known.loc[known["teacher_model"] == teacher_of(study).name, "status"])
    tries = len(own) / own.count("kept") if "kept" in own else 1.0
    return expect(
        study.journal,
        spec,
        ROWS,
        [ask.characters for ask in asks if ask.key not in there],
        tries=min(tries, spec.max_replies_per_row),
        most_tries=spec.max_replies_per_row * _most_replaced(study, target),
    )


def _most_replaced(study: Study, target: int) -> float:
    """Prompts asked a row wanted, at most: a prompt that stays rejected is replaced, up to the share that may be."""
    left = 1 - study.task.spec.quality.max_rejected_share
    all_prompts = study.task.training_prompts / target
    return min(1 / left, all_prompts) if left else all_prompts


def has_rows_to_ask(study: Study, target: int) -> bool:
    """Whether the rows for a data size of `target` need replies that are neither in a table nor in the journal."""
    return expected_rows(study, training_prompts(study.task), target).requests > 0


def _synthesize(study: Study, target: int, draft: Draft, progress: Progress) -> None:
    if isinstance(study.profile.teacher, InProcessChat):
        check_suits_task(study.profile.teacher.model, study.task, study.profile.allow_untrained_task)
    need = study.store.need(prompts_plan(study), UPSTREAM_REMEDY)
    all_prompts = study.store.read_table(need)
    study.warn_of_personal_data("teacher", [need], progress)
    teacher, expected = teacher_of(study), expected_rows(study, all_prompts, target)
    progress.note(expected.text)
    attempts = study.profile.teacher.max_replies_per_row
    told = progress.worth(effort.of_rows(target))
    early = _early_stop(study) if study.profile.stop_on_bad_start else None
    rows = synthesize(study.task, all_prompts, teacher, attempts, target, known_rows(study), told, early)
    kept = rows["status"] == "kept"
    equal_rows = study.task.spec.sweep.data_sizes[0]
    varied = diversity_table(rows[kept], rows[kept], study.task, equal_rows, study.embedder)
    study.add_gated_table(draft, "synthetic_rows", rows, target, diversity=varied)
    draft.facts |= {
        "kept": int(kept.sum()),
        "rejected": int((~kept).sum()),
        **teacher.tally.facts,
        "estimate": expected.facts,
        "in_band": round(float(rows.loc[kept, "is_in_band"].mean()), 4),
        "completion_tokens": int(rows["completion_tokens"].sum()),
        "reasons": rows.loc[~kept, "reason"].value_counts().to_dict(),
        **diversity_facts(varied),
    }


def _early_stop(study: Study) -> EarlyStop:
    """Ends the run with what the first replies have in common, before more are paid for."""

    def stop(rows: pd.DataFrame) -> None:
        why = explained_rejections(rows[rows["reason"] != ""], study.task, study.profile)
        if why is not None:
            raise GateFailed(
                f"synthetic_rows: {why.cause}; the teacher was stopped after its first {len(rows)} replies "
                "(`stop_on_bad_start: false` in the profile goes on)",
                details=why.lines,
            )

    return EarlyStop(stop, isinstance(study.profile.teacher, HostedChat))


def _rules(parts: Mapping[str, Any]) -> tuple[object, ...]:
    """What of the parts decides whether a row is kept."""
    quality = parts.get("quality", {})
    return (parts.get("rules"), parts.get("language"), *(quality.get(name) for name in ROW_RULES))


def known_rows(study: Study) -> pd.DataFrame | None:
    """Every row that any table of synthetic rows holds, each reply once; None where there is no table.

    `is_settled` says which were judged by the rules of the present task.
    """
    import pandas as pd

    rules, tables = _rules(_quality_parts(study)), []
    for manifest in study.store.all_of("synthetic_rows"):
        with contextlib.suppress(ArtifactDamaged):  # it is set aside; its replies are in the journal
            tables.append(study.store.read_table(manifest).assign(is_settled=_rules(manifest.parts) == rules))
    if not tables:
        return None
    rows = pd.concat(tables, ignore_index=True).sort_values("is_settled", kind="stable", ignore_index=True)
    return rows.drop_duplicates("reply_key", keep="last")


def _tables_of_rows(study: Study) -> list[Manifest]:
    """Every table of synthetic rows of the making that task and profile ask for, fewest rows first."""
    found = _of_present_making(study, study.store.all_of("synthetic_rows"))
    return sorted(found, key=lambda manifest: manifest.parts["rows"])


def _of_present_making(study: Study, tables: Sequence[Manifest]) -> list[Manifest]:
    making = synthetic_rows_plan(study, 0).parts | {"rows": None}
    return [manifest for manifest in tables if manifest.parts | {"rows": None} == making]


def _largest_size(study: Study) -> int:
    """Rows asked for in the largest good table of the present making, or in one that was damaged; 0 without any."""
    good = _largest_rows(study)
    damaged = _of_present_making(study, study.store.set_aside("synthetic_rows"))
    return max((manifest.parts["rows"] for manifest in [*damaged, *([good] if good else [])]), default=0)


def _largest_rows(study: Study) -> Manifest | None:
    good = [manifest for manifest in _tables_of_rows(study) if not manifest.failed_gates]
    return good[-1] if good else None


def current_rows(study: Study) -> Manifest:
    """The largest table of synthetic rows for this task and profile.

    Raises UpstreamMissing where there is none, GateFailed where there is none that passed its checks.
    """
    manifest = _largest_rows(study)
    if manifest is None:
        for failed in _tables_of_rows(study):
            refuse_failed(failed)
        raise UpstreamMissing(f"synthetic_rows does not exist for this task and profile yet; {UPSTREAM_REMEDY}")
    return manifest


class RowsFound(NamedTuple):
    """Rows, kept and rejected (schema SyntheticRows), and their artifact; None where they are replies of the journal of
    which no table was made.
    """

    table: pd.DataFrame
    manifest: Manifest | None


def latest_rows(study: Study) -> RowsFound:
    """The newest table of synthetic rows for this task and profile, whatever its gates say, or what its making left.

    Raises UpstreamMissing where neither a table nor a reply is there.
    """
    if tables := _tables_of_rows(study):
        manifest = max(tables, key=lambda table: table.made_at)
        return RowsFound(study.store.read_table(manifest), manifest)
    prompts = study.store.read_table(study.store.need(prompts_plan(study), UPSTREAM_REMEDY))
    target, attempts = max(study.profile.sweep.data_sizes), study.profile.teacher.max_replies_per_row
    rows = rows_so_far(study.task, prompts, teacher_of(study), attempts, target, known_rows(study), study.journal.find)
    if rows.empty:
        raise UpstreamMissing(f"synthetic_rows does not exist for this task and profile yet; {UPSTREAM_REMEDY}")
    return RowsFound(rows, None)


def _subset_table(study: Study, size: int) -> pd.DataFrame:
    return subset(study.task, study.store.read_table(current_rows(study)), size)


def _subset_plan(study: Study, size: int, table: pd.DataFrame) -> Plan:
    holdout = _prompt_parts(study, "holdout")["products"]
    parts = {"rows": table_digest(table), "holdout": holdout, **_quality_parts(study)}
    return Plan("data_subsets", str(size), parts)


def data_subsets_plan(study: Study, size: int) -> Plan:
    """Shaped by the rows in the subset, so that rows added later change nothing, and by what its gates look at."""
    key = (current_rows(study).fingerprint, size)
    if key not in study.subset_plans:
        study.subset_plans[key] = _subset_plan(study, size, _subset_table(study, size))
    return study.subset_plans[key]


def data_subsets(study: Study, size: int) -> Outcome:
    """The subset of `size` rows."""
    table = _subset_table(study, size)

    def make(draft: Draft) -> None:
        rows = study.store.read_table(current_rows(study))
        varied = diversity_table(table, rows[rows["status"] == "kept"], study.task, len(table), study.embedder)
        study.add_gated_table(draft, "data_subsets", table, size, diversity=varied)
        draft.facts |= diversity_facts(varied)

    return study.reuse_or_make(_subset_plan(study, size, table), make)


def subset_rows(study: Study, size: int) -> pd.DataFrame:
    """The rows of the subset that is there."""
    return study.store.read_table(study.store.need(data_subsets_plan(study, size), UPSTREAM_REMEDY))
