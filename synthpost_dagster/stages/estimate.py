"""Estimates requests, tokens, dollars and time of the chosen cells before anything is requested.

Counts come from the real prompts, less what exists already. Each stage's own estimate is in its module.
"""

from collections.abc import Sequence
from typing import NamedTuple

from synthpost_dagster.cell import Cell
from synthpost_dagster.llm.estimate import Expected
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.schemas import COMPARISONS, CONTROL_SETS, OPPONENTS
from synthpost_dagster.stages import adapters, posts, synthetic_rows, verdicts
from synthpost_dagster.stages.stage import BASELINE, CONTROL
from synthpost_dagster.stages.study import Study


class Line(NamedTuple):
    """The work of one stage, and its estimate."""

    stage: str
    work: str
    expected: Expected


def estimate(study: Study, cells: Sequence[Cell]) -> list[Line]:
    """One line a stage that takes time or money, in the order they run."""
    rows = max(cell.data_size for cell in cells)
    trainings = [one for cell in cells for one in study.seeds_of(cell)]
    untuned, silent, unjudged = (
        [cell for cell in trainings if not study.resolver.has(asset, cell.place)]
        for asset in ("adapters", "predictions", "verdicts")
    )
    sets = {BASELINE: len(OPPONENTS), CONTROL: len(CONTROL_SETS)}
    first = study.evaluation_count * sum(count for asset, count in sets.items() if not study.resolver.has(asset))
    prompts, tuned = training_prompts(study.task), len(silent) * study.evaluation_count
    steps = sum(adapters.steps_of(study, cell) for cell in untuned)
    games = verdicts.games_of(study, len(unjudged) * study.evaluation_count * len(OPPONENTS))
    unjudged_controls = 0 if study.resolver.has("control_verdicts") else len(COMPARISONS)
    controls = verdicts.games_of(study, unjudged_controls * study.evaluation_count)
    return [
        Line("synthetic rows", f"{rows:,} rows", synthetic_rows.expected_rows(study, prompts, rows)),
        Line("untuned posts", f"{first:,} posts", posts.expected_posts(study, first)),
        Line("training", f"{len(untuned)} cells, {steps:,} steps", adapters.expected_training(study, steps)),
        Line("predictions", f"{tuned:,} posts", posts.expected_posts(study, tuned)),
        Line("verdicts", f"{games:,} games", verdicts.expected_verdicts(study, unjudged)),
        Line("controls", f"{controls:,} games", verdicts.expected_controls(study, bool(controls))),
    ]
