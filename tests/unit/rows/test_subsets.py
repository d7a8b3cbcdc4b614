"""Subsets are nested and stratified; a size that cannot be filled is named."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.errors import UpstreamMissing
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.rows.subsets import subset
from synthpost_dagster.tasks.task import Task


def kept_rows(prompts: pd.DataFrame) -> pd.DataFrame:
    """A teacher that never failed."""
    return prompts.assign(status="kept", post="post " + prompts["prompt_id"])


@pytest.fixture
def rows(small_task: Task) -> pd.DataFrame:
    return kept_rows(training_prompts(small_task))


def test_subsets_of_the_study_are_nested(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    rows, before = kept_rows(all_prompts), pd.Index([])
    for size in (8, 16, 88, 95, 176, 1760, 8800, 17_600):
        ids = pd.Index(subset(sales_posts, rows, size)["prompt_id"])
        assert len(ids) == size
        assert before.isin(ids).all()
        before = ids


def test_subset_spreads_over_the_strata(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    for size in (55, 88, 176):
        sizes = subset(sales_posts, kept_rows(all_prompts), size).groupby(["post_type", "tone"]).size()
        assert len(sizes) == 55
        assert sizes.max() - sizes.min() <= 1


def test_subset_is_in_rank_order_with_its_columns(small_task: Task, rows: pd.DataFrame) -> None:
    taken = subset(small_task, rows.sample(frac=1, random_state=1), 88)
    assert taken["rank"].is_monotonic_increasing
    assert list(taken.columns) == [*small_task.spec.prompt_columns, "rank", "student_prompt", "post"]
    assert taken.index.tolist() == list(range(88))


def test_rows_that_are_added_later_leave_a_subset_as_it_was(small_task: Task, rows: pd.DataFrame) -> None:
    early = subset(small_task, rows.head(110), 88)
    pd.testing.assert_frame_equal(early, subset(small_task, rows, 88))


def test_rejected_row_is_replaced_from_its_stratum(small_task: Task, rows: pd.DataFrame) -> None:
    lost = rows.iloc[0]
    rows.loc[0, "status"] = "rejected"
    taken = subset(small_task, rows, 88)
    full = subset(small_task, rows.assign(status="kept"), 88)
    assert len(taken) == 88
    assert lost["prompt_id"] not in set(taken["prompt_id"])
    (new,) = set(taken["prompt_id"]) - set(full["prompt_id"])
    substitute = rows.set_index("prompt_id").loc[new]
    assert (substitute["post_type"], substitute["tone"]) == (lost["post_type"], lost["tone"])


def test_too_few_rows_is_an_error_with_sizes_and_command(small_task: Task, rows: pd.DataFrame) -> None:
    with pytest.raises(UpstreamMissing) as caught:
        subset(small_task, rows.head(88), 176)
    message = str(caught.value)
    assert message.startswith("data_subsets 176 needs 176 kept rows")
    assert "gives 88" in message
    assert "sweep.data_sizes" in message


def test_enough_rows_in_the_wrong_strata_are_too_few(small_task: Task, rows: pd.DataFrame) -> None:
    lopsided = rows[(rows["tone"] != "Witty") | (rows["stratum_rank"] == 0)]
    assert len(lopsided) > 176
    with pytest.raises(UpstreamMissing, match="data_subsets 176"):
        subset(small_task, lopsided, 176)


def test_full_size_takes_all_kept_rows(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[rows["rank"] % 10 == 3, "status"] = "rejected"
    taken = subset(small_task, rows, 220)
    assert len(taken) == 198
    assert set(taken["prompt_id"]) == set(rows.loc[rows["status"] == "kept", "prompt_id"])


@pytest.mark.parametrize("size", [8, 220])
def test_no_kept_row_at_all_is_never_an_empty_subset(small_task: Task, rows: pd.DataFrame, size: int) -> None:
    with pytest.raises(UpstreamMissing, match=f"data_subsets {size}"):
        subset(small_task, rows.assign(status="rejected"), size)
