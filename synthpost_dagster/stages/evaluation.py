"""The stages that compare: verdicts, and the ratio report with its page."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from synthpost_dagster.artifacts.store import Draft, Manifest, Outcome, Plan, write_whole
from synthpost_dagster.errors import StorageError, SynthpostError, UpstreamMissing
from synthpost_dagster.generation.estimate import Expected, expect, local
from synthpost_dagster.generation.hosted import CHARACTERS_A_TOKEN
from synthpost_dagster.judging.criteria import criteria_met
from synthpost_dagster.judging.judges import JUDGING, build_judge
from synthpost_dagster.judging.verdicts import Game, judge_pairs, pairs
from synthpost_dagster.profiles.models import EMBEDDED, RubricJudge
from synthpost_dagster.progress import Progress
from synthpost_dagster.report.data import Pair, ReportData, Training
from synthpost_dagster.report.page import render_page
from synthpost_dagster.rows.prompts import FACTORS, briefs_by_id, evaluation_prompts
from synthpost_dagster.schemas import OPPONENTS, Compliance
from synthpost_dagster.stages.data import UPSTREAM_REMEDY, current_rows, known_rows, teacher_of
from synthpost_dagster.stages.models import (
    adapters_plan,
    baseline_predictions_plan,
    predictions_plan,
)
from synthpost_dagster.stages.study import Cell, Study
from synthpost_dagster.stages.took import took
from synthpost_dagster.statistics.ratio import count, tie_aware_ratio, win_ratio

if TYPE_CHECKING:
    import pandas as pd

GAMES_A_PROMPT = 2 * len(OPPONENTS)
REPORT_FORMAT = 2
"""Raised when the page or its tables change, so that reports are made anew."""


def verdicts_plan(study: Study, cell: Cell) -> Plan:
    """Shaped by the tuned and the baselines' posts, and the judge."""
    remedy = f"materialize the job `cell` for {cell.key} first, or use `synthpost run`"
    tuned = study.store.need(predictions_plan(study, cell), remedy)
    baselines = study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY)
    judge = build_judge(study.task, study.profile, study.context)
    parts = {"predictions": tuned.digest, "baseline_predictions": baselines.digest, "judge": judge.identity}
    return Plan("verdicts", cell.key, parts)


def expected_verdicts(study: Study, cells: int) -> Expected:
    """What judging so many cells will take, with posts of the mean length of the teacher's."""
    spec, games = study.profile.judge, cells * study.evaluation_count * GAMES_A_PROMPT
    if isinstance(spec, RubricJudge):
        made = [manifest.facts for cell in study.cells for manifest in study.store.all_of("verdicts", cell.key)]
        done = sum(facts["rows"] for facts in made if not facts["asked_now"])
        return local(games, sum(facts["ask_seconds"] for facts in made if not facts["asked_now"]), done, "games")
    briefs = briefs_by_id(study.task)
    prompts = evaluation_prompts(study.task, study.evaluation_count)["prompt_id"]
    posts = 2 * _mean_post(study)
    characters = [len(Game(briefs[prompt_id], "", "").prompt(study.task)) + posts for prompt_id in prompts]
    return expect(study.journal, spec, JUDGING, characters * (cells * GAMES_A_PROMPT))


def _mean_post(study: Study) -> int:
    """Characters of a post: of the rows there are, else as many as a post may have."""
    known = known_rows(study)
    if known is not None and len(known):
        return round(float(known["post"].str.len().mean()))
    return round(study.profile.predictions.max_new_tokens * CHARACTERS_A_TOKEN)


def verdicts(study: Study, cell: Cell, progress: Progress) -> Outcome:
    """Every game of the cell, judged."""

    def make(draft: Draft) -> None:
        judge, expected = build_judge(study.task, study.profile, study.context), expected_verdicts(study, 1)
        tuned = study.store.read_table(study.store.need(predictions_plan(study, cell), UPSTREAM_REMEDY))
        baselines = study.store.read_table(study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY))
        table = judge_pairs(study.task, judge, briefs_by_id(study.task), tuned, baselines, progress)
        study.add_gated_table(draft, "verdicts", table)
        draft.facts |= {**judge.tally.facts, "estimate": expected.facts}
        for opponent, group in pairs(table).groupby("opponent"):
            draft.facts[f"against_{opponent}"] = count(group["outcome"])._asdict()

    return study.store.reuse_or_make(verdicts_plan(study, cell), make)


def ratio_report_plan(study: Study) -> Plan:
    """Shaped by the verdicts of every cell that is there, and by those that are missing."""
    found, missing = _cells(study)
    parts = {
        "format": REPORT_FORMAT,
        "profile": study.profile.name,
        "criteria": [c.model_dump() for kind in study.task.spec.post_types for c in study.task.spec.criteria_of(kind)],
        "cells": {cell.key: manifest.digest for cell, manifest in found.items()},
        "missing": [key for key, _ in missing],
    }
    return Plan("ratio_report", "", parts)


def ratio_report(study: Study, progress: Progress) -> Outcome:
    """Ratios, compliance and the page; the page and its tables are also put into `$SYNTHPOST_HOME/report`."""
    plan = ratio_report_plan(study)

    def make(draft: Draft) -> None:
        data = gather(study, plan.fingerprint)
        progress.update("report", 0, 1, "pages")
        study.add_gated_table(draft, "ratio_report", data.ratios)
        Compliance.validate(data.compliance)
        draft.table("compliance", data.compliance)
        (draft.folder / "ratios.csv").write_text(to_csv(data.ratios), encoding="utf-8")
        (draft.folder / "compliance.csv").write_text(to_csv(data.compliance), encoding="utf-8")
        (draft.folder / "index.html").write_text(render_page(data), encoding="utf-8")
        draft.facts |= {"cells": len(data.training), "missing": [key for key, _ in data.missing]}
        progress.update("report", 1, 1, "pages")

    outcome = study.store.reuse_or_make(plan, make)
    _put_out(study, outcome.manifest)
    return outcome


def gather(study: Study, fingerprint: str) -> ReportData:
    """All that the page shows, from the artifacts. Raises UpstreamMissing where no cell has verdicts."""
    import pandas as pd

    require_cells(study)
    found, missing = _cells(study)
    untuned = study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY)
    baselines = study.store.read_table(untuned)
    ratios: list[dict[str, Any]] = []
    compliance = _compliance(study, baselines, 0, "")
    training: list[Training] = []
    sides: list[Pair] = []
    made: list[tuple[Manifest, Manifest, Manifest]] = []
    for cell, manifest in found.items():
        adapter = study.store.need(adapters_plan(study, cell), UPSTREAM_REMEDY)
        posts = study.store.need(predictions_plan(study, cell), UPSTREAM_REMEDY)
        tuned = study.store.read_table(posts)
        made.append((adapter, posts, manifest))
        outcomes = pairs(study.store.read_table(manifest))
        ratios += _ratios(cell, adapter, outcomes)
        compliance += _compliance(study, tuned, cell.data_size, cell.steps)
        training.append(_training(cell, adapter, study.store.read_table(adapter)))
        sides += _sides(study, cell, tuned, baselines, outcomes)
    spec = study.task.spec
    return ReportData(
        task=spec.name,
        task_description=spec.description,
        profile=study.profile.name,
        student=study.profile.student.model,
        teacher=teacher_of(study).name,
        judge=build_judge(study.task, study.profile, study.context).name,
        caution=_caution(study),
        evaluation_prompts=study.evaluation_count,
        ratios=pd.DataFrame(ratios),
        compliance=pd.DataFrame(compliance),
        training=tuple(training),
        took=took(current_rows(study), untuned, *(list(manifests) for manifests in zip(*made, strict=True))),
        pairs=tuple(sides),
        missing=tuple(missing),
        criteria={c.id: c.text for kind in spec.post_types for c in spec.criteria_of(kind)},
        levels={
            "post_type": tuple(kind.name for kind in spec.post_types),
            "tone": spec.tones,
            "length": tuple(length.name for length in spec.lengths),
        },
        prompt_tokens=baselines.groupby("contestant")["prompt_tokens"].mean().to_dict(),
        fingerprint=fingerprint,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def require_cells(study: Study) -> None:
    """Raises UpstreamMissing where no cell of the profile has verdicts."""
    if not _cells(study)[0]:
        raise UpstreamMissing(
            f"no cell of the profile {study.profile.name} has verdicts yet; use `synthpost run`, or materialize "
            "the job `cell` for one of them"
        )


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(table.columns)
    for row in table.itertuples(index=False):
        writer.writerow(
            [f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell for cell in row]
        )
    return out.getvalue()


def _cells(study: Study) -> tuple[dict[Cell, Manifest], list[tuple[str, str]]]:
    """The verdicts of each cell of the profile, and the cells without, with the reason."""
    found: dict[Cell, Manifest] = {}
    missing: list[tuple[str, str]] = []
    for cell in study.cells:
        try:
            found[cell] = study.store.need(verdicts_plan(study, cell), "the cell has no verdicts")
        except SynthpostError as error:
            missing.append((cell.key, str(error)))
    return found, missing


def _ratios(cell: Cell, adapter: Manifest, outcomes: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of RatioReport: the whole cell first, then each level of each factor."""
    rows = []
    for opponent in OPPONENTS:
        group = outcomes[outcomes["opponent"] == opponent]
        parts = [("all", "all", group)]
        parts += [(factor, level, part) for factor in FACTORS for level, part in group.groupby(factor, sort=False)]
        for factor, level, part in parts:
            counts = count(part["outcome"])
            ratio = win_ratio(counts)
            rows.append(
                {
                    "data_size": cell.data_size,
                    "steps": cell.steps,
                    "optimizer_steps": adapter.facts["optimizer_steps"],
                    "rows_seen": adapter.facts["rows_seen"],
                    "opponent": opponent,
                    "factor": factor,
                    "level": level,
                    "pairs": counts.pairs,
                    **counts._asdict(),
                    "win_ratio": ratio.value,
                    "win_ratio_low": ratio.low,
                    "win_ratio_high": ratio.high,
                    "tie_aware_ratio": tie_aware_ratio(counts),
                }
            )
    return rows


def _compliance(study: Study, posts: pd.DataFrame, data_size: int, steps: str) -> list[dict[str, Any]]:
    """Rows of Compliance: how many posts of each contestant meet each criterion that can be checked on text."""
    briefs = briefs_by_id(study.task)
    met: dict[tuple[str, str], list[bool]] = {}
    for row in posts.itertuples():
        for criterion, is_met in criteria_met(row.post, briefs[row.prompt_id], study.task.spec).items():
            met.setdefault((row.contestant, criterion), []).append(is_met)
    return [
        {
            "data_size": data_size,
            "steps": steps,
            "contestant": contestant,
            "criterion": criterion,
            "posts": len(found),
            "met": sum(found),
        }
        for (contestant, criterion), found in met.items()
    ]


def _training(cell: Cell, adapter: Manifest, curve: pd.DataFrame) -> Training:
    facts = adapter.facts
    return Training(cell.data_size, cell.steps, facts["wall_seconds"], facts["peak_gib"], facts["device"], curve)


def _sides(
    study: Study, cell: Cell, tuned: pd.DataFrame, baselines: pd.DataFrame, outcomes: pd.DataFrame
) -> list[Pair]:
    # By their ids, which are hashes, so that companies and types are mixed.
    post = baselines.set_index(["contestant", "prompt_id"])["post"].to_dict()
    outcome = outcomes.set_index(["opponent", "prompt_id"])["outcome"].to_dict()
    briefs = briefs_by_id(study.task)
    return [
        Pair(
            data_size=cell.data_size,
            steps=cell.steps,
            company=row.company,
            product=row.product,
            product_description=briefs[row.prompt_id].product.description,
            post_type=row.post_type,
            tone=row.tone,
            length=row.length,
            tuned=row.post,
            base=post["base", row.prompt_id],
            prompted=post["prompted", row.prompt_id],
            outcome_base=outcome["base", row.prompt_id],
            outcome_prompted=outcome["prompted", row.prompt_id],
        )
        for row in tuned.sort_values("prompt_id").itertuples()
    ]


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
