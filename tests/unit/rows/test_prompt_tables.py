"""Training prompts come in a stratified order that new products do not disturb; evaluation is on holdout alone."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.quality import gates
from synthpost_dagster.rows.prompts import catalog_table, evaluation_prompts, shares, training_prompts
from synthpost_dagster.tasks.prompting import briefs_by_id
from synthpost_dagster.tasks.task import Stratum, Task
from tests.helpers.small_task import EditTask, product_of

EVEN: dict[Stratum, int] = {(kind, tone): 100 for kind in "abc" for tone in "xy"}
UNEVEN: dict[Stratum, int] = {("a",): 1, ("b",): 4, ("c",): 9}


def spread(table: pd.DataFrame, strata: int) -> int:
    """Largest less smallest number of rows in a stratum, strata without rows included."""
    sizes = table.groupby(["post_type", "tone"]).size().tolist()
    return max(sizes) - min([*sizes, 0] if len(sizes) < strata else sizes)


def test_packaged_task_has_17600_distinct_training_prompts(all_prompts: pd.DataFrame) -> None:
    assert len(all_prompts) == 17_600
    for column in ("prompt_id", "teacher_prompt", "student_prompt"):
        assert all_prompts[column].nunique() == 17_600
    assert all_prompts["rank"].tolist() == list(range(17_600))


def test_catalog_table_marks_every_product(sales_posts: Task) -> None:
    table = catalog_table(sales_posts)
    assert table["split"].value_counts().to_dict() == {"train": 320, "holdout": 64}
    assert table["product"].nunique() == 384
    assert table["company"].nunique() == 16


@pytest.mark.parametrize("size", [1, 8, 16, 54, 55, 56, 88, 95, 176, 440, 1760, 8800, 17_599, 17_600])
def test_first_ranks_have_each_stratum_within_one_of_its_share(all_prompts: pd.DataFrame, size: int) -> None:
    assert spread(all_prompts.head(size), 55) <= 1


def test_order_is_not_the_order_of_the_files(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    shuffled = list(sales_posts.capacities("train"))
    assert shuffled != sales_posts.strata
    assert set(shuffled) == set(sales_posts.strata)
    assert all_prompts.head(88)["company"].nunique() > 10


@pytest.mark.parametrize("place", [0, 1, 2])
def test_new_product_keeps_the_order_of_others_in_each_stratum(
    small_task: Task, edit_task: EditTask, place: int
) -> None:
    new = {"name": "Brand New Thing", "description": "a thing that was not there", "split": "train"}
    before = training_prompts(small_task)
    after = training_prompts(
        edit_task("products.yaml", lambda of: of.insert(place, new | {"company": of[0]["company"]}))
    )
    assert len(after) == len(before) + 55
    others = after[after["product"] != "Brand New Thing"]
    for stratum, group in before.groupby(["post_type", "tone"]):
        now = others[(others["post_type"] == stratum[0]) & (others["tone"] == stratum[1])]
        assert now["prompt_id"].tolist() == group["prompt_id"].tolist()


def test_edited_description_leaves_every_rank(small_task: Task, edit_task: EditTask) -> None:
    before = training_prompts(small_task)

    after = training_prompts(
        edit_task("products.yaml", lambda products: product_of(products).update(description="something else"))
    )
    assert after["prompt_id"].tolist() == before["prompt_id"].tolist()
    assert int((after["student_prompt"] != before["student_prompt"]).sum()) == 55


@pytest.mark.parametrize("count", [8, 95, 110, 440, 3520])
def test_evaluation_prompts_are_balanced_on_holdout_products(sales_posts: Task, count: int) -> None:
    table = evaluation_prompts(sales_posts, count)
    holdout = {item.name for item in sales_posts.items if item.split == "holdout"}
    assert len(table) == count
    assert table["prompt_id"].is_unique
    assert set(table["product"]) <= holdout
    assert spread(table, 55) <= 1


def test_no_evaluation_prompt_is_a_training_prompt(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    table = evaluation_prompts(sales_posts, 440)
    assert not set(table["prompt_id"]) & set(all_prompts["prompt_id"])
    assert not set(table["product"]) & set(all_prompts["product"])


def test_fewer_evaluation_prompts_are_among_the_more(sales_posts: Task) -> None:
    few, many = (set(evaluation_prompts(sales_posts, count)["prompt_id"]) for count in (95, 440))
    assert few < many


def test_every_id_leads_back_to_its_brief(small_task: Task) -> None:
    briefs = briefs_by_id(small_task)
    assert len(briefs) == 330
    for row in training_prompts(small_task).itertuples():
        brief = briefs[row.prompt_id]
        assert small_task.names_of(brief.item) == {"company": row.company, "product": row.product}
        assert (*brief.levels, small_task.length_name(brief)) == (row.post_type, row.tone, row.length)


def test_shares_sum_to_the_count_and_differ_by_one_at_most() -> None:
    for count in range(20):
        share = shares(EVEN, count)
        assert sum(share.values()) == count
        assert max(share.values()) - min(share.values()) <= 1


def test_larger_count_takes_nothing_from_a_stratum() -> None:
    for capacities in (EVEN, UNEVEN):
        for count in range(40):
            fewer, more = shares(capacities, count), shares(capacities, count + 1)
            assert all(fewer[stratum] <= more[stratum] for stratum in capacities)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, [0, 0, 0]), (3, [1, 1, 1]), (7, [1, 3, 3]), (12, [1, 4, 7]), (14, [1, 4, 9]), (20, [1, 4, 9])],
)
def test_stratum_without_enough_prompts_leaves_its_share_to_others(count: int, expected: list[int]) -> None:
    assert list(shares(UNEVEN, count).values()) == expected


def test_packaged_tables_pass_every_gate(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    tables = {
        "catalog": catalog_table(sales_posts),
        "prompts": all_prompts,
        "evaluation_prompts": evaluation_prompts(sales_posts, 440),
    }
    for asset, table in tables.items():
        assert [result.message for result in gates.evaluate(asset, sales_posts, table) if not result.is_passed] == []
