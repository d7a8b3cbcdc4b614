"""The stage `ratio_report`: the results of all cells as tables and as the page."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from synthpost_dagster.artifacts.fingerprint import fingerprint, table_digest
from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.artifacts.store import ArtifactStore, Draft, write_whole, writing
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import UpstreamMissing
from synthpost_dagster.judging.controls import controlled
from synthpost_dagster.judging.people import read_labels
from synthpost_dagster.judging.verdicts import pairs
from synthpost_dagster.profiles.families import family_of
from synthpost_dagster.profiles.models import EMBEDDED, HostedChat, RubricJudge
from synthpost_dagster.quality.explanations import explained_unscored
from synthpost_dagster.report import data as page
from synthpost_dagster.report import findings
from synthpost_dagster.report.browser import cell_sides
from synthpost_dagster.report.page import render_page
from synthpost_dagster.report.tables import Judged, compliance_rows, met_by_prompt, ratio_rows, to_csv
from synthpost_dagster.runtime.progress import SILENT, Progress
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.costs import stage_costs
from synthpost_dagster.stages.data_quality import data_quality
from synthpost_dagster.stages.facts import AdapterFacts, Facts, RowsFacts
from synthpost_dagster.stages.page_inputs import LABELS, Made, PageInputs, page_inputs, required
from synthpost_dagster.stages.stage import BASELINE, CONTROL, Stage, Workbench
from synthpost_dagster.stages.study import Study
from synthpost_dagster.statistics.comparison import Comparison, compare
from synthpost_dagster.statistics.power import expected_intervals
from synthpost_dagster.statistics.replicates import Trained, replicate_groups
from synthpost_dagster.statistics.style import Separation, separations
from synthpost_dagster.tasks.prompting import briefs_by_id
from synthpost_dagster.tasks.task import Brief, Task

if TYPE_CHECKING:
    import pandas as pd

COPIED = ("index.html", "ratios.csv", "compliance.csv", "ratio_report.parquet")
"""Files of the report that are copied to `$SYNTHPOST_HOME/report`."""
MILLION = 1e6


def _inputs(study: Study, _partition: str) -> PageInputs:
    return page_inputs(study)


def _refuse_without_cells(study: Study, inputs: PageInputs, _progress: Progress) -> None:
    if not inputs.verdicts:
        raise UpstreamMissing(
            f"no cell of the profile {study.profile.name} has verdicts yet; use `synthpost run`, or materialize "
            "the job `cell` for one of them"
        )


def _make(inputs: PageInputs, draft: Draft, bench: Workbench) -> Facts:
    content = gather(inputs, bench.store)
    bench.progress.update("report", 0, 1, "pages")
    draft.table("ratio_report", content.ratios)
    draft.table("compliance", content.compliance)
    shown = render_page(content)
    (draft.folder / "ratios.csv").write_text(to_csv(content.ratios), encoding="utf-8")
    (draft.folder / "compliance.csv").write_text(to_csv(content.compliance), encoding="utf-8")
    (draft.folder / "index.html").write_text(shown, encoding="utf-8")
    draft.digest = _digest(content, shown)
    bench.progress.update("report", 1, 1, "pages")
    figures = {
        "cells": len(content.training),
        "missing": [place for place, _ in content.missing],
        "controls": {result.name: result.control.finding for result in content.trust.controls},
    }
    return Facts().with_figures(figures)


def _digest(content: page.ReportData, shown: str) -> str:
    """Hash of the tables and the page without the time at which it was made."""
    tables = [table_digest(content.ratios), table_digest(content.compliance)]
    return fingerprint({"tables": tables, "page": shown.replace(content.made_at, "")})


def is_copied(study: Study, manifest: Manifest) -> bool:
    """Whether the files in `$SYNTHPOST_HOME/report` are those of the report."""
    files = {name: study.settings.home / "report" / name for name in COPIED}
    return all(
        path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == manifest.files[name].sha256
        for name, path in files.items()
    )


def require_cells(study: Study) -> None:
    """Raises UpstreamMissing where no cell of the profile has verdicts."""
    _refuse_without_cells(study, study.resolver.inputs("ratio_report"), SILENT)


def keep_labels(settings: Settings, file: Path) -> int:
    """Copies a filled sheet to the home, for this report and later ones; the number of pairs that it labels.

    Raises SpecError where the sheet cannot be read.
    """
    labels = read_labels(file)
    write_whole(settings.home / LABELS, file.read_bytes())
    return len(labels)


def gather(inputs: PageInputs, store: ArtifactStore) -> page.ReportData:
    """All that the page shows. Raises UpstreamMissing or ArtifactDamaged where an artifact that it needs is missing."""
    task, profile, read, made = inputs.task, inputs.profile, store.read_table, inputs.made
    spec, mains = task.spec, [one for one in made if one.cell.seed is None]
    rows, untuned = required(inputs.rows, "synthetic_rows"), required(inputs.untuned, BASELINE)
    baselines, briefs = read(untuned), briefs_by_id(task)
    ratios, cells = _ratios(inputs, store, briefs)
    first = [one for one in cells if one.seed == profile.training.seed]
    costs, choice = _costs(inputs, store, rows), findings.choose(first)
    chosen = next((one for one in first if choice and one.cell == choice.cell), None)
    decisive = findings.decisive_share(chosen) if chosen else None
    return page.ReportData(
        task=spec.name,
        task_description=spec.description,
        profile=profile.name,
        student=profile.student.model,
        teacher=profile.teacher.name,
        judges=tuple(judge.name for judge in profile.judges),
        is_embedded=profile.student.model == EMBEDDED,
        is_study_mode=profile.study,
        evaluation_prompts=inputs.evaluation_count,
        training_seed=profile.training.seed,
        ratios=ratios,
        compliance=_compliance(first, baselines, briefs, task),
        choice=choice,
        prompting=_prompting(read(inputs.controls)) if inputs.controls else None,
        trust=_trust(inputs, store, cells, ratios, choice),
        worth=findings.worth(first, costs),
        seeds=findings.seeds_of(cells),
        corners=findings.corners(chosen, spec.breakdowns) if chosen else (),
        separations=_separations(inputs, store, chosen, mains, baselines) if chosen else (),
        quality=data_quality(inputs, store),
        costs=costs,
        training=tuple(_training(inputs, store, one) for one in made),
        max_perplexity_ratio=spec.quality.max_perplexity_ratio,
        stage_costs=stage_costs(
            rows,
            [untuned, required(inputs.samples, CONTROL)],
            [one.adapter for one in made],
            [one.predictions for one in made],
            [one.verdicts for one in made] + ([inputs.controls] if inputs.controls else []),
        ),
        decisive_share=decisive,
        expected=tuple(expected_intervals(inputs.evaluation_count, decisive or 1.0)),
        pairs=tuple(
            pair
            for one, posts in zip(first, mains, strict=True)
            for pair in cell_sides(one, read(posts.predictions), baselines, briefs, task)
        ),
        missing=inputs.missing,
        criteria={name: spec.criteria[name].text for name in task.criterion_ids},
        levels=_levels(task),
        group_column=spec.group_column,
        prompt_tokens=baselines.groupby("contestant")["prompt_tokens"].mean().to_dict(),
        fingerprint=fingerprint(inputs.parts),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _ratios(inputs: PageInputs, store: ArtifactStore, briefs: Mapping[str, Brief]) -> tuple[pd.DataFrame, list[Judged]]:
    """The table of ratios and the judged cells. Cells are read while the ratios of others are computed."""
    import pandas as pd

    mains = [one for one in inputs.made if one.cell.seed is None]
    groups = dict(zip((one.cell for one in mains), replicate_groups([_trained(one) for one in mains]), strict=True))
    cells: list[Judged] = []

    def judged_cells() -> Iterator[Judged]:
        for one in inputs.made:
            met = met_by_prompt(store.read_table(one.predictions), briefs, inputs.task)
            verdicts, seed = store.read_table(one.verdicts), inputs.seed_of(one.cell)
            cells.append(Judged(one.cell.main, seed, _trained(one), verdicts, pairs(verdicts), met))
            yield cells[-1]

    factors, both = inputs.task.spec.breakdowns, not inputs.profile.study
    rows = ratio_rows(judged_cells(), factors, groups, both, inputs.profile.training.seed)
    return pd.DataFrame(rows), cells


def _compliance(
    cells: Sequence[Judged], baselines: pd.DataFrame, briefs: Mapping[str, Brief], task: Task
) -> pd.DataFrame:
    import pandas as pd

    rows = [
        row
        for name, posts in baselines.groupby("contestant", sort=False)
        for row in compliance_rows(str(name), met_by_prompt(posts, briefs, task))
    ]
    return pd.DataFrame(rows + [row for one in cells for row in compliance_rows("tuned", one.met, one.cell)])


def _levels(task: Task) -> dict[str, tuple[str, ...]]:
    spec = task.spec
    levels = {name: tuple(factor.levels) for name, factor in spec.factors.items()}
    lengths = {"length": tuple(spec.lengths)} if spec.lengths else {}
    groups = dict.fromkeys(item.group.name for item in task.items if item.group)
    return levels | lengths | ({spec.group_column: tuple(groups)} if groups else {})


def _separations(
    inputs: PageInputs, store: ArtifactStore, chosen: Judged, mains: Sequence[Made], baselines: pd.DataFrame
) -> tuple[Separation, ...]:
    """The traits of style that separate a cell's outcomes against `base`; none for the rubric, which counts them."""
    if all(isinstance(judge, RubricJudge) for judge in inputs.profile.judges):
        return ()
    main = next(one for one in mains if one.cell.main == chosen.cell)
    tuned = store.read_table(main.predictions).set_index("prompt_id")["post"]
    base = baselines[baselines["contestant"] == findings.BASE].set_index("prompt_id")["post"]
    outcomes = chosen.against(findings.BASE)
    prompts = list(outcomes)
    return tuple(separations(list(tuned[prompts]), list(base[prompts]), list(outcomes.values())))


def _trained(made: Made) -> Trained:
    facts = AdapterFacts.of(made.adapter)
    return Trained(made.cell.data_size, facts.optimizer_steps, facts.rows_seen)


def _prompting(controls: pd.DataFrame) -> Comparison:
    outcomes = pairs(controls)
    return compare(outcomes.loc[outcomes["opponent"] == "prompting", "outcome"].to_list())


def _trust(
    inputs: PageInputs, store: ArtifactStore, cells: Sequence[Judged], ratios: pd.DataFrame, choice: page.Choice | None
) -> page.Trust:
    import pandas as pd

    played = ["pair_id", "judge", "is_candidate_first"]
    # The same posts in two cells are the same pair, with the same reply.
    verdicts = pd.concat([one.verdicts for one in cells]).drop_duplicates(played)
    people, unknown = findings.with_people(verdicts, inputs.labels)
    profile, families = inputs.profile, {judge.name: family_of(judge) for judge in inputs.profile.judges}
    main_ratios = ratios[ratios["seed"] == profile.training.seed]
    return page.Trust(
        judges=findings.judge_figures(verdicts, families, not profile.study),
        student_family=family_of(profile.student),
        teacher_family=family_of(profile.teacher),
        length_effect=findings.length_effect(main_ratios, choice.cell if choice else None),
        controls=tuple(controlled(store.read_table(inputs.controls))) if inputs.controls else (),
        missing_controls=inputs.missing_controls,
        between_judges=findings.between_judges(verdicts),
        people=people,
        unknown_labels=unknown,
        imitations=int(verdicts["has_imitation"].sum()),
        unscored=tuple(explained_unscored(verdicts, inputs.task, profile)),
    )


def _costs(inputs: PageInputs, store: ArtifactStore, manifest: Manifest) -> dict[Cell, page.Cost]:
    """The costs of each cell under the profile's seed, from the mean dollars and seconds of a kept row.

    Replies of rejected rows count too.
    """
    rows, teacher = store.read_table(manifest), inputs.profile.teacher
    prices = teacher.prices if isinstance(teacher, HostedChat) else None
    usd = 0.0
    if prices is not None:
        usd = float(rows["prompt_tokens"].sum()) * prices.input + float(rows["completion_tokens"].sum()) * prices.output
    timed = RowsFacts.of(inputs.timed_rows) if inputs.timed_rows else None
    seconds = timed.ask_seconds / timed.asked_now * len(rows) if timed else math.nan
    kept = max(1, RowsFacts.of(manifest).kept)
    return {
        one.cell: page.Cost(
            usd / MILLION / kept * one.cell.data_size,
            seconds / kept * one.cell.data_size,
            AdapterFacts.of(one.adapter).wall_seconds,
        )
        for one in inputs.made
        if one.cell.seed is None
    }


def _training(inputs: PageInputs, store: ArtifactStore, made: Made) -> page.Training:
    facts, seed = AdapterFacts.of(made.adapter), inputs.seed_of(made.cell)
    tables = store.read_table(made.adapter), store.read_table(made.adapter, "forgetting")
    return page.Training(made.cell.main, seed, facts.wall_seconds, facts.peak_gib, facts.device, *tables)


def _copy(study: Study, manifest: Manifest) -> None:
    folder = study.settings.home / "report"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            write_whole(folder / name, study.store.read_file(manifest, name))


_UPSTREAM = ("verdicts", "control_verdicts")
STAGES = (Stage("ratio_report", "report", _inputs, _make, _UPSTREAM, _refuse_without_cells, finish=_copy),)
