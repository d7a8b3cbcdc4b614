"""A rough measure of work, for the time left of a sweep: a post that the student writes counts 1.

Plans and progress events are measured by the same functions, so that their sums agree.
"""

from __future__ import annotations

from synthpost_dagster.schemas import COMPARISONS, OPPONENTS
from synthpost_dagster.stages.study import Study

RUBRIC_GAME = 0.01
"""A game of the rubric; a reply of a model counts 1."""


def of_rows(rows: int) -> float:
    """Of rows that the teacher writes."""
    return 1.5 * rows


def of_trained_rows(rows: int) -> float:
    """Of rows that the student is tuned on, counted each time it sees them."""
    return 0.6 * rows


def of_games(games: int, is_rubric: bool) -> float:
    """Of a judge's games."""
    return (RUBRIC_GAME if is_rubric else 1.0) * games


def of_steps(study: Study, steps: int) -> float:
    """Of so many optimizer steps."""
    return of_trained_rows(study.profile.training.rows_per_step * steps)


def of_posts(posts: int) -> float:
    """Of posts that the student writes."""
    return float(posts)


def of_verdicts(study: Study) -> list[float]:
    """Of one training's games, by judge."""
    return _by_judge(study, len(OPPONENTS))


def of_controls(study: Study) -> list[float]:
    """Of the controls' games, by judge."""
    return _by_judge(study, len(COMPARISONS))


def _by_judge(study: Study, comparisons: int) -> list[float]:
    games = comparisons * len(study.rules.orders) * study.evaluation_count
    return [of_games(games, spec.backend == "rubric") for spec in study.profile.judges]
