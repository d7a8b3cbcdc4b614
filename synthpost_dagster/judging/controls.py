"""Comparisons whose answer is known, and what the judge made of them; and the long prompt against the short one.

What a control's counts mean is said in `statistics.control`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.judging.verdicts import Contest, contest, labels_of, pairs
from synthpost_dagster.statistics.control import Control, control_verdict, null_verdict
from synthpost_dagster.statistics.ratio import Counts, count
from synthpost_dagster.tasks.prompting import Brief

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = {"resampled": control_verdict, "empty": null_verdict, "shuffled": null_verdict}
"""Comparison → what judges its counts."""


class Controlled(NamedTuple):
    """A control's counts, seen from the candidate, and what they say of the judge."""

    name: str
    counts: Counts
    control: Control


def control_contests(
    briefs: dict[str, Brief], samples: pd.DataFrame, baselines: pd.DataFrame, tuned: pd.DataFrame
) -> list[Contest]:
    """All contests of `control_verdicts` (schemas.COMPARISONS).

    `samples` hold the contestants control_a and control_b, `baselines` base and prompted, `tuned` the posts of one
    adapter; all follow the schema Predictions.
    """
    post = {
        (row.contestant, row.prompt_id): row.post for table in (samples, baselines, tuned) for row in table.itertuples()
    }
    elsewhere = misdealt(tuned)
    found = []
    for row in tuned.itertuples():
        labels, brief, prompt = labels_of(row), briefs[row.prompt_id], row.prompt_id
        sides = {
            "resampled": (post["control_a", prompt], post["control_b", prompt]),
            "empty": ("", post["base", prompt]),
            "shuffled": (post["tuned", elsewhere[prompt]], row.post),
            "prompting": (post["prompted", prompt], post["base", prompt]),
        }
        found += [contest(labels, brief, name, *posts) for name, posts in sides.items()]
    return found


def misdealt(tuned: pd.DataFrame) -> dict[str, str]:
    """Prompt id → the id of a prompt for another product, whose post it gets; each post is dealt once.

    Where one product has more than half of the prompts, some get a post for their own product.
    """
    ordered = tuned.sort_values(["product", "prompt_id"])["prompt_id"].to_list()
    shift = int(tuned["product"].value_counts().iloc[0])
    return {prompt: ordered[(place + shift) % len(ordered)] for place, prompt in enumerate(ordered)}


def controlled(verdicts: pd.DataFrame) -> list[Controlled]:
    """What each control in a table of schema ControlVerdicts came to."""
    outcomes = pairs(verdicts)
    results = []
    for name, judged in CONTROLS.items():
        counts = count(outcomes.loc[outcomes["opponent"] == name, "outcome"])
        results.append(Controlled(name, counts, judged(counts)))
    return results
