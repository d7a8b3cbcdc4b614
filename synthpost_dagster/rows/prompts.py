"""The catalog as a table, the training prompts in their stratified order, and the evaluation prompts.

A stratum is post type × tone. A prompt's place in its stratum is a hash of its id, so that a new product does not
reshuffle the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from synthpost_dagster.tasks.prompting import Brief, prompt_id, render_prompt, short_hash
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


def catalog_table(task: Task) -> pd.DataFrame:
    """One row a product (schema Catalog), in the file's order."""
    import pandas as pd

    return pd.DataFrame(
        {
            "product": product.name,
            "product_description": product.description,
            "split": split,
            "company": company.name,
            **company.model_dump(exclude={"name", "products"}),
        }
        for company in task.catalog.companies
        for split in ("train", "holdout")
        for product in getattr(company.products, split)
    )


def training_prompts(task: Task) -> pd.DataFrame:
    """All prompts on train products (schema Prompts), in rank order.

    Taking the first n ranks leaves every stratum within one row of its share, for every n.
    """
    table = _with_stratum_ranks(task, "train")
    place = {stratum: place for place, stratum in enumerate(shuffled_strata(task))}
    strata = list(zip(table["post_type"], table["tone"], strict=True))
    table["_place"] = [place[stratum] for stratum in strata]
    table = table.sort_values(["stratum_rank", "_place"], kind="stable").drop(columns="_place").reset_index(drop=True)
    table["rank"] = range(len(table))
    return table


def evaluation_prompts(task: Task, count: int) -> pd.DataFrame:
    """`count` prompts on holdout products (schema EvaluationPrompts), each stratum within one of its share."""
    table = _with_stratum_ranks(task, "holdout")
    share = shares(shuffled_strata(task), count)
    strata = list(zip(table["post_type"], table["tone"], strict=True))
    taken = [rank < share[stratum] for rank, stratum in zip(table["stratum_rank"], strata, strict=True)]
    return table[taken].drop(columns="stratum_rank").reset_index(drop=True)


def shuffled_strata(task: Task) -> list[tuple[str, str]]:
    """The strata in the order in which they get the remainder: by a hash, so that no type or tone is favoured."""
    return sorted(task.strata, key=lambda stratum: short_hash(task.spec.name, *stratum))


def shares(strata: list[tuple[str, str]], count: int) -> dict[tuple[str, str], int]:
    """Stratum → its share of `count` rows; the first strata get the remainder."""
    whole, rest = divmod(count, len(strata))
    return {stratum: whole + (place < rest) for place, stratum in enumerate(strata)}


def briefs_by_id(task: Task) -> dict[str, Brief]:
    """Prompt id → brief, over train and holdout products."""
    return {prompt_id(task, brief): brief for split in ("train", "holdout") for brief in _briefs(task, split)}


def _briefs(task: Task, split: str) -> Iterator[Brief]:
    for company, product in task.companies_of(split):
        for post_type in task.spec.post_types:
            for tone in task.spec.tones:
                yield Brief(company, product, post_type, tone)


def _with_stratum_ranks(task: Task, split: str) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "prompt_id": prompt_id(task, brief),
            "company": brief.company.name,
            "product": brief.product.name,
            "post_type": brief.post_type.name,
            "tone": brief.tone,
            "length": brief.post_type.length,
            "teacher_prompt": render_prompt(task, "teacher", brief),
            "student_prompt": render_prompt(task, "student", brief),
        }
        for brief in _briefs(task, split)
    ]
    table = pd.DataFrame(rows)
    key = table["prompt_id"].map(lambda value: short_hash("rank", value))
    table["stratum_rank"] = key.groupby([table["post_type"], table["tone"]]).rank(method="first").astype("int64") - 1
    return table
