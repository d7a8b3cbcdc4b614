"""What the chosen cells will take, before anything is asked: requests, tokens, dollars, time.

Counted from the real prompts, less what is there already; what a stage expects is said beside the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from synthpost_dagster.generation.estimate import Expected
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.stages import data, evaluation, models
from synthpost_dagster.stages.study import Cell, Study


class Line(NamedTuple):
    """One stage: how much there is to do, and what that is expected to take."""

    stage: str
    work: str
    expected: Expected


def estimate(study: Study, cells: Sequence[Cell]) -> list[Line]:
    """One line a stage that takes time or money, in the order they run."""
    rows = max(cell.data_size for cell in cells)
    untuned = [cell for cell in cells if not study.has(partial(models.adapters_plan, study, cell))]
    silent = [cell for cell in cells if not study.has(partial(models.predictions_plan, study, cell))]
    unjudged = [cell for cell in cells if not study.has(partial(evaluation.verdicts_plan, study, cell))]
    first = 0 if study.has(partial(models.baseline_predictions_plan, study)) else 2 * study.evaluation_count
    posts = len(silent) * study.evaluation_count
    steps = sum(models.steps_of(study, cell) for cell in untuned)
    games = len(unjudged) * study.evaluation_count * evaluation.GAMES_A_PROMPT
    return [
        Line("synthetic rows", f"{rows:,} rows", data.expected_rows(study, training_prompts(study.task), rows)),
        Line("baselines", f"{first:,} posts", models.expected_posts(study, first)),
        Line("training", f"{len(untuned)} cells, {steps:,} steps", models.expected_training(study, steps)),
        Line("predictions", f"{posts:,} posts", models.expected_posts(study, posts)),
        Line("verdicts", f"{games:,} games", evaluation.expected_verdicts(study, len(unjudged))),
    ]
