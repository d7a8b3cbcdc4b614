"""Each gate names the rows that were planted, and no other gate's verdict changes."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.rows import gates
from synthpost_dagster.rows.gates import GateResult
from synthpost_dagster.rows.prompts import evaluation_prompts, training_prompts
from synthpost_dagster.rows.subsets import subset
from synthpost_dagster.tasks.loading import Task

GATES = ["schema", "duplicates", "factor_coverage", "rejected_share"]


@pytest.fixture
def rows(small_task: Task) -> pd.DataFrame:
    """88 good synthetic rows, one of them asked twice."""
    prompts = training_prompts(small_task).head(88)
    table = prompts.drop(columns="teacher_prompt").assign(
        attempt=0,
        post="Post number " + prompts["rank"].astype(str),
        status="kept",
        reason="",
        is_in_band=True,
        raw_reply="Post number " + prompts["rank"].astype(str),
        finish_reason="stop",
        prompt_tokens=10,
        completion_tokens=3,
        teacher_model="fake",
        reply_key=[fingerprint({"id": name}) for name in prompts["prompt_id"]],
    )
    return pd.concat(
        [table, rejected(table.iloc[[5]], attempt=0).assign(reply_key="0" * 16)], ignore_index=True
    ).assign(attempt=[*(1 if rank == 5 else 0 for rank in table["rank"]), 0])


def rejected(rows: pd.DataFrame, attempt: int = 2) -> pd.DataFrame:
    return rows.assign(status="rejected", reason="empty", post="", raw_reply="", attempt=attempt)


def verdicts(task: Task, table: pd.DataFrame, asset: str = "synthetic_rows", target: int = 88) -> dict[str, GateResult]:
    return {result.name: result for result in gates.evaluate(asset, task, table, target=target)}


def failed(found: dict[str, GateResult]) -> list[str]:
    return [name for name, result in found.items() if not result.is_passed]


def test_a_clean_table_passes_every_gate(small_task: Task, rows: pd.DataFrame) -> None:
    found = verdicts(small_task, rows)
    assert list(found) == gates.gate_names("synthetic_rows") == GATES
    assert failed(found) == []
    assert all(result.is_blocking and result.offending.empty for name, result in found.items())
    assert found["rejected_share"].figures == {"rejected_share": 0.0}


def test_a_clean_subset_passes_every_gate(small_task: Task, rows: pd.DataFrame) -> None:
    found = verdicts(small_task, subset(small_task, rows, 88), "data_subsets")
    assert list(found) == ["schema", "duplicates", "factor_coverage"]
    assert failed(found) == []


def test_a_repeated_post_fails_duplicates_alone_and_both_rows_are_named(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[rows["rank"] == 40, "post"] = "POST, number…  7!"
    found = verdicts(small_task, rows)
    assert failed(found) == ["duplicates"]
    planted = rows.loc[rows["rank"].isin([7, 40]), "prompt_id"]
    assert set(found["duplicates"].offending["prompt_id"]) == set(planted)
    assert found["duplicates"].figures == {"duplicates": 1.0}
    assert "1 of 88" in found["duplicates"].message


def test_a_repeat_among_rejected_rows_is_no_duplicate(small_task: Task, rows: pd.DataFrame) -> None:
    again = rejected(rows.iloc[[3]]).assign(post=rows["post"].iloc[4], attempt=0, reply_key="1" * 16)
    rows.loc[3, "attempt"] = 1
    assert failed(verdicts(small_task, pd.concat([rows, again], ignore_index=True))) == []


def test_a_stratum_that_is_off_its_share_fails_factor_coverage_alone_and_is_named(
    small_task: Task, rows: pd.DataFrame
) -> None:
    planted = rows["tone"].eq("Witty") & rows["post_type"].isin(["Question", "Comparison"])
    assert 2 <= planted.sum() <= 4
    rows.loc[planted, ["post_type", "length"]] = ["Interactive", "long"]
    found = verdicts(small_task, rows)
    assert failed(found) == ["factor_coverage"]
    named = found["factor_coverage"]
    assert set(rows.loc[planted, "prompt_id"]) <= set(named.offending["prompt_id"])
    assert set(zip(named.offending["post_type"], named.offending["tone"], strict=True)) == {("Interactive", "Witty")}
    assert "Interactive × Witty" in named.message


def test_an_unknown_level_fails_factor_coverage_and_is_named(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[rows["rank"] == 11, "tone"] = "Grumpy"
    found = verdicts(small_task, rows)
    assert failed(found) == ["factor_coverage"]
    assert found["factor_coverage"].offending["tone"].tolist() == ["Grumpy"]
    assert "Grumpy" in found["factor_coverage"].message


def test_too_many_rejected_prompts_fail_rejected_share_alone_and_are_named(
    small_task: Task, rows: pd.DataFrame
) -> None:
    more = training_prompts(small_task).iloc[88:118]
    extra = rejected(rows.head(30)).assign(
        **{name: more[name].to_numpy() for name in ("prompt_id", "product", "company", "post_type", "tone", "length")},
        rank=more["rank"].to_numpy(),
        reply_key=[fingerprint({"id": name}) for name in more["prompt_id"]],
    )
    found = verdicts(small_task, pd.concat([rows, extra], ignore_index=True))
    assert failed(found) == ["rejected_share"]
    named = found["rejected_share"]
    assert len(named.offending) == gates.PREVIEW_ROWS
    assert set(named.offending["prompt_id"]) <= set(more["prompt_id"])
    assert named.figures["rejected_share"] == pytest.approx(30 / 118)
    assert "25.4%" in named.message
    assert "20%" in named.message


def test_a_rejected_share_at_the_limit_passes(small_task: Task, rows: pd.DataFrame) -> None:
    rows = rows[rows["status"] == "kept"].head(75).copy()
    rows.loc[rows.index[:15], ["status", "reason", "post"]] = ["rejected", "empty", ""]
    (result,) = gates.evaluate("synthetic_rows", small_task, rows, "rejected_share")
    assert result.figures == {"rejected_share": 0.2}
    assert result.is_passed


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("status", "maybe", "isin"),
        ("prompt_id", "not a hash", "str_matches"),
        ("company", "", "str_length"),
        ("finish_reason", "tired", "isin"),
        ("completion_tokens", -1, "greater_than_or_equal_to"),
        ("post", None, "not_nullable"),
        ("reason", "a reason for a kept row", "reason_if_rejected"),
        ("post", "  ", "reason_if_rejected"),
    ],
)
def test_a_value_that_breaks_the_schema_is_named_with_its_row(
    small_task: Task, rows: pd.DataFrame, column: str, value: object, check: str
) -> None:
    rows.loc[17, column] = value
    found = verdicts(small_task, rows)
    assert failed(found) == ["schema"]
    shown = found["schema"].offending
    assert shown["check"].str.contains(check).any()
    assert "17" in set(shown["index"])
    assert "break the schema" in found["schema"].message


def test_an_id_that_stands_twice_breaks_the_schema_of_a_subset(small_task: Task, rows: pd.DataFrame) -> None:
    table = subset(small_task, rows, 88)
    table.loc[30, "prompt_id"] = table.loc[60, "prompt_id"]
    found = verdicts(small_task, table, "data_subsets")
    assert failed(found) == ["schema"]
    assert set(found["schema"].offending["failure_case"]) == {table.loc[60, "prompt_id"]}


@pytest.mark.parametrize("column", ["post", "status", "rank", "reply_key"])
def test_a_missing_column_breaks_the_schema_and_is_named(small_task: Task, rows: pd.DataFrame, column: str) -> None:
    found = verdicts(small_task, rows.drop(columns=column))
    assert failed(found) == ["schema"]
    assert column in set(found["schema"].offending["failure_case"])


def test_an_extra_column_and_a_wrong_type_break_the_schema(small_task: Task, rows: pd.DataFrame) -> None:
    assert failed(verdicts(small_task, rows.assign(mood="good"))) == ["schema"]
    assert failed(verdicts(small_task, rows.assign(rank=rows["rank"].astype(str)))) == ["schema"]
    assert failed(verdicts(small_task, rows.assign(is_in_band="yes"))) == ["schema"]


def test_a_gate_asked_for_by_name_does_not_pass_where_the_schema_does_not_hold(
    small_task: Task, rows: pd.DataFrame
) -> None:
    broken = rows.drop(columns="post")
    for name in GATES[1:]:
        (result,) = gates.evaluate("synthetic_rows", small_task, broken, name)
        assert result.name == name
        assert not result.is_passed
        assert "not evaluated" in result.message


def test_a_gate_asked_for_by_name_says_what_it_says_among_the_others(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[rows["rank"] == 40, "post"] = rows.loc[rows["rank"] == 7, "post"].iloc[0]
    among = verdicts(small_task, rows)
    for name in GATES:
        (alone,) = gates.evaluate("synthetic_rows", small_task, rows, name, 88)
        assert alone.entry == among[name].entry


def test_evaluation_prompts_of_one_tone_fail_factor_coverage(small_task: Task) -> None:
    table = evaluation_prompts(small_task, 110)
    assert failed(verdicts(small_task, table, "evaluation_prompts", 110)) == []
    lopsided = table.assign(tone="Witty")
    assert failed(verdicts(small_task, lopsided, "evaluation_prompts", 110)) == ["factor_coverage"]


def test_training_prompts_with_one_tone_for_another_fail_factor_coverage(small_task: Task) -> None:
    table = training_prompts(small_task)
    assert failed(verdicts(small_task, table, "prompts", 220)) == []
    table.loc[table["tone"] == "Witty", "tone"] = "Professional"
    assert failed(verdicts(small_task, table, "prompts", 220)) == ["factor_coverage"]


def test_a_stratum_that_lacks_two_rows_is_off_its_share(small_task: Task) -> None:
    table = training_prompts(small_task).head(176)
    (stratum,) = table.loc[[0], ["post_type", "tone"]].itertuples(index=False, name=None)
    inside = (table["post_type"] == stratum[0]) & (table["tone"] == stratum[1])
    for lost, found in ((1, []), (2, ["factor_coverage"])):
        fewer = table.drop(index=table.index[inside][:lost])
        assert failed(verdicts(small_task, fewer, "prompts", 176)) == found
        (named,) = gates.evaluate("prompts", small_task, fewer, "factor_coverage", 176)
        assert (f"{stratum[0]} × {stratum[1]}" in named.message) == bool(found)


def test_the_full_size_may_lack_what_was_rejected_and_no_stratum_may_have_too_many(small_task: Task) -> None:
    table = training_prompts(small_task)
    table["post"] = "post " + table["prompt_id"]
    full = subset(small_task, table.assign(status="kept"), 220)
    lost = (full["post_type"] == "Question") & (full["rank"] > 60)
    assert failed(verdicts(small_task, full[~lost], "data_subsets", 220)) == []
    full.loc[lost, ["post_type", "length"]] = ["Interactive", "long"]
    assert failed(verdicts(small_task, full, "data_subsets", 220)) == ["factor_coverage"]


def test_a_full_subset_with_two_rows_of_a_stratum_rejected_passes_every_gate(small_task: Task) -> None:
    table = training_prompts(small_task)
    lost = table["post_type"].eq("Question") & table["tone"].eq("Witty") & (table["stratum_rank"] >= 2)
    rows = table.assign(status=lost.map({True: "rejected", False: "kept"}), post="post " + table["prompt_id"])
    full = subset(small_task, rows, 220)
    assert len(full) == 218
    assert failed(verdicts(small_task, full, "data_subsets", 220)) == []
