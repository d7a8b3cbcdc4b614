"""The stage that reports: what the artifacts of all cells say, as tables and as the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.store import Draft, Manifest, Outcome, Plan, write_whole
from synthpost_dagster.errors import StorageError, SynthpostError, UpstreamMissing
from synthpost_dagster.judging.controls import controlled
from synthpost_dagster.judging.people import read_labels
from synthpost_dagster.judging.verdicts import pairs
from synthpost_dagster.profiles.families import family_of
from synthpost_dagster.profiles.models import EMBEDDED, HostedChat
from synthpost_dagster.progress import Progress
from synthpost_dagster.report import data as page
from synthpost_dagster.report import findings
from synthpost_dagster.report.browsing import sides
from synthpost_dagster.report.page import render_page
from synthpost_dagster.report.tables import Judged, compliance_rows, judged, met_by_prompt, ratio_rows, to_csv
from synthpost_dagster.rows.explanations import explained_unscored
from synthpost_dagster.rows.prompts import briefs_by_id
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.adapters import adapters_plan
from synthpost_dagster.stages.data import UPSTREAM_REMEDY, current_rows, teacher_of
from synthpost_dagster.stages.data_quality import data_quality
from synthpost_dagster.stages.forgetting import forgetting_data
from synthpost_dagster.stages.predictions import (
    baseline_predictions_plan,
    control_predictions_plan,
    predictions_plan,
)
from synthpost_dagster.stages.study import Cell, Study
from synthpost_dagster.stages.took import took
from synthpost_dagster.stages.verdicts import control_verdicts_plan, verdicts_plan
from synthpost_dagster.statistics.comparison import Comparison, compare
from synthpost_dagster.statistics.power import expected_intervals
from synthpost_dagster.statistics.replicates import Trained

if TYPE_CHECKING:
    import pandas as pd

REPORT_FORMAT = 7
"""Raised when the page or its tables change, so that reports are made anew."""
LABELS = "labels.csv"
"""People's choices, in the home."""
MILLION = 1e6


class Made(NamedTuple):
    """What a cell under one seed is made of, and where."""

    cell: Cell
    adapter: Manifest
    predictions: Manifest
    verdicts: Manifest


def ratio_report_plan(study: Study) -> Plan:
    """Shaped by the verdicts of every cell that is there, those that are missing, the rows that the data section is
    about, the controls, people's labels and the limit on forgetting.
    """
    found, missing = _verdicts(study)
    controls, _ = _controls(study)
    parts = {
        "format": REPORT_FORMAT,
        "profile": study.profile.name,
        "criteria": [c.model_dump() for kind in study.task.spec.post_types for c in study.task.spec.criteria_of(kind)],
        "cells": {cell.place: manifest.digest for cell, manifest in found.items()},
        "missing": [key for key, _ in missing],
        "rows": current_rows(study).fingerprint if found else "",
        "controls": controls.digest if controls else "",
        "labels": fingerprint({"labels": _labels(study)}),
        "max_perplexity_ratio": study.task.spec.quality.max_perplexity_ratio,
    }
    return Plan("ratio_report", "", parts)


def ratio_report(study: Study, progress: Progress) -> Outcome:
    """Ratios, compliance and the page; the page and its tables are also put into `$SYNTHPOST_HOME/report`."""
    plan = ratio_report_plan(study)

    def make(draft: Draft) -> None:
        content = gather(study, plan.fingerprint)
        progress.update("report", 0, 1, "pages")
        study.add_gated_table(draft, "ratio_report", content.ratios, compliance=content.compliance)
        (draft.folder / "ratios.csv").write_text(to_csv(content.ratios), encoding="utf-8")
        (draft.folder / "compliance.csv").write_text(to_csv(content.compliance), encoding="utf-8")
        (draft.folder / "index.html").write_text(render_page(content), encoding="utf-8")
        draft.facts |= {
            "cells": len(content.training),
            "missing": [key for key, _ in content.missing],
            "controls": {result.name: result.control.finding for result in content.trust.controls},
        }
        progress.update("report", 1, 1, "pages")

    outcome = study.store.reuse_or_make(plan, make)
    _put_out(study, outcome.manifest)
    return outcome


def require_cells(study: Study) -> None:
    """Raises UpstreamMissing where no cell of the profile has verdicts."""
    if not _verdicts(study)[0]:
        raise UpstreamMissing(
            f"no cell of the profile {study.profile.name} has verdicts yet; use `synthpost run`, or materialize "
            "the job `cell` for one of them"
        )


def keep_labels(settings: Settings, file: Path) -> int:
    """Puts a filled sheet into the home, for this report and later ones; how many pairs it labels.

    Raises SpecError where it cannot be read.
    """
    labels = read_labels(file)
    write_whole(settings.home / LABELS, file.read_bytes())
    return len(labels)


def gather(study: Study, plan_fingerprint: str) -> page.ReportData:
    """All that the page shows, from the artifacts; `plan_fingerprint` names the report.

    Raises UpstreamMissing where no cell has verdicts.
    """
    import pandas as pd

    require_cells(study)
    made, missing = _made(study)
    cells, mains = [_judged(study, one) for one in made], [one for one in made if one.cell.seed is None]
    seed = study.profile.training.seed
    first = [one for one in cells if one.seed == seed]
    spec, read = study.task.spec, study.store.read_table
    untuned = study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY)
    baselines, briefs = read(untuned), briefs_by_id(study.task)
    ratios = pd.DataFrame(ratio_rows(cells, findings.replicates(first), _are_both_orders(study), seed))
    compliance = [
        row
        for name, posts in baselines.groupby("contestant", sort=False)
        for row in compliance_rows(str(name), met_by_prompt(posts, briefs, spec))
    ]
    compliance += [row for one in first for row in compliance_rows("tuned", one.met, one.cell)]
    choice = findings.choose(first)
    usd, seconds = _row_cost(study)
    costs = {
        one.cell: page.Cost(usd * one.cell.data_size, seconds * one.cell.data_size, main.adapter.facts["wall_seconds"])
        for one, main in zip(first, mains, strict=True)
    }
    controls, missing_controls = _controls(study)
    chosen = next((one for one in first if choice and one.cell == choice.cell), None)
    decisive = findings.decisive_share(chosen) if chosen else None
    return page.ReportData(
        task=spec.name,
        task_description=spec.description,
        profile=study.profile.name,
        student=study.profile.student.model,
        teacher=teacher_of(study).name,
        judges=tuple(judge.name for judge in study.judges),
        caution=_caution(study),
        is_study_mode=study.profile.study,
        evaluation_prompts=study.evaluation_count,
        training_seed=seed,
        ratios=ratios,
        compliance=pd.DataFrame(compliance),
        choice=choice,
        prompting=_prompting(read(controls)) if controls else None,
        trust=_trust(study, cells, ratios, choice, controls, missing_controls),
        worth=findings.worth(first, costs),
        seeds=findings.seeds_of(cells),
        corners=findings.corners(chosen) if chosen else (),
        quality=data_quality(study, made, untuned),
        costs=costs,
        training=tuple(_training(study, one) for one in made),
        forgetting=forgetting_data(study, made),
        took=took(
            current_rows(study),
            [untuned, study.store.need(control_predictions_plan(study), UPSTREAM_REMEDY)],
            [one.adapter for one in made],
            [one.predictions for one in made],
            [one.verdicts for one in made] + ([controls] if controls else []),
        ),
        decisive_share=decisive,
        expected=tuple(expected_intervals(study.evaluation_count, decisive or 1.0)),
        pairs=tuple(
            pair
            for one, posts in zip(first, mains, strict=True)
            for pair in sides(one, read(posts.predictions), baselines, briefs)
        ),
        missing=tuple(missing),
        criteria={c.id: c.text for kind in spec.post_types for c in spec.criteria_of(kind)},
        levels={
            "post_type": tuple(kind.name for kind in spec.post_types),
            "tone": spec.tones,
            "length": tuple(length.name for length in spec.lengths),
            "company": tuple(company.name for company in study.task.catalog.companies),
        },
        prompt_tokens=baselines.groupby("contestant")["prompt_tokens"].mean().to_dict(),
        fingerprint=plan_fingerprint,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _verdicts(study: Study) -> tuple[dict[Cell, Manifest], list[tuple[str, str]]]:
    """The verdicts of each cell and seed of the profile, and those that are not there, with the reason."""
    found: dict[Cell, Manifest] = {}
    missing: list[tuple[str, str]] = []
    for cell in study.trainings:
        try:
            found[cell] = study.store.need(verdicts_plan(study, cell), "the cell has no verdicts")
        except SynthpostError as error:
            missing.append((cell.place, str(error)))
    return found, missing


def _made(study: Study) -> tuple[list[Made], list[tuple[str, str]]]:
    found, missing = _verdicts(study)
    made = [
        Made(
            cell,
            study.store.need(adapters_plan(study, cell), UPSTREAM_REMEDY),
            study.store.need(predictions_plan(study, cell), UPSTREAM_REMEDY),
            manifest,
        )
        for cell, manifest in found.items()
    ]
    return made, missing


def _controls(study: Study) -> tuple[Manifest | None, str]:
    """The controls' verdicts, or why they are not there."""
    try:
        return study.store.need(control_verdicts_plan(study), "materialize the job `controls`"), ""
    except SynthpostError as error:
        return None, str(error)


def _labels(study: Study) -> dict[str, str]:
    file = study.settings.home / LABELS
    return read_labels(file) if file.is_file() else {}


def _are_both_orders(study: Study) -> bool:
    return len(study.rules.orders) > 1


def _judged(study: Study, made: Made) -> Judged:
    facts, read = made.adapter.facts, study.store.read_table
    trained = Trained(made.cell.data_size, facts["optimizer_steps"], facts["rows_seen"])
    met = met_by_prompt(read(made.predictions), briefs_by_id(study.task), study.task.spec)
    seed = study.training_of(made.cell).seed
    return judged(page.Cell(*made.cell[:2]), seed, trained, read(made.verdicts), met)


def _prompting(controls: pd.DataFrame) -> Comparison:
    outcomes = pairs(controls)
    return compare(outcomes.loc[outcomes["opponent"] == "prompting", "outcome"].to_list())


def _trust(
    study: Study,
    cells: Sequence[Judged],
    ratios: pd.DataFrame,
    choice: page.Choice | None,
    controls: Manifest | None,
    missing_controls: str,
) -> page.Trust:
    import pandas as pd

    profile, played = study.profile, ["pair_id", "judge", "is_candidate_first"]
    # The same posts in two cells are the same pair, with the same reply.
    verdicts = pd.concat([one.verdicts for one in cells]).drop_duplicates(played)
    families = {judge.name: family_of(spec) for judge, spec in zip(study.judges, profile.judges, strict=True)}
    people, unknown = findings.with_people(verdicts, _labels(study))
    table = study.store.read_table(controls) if controls else None
    return page.Trust(
        judges=findings.judge_figures(verdicts, families, _are_both_orders(study)),
        student_family=family_of(profile.student),
        teacher_family=family_of(profile.teacher),
        length_effect=findings.length_effect(
            page.of_seed(ratios, profile.training.seed), choice.cell if choice else None
        ),
        controls=tuple(page.ControlResult(*found) for found in controlled(table)) if table is not None else (),
        missing_controls=missing_controls,
        between_judges=findings.between_judges(verdicts),
        people=people,
        unknown_labels=unknown,
        imitations=int(verdicts["has_imitation"].sum()),
        unscored=tuple(explained_unscored(verdicts, study.task, profile)),
    )


def _row_cost(study: Study) -> tuple[float, float]:
    """Dollars and seconds of a kept row in the mean, by the tokens of all replies, those of rejected rows too."""
    manifest = current_rows(study)
    facts, rows, teacher = manifest.facts, study.store.read_table(manifest), study.profile.teacher
    prices = teacher.prices if isinstance(teacher, HostedChat) else None
    usd = 0.0
    if prices is not None:
        usd = float(rows["prompt_tokens"].sum()) * prices.input + float(rows["completion_tokens"].sum()) * prices.output
    seconds = facts["ask_seconds"] / facts["asked_now"] * len(rows) if facts["asked_now"] else math.nan
    kept = max(1, facts["kept"])
    return usd / MILLION / kept, seconds / kept


def _training(study: Study, made: Made) -> page.Training:
    facts = made.adapter.facts
    return page.Training(
        page.Cell(*made.cell[:2]),
        study.training_of(made.cell).seed,
        facts["wall_seconds"],
        facts["peak_gib"],
        facts["device"],
        study.store.read_table(made.adapter),
    )


def _caution(study: Study) -> str:
    if study.profile.student.model != EMBEDDED:
        return ""
    return (
        "These figures come from the small model that ships with Synthpost, trained on an artificial grammar. They "
        "show that the machinery works; they say nothing about LLaMA 3 or any model that you would deploy."
    )


def _put_out(study: Study, manifest: Manifest) -> None:
    folder = study.settings.home / "report"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("index.html", "ratios.csv", "compliance.csv", "ratio_report.parquet"):
            write_whole(folder / name, study.store.read_file(manifest, name))
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written ({error.strerror}); free space or set SYNTHPOST_HOME"
        ) from None
