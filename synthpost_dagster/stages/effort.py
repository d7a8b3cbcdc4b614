"""A rough measure of work, for telling how long a sweep takes yet: a post that the student writes is 1.

What is planned and what events tell of is measured here, so that both come to the same sum.
"""

from __future__ import annotations

from synthpost_dagster.schemas import COMPARISONS, OPPONENTS
from synthpost_dagster.stages.study import Study


def of_rows(rows: int) -> float:
    """Of rows that the teacher writes."""
    return 1.5 * rows


def of_steps(study: Study, steps: int) -> float:
    """Of so many optimizer steps."""
    return 0.6 * study.profile.training.rows_per_step * steps


def of_posts(posts: int) -> float:
    """Of posts that the student writes."""
    return float(posts)


def of_verdicts(study: Study) -> float:
    """Of one training's games: the rubric is quick, a model's replies to them take about as long as posts."""
    return study.evaluation_count * sum(0.05 if spec.backend == "rubric" else 1.0 for spec in study.profile.judges)


def of_controls(study: Study) -> float:
    """Of the controls' games, of which there are more kinds than a training has opponents."""
    return of_verdicts(study) * len(COMPARISONS) / len(OPPONENTS)
