"""Nested, stratified subsets of the kept rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from synthpost_dagster.errors import UpstreamMissing
from synthpost_dagster.rows.prompts import shares, strata_in
from synthpost_dagster.tasks.task import Stratum, Task

if TYPE_CHECKING:
    import pandas as pd


def subset(task: Task, rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """The subset of `size` rows (schema DataSubsets), in rank order; 88 ⊂ 176 ⊂ ….

    Each stratum gives its first kept rows. The full data size takes all kept rows. Raises UpstreamMissing for any other
    size that cannot be filled.
    """
    kept = rows[rows["status"] == "kept"].sort_values("stratum_rank", kind="stable")
    share, seen = shares(task.capacities("train"), size), Counter[Stratum]()
    is_taken = []
    for stratum in strata_in(task, kept):
        is_taken.append(seen[stratum] < share.get(stratum, 0))
        seen[stratum] += 1
    taken = kept[is_taken]
    if len(taken) < size < task.training_prompts:
        raise UpstreamMissing(
            f"data_subsets {size} needs {size} kept rows spread over the strata and synthetic_rows gives {len(taken)}; "
            f"materialize synthetic_rows with `rows: {size}`, or add {size} to the profile's `sweep.data_sizes` and run"
        )
    if taken.empty:
        raise UpstreamMissing(f"data_subsets {size} has no kept row; see the reasons with `synthpost rows --rejected`")
    columns = [*task.spec.prompt_columns, "rank", "student_prompt", "post"]
    return taken.sort_values("rank")[columns].reset_index(drop=True)
