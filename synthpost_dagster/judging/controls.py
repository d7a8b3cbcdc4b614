"""Controls: comparisons whose answer is known, which test the judge; and the long prompt against the short one.

`statistics.control` interprets their counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from synthpost_dagster.judging.verdicts import Contest, contest, labels_in, pairs
from synthpost_dagster.statistics.control import Control, control_verdict, null_verdict
from synthpost_dagster.statistics.ratio import Counts, count
from synthpost_dagster.tasks.prompting import briefs_by_id
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = {"resampled": control_verdict, "empty": null_verdict, "shuffled": null_verdict}
"""Comparison → the test of its counts."""
SHUFFLE_VERSION = 2
"""Raise it when the assignment of posts to other prompts changes, so that the controls are judged again."""


class Controlled(NamedTuple):
    """A control's counts, seen from the candidate, and its finding about the judge; no pairs if it was left out."""

    name: str
    counts: Counts
    control: Control


def control_contests(task: Task, samples: pd.DataFrame, baselines: pd.DataFrame, tuned: pd.DataFrame) -> list[Contest]:
    """All contests of `control_verdicts` (schemas.COMPARISONS).

    `samples` hold the contestants control_a and control_b, `baselines` base and prompted, `tuned` the posts of one
    adapter; all follow the schema Predictions. With one prompt there is no `shuffled`.
    """
    post = {
        (row.contestant, row.prompt_id): row.post for table in (samples, baselines, tuned) for row in table.itertuples()
    }
    elsewhere, briefs = shuffled_prompts(task, tuned), briefs_by_id(task)
    found = []
    for row, labels in zip(tuned.itertuples(), labels_in(task, tuned), strict=True):
        brief, prompt = briefs[row.prompt_id], row.prompt_id
        sides = {
            "resampled": (post["control_a", prompt], post["control_b", prompt]),
            "empty": ("", post["base", prompt]),
            "prompting": (post["prompted", prompt], post["base", prompt]),
        }
        if elsewhere:
            sides["shuffled"] = (post["tuned", elsewhere[prompt]], row.post)
        found += [contest(labels, brief, name, *posts) for name, posts in sides.items()]
    return found


def shuffled_prompts(task: Task, tuned: pd.DataFrame) -> dict[str, str]:
    """Prompt id → the id of the prompt whose output it gets, never its own; each output is assigned once.

    The other prompt is for another item. Where one item has more than half of the prompts, as few as possible get an
    output for the same item, of another level of a factor. Empty for a single prompt.
    """
    item = task.spec.words.item[0]
    columns = [item, *task.spec.factors]
    names = tuned.sort_values([*columns, "prompt_id"])
    ordered = names["prompt_id"].to_list()
    items, combinations = (names.groupby(by).ngroup().to_numpy() for by in (item, columns))

    def likeness(shift: int) -> list[int]:
        return [int((of == np.roll(of, -shift)).sum()) for of in (items, combinations)]

    shift = min(range(1, len(ordered)), key=likeness, default=None)
    if shift is None:
        return {}
    return {prompt: ordered[(place + shift) % len(ordered)] for place, prompt in enumerate(ordered)}


def controlled(verdicts: pd.DataFrame) -> list[Controlled]:
    """The result of each control in a table of schema ControlVerdicts."""
    outcomes = pairs(verdicts)
    results = []
    for name, judged in CONTROLS.items():
        counts = count(outcomes.loc[outcomes["opponent"] == name, "outcome"])
        results.append(Controlled(name, counts, judged(counts)))
    return results
