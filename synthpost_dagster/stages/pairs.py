"""Comparisons made elsewhere: reads the labels of a file or judges its posts, and writes a page and figures.

It changes nothing in the home but the journal, which keeps the judges' replies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.artifacts.store import write_whole
from synthpost_dagster.errors import SpecError, StorageError
from synthpost_dagster.judging.judges import Rubric
from synthpost_dagster.judging.verdicts import Contest, Request, judge_contests, pairs, panel_games
from synthpost_dagster.pairs import table as labelled
from synthpost_dagster.pairs.labels import Meaning, Read
from synthpost_dagster.pairs.mapping import NO_MAP, check_map
from synthpost_dagster.pairs.preferences import guessed_scale
from synthpost_dagster.pairs.table import PAIR_ID, POSTS, Contradictions, Order, PairsTable, Repair, read_pairs
from synthpost_dagster.profiles.families import family_of
from synthpost_dagster.report import findings
from synthpost_dagster.report.browser import games_of
from synthpost_dagster.report.data import Match, PairsData, Side
from synthpost_dagster.report.pairs_page import notice_texts, render_pairs_page
from synthpost_dagster.report.tables import figures_of, game_figures_of, generator_of, to_csv
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.stages.study import Study
from synthpost_dagster.statistics.comparison import Comparison, GameFigures, compare, game_figures
from synthpost_dagster.statistics.corners import weak_corners
from synthpost_dagster.statistics.games import PairOfGames, pairs_of_games
from synthpost_dagster.statistics.power import expected_intervals
from synthpost_dagster.statistics.style import Separation, separations
from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.task import Brief
from synthpost_dagster.text.normalize import plain, word_count

if TYPE_CHECKING:
    import pandas as pd

PAGE, GAMES = "index.html", "games.csv"
MAX_SHOWN = 1_000
"""Pairs on the page; `pairs.csv` has all."""
MAX_STYLED = 10_000
"""Pairs whose posts are searched for traits of style that separate the outcomes."""
MAX_PLAYED = 5_000
"""Pairs from which order and length figures are computed: a bootstrap of a million takes gigabytes and adds nothing."""


class Labels(NamedTuple):
    """How to read the labels of a file. Without `column` it is `label`; without such a column posts are judged."""

    column: str | None
    win: str | None
    loss: str | None
    tie: str
    is_strict: bool
    order: Order | None = None
    """Which post was first in a game, if labels name places."""
    by_label: Mapping[str, str] = NO_MAP
    """Outcomes that `--map` gives to labels."""


class Evaluated(NamedTuple):
    """The results of the pairs of a file: `outcomes` has `pair_id`, `outcome` and the factors."""

    outcomes: pd.DataFrame
    games: Sequence[Read] = ()
    """One for each label; none where posts were judged."""
    repairs: tuple[Repair, ...] = ()
    verdicts: pd.DataFrame | None = None
    """Schema Games without the task's factors; None where labels were read."""
    missing: Mapping[str, str] = NO_MAP
    """Pair id → why it was not judged."""


class Made(NamedTuple):
    """The figures of a file of pairs, and the paths of the other results."""

    comparison: Comparison
    is_study_mode: bool
    page: Path
    games: Path | None
    """None where labels were read."""
    notices: tuple[str, ...]
    """The notices at the top of the page."""
    unread: tuple[str, ...] = ()
    """A line for each label that could not be read."""


def evaluate_pairs(study: Study, file: Path, labels: Labels, out: Path, progress: Progress) -> Made:
    """Reads or judges the pairs of a file and writes page, pairs, figures and games to the folder `out`.

    Raises SpecError where the file or the labels' meaning is wrong or no label can be read, StorageError where `out`
    cannot be written.
    """
    table = read_pairs(file, labels.column, labels.order)
    is_judged = table.label_column is None
    evaluated = _judged(study, file, table, progress) if is_judged else _labelled(file, table, labels)
    content = _content(study, file, table, labels, evaluated)
    try:
        _write(out, content, evaluated)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written ({error.strerror}); name another folder with --out") from None
    return Made(
        content.comparison,
        content.is_study_mode,
        out / PAGE,
        out / GAMES if is_judged else None,
        notice_texts(content),
        labelled.unread_lines(evaluated.repairs),
    )


def _write(out: Path, content: PairsData, evaluated: Evaluated) -> None:
    """Writes the files, and removes the games of an earlier file when labels were read."""
    out.mkdir(parents=True, exist_ok=True)
    if evaluated.verdicts is None:
        (out / GAMES).unlink(missing_ok=True)
    else:
        write_whole(out / GAMES, to_csv(evaluated.verdicts).encode())
    write_whole(out / PAGE, render_pairs_page(content).encode())
    write_whole(out / "pairs.csv", to_csv(evaluated.outcomes).encode())
    write_whole(out / "figures.json", f"{json.dumps(_figures(content), indent=2, ensure_ascii=False)}\n".encode())


def _labelled(file: Path, table: PairsTable, labels: Labels) -> Evaluated:
    labelled.check_labels_name_contestants(file, table)
    check_map(
        labels.by_label, {labels.win: "win", labels.loss: "loss", labels.tie: "tie"}, bool(table.is_candidate_first)
    )
    meaning = _meaning(file, table, labels)
    games = labelled.game_outcomes(table, meaning, labels.is_strict, labels.by_label)
    found, repairs = labelled.outcomes(table, games), tuple(labelled.repairs(table, games))
    if (found["outcome"] == "unscored").all():
        raise _unreadable(file, table, meaning, repairs)
    return Evaluated(found, games, repairs)


def _meaning(file: Path, table: PairsTable, labels: Labels) -> Meaning | None:
    """What the labels mean; None where they name places, whose order is known."""
    if table.is_candidate_first:
        if labels.win is not None or labels.loss is not None:
            raise SpecError(
                f"{file}: with a known order of the posts its labels name places; leave out --win and --loss"
            )
        return None
    if labels.win is not None and labels.loss is not None:
        return Meaning(labels.win, labels.loss, labels.tie)
    if table.source.meaning is None:
        some = ", ".join(repr(label) for label in list(labelled.raw_labels(table))[:3])
        raise SpecError(
            f"{file}: the labels in {table.label_column!r} ({some}) need a meaning: give the label for a win of the "
            "candidate with --win, and for its loss with --loss; if they name places (A, first), name the column with "
            "the post that was first with --order-column"
        )
    return table.source.meaning


def _unreadable(file: Path, table: PairsTable, meaning: Meaning | None, repairs: Sequence[Repair]) -> SpecError:
    raw = labelled.raw_labels(table)
    some = ", ".join(repr(label) for label in list(raw)[:3])
    asked = "they should name places such as A, B or A>B"
    if meaning is not None:
        guess = guessed_scale(raw)
        asked = guess or f"none is {meaning.win!r} (--win), {meaning.loss!r} (--loss) or {meaning.tie!r} (--tie)"
    return SpecError(
        f"{file}: none of the {sum(raw.values()):,} labels in {table.label_column!r} can be read ({some}): {asked}; "
        "or give each label its outcome with --map",
        details=labelled.unread_lines(repairs),
    )


def _judged(study: Study, file: Path, table: PairsTable, progress: Progress) -> Evaluated:
    rows = table.rows
    twice = rows.loc[rows[PAIR_ID].duplicated(), PAIR_ID]
    if len(twice):
        raise SpecError(f"{file}: pair_id {twice.iloc[0]!r} appears twice; for posts to judge, write one row a pair")
    judges = study.judges
    missing = labelled.missing(table)
    contests = [
        Contest(
            {"prompt_id": short_hash(row["prompt"])},
            _brief(study, row) or Request(row["prompt"]),
            "baseline",
            row["candidate"],
            row["baseline"],
            row[PAIR_ID],
        )
        for row in rows.to_dict("records")
        if row[PAIR_ID] not in missing
    ]
    if not contests:
        raise SpecError(f"{file}: every pair lacks a prompt or a post; fill the columns {', '.join(POSTS)}")
    rubric = any(isinstance(judge, Rubric) for judge in judges)
    unknown = next((contest for contest in contests if isinstance(contest.brief, Request)), None)
    if rubric and unknown is not None:
        raise SpecError(
            f"{file}: pair {unknown.pair_id}: the rubric checks a task's criteria, and needs the columns "
            f"{', '.join(study.task.brief_columns)} to name what is in the task; choose a profile with a model as "
            "judge, or read labels with --win and --loss"
        )
    verdicts = judge_contests(study.task, judges, contests, study.rules, [progress] * len(judges))
    played = pairs(verdicts).set_index(PAIR_ID)["outcome"].to_dict()
    outcomes = rows[[PAIR_ID, *table.factors]].copy()
    outcomes.insert(1, "outcome", [played.get(name, "unscored") for name in rows[PAIR_ID]])
    return Evaluated(outcomes, verdicts=verdicts, missing=missing)


def _brief(study: Study, row: Mapping[str, str]) -> Brief | None:
    """The task's brief that a row names in its columns; None where it names none."""
    names = study.task.brief_columns
    if any(name not in row for name in names):
        return None
    return study.task.briefs_by_names.get(tuple(plain(row[name]).strip() for name in names))


def _content(study: Study, file: Path, table: PairsTable, labels: Labels, evaluated: Evaluated) -> PairsData:
    outcomes, verdicts = evaluated.outcomes, evaluated.verdicts
    levels = {
        factor: {str(level): compare(part["outcome"].to_list()) for level, part in outcomes.groupby(factor, sort=False)}
        for factor in table.factors
    }
    counts = {(factor, level): one.counts for factor, found in levels.items() for level, one in found.items()}
    families = {judge.name: family_of(spec) for judge, spec in zip(study.judges, study.profile.judges, strict=True)}
    are_both = len(study.rules.orders) > 1
    # The rubric itself lists what it counts in a post.
    is_rubric = verdicts is not None and all(isinstance(judge, Rubric) for judge in study.judges)
    return PairsData(
        source=file.name,
        candidate=_name("candidate", table.source.candidate, labels.win if verdicts is None else None),
        baseline=_name("baseline", table.source.baseline, labels.loss if verdicts is None else None),
        note=table.source.note,
        contradictions=_contradictions(table, evaluated),
        is_strict=labels.is_strict,
        is_study_mode=verdicts is not None and study.profile.study,
        prompts=labelled.prompt_count(table),
        missing=_by_reason(evaluated.missing),
        comparison=compare(outcomes["outcome"].to_list()),
        levels=levels,
        corners=tuple(weak_corners(counts)),
        ignored=table.ignored,
        judges=findings.judge_figures(verdicts, families, are_both) if verdicts is not None else (),
        games=_game_figures(evaluated, table) if are_both or table.is_candidate_first else None,
        separations=() if is_rubric else tuple(_separations(table, outcomes)),
        repairs=evaluated.repairs,
        expected=tuple(expected_intervals(len(outcomes))),
        pairs=tuple(_sides(table, evaluated)),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair_id, reason in missing.items():
        found.setdefault(reason, []).append(pair_id)
    return found


def _name(role: str, in_file: str, in_label: str | None) -> str:
    """A contestant's name: its label, the name in the file, or its role."""
    is_name = in_label is not None and any(map(str.isalpha, in_label))
    return in_label if is_name and in_label else in_file or role


def _contradictions(table: PairsTable, evaluated: Evaluated) -> Contradictions:
    """None where labels name places: the two games of a pair then have different orders."""
    is_ordered = evaluated.verdicts is not None or table.is_candidate_first
    return Contradictions() if is_ordered else labelled.contradictions(table, evaluated.games)


def _game_figures(evaluated: Evaluated, table: PairsTable) -> GameFigures | None:
    """Figures of the pairs with a game in each order; None where no pair has both."""
    if evaluated.verdicts is not None:
        found = pairs_of_games(panel_games(evaluated.verdicts))
    else:
        found = _labelled_games(table, evaluated.games) if table.is_candidate_first else []
    if len(found) > MAX_PLAYED:
        chosen = generator_of("pairs").choice(len(found), MAX_PLAYED, replace=False)
        found = [found[place] for place in sorted(chosen)]
    return game_figures(found, generator_of("pairs")) if found else None


def _labelled_games(table: PairsTable, games: Sequence[Read]) -> list[PairOfGames]:
    """The pairs of a file that have one game in each order; a post that is not in the file has no words."""
    played: dict[str, dict[bool, str]] = {}
    for pair_id, is_first, read in zip(table.rows[PAIR_ID], table.is_candidate_first, games, strict=True):
        played.setdefault(pair_id, {})[is_first] = read.outcome
    first = table.rows.drop_duplicates(PAIR_ID).set_index(PAIR_ID)
    mine, theirs = (
        first[name].fillna("").map(word_count).to_dict() if name in first else {} for name in ("candidate", "baseline")
    )
    return [
        PairOfGames(pair_id, orders[True], orders[False], mine.get(pair_id, 0), theirs.get(pair_id, 0))
        for pair_id, orders in played.items()
        if len(orders) > 1
    ]


def _separations(table: PairsTable, outcomes: pd.DataFrame) -> list[Separation]:
    """The traits of style that separate the outcomes, in a sample of the pairs that have both posts."""
    if not {"candidate", "baseline"} <= set(table.rows.columns):
        return []
    posts = table.rows.drop_duplicates(PAIR_ID)[["candidate", "baseline"]].reset_index(drop=True)
    usable = posts.notna().all(axis=1) & outcomes["outcome"].isin(["win", "loss"])
    chosen = posts[usable].assign(outcome=outcomes.loc[usable, "outcome"])
    chosen = chosen.sample(min(len(chosen), MAX_STYLED), random_state=0)
    return separations(*(chosen[name].to_list() for name in ("candidate", "baseline", "outcome")))


def _sides(table: PairsTable, evaluated: Evaluated) -> Iterator[Side]:
    """The pairs on the page: all, or equally many of each outcome, spread evenly over the file."""
    games = {} if evaluated.verdicts is None else games_of(evaluated.verdicts)
    shown = _shown(evaluated.outcomes)
    first = table.rows[table.rows[PAIR_ID].isin(shown[PAIR_ID])].drop_duplicates(PAIR_ID)
    texts_of = first.set_index(PAIR_ID).to_dict("index")
    for row in shown.to_dict("records"):
        name, texts = row[PAIR_ID], texts_of[row[PAIR_ID]]
        yield Side(
            title=(name,),
            about=texts.get("prompt") or "",
            values=tuple(row[factor] for factor in table.factors),
            posts=(texts.get("candidate") or "", texts.get("baseline") or ""),
            matches=(Match(name, row["outcome"], games.get(name, ())),),
            label=row.get("label", ""),
        )


def _shown(outcomes: pd.DataFrame) -> pd.DataFrame:
    if len(outcomes) <= MAX_SHOWN:
        return outcomes
    kinds = [part.index for _, part in outcomes.groupby("outcome", sort=False)]
    each = MAX_SHOWN // len(kinds)
    places = [index[:: max(1, len(index) // each)][:each] for index in kinds]
    return outcomes.loc[sorted(place for some in places for place in some)]


def _figures(content: PairsData) -> dict[str, Any]:
    """The content of `figures.json`; infinite and undefined values are null."""
    repairs = [
        {"label": repair.label, "outcome": repair.outcome, "count": repair.count, "how": repair.how}
        | ({"map": repair.argument} if repair.argument else {})
        for repair in content.repairs
    ]
    figures: dict[str, Any] = {
        "source": content.source,
        **_compared(content.comparison),
        **(game_figures_of(content.games) if content.games else {}),
        "factors": {
            factor: {level: _compared(one) for level, one in levels.items()}
            for factor, levels in content.levels.items()
        },
        "separated_by": [one.trait for one in content.separations],
        "is_strict": content.is_strict,
        "is_study_mode": content.is_study_mode,
        "prompts": content.prompts,
        "missing": {reason: len(pair_ids) for reason, pair_ids in content.missing.items()},
        "repairs": repairs,
    }
    return {name: _finite(value) for name, value in figures.items()}


def _compared(comparison: Comparison) -> dict[str, Any]:
    worst = comparison.worst_case
    return figures_of(comparison) | {"worst_case_low": worst.low, "worst_case_high": worst.high}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
