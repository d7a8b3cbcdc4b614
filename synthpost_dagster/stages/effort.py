"""A rough measure of work, for telling how long a sweep takes yet: a post that the student writes is 1.

What is planned and what events tell of is measured here, so that both come to the same sum.
"""

from __future__ import annotations

from synthpost_dagster.schemas import COMPARISONS, OPPONENTS
from synthpost_dagster.stages.study import Study

RUBRIC_GAME = 0.01
"""What the rubric takes for a game; a model's reply is 1."""


def of_rows(rows: int) -> float:
    """Of rows that the teacher writes."""
    return 1.5 * rows


def of_trained_rows(rows: int) -> float:
    """Of rows that the student is tuned on, as often as it sees them."""
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
    """Of one training's games, by judge: the rubric is quick, a model's reply takes about as long as a post."""
    return _by_judge(study, len(OPPONENTS))


def of_controls(study: Study) -> list[float]:
    """Of the controls' games, by judge."""
    return _by_judge(study, len(COMPARISONS))


def _by_judge(study: Study, comparisons: int) -> list[float]:
    games = comparisons * len(study.rules.orders) * study.evaluation_count
    return [of_games(games, spec.backend == "rubric") for spec in study.profile.judges]
