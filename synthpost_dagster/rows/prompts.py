"""The items as a table, the training prompts in their stratified order, and the evaluation prompts.

A stratum is a level of each of the task's `strata`. A prompt's place in its stratum is a hash of its id, so that a new
item does not reshuffle the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.prompting import prompt_id, render_prompt
from synthpost_dagster.tasks.task import Brief, Stratum, Task

if TYPE_CHECKING:
    import pandas as pd


def catalog_table(task: Task) -> pd.DataFrame:
    """One row per item (schema Catalog), in the file's order: item, split, its fields, its group and the group's."""
    import pandas as pd

    spec = task.spec
    return pd.DataFrame(
        {
            spec.words.item[0]: item.name,
            "split": item.split,
            **{f"{spec.words.item[0]}_{name}": value for name, value in item.values.items()},
            **item.levels,
            **({spec.group_column: item.group.name} if item.group else {}),
            **{
                f"{spec.group_column}_{name}": value
                for name, value in (item.group.values if item.group else {}).items()
            },
        }
        for item in task.items
    )


def training_prompts(task: Task) -> pd.DataFrame:
    """All training prompts (schema Prompts), in rank order.

    Taking the first n ranks leaves every stratum within one row of its share, for every n.
    """
    table = _with_stratum_ranks(task, "train")
    place = {stratum: place for place, stratum in enumerate(task.capacities("train"))}
    table["_place"] = [place[stratum] for stratum in strata_in(task, table)]
    table = table.sort_values(["stratum_rank", "_place"], kind="stable").drop(columns="_place").reset_index(drop=True)
    table["rank"] = range(len(table))
    return table


def evaluation_prompts(task: Task, count: int) -> pd.DataFrame:
    """`count` prompts of the holdout (schema EvaluationPrompts), each stratum within one of its share."""
    table = _with_stratum_ranks(task, "holdout")
    share = shares(task.capacities("holdout"), count)
    strata = strata_in(task, table)
    taken = [rank < share[stratum] for rank, stratum in zip(table["stratum_rank"], strata, strict=True)]
    return table[taken].drop(columns="stratum_rank").reset_index(drop=True)


def strata_in(task: Task, table: pd.DataFrame) -> list[Stratum]:
    """The stratum of each row of a table with the task's columns."""
    names = task.spec.strata_factors
    return list(zip(*(table[name] for name in names), strict=True)) if names else [()] * len(table)


def shares(capacities: Mapping[Stratum, int], count: int) -> dict[Stratum, int]:
    """Stratum → its share of `count` rows: equal, at most its capacity; the first strata get the remainder."""
    level = _level(list(capacities.values()), count)
    share = {stratum: min(capacity, level) for stratum, capacity in capacities.items()}
    rest = count - sum(share.values())
    for stratum, capacity in capacities.items():
        if rest > 0 and capacity > level:
            share[stratum] += 1
            rest -= 1
    return share


def _level(capacities: Sequence[int], count: int) -> int:
    """The highest level at which all strata, each up to its capacity, have no more than `count` rows."""
    left, open_strata = count, len(capacities)
    for capacity in sorted(capacities):
        if capacity * open_strata > left:
            return left // open_strata
        left -= capacity
        open_strata -= 1
    return max(capacities, default=0)


def prompt_columns(task: Task, brief: Brief) -> dict[str, str]:
    """The values of the task's columns (`TaskSpec.prompt_columns`) for a brief."""
    length = {"length": task.length_name(brief)} if task.spec.lengths else {}
    levels = dict(zip(task.spec.factors, brief.levels, strict=True))
    return {"prompt_id": prompt_id(task, brief), **task.names_of(brief.item), **levels, **length}


def _with_stratum_ranks(task: Task, split: str) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            **prompt_columns(task, brief),
            "teacher_prompt": render_prompt(task, "teacher", brief),
            "student_prompt": render_prompt(task, "student", brief),
        }
        for brief in task.briefs(split)
    ]
    table = pd.DataFrame(rows)
    key = table["prompt_id"].map(lambda value: short_hash("rank", value))
    place = {stratum: place for place, stratum in enumerate(task.capacities(split))}
    groups = pd.Series([place[stratum] for stratum in strata_in(task, table)])
    table["stratum_rank"] = key.groupby(groups).rank(method="first").astype("int64") - 1
    return table
