"""Comparisons made elsewhere: the file's labels read, or its posts judged, and what they say, as page and figures.

Nothing of the study's graph is touched but the journal, which keeps the judges' replies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.artifacts.store import write_whole
from synthpost_dagster.comparisons import table as labelled
from synthpost_dagster.comparisons.labels import Meaning
from synthpost_dagster.comparisons.table import PAIR_ID, POSTS, PairsTable, Repair, read_pairs
from synthpost_dagster.errors import SpecError, StorageError
from synthpost_dagster.judging.judges import Rubric
from synthpost_dagster.judging.verdicts import Contest, Request, judge_contests, pairs, panel_games
from synthpost_dagster.profiles.families import family_of
from synthpost_dagster.progress import Progress
from synthpost_dagster.report import findings
from synthpost_dagster.report.browsing import games_of
from synthpost_dagster.report.data import Game, LevelCounts, Missing, OuterPair, PairsData
from synthpost_dagster.report.pairs_page import render_pairs_page
from synthpost_dagster.report.tables import generator_of, to_csv
from synthpost_dagster.stages.study import Study
from synthpost_dagster.statistics.comparison import Comparison, GameFigures, compare, game_figures
from synthpost_dagster.statistics.corners import weak_corners
from synthpost_dagster.statistics.games import pairs_of_games
from synthpost_dagster.statistics.power import expected_intervals
from synthpost_dagster.tasks.prompting import Brief, short_hash

if TYPE_CHECKING:
    import pandas as pd

PAGE, GAMES = "index.html", "games.csv"
BRIEF_COLUMNS = ("company", "product", "post_type", "tone")


class Labels(NamedTuple):
    """How the labels of a file are to be read; `column` is None for `label`, or for the posts where there is none."""

    column: str | None
    win: str | None
    loss: str | None
    tie: str
    is_strict: bool


class Evaluated(NamedTuple):
    """What became of the pairs of a file: `outcomes` has `pair_id`, `outcome` and the factors."""

    outcomes: pd.DataFrame
    labels: dict[str, str]
    """Pair id → its raw labels; empty where the posts were judged."""
    repairs: tuple[Repair, ...]
    verdicts: pd.DataFrame | None
    """Schema Games less the task's factors; None where labels were read."""
    missing: dict[str, str]
    """Pair id → why it was not played."""


class Made(NamedTuple):
    """What came of a file of pairs: the figures, and where the rest was put."""

    comparison: Comparison
    is_study_mode: bool
    page: Path
    games: Path | None
    """None where labels were read."""


def evaluate_pairs(study: Study, file: Path, labels: Labels, out: Path, progress: Progress) -> Made:
    """Reads or judges the pairs of a file and puts page, pairs, figures and games into the folder `out`.

    Raises SpecError where the file or the labels' meaning is wrong, StorageError where `out` cannot be written.
    """
    table = read_pairs(file, labels.column)
    is_judged = table.label_column is None
    evaluated = _judged(study, file, table, progress) if is_judged else _labelled(file, table, labels)
    content = _content(study, file, table, labels, evaluated)
    try:
        _write(out, content, evaluated)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written ({error.strerror}); name another folder with --out") from None
    return Made(content.comparison, content.is_study_mode, out / PAGE, out / GAMES if is_judged else None)


def _write(out: Path, content: PairsData, evaluated: Evaluated) -> None:
    """The files of the folder; games of another file are not left beside labels that were read."""
    out.mkdir(parents=True, exist_ok=True)
    if evaluated.verdicts is None:
        (out / GAMES).unlink(missing_ok=True)
    else:
        write_whole(out / GAMES, to_csv(evaluated.verdicts).encode())
    write_whole(out / PAGE, render_pairs_page(content).encode())
    write_whole(out / "pairs.csv", to_csv(evaluated.outcomes).encode())
    write_whole(out / "figures.json", f"{json.dumps(_figures(content), indent=2, ensure_ascii=False)}\n".encode())


def _labelled(file: Path, table: PairsTable, labels: Labels) -> Evaluated:
    if labels.win is None or labels.loss is None:
        raise SpecError(
            f"{file}: the labels in {table.label_column!r} need a meaning: name what says that the candidate won with "
            "--win, and that it lost with --loss"
        )
    meaning = Meaning(labels.win, labels.loss, labels.tie)
    found = labelled.outcomes(table, meaning, labels.is_strict)
    raw = dict(zip(found[PAIR_ID], found["label"], strict=True))
    return Evaluated(found, raw, tuple(labelled.repairs(table, meaning, labels.is_strict)), None, {})


def _judged(study: Study, file: Path, table: PairsTable, progress: Progress) -> Evaluated:
    rows = table.rows
    twice = rows.loc[rows[PAIR_ID].duplicated(), PAIR_ID]
    if len(twice):
        raise SpecError(f"{file}: pair_id {twice.iloc[0]!r} stands twice; posts that are to be judged are a pair a row")
    judges = study.judges
    missing = labelled.missing(table)
    contests = [_contest(study, row) for row in rows.to_dict("records") if row[PAIR_ID] not in missing]
    if not contests:
        raise SpecError(f"{file}: every pair lacks its prompt or a post; fill the columns {', '.join(POSTS)}")
    rubric = any(isinstance(judge, Rubric) for judge in judges)
    unknown = next((contest for contest in contests if isinstance(contest.brief, Request)), None)
    if rubric and unknown is not None:
        raise SpecError(
            f"{file}: pair {unknown.pair_id}: the rubric checks a task's criteria, and needs the columns "
            f"{', '.join(BRIEF_COLUMNS)} to name what is in the task's catalog; choose a profile with a model as "
            "judge, or read labels with --win and --loss"
        )
    verdicts = judge_contests(study.task, judges, contests, study.rules, [progress] * len(judges))
    played = pairs(verdicts).set_index(PAIR_ID)["outcome"].to_dict()
    outcomes = rows[[PAIR_ID, *table.factors]].copy()
    outcomes.insert(1, "outcome", [played.get(name, "unscored") for name in rows[PAIR_ID]])
    return Evaluated(outcomes, {}, (), verdicts, missing)


def _contest(study: Study, row: Mapping[str, str]) -> Contest:
    brief = _brief(study, row) or Request(row["prompt"])
    labels = {"prompt_id": short_hash(row["prompt"])}
    return Contest(labels, brief, "baseline", row["candidate"], row["baseline"], row[PAIR_ID])


def _brief(study: Study, row: Mapping[str, str]) -> Brief | None:
    """The task's brief that a row names in its columns; None where it names none."""
    if any(name not in row for name in BRIEF_COLUMNS):
        return None
    spec = study.task.spec
    kinds = {kind.name: kind for kind in spec.post_types}
    if row["post_type"] not in kinds or row["tone"] not in spec.tones:
        return None
    for split in ("train", "holdout"):
        for company, product in study.task.companies_of(split):
            if (company.name, product.name) == (row["company"], row["product"]):
                return Brief(company, product, kinds[row["post_type"]], row["tone"])
    return None


def _content(study: Study, file: Path, table: PairsTable, labels: Labels, evaluated: Evaluated) -> PairsData:
    outcomes, verdicts = evaluated.outcomes, evaluated.verdicts
    levels = [
        LevelCounts(factor, str(level), compare(part["outcome"].to_list()))
        for factor in table.factors
        for level, part in outcomes.groupby(factor, sort=False)
    ]
    families = {judge.name: family_of(spec) for judge, spec in zip(study.judges, study.profile.judges, strict=True)}
    are_both = len(study.rules.orders) > 1
    return PairsData(
        source=file.name,
        candidate=labels.win or "candidate" if verdicts is None else "candidate",
        baseline=labels.loss or "baseline" if verdicts is None else "baseline",
        is_strict=labels.is_strict,
        is_study_mode=verdicts is not None and study.profile.study,
        prompts=labelled.prompt_count(table),
        missing=_missing(evaluated.missing),
        comparison=compare(outcomes["outcome"].to_list()),
        levels=tuple(levels),
        corners=tuple(weak_corners({(one.factor, one.level): one.comparison.counts for one in levels})),
        ignored=table.ignored,
        judges=findings.judge_figures(verdicts, families, are_both) if verdicts is not None else (),
        games=_game_figures(evaluated) if are_both else None,
        repairs=evaluated.repairs,
        expected=tuple(expected_intervals(len(outcomes))),
        pairs=tuple(_sides(table, evaluated)),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _missing(reasons: Mapping[str, str]) -> tuple[Missing, ...]:
    return tuple(
        Missing(reason, tuple(name for name, why in reasons.items() if why == reason))
        for reason in dict.fromkeys(reasons.values())
    )


def _game_figures(evaluated: Evaluated) -> GameFigures | None:
    if evaluated.verdicts is None:
        return None
    return game_figures(pairs_of_games(panel_games(evaluated.verdicts)), generator_of("pairs"))


def _sides(table: PairsTable, evaluated: Evaluated) -> list[OuterPair]:
    games: dict[str, tuple[Game, ...]] = {} if evaluated.verdicts is None else games_of(evaluated.verdicts)
    first = table.rows.drop_duplicates(PAIR_ID).set_index(PAIR_ID).to_dict("index")
    found = []
    for row in evaluated.outcomes.to_dict("records"):
        name, texts = row[PAIR_ID], first[row[PAIR_ID]]
        found.append(
            OuterPair(
                pair_id=name,
                prompt=texts.get("prompt") or "",
                candidate=texts.get("candidate") or "",
                baseline=texts.get("baseline") or "",
                factors=tuple((factor, row[factor]) for factor in table.factors),
                outcome=row["outcome"],
                games=games.get(name, ()),
                label=evaluated.labels.get(name, ""),
            )
        )
    return found


def _figures(content: PairsData) -> dict[str, Any]:
    """What `figures.json` holds; what is infinite or undefined is null."""
    figures: dict[str, Any] = {"source": content.source, **_compared(content.comparison)}
    if content.games is not None:
        order, controlled = content.games
        figures |= {
            "order_consistency": order.consistency.value,
            "slot_bias": order.slot_bias.value,
            "length_controlled_ratio": controlled.value,
            "length_controlled_low": controlled.low,
            "length_controlled_high": controlled.high,
            "length_note": controlled.reason,
        }
    figures["factors"] = {}
    for level in content.levels:
        figures["factors"].setdefault(level.factor, {})[level.level] = _compared(level.comparison)
    figures |= {"is_strict": content.is_strict, "is_study_mode": content.is_study_mode, "prompts": content.prompts}
    figures["missing"] = {one.reason: len(one.pair_ids) for one in content.missing}
    figures["repairs"] = [
        {"label": repair.label, "outcome": repair.outcome, "count": repair.count, "how": repair.how}
        for repair in content.repairs
    ]
    return {name: _finite(value) for name, value in figures.items()}


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "pairs": comparison.counts.pairs,
        **comparison.counts._asdict(),
        "win_ratio": comparison.ratio.value,
        "win_ratio_low": comparison.ratio.low,
        "win_ratio_high": comparison.ratio.high,
        "tie_aware_ratio": comparison.tie_aware,
        "win_rate": comparison.win_rate,
        "worst_case_ratio": comparison.worst_case.value,
        "worst_case_low": comparison.worst_case.low,
        "worst_case_high": comparison.worst_case.high,
        "p_value": comparison.p_value,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
