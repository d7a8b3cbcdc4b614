"""The stages that judge: the verdicts of a cell, and the controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synthpost_dagster.artifacts.store import Draft, Manifest, Outcome, Plan
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import UpstreamMissing
from synthpost_dagster.judging.controls import DEAL, control_contests
from synthpost_dagster.judging.judges import JUDGING, ModelReader, tallied
from synthpost_dagster.judging.verdicts import Contest, Game, Judge, contests_of, games_between, judge_contests, pairs
from synthpost_dagster.llm.chat_models import CHARACTERS_PER_TOKEN
from synthpost_dagster.llm.estimate import Expected, expect, local, total
from synthpost_dagster.profiles.models import RubricJudge
from synthpost_dagster.quality.explanations import explained_unscored
from synthpost_dagster.rows.prompts import briefs_by_id, evaluation_prompts
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.schemas import COMPARISONS, OPPONENTS
from synthpost_dagster.stages import effort
from synthpost_dagster.stages.data import UPSTREAM_REMEDY, known_rows
from synthpost_dagster.stages.predictions import (
    baseline_predictions_plan,
    control_predictions_plan,
    predictions_plan,
)
from synthpost_dagster.stages.study import Study
from synthpost_dagster.statistics.ratio import count


def verdicts_plan(study: Study, cell: Cell) -> Plan:
    """Shaped by the tuned and the baselines' posts, the judges and the rules."""
    remedy = f"materialize the job `cell` for {cell.key} first, or use `synthpost run`"
    tuned = study.store.need(predictions_plan(study, cell), remedy)
    baselines = study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY)
    parts = {"predictions": tuned.digest, "baseline_predictions": baselines.digest, **_judging_parts(study)}
    return Plan("verdicts", cell.place, parts)


def verdicts(study: Study, cell: Cell, progress: Progress) -> Outcome:
    """Every game of the cell, judged."""

    def make(draft: Draft) -> None:
        tuned = study.store.need(predictions_plan(study, cell), UPSTREAM_REMEDY)
        baselines = study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY)
        study.warn_of_personal_data("judge", [tuned, baselines], progress)
        read = study.store.read_table
        contests = contests_of(briefs_by_id(study.task), read(tuned), read(baselines))
        _judge(study, "verdicts", contests, draft, progress, effort.of_verdicts(study))

    return study.reuse_or_make(verdicts_plan(study, cell), make, progress)


def control_verdicts_plan(study: Study) -> Plan:
    """Shaped by the posts that are compared, the judges and the rules.

    The shuffled posts are those of the last cell of the sweep that has any: the one that has learned most. Raises
    UpstreamMissing where none has.
    """
    samples = study.store.need(control_predictions_plan(study), UPSTREAM_REMEDY)
    baselines = study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY)
    parts = {
        "control_predictions": samples.digest,
        "baseline_predictions": baselines.digest,
        "predictions": _some_predictions(study).digest,
        "deal": DEAL,
        **_judging_parts(study),
    }
    return Plan("control_verdicts", "", parts)


def control_verdicts(study: Study, progress: Progress) -> Outcome:
    """The games whose answer is known, and those of the long prompt, judged."""

    def make(draft: Draft) -> None:
        need = study.store.need
        sent = [
            need(control_predictions_plan(study), UPSTREAM_REMEDY),
            need(baseline_predictions_plan(study), UPSTREAM_REMEDY),
            _some_predictions(study),
        ]
        study.warn_of_personal_data("judge", sent, progress)
        contests = control_contests(briefs_by_id(study.task), *map(study.store.read_table, sent))
        _judge(study, "control_verdicts", contests, draft, progress, effort.of_controls(study))
        for gate in draft.gates:
            if not gate.is_passed:
                progress.note(gate.message)

    return study.reuse_or_make(control_verdicts_plan(study), make, progress)


def expected_verdicts(study: Study, cells: Sequence[Cell]) -> Expected:
    """What judging the cells will take, less the replies that are there; posts that are not written yet are reckoned to
    have the mean length of the teacher's.
    """
    contests: list[Contest] = []
    for cell in cells:
        contests += _contests_there(study, cell)
    unknown = len(cells) * study.evaluation_count * len(OPPONENTS) - len(contests)
    return _expected(study, study.judges, contests, unknown)


def expected_controls(study: Study, is_missing: bool) -> Expected:
    """What judging the controls will take, where they are missing."""
    return _expected(study, study.judges, [], len(COMPARISONS) * study.evaluation_count * is_missing)


def games_of(study: Study, contests: int) -> int:
    """Games of so many contests."""
    return contests * len(study.rules.orders) * len(study.profile.judges)


def _judging_parts(study: Study) -> dict[str, Any]:
    return {"judges": [judge.identity for judge in study.judges], "rules": study.rules._asdict()}


def _some_predictions(study: Study) -> Manifest:
    for cell in reversed(study.cells):
        if study.has(lambda cell=cell: predictions_plan(study, cell)):  # type: ignore[misc]
            return study.store.need(predictions_plan(study, cell), UPSTREAM_REMEDY)
    raise UpstreamMissing("no cell has predictions to shuffle yet; use `synthpost run`, or materialize the job `cell`")


def _contests_there(study: Study, cell: Cell) -> list[Contest]:
    """The contests of a cell; none where its posts or the baselines' are not written yet."""
    try:
        tuned = study.store.need(predictions_plan(study, cell), UPSTREAM_REMEDY)
        baselines = study.store.need(baseline_predictions_plan(study), UPSTREAM_REMEDY)
    except UpstreamMissing:
        return []
    return contests_of(briefs_by_id(study.task), study.store.read_table(tuned), study.store.read_table(baselines))


def _judge(
    study: Study, asset: str, contests: list[Contest], draft: Draft, progress: Progress, work: Sequence[float]
) -> None:
    judges = study.judges
    expected = _expected(study, judges, contests, 0)
    if expected.requests:
        progress.note(expected.text)
    told = [progress.worth(of_judge) for of_judge in work]
    table = judge_contests(study.task, judges, contests, study.rules, told)
    for why in explained_unscored(table, study.task, study.profile):
        for line in (why.cause, *why.lines):
            progress.note(line)
    study.add_gated_table(draft, asset, table)
    draft.facts |= {**tallied(judges).facts, "estimate": expected.facts}
    for comparison, group in pairs(table).groupby("opponent"):
        draft.facts[f"against_{comparison}" if asset == "verdicts" else str(comparison)] = count(
            group["outcome"]
        )._asdict()


def _expected(study: Study, judges: Sequence[Judge], contests: Sequence[Contest], unknown: int) -> Expected:
    """What the judges will take for contests that are there, and for so many that are not written yet."""
    parts = []
    for judge, spec in zip(judges, study.profile.judges, strict=True):
        if isinstance(spec, RubricJudge):
            parts.append(_by_rubric(study, (len(contests) + unknown) * len(study.rules.orders)))
        else:
            characters = _missing_characters(study, judge, contests) + _guessed_characters(study, unknown)
            parts.append(expect(study.journal, spec, JUDGING, characters))
    return total(parts)


def _by_rubric(study: Study, games: int) -> Expected:
    made = [manifest.facts for cell in study.trainings for manifest in study.store.all_of("verdicts", cell.place)]
    done = [facts for facts in made if not facts["asked_now"]]
    return local(games, sum(facts["ask_seconds"] for facts in done), sum(facts["rows"] for facts in done), "games")


def _missing_characters(study: Study, judge: Judge, contests: Sequence[Contest]) -> list[int]:
    """Of the first ask of each game that the journal does not hold."""
    if not isinstance(judge, ModelReader) or not contests:
        return []
    asks = judge.asks(study.task, games_between(contests, study.rules), 0)
    there = study.journal.find([ask.key for ask in asks])
    return [ask.characters for ask in asks if ask.key not in there]


def _guessed_characters(study: Study, contests: int) -> list[int]:
    briefs = briefs_by_id(study.task)
    prompts = evaluation_prompts(study.task, study.evaluation_count)["prompt_id"]
    posts = 2 * _mean_post(study)
    characters = [len(Game(briefs[prompt_id], "", "").prompt(study.task)) + posts for prompt_id in prompts]
    return characters * (contests // len(prompts) * len(study.rules.orders))


def _mean_post(study: Study) -> int:
    """Characters of a post: of the rows there are, else as many as a post may have."""
    known = known_rows(study)
    if known is not None and len(known):
        return round(float(known["post"].str.len().mean()))
    return round(study.profile.predictions.max_new_tokens * CHARACTERS_PER_TOKEN)
