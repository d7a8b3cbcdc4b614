"""Nested, stratified subsets of the kept rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthpost_dagster.errors import UpstreamMissing
from synthpost_dagster.rows.prompts import shares, shuffled_strata
from synthpost_dagster.schemas import FACTOR_COLUMNS
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [*FACTOR_COLUMNS, "rank", "student_prompt", "post"]


def subset(task: Task, rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """The subset of `size` rows (schema DataSubsets), in rank order; 88 ⊂ 176 ⊂ ….

    Each stratum gives its first kept rows. The full data size takes all kept rows. Raises UpstreamMissing for any other
    size that cannot be filled.
    """
    kept = rows[rows["status"] == "kept"].sort_values("stratum_rank", kind="stable")
    share = shares(shuffled_strata(task), size)
    place = kept.groupby(["post_type", "tone"]).cumcount()
    strata = zip(kept["post_type"], kept["tone"], strict=True)
    taken = kept[[at < share[stratum] for at, stratum in zip(place, strata, strict=True)]]
    if len(taken) < size < task.training_prompts:
        raise UpstreamMissing(
            f"data_subsets {size} needs {size} kept rows spread over the strata and synthetic_rows gives {len(taken)}; "
            f"materialize synthetic_rows with `rows: {size}`, or add {size} to the profile's `sweep.data_sizes` and run"
        )
    if taken.empty:
        raise UpstreamMissing(f"data_subsets {size} has no kept row; see the reasons with `synthpost rows --rejected`")
    return taken.sort_values("rank")[COLUMNS].reset_index(drop=True)
