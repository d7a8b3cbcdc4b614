"""Each gate names the rows that were planted, and no other gate's verdict changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.manifest import GateEntry
from synthpost_dagster.quality import gates
from synthpost_dagster.quality.result import MAX_ROWS, finding
from synthpost_dagster.rows import diversity
from synthpost_dagster.rows.diversity import diversity_table
from synthpost_dagster.rows.memorisation import memorisation
from synthpost_dagster.rows.prompts import evaluation_prompts, training_prompts
from synthpost_dagster.rows.rejection import NEAR_DUPLICATE, normalised
from synthpost_dagster.rows.subsets import subset
from synthpost_dagster.schemas import BESIDE
from synthpost_dagster.tasks.items import Item
from synthpost_dagster.tasks.limits import DiversityLimits
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import kept_rows
from tests.helpers.varied_posts import WORDS, varied_posts

EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]
FIRST_FIVE = "Five words to begin with"


@pytest.fixture(autouse=True)
def _small_bleu_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-BLEU of 50 posts takes half a second."""
    monkeypatch.setattr(diversity, "SELF_BLEU_POSTS", 4)


@pytest.fixture
def rows(small_task: Task) -> pd.DataFrame:
    """88 good synthetic rows, one of them asked twice."""
    table = good_rows(small_task, 88)
    again = rejected(table.iloc[[5]], attempt=0).assign(reply_key="0" * 16)
    table.loc[5, "attempt"] = 1
    return pd.concat([table, again], ignore_index=True)


@pytest.fixture
def many(small_task: Task) -> pd.DataFrame:
    """All 220 rows of the task, good ones."""
    return good_rows(small_task, 220)


@pytest.fixture
def predictions(small_task: Task) -> pd.DataFrame:
    """The good posts of a tuned model."""
    table = evaluation_prompts(small_task, 110).drop(columns=["teacher_prompt", "student_prompt"])
    return table.assign(
        contestant="tuned",
        post=varied_posts(110, seed=1),
        finish_reason="stop",
        prompt_tokens=10,
        completion_tokens=20,
        model="fake",
    )


@pytest.fixture
def supervised(rows: pd.DataFrame) -> pd.DataFrame:
    """What is learned of good training rows."""
    ids = rows["prompt_id"].head(88)
    return pd.DataFrame(
        {
            "prompt_id": ids,
            "tokens": 120,
            "supervised_tokens": 30,
            "is_end_supervised": True,
            "is_begin_doubled": False,
            "learned": "",
        }
    )


def good_rows(task: Task, count: int) -> pd.DataFrame:
    return kept_rows(task, varied_posts(count))


def rejected(rows: pd.DataFrame, attempt: int = 2) -> pd.DataFrame:
    return rows.assign(status="rejected", reason="empty", post="", raw_reply="", attempt=attempt)


def more_rejected(task: Task, rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Prompts beyond the first 88 that stayed rejected."""
    more = training_prompts(task).iloc[88 : 88 + count]
    names = (*task.spec.prompt_columns, "rank")
    return rejected(rows.head(count)).assign(
        **{name: more[name].to_numpy() for name in names},
        reply_key=[fingerprint({"id": name}) for name in more["prompt_id"]],
    )


def with_quality(task: Task, **limits: object) -> Task:
    """The task with other thresholds."""
    quality = task.spec.quality.model_copy(update=limits)
    return replace(task, spec=task.spec.model_copy(update={"quality": quality}))


def with_leak_of(task: Task, words: int) -> Task:
    """The task in which so many words in sequence leak."""
    leak = task.spec.holdout.leak.model_copy(update={"words": words})
    holdout = task.spec.holdout.model_copy(update={"leak": leak})
    return replace(task, spec=task.spec.model_copy(update={"holdout": holdout}))


def holdout_product(task: Task) -> Item:
    """The first product that is kept for the evaluation."""
    return next(item for item in task.items if item.split == "holdout")


def verdicts(task: Task, table: pd.DataFrame, target: int = 88) -> dict[str, GateEntry]:
    """Of all gates on synthetic rows."""
    kept = table[table["status"] == "kept"]
    beside = {"diversity": diversity_table(kept, kept, task, task.spec.sweep.data_sizes[0])}
    return by_name(gates.evaluate("synthetic_rows", task, table, target=target, beside=beside))


def subset_verdicts(task: Task, table: pd.DataFrame, many: pd.DataFrame, target: int = 88) -> dict[str, GateEntry]:
    """Of all gates on a subset of `many` rows."""
    kept = many[many["status"] == "kept"]
    beside = {"diversity": diversity_table(table, kept, task, len(table))}
    return by_name(gates.evaluate("data_subsets", task, table, target=target, beside=beside))


def prompt_verdicts(task: Task, table: pd.DataFrame, asset: str) -> dict[str, GateEntry]:
    return by_name(gates.evaluate(asset, task, table))


def beside_verdicts(task: Task, asset: str, table: pd.DataFrame, **beside: pd.DataFrame) -> dict[str, GateEntry]:
    """Of all gates on an asset with a further table, which must follow its schema."""
    checked = {name: BESIDE[name].validate(other) for name, other in beside.items()}
    return by_name(gates.evaluate(asset, task, table, beside=checked))


def by_name(results: list[GateEntry]) -> dict[str, GateEntry]:
    return {result.name: result for result in results}


def failed(found: dict[str, GateEntry]) -> list[str]:
    return [name for name, result in found.items() if not result.is_passed]


def values(result: GateEntry, name: str) -> list[str]:
    """The values of the rows at fault."""
    return [row[name] for row in result.offending]


def ids(result: GateEntry) -> set[str]:
    """The prompts whose rows a gate names."""
    return set(values(result, "prompt_id"))


def ids_at(table: pd.DataFrame, places: list[int] | slice) -> set[str]:
    return set(table["prompt_id"].iloc[places])


def nearly(post: str) -> str:
    """The post with another last word: 11 of 13 word 3-grams are the same."""
    return f"{post.rsplit(' ', 1)[0]} otherwise!"


def test_clean_table_passes_every_gate(small_task: Task, rows: pd.DataFrame) -> None:
    found = verdicts(small_task, rows)
    assert list(found) == gates.gate_names("synthetic_rows")
    assert failed(found) == []
    assert all(not result.offending for result in found.values())
    assert found["rejected_share"].figures == {"rejected_share": 0.0}


def test_clean_subset_passes_every_gate(small_task: Task, many: pd.DataFrame) -> None:
    found = subset_verdicts(small_task, subset(small_task, many, 88), many)
    assert list(found) == gates.gate_names("data_subsets")
    assert failed(found) == []
    assert all(not result.offending for result in found.values())


def test_table_without_kept_rows_fails_only_rejected_share(small_task: Task, rows: pd.DataFrame) -> None:
    found = verdicts(small_task, rejected(rows.head(55)), target=55)
    assert failed(found) == ["rejected_share"]
    assert GateEntry.model_validate_json(found["diversity"].model_dump_json()) == found["diversity"]


def test_gates_are_on_the_assets_that_the_study_names() -> None:
    posts = {"duplicates", "near_duplicates", "openings", "diversity"}
    expected = {
        "prompts": {"factor_coverage", "personal_data"},
        "evaluation_prompts": {"factor_coverage", "personal_data"},
        "synthetic_rows": posts | {"cleaning", "rejected_share", "wrong_length", "personal_data"},
        "data_subsets": posts | {"factor_coverage", "leakage"},
        "adapters": {"supervised_tokens", "forgetting"},
        "predictions": {"memorisation", "personal_data"},
    }
    for asset, names in expected.items():
        assert names | {"schema"} <= set(gates.gate_names(asset))
        assert gates.gate_names(asset)[0] == "schema"


def test_blocking_gates() -> None:
    warnings = {"openings", "diversity", "cleaning", "wrong_length", "memorisation", "personal_data", "forgetting"}
    for asset in ("prompts", "synthetic_rows", "data_subsets", "adapters", "predictions"):
        for name in gates.gate_names(asset):
            assert gates.gate_of(asset, name).is_blocking == (name not in warnings)


def test_repeated_post_fails_only_duplicates_with_both_rows(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[40, "post"] = rows["post"].iloc[7].upper().replace(" ", "…  ")
    found = verdicts(small_task, rows)
    assert failed(found) == ["duplicates"]
    assert found["duplicates"].is_blocking
    assert ids(found["duplicates"]) == ids_at(rows, [7, 40])
    assert found["duplicates"].figures == {"duplicates": 1.0}
    assert "1 of 88" in found["duplicates"].message
    assert found["near_duplicates"].figures["near_duplicates"] == 0


def test_repeat_among_rejected_rows_is_no_duplicate(small_task: Task, rows: pd.DataFrame) -> None:
    again = rejected(rows.iloc[[3]]).assign(post=rows["post"].iloc[4], attempt=0, reply_key="1" * 16)
    rows.loc[3, "attempt"] = 1
    assert failed(verdicts(small_task, pd.concat([rows, again], ignore_index=True))) == []


def test_single_near_duplicate_is_shown_and_passes(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[40, "post"] = nearly(rows["post"].iloc[7])
    found = verdicts(small_task, rows)
    assert failed(found) == []
    (named,) = found["near_duplicates"].offending
    assert named["prompt_id"] == rows["prompt_id"].iloc[40]
    assert (named["near"], named["near_post"]) == (rows["prompt_id"].iloc[7], rows["post"].iloc[7])
    assert named["jaccard"] == f"{11 / 13:.2f}"
    assert found["near_duplicates"].figures == {"near_duplicates": 1.0, "near_duplicate_share": 1 / 88}


def test_too_many_near_duplicates_fail_only_that_gate(small_task: Task, rows: pd.DataFrame) -> None:
    for at in range(5):
        rows.loc[40 + at, "post"] = nearly(rows["post"].iloc[at])
    found = verdicts(small_task, rows)
    assert failed(found) == ["near_duplicates"]
    named = found["near_duplicates"]
    assert named.is_blocking
    assert values(named, "prompt_id") == rows["prompt_id"].iloc[40:45].tolist()
    assert values(named, "near") == rows["prompt_id"].iloc[:5].tolist()
    assert "5.7%; the limit is 5%" in named.message
    assert failed(verdicts(with_quality(small_task, max_near_duplicate_share=0.06), rows)) == []
    assert failed(verdicts(with_quality(small_task, near_duplicate_jaccard=0.9), rows)) == []


def test_near_duplicate_in_a_subset_is_named(small_task: Task, many: pd.DataFrame) -> None:
    many.loc[30, "post"] = nearly(many["post"].iloc[7])
    found = subset_verdicts(small_task, subset(small_task, many, 88), many)
    assert failed(found) == []
    assert ids(found["near_duplicates"]) == ids_at(many, [30])


def test_prompts_rejected_as_near_duplicates_count(small_task: Task, rows: pd.DataFrame) -> None:
    extra = more_rejected(small_task, rows, 5).assign(reason=NEAR_DUPLICATE)
    found = verdicts(small_task, pd.concat([rows, extra], ignore_index=True))
    assert failed(found) == ["near_duplicates"]
    assert ids(found["near_duplicates"]) == set(extra["prompt_id"])
    assert "5 prompts stayed rejected for it" in found["near_duplicates"].message
    assert found["near_duplicates"].figures["near_duplicate_share"] == 5 / 93


def test_opening_of_four_posts_fails_only_openings(small_task: Task, rows: pd.DataFrame) -> None:
    places = [3, 20, 41, 66]
    rows.loc[places, "post"] = [f"{FIRST_FIVE}, {rows['post'].iloc[at]}" for at in places]
    found = verdicts(small_task, rows)
    assert failed(found) == ["openings"]
    assert not found["openings"].is_blocking
    assert ids(found["openings"]) == ids_at(rows, places)
    assert set(values(found["openings"], "opening")) == {FIRST_FIVE.lower()}
    assert found["openings"].figures == {"common_openings": 1.0, "commonest_opening": 4.0}
    assert failed(verdicts(with_quality(small_task, max_opening_share=0.05), rows)) == []


def test_opening_of_three_posts_passes_at_any_limit(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[[3, 20, 41], "post"] = [f"{FIRST_FIVE}. {rows['post'].iloc[at]}" for at in (3, 20, 41)]
    found = verdicts(with_quality(small_task, max_opening_share=0.0), rows)
    assert failed(found) == []
    assert "begins 3" in found["openings"].message


@pytest.mark.parametrize("metric", ["distinct_1", "distinct_2", "distinct_3", "compression_ratio", "self_bleu"])
def test_metric_beyond_its_limit_fails_only_diversity(small_task: Task, rows: pd.DataFrame, metric: str) -> None:
    rows["post"] = rows["post"].str.replace(r"(\w+ \w+ \w+)\.", r"\1 \1.", regex=True)  # not every 3-gram differs
    table = diversity_table(rows.head(88), rows.head(88), small_task, 8).set_index("metric").loc[metric]
    figure = table["value"] if metric == "self_bleu" else table["draws_mean"]
    is_least = diversity.IS_MORE_BETTER[metric]
    name = f"{'min' if is_least else 'max'}_{metric}"
    for limit, expected in ((figure, []), (figure * (1.01 if is_least else 0.99), ["diversity"])):
        task = with_quality(small_task, diversity=DiversityLimits.model_validate({name: limit}))
        found = verdicts(task, rows)
        assert failed(found) == expected
        assert values(found["diversity"], "metric") == [metric] * len(expected)
    assert not found["diversity"].is_blocking
    assert "quality.diversity" in found["diversity"].offending[0]["fault"]


def test_limits_of_variety_are_for_the_smallest_data_size(small_task: Task, many: pd.DataFrame) -> None:
    limits = DiversityLimits(min_distinct_1=1.0)
    task = with_quality(small_task, diversity=limits)
    assert task.spec.sweep.data_sizes[0] == 8
    assert failed(subset_verdicts(task, subset(task, many, 88), many)) == []
    assert failed(subset_verdicts(task, subset(task, many, 8), many, 8)) == ["diversity"]


def test_subset_less_varied_than_draws_fails_only_diversity(small_task: Task, many: pd.DataFrame) -> None:
    chosen = subset(small_task, many, 88)
    dull = varied_posts(88, seed=2, words=WORDS[:12])
    many.loc[many["prompt_id"].isin(chosen["prompt_id"]), "post"] = dull
    found = subset_verdicts(small_task, subset(small_task, many, 88), many)
    assert failed(found) == ["diversity"]
    assert {"distinct_1", "distinct_2", "compression_ratio"} <= set(values(found["diversity"], "metric"))
    assert "the edge of draws of 88 rows" in found["diversity"].message


def test_too_many_cleaned_replies_fail_only_cleaning(small_task: Task, rows: pd.DataFrame) -> None:
    for count, expected in ((4, []), (5, ["cleaning"])):
        rows.loc[: count - 1, "stripped"] = ["preamble", "quotes", "preamble and quotes", "quotes", "quotes"][:count]
        found = verdicts(small_task, rows)
        assert failed(found) == expected
        assert ids(found["cleaning"]) == ids_at(rows, slice(count))
    assert not found["cleaning"].is_blocking
    assert found["cleaning"].figures == {"cleaned_share": 5 / 89}
    assert "3 quotes" in found["cleaning"].message
    assert failed(verdicts(with_quality(small_task, max_cleaned_share=0.06), rows)) == []


def test_too_many_wrong_lengths_fail_only_that_gate(small_task: Task, rows: pd.DataFrame) -> None:
    for count, expected in ((61, []), (62, ["wrong_length"])):
        rows.loc[: count - 1, "is_in_band"] = False
        found = verdicts(small_task, rows)
        assert failed(found) == expected
    assert not found["wrong_length"].is_blocking
    assert found["wrong_length"].figures == {"out_of_band_share": 62 / 88}
    assert len(found["wrong_length"].offending) == MAX_ROWS
    assert ids(found["wrong_length"]) <= ids_at(rows, slice(62))
    assert failed(verdicts(with_quality(small_task, max_out_of_band_share=0.75), rows)) == []


def test_row_naming_a_holdout_product_fails_only_leakage(small_task: Task, many: pd.DataFrame) -> None:
    product = holdout_product(small_task)
    many.loc[20, "post"] = f"{many['post'].iloc[20]} Better than {product.name.upper()}."
    found = subset_verdicts(small_task, subset(small_task, many, 88), many)
    assert failed(found) == ["leakage"]
    assert found["leakage"].is_blocking
    (named,) = found["leakage"].offending
    assert named["prompt_id"] == many["prompt_id"].iloc[20]
    assert (named["leaked_item"], named["shared"]) == (product.name, product.name.upper())


@pytest.mark.parametrize(("words", "expected"), [(7, []), (8, ["leakage"]), (11, ["leakage"])])
def test_run_of_eight_holdout_words_fails_only_leakage(
    small_task: Task, many: pd.DataFrame, words: int, expected: list[str]
) -> None:
    product = holdout_product(small_task)
    run = normalised(str(product.values["description"])).split()[-words:]
    assert len(run) == words
    many.loc[20, "post"] = f"{many['post'].iloc[20]} {' '.join(run)}"
    found = subset_verdicts(small_task, subset(small_task, many, 88), many)
    assert failed(found) == expected
    assert values(found["leakage"], "shared") == [" ".join(run)] * len(expected)
    assert found["leakage"].figures["longest_words"] == (words if expected else 0)


def test_length_of_a_leak_is_the_tasks(small_task: Task, many: pd.DataFrame) -> None:
    product = holdout_product(small_task)
    many.loc[20, "post"] = " ".join(normalised(str(product.values["description"])).split()[-8:])
    for words, expected in ((9, []), (8, ["leakage"])):
        task = with_leak_of(small_task, words)
        assert failed(subset_verdicts(task, subset(task, many, 88), many)) == expected


def test_memorised_post_is_reported_and_no_gate_fails(
    small_task: Task, predictions: pd.DataFrame, many: pd.DataFrame
) -> None:
    training = subset(small_task, many, 88)
    run = training["post"].iloc[33]
    predictions.loc[50, "post"] = f"So. {run} And more."
    predictions.loc[51, "post"] = training["post"].iloc[34]
    memorised = memorisation(predictions, training)
    found = beside_verdicts(small_task, "predictions", predictions, memorisation=memorised)
    assert failed(found) == []
    assert not found["memorisation"].is_blocking
    first, second = found["memorisation"].offending[:2]
    assert (first["prompt_id"], first["shared"]) == (predictions["prompt_id"].iloc[50], normalised(run))
    assert (second["prompt_id"], second["training_post"]) == (
        predictions["prompt_id"].iloc[51],
        training["post"].iloc[34],
    )
    figures = found["memorisation"].figures
    assert (figures["longest_words"], figures["whole_posts"]) == (14, 1)


def test_empty_post_is_not_memorised(small_task: Task, predictions: pd.DataFrame, many: pd.DataFrame) -> None:
    predictions.loc[50, "post"] = ""
    memorised = memorisation(predictions, subset(small_task, many, 88))
    found = beside_verdicts(small_task, "predictions", predictions, memorisation=memorised)
    assert found["memorisation"].figures["whole_posts"] == 0


@pytest.mark.parametrize("change", [{"supervised_tokens": 0, "is_end_supervised": False}, {"is_end_supervised": False}])
def test_row_without_supervised_tokens_or_end_fails_only_that_gate(
    small_task: Task, supervised: pd.DataFrame, change: dict[str, object]
) -> None:
    curve = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "learning_rate": [1e-3, 5e-4]})
    assert failed(beside_verdicts(small_task, "adapters", curve, supervision=supervised, forgetting=forgotten())) == []
    supervised.loc[17, list(change)] = list(change.values())
    found = beside_verdicts(small_task, "adapters", curve, supervision=supervised, forgetting=forgotten())
    assert failed(found) == ["supervised_tokens"]
    assert found["supervised_tokens"].is_blocking
    assert ids(found["supervised_tokens"]) == ids_at(supervised, [17])


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"poem": 5.0}, ["poem"]),
        ({"prose": 7.0, "poem": 6.0}, ["prose", "poem"]),
        ({"poem": math.nan}, ["poem"]),
    ],
)
def test_forgetting_warns_if_pooled_ratio_is_too_high_or_undefined(
    small_task: Task, supervised: pd.DataFrame, changes: dict[str, float], kinds: list[str]
) -> None:
    curve = pd.DataFrame({"step": [1], "loss": [2.0], "learning_rate": [1e-3]})
    table = forgotten(**changes)
    found = beside_verdicts(small_task, "adapters", curve, supervision=supervised, forgetting=table)
    result = found["forgetting"]
    is_bad = "prose" in changes or math.isnan(changes.get("poem", 0))
    assert failed(found) == (["forgetting"] if is_bad else [])
    assert not result.is_blocking and not result.is_severe
    assert values(result, "kind") == kinds, "the kinds above it are named, the worst first"
    assert "1.15 (quality.max_perplexity_ratio)" in result.message
    assert ("undefined" in result.message) is math.isnan(changes.get("poem", 0))
    assert result == GateEntry.model_validate_json(result.model_dump_json())


def test_limit_on_forgetting_is_the_tasks(small_task: Task) -> None:
    def verdict(limit: float) -> bool:
        quality = small_task.spec.quality.model_copy(update={"max_perplexity_ratio": limit})
        task = replace(small_task, spec=small_task.spec.model_copy(update={"quality": quality}))
        curve = pd.DataFrame({"step": [1], "loss": [2.0], "learning_rate": [1e-3]})
        (result,) = gates.evaluate("adapters", task, curve, "forgetting", beside={"forgetting": forgotten()})
        assert result.figures["perplexity_ratio"] == pytest.approx(1.1)
        return result.is_passed

    assert verdict(1.2) and not verdict(1.05)


def forgotten(**changes: float) -> pd.DataFrame:
    """General text under a base of perplexity 4 and a tuned model of 4.4, or what is said; ten times as much prose."""
    tuned = {"prose": 4.4, "poem": 4.4} | changes
    table = pd.DataFrame(
        {"kind": tuned.keys(), "passages": 1, "tokens": [1000, 100], "tuned_perplexity": tuned.values()}
    )
    return BESIDE["forgetting"].validate(table.assign(base_perplexity=4.0))


def test_supervised_tokens_fails_if_every_label_is_masked(small_task: Task, supervised: pd.DataFrame) -> None:
    curve = pd.DataFrame({"step": [1], "loss": [2.0], "learning_rate": [1e-3]})
    masked = supervised.assign(supervised_tokens=0, is_end_supervised=False)
    (result,) = gates.evaluate("adapters", small_task, curve, "supervised_tokens", beside={"supervision": masked})
    assert not result.is_passed
    assert result.figures == {"supervised_share": 0.0}
    assert len(result.offending) == MAX_ROWS


@pytest.mark.parametrize(
    ("kind", "text"),
    [("e-mail", "ann.lee@example.com"), ("phone", "(212) 736-5000"), ("card", "4111 1111 1111 1111")],
)
def test_personal_data_in_a_post_fails_only_that_gate(
    small_task: Task, rows: pd.DataFrame, predictions: pd.DataFrame, kind: str, text: str
) -> None:
    rows.loc[20, "post"] = f"{rows['post'].iloc[20]} Ask {text}."
    found = verdicts(small_task, rows)
    assert failed(found) == ["personal_data"]
    result = found["personal_data"]
    assert not result.is_blocking
    assert ids(result) == ids_at(rows, [20])
    assert values(result, "found") == [f"{kind} {text}"]
    assert result.figures[f"rows_with_{kind.replace('-', '')}"] == 1
    assert sum(result.figures.values()) == 1
    assert f"{kind} in 1" in result.message
    predictions.loc[20, "post"] = text
    (alone,) = gates.evaluate("predictions", small_task, predictions, "personal_data")
    assert ids(alone) == ids_at(predictions, [20])


@pytest.mark.parametrize("asset", ["prompts", "evaluation_prompts"])
@pytest.mark.parametrize("column", ["teacher_prompt", "student_prompt"])
def test_personal_data_in_a_prompt_fails_only_that_gate(small_task: Task, asset: str, column: str) -> None:
    table = training_prompts(small_task) if asset == "prompts" else evaluation_prompts(small_task, 110)
    assert failed(prompt_verdicts(small_task, table, asset)) == []
    table.loc[9, column] += "\nAsk ann@example.com."
    found = prompt_verdicts(small_task, table, asset)
    assert failed(found) == ["personal_data"]
    assert ids(found["personal_data"]) == ids_at(table, [9])


def test_region_of_phone_numbers_is_the_tasks(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[20, "post"] = f"{rows['post'].iloc[20]} Ask 044 668 18 00."
    assert failed(verdicts(small_task, rows)) == []
    assert failed(verdicts(with_quality(small_task, phone_region="CH"), rows)) == ["personal_data"]


def near_five(rows: pd.DataFrame) -> None:
    rows.loc[40:44, "post"] = [nearly(post) for post in rows["post"].iloc[:5]]


def long_post(rows: pd.DataFrame) -> None:
    rows.loc[20, "post"] = "Ask ann@example.com. " + " ".join(varied_posts(60, seed=3))


@pytest.mark.parametrize(
    ("gate", "plant"),
    [
        ("near_duplicates", near_five),
        ("personal_data", long_post),
        ("duplicates", lambda rows: rows.loc.__setitem__((40, "post"), rows["post"].iloc[7])),
        ("cleaning", lambda rows: rows.loc.__setitem__((slice(0, 20), "stripped"), "quotes")),
        ("schema", lambda rows: rows.loc.__setitem__((40, "completion_tokens"), -1)),
    ],
)
def test_entry_has_figures_and_rows_and_survives_json(
    small_task: Task, rows: pd.DataFrame, gate: str, plant: Callable[[pd.DataFrame], None]
) -> None:
    plant(rows)
    found = verdicts(small_task, rows)
    assert failed(found) == [gate]
    entry = found[gate]
    assert GateEntry.model_validate_json(entry.model_dump_json()) == entry
    assert (entry.name, entry.is_passed, entry.is_blocking) == (gate, False, found[gate].is_blocking)
    assert entry.figures == found[gate].figures
    assert len(entry.offending) == len(found[gate].offending) > 0
    assert all(len(value) <= 300 for row in entry.offending for value in row.values())


def test_entry_omits_figures_that_are_not_finite(
    small_task: Task, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = finding(True, "", pd.DataFrame(), self_bleu=math.nan, distinct_1=0.5)
    gate = gates.DUPLICATES[-1]._replace(check=lambda task, table, target: found)
    monkeypatch.setitem(gates.GATES, "synthetic_rows", (gate._replace(table=""),))
    (result,) = gates.evaluate("synthetic_rows", small_task, rows, "diversity", 88)
    assert result.figures == {"distinct_1": 0.5}


def test_stratum_off_its_share_fails_only_factor_coverage(small_task: Task, rows: pd.DataFrame) -> None:
    planted = rows["tone"].eq("Witty") & rows["post_type"].isin(["Question", "Comparison"])
    assert 2 <= planted.sum() <= 4
    rows.loc[planted, ["post_type", "length"]] = ["Interactive", "long"]
    found = verdicts(small_task, rows)
    assert failed(found) == ["factor_coverage"]
    named = found["factor_coverage"]
    assert set(rows.loc[planted, "prompt_id"]) <= set(values(named, "prompt_id"))
    assert set(zip(values(named, "post_type"), values(named, "tone"), strict=True)) == {("Interactive", "Witty")}
    assert "Interactive × Witty" in named.message


def test_unknown_level_fails_factor_coverage_and_is_named(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[rows["rank"] == 11, "tone"] = "Grumpy"
    found = verdicts(small_task, rows)
    assert failed(found) == ["factor_coverage"]
    assert values(found["factor_coverage"], "tone") == ["Grumpy"]
    assert "Grumpy" in found["factor_coverage"].message


def test_too_many_rejected_prompts_fail_only_rejected_share(small_task: Task, rows: pd.DataFrame) -> None:
    extra = more_rejected(small_task, rows, 30)
    table = pd.concat([rows, extra], ignore_index=True)
    found = verdicts(small_task, table)
    assert failed(found) == ["rejected_share"]
    named = found["rejected_share"]
    assert len(named.offending) == MAX_ROWS
    assert ids(named) <= set(extra["prompt_id"])
    assert named.figures["rejected_share"] == pytest.approx(30 / 118)
    assert "25.4%" in named.message
    assert "20%" in named.message
    assert failed(verdicts(with_quality(small_task, max_rejected_share=0.3), table)) == []


def test_rejected_share_at_the_limit_passes(small_task: Task, rows: pd.DataFrame) -> None:
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
        ("finish_reason", "tired", "str_matches"),
        ("completion_tokens", -1, "greater_than_or_equal_to"),
        ("post", None, "not_nullable"),
        ("reason", "a reason for a kept row", "reason_if_rejected"),
        ("post", "  ", "reason_if_rejected"),
    ],
)
def test_value_that_breaks_the_schema_is_named_with_its_row(
    small_task: Task, rows: pd.DataFrame, column: str, value: object, check: str
) -> None:
    rows.loc[17, column] = value
    found = by_name(gates.evaluate("synthetic_rows", small_task, rows))
    assert failed(found) == ["schema"]
    assert any(check in broken for broken in values(found["schema"], "check"))
    assert "17" in values(found["schema"], "index")
    assert "break the schema" in found["schema"].message


def test_repeated_id_breaks_the_schema_of_a_subset(small_task: Task, rows: pd.DataFrame) -> None:
    table = subset(small_task, rows, 88)
    table.loc[30, "prompt_id"] = table.loc[60, "prompt_id"]
    found = by_name(gates.evaluate("data_subsets", small_task, table))
    assert failed(found) == ["schema"]
    assert set(values(found["schema"], "failure_case")) == {table.loc[60, "prompt_id"]}


@pytest.mark.parametrize("column", ["post", "status", "rank", "reply_key"])
def test_missing_column_breaks_the_schema_and_is_named(small_task: Task, rows: pd.DataFrame, column: str) -> None:
    found = by_name(gates.evaluate("synthetic_rows", small_task, rows.drop(columns=column)))
    assert failed(found) == ["schema"]
    assert column in set(values(found["schema"], "failure_case"))


def test_extra_column_and_a_wrong_type_break_the_schema(small_task: Task, rows: pd.DataFrame) -> None:
    for broken in (rows.assign(mood="good"), rows.assign(rank=rows["rank"].astype(str)), rows.assign(is_in_band="yes")):
        assert failed(by_name(gates.evaluate("synthetic_rows", small_task, broken))) == ["schema"]


def test_named_gate_fails_if_the_table_breaks_its_schema(small_task: Task, rows: pd.DataFrame) -> None:
    broken = rows.drop(columns="post")
    for name in gates.gate_names("synthetic_rows")[1:]:
        (result,) = gates.evaluate("synthetic_rows", small_task, broken, name)
        assert result.name == name
        assert not result.is_passed
        assert "not evaluated" in result.message


def test_named_gate_has_the_same_entry_as_among_all(small_task: Task, rows: pd.DataFrame) -> None:
    rows.loc[40, "post"] = rows["post"].iloc[7]
    among, kept = verdicts(small_task, rows), rows.head(88)
    beside = {"diversity": diversity_table(kept, kept, small_task, small_task.spec.sweep.data_sizes[0])}
    for name in gates.gate_names("synthetic_rows"):
        (alone,) = gates.evaluate("synthetic_rows", small_task, rows, name, 88, beside)
        assert alone == among[name]


def test_evaluation_prompts_of_one_tone_fail_factor_coverage(small_task: Task) -> None:
    lopsided = evaluation_prompts(small_task, 110).assign(tone="Witty")
    assert failed(prompt_verdicts(small_task, lopsided, "evaluation_prompts")) == ["factor_coverage"]


def test_training_prompts_with_a_replaced_tone_fail_factor_coverage(small_task: Task) -> None:
    table = training_prompts(small_task)
    table.loc[table["tone"] == "Witty", "tone"] = "Professional"
    assert failed(prompt_verdicts(small_task, table, "prompts")) == ["factor_coverage"]


def test_stratum_that_lacks_two_rows_is_off_its_share(small_task: Task) -> None:
    table = training_prompts(small_task).head(176)
    (stratum,) = table.loc[[0], ["post_type", "tone"]].itertuples(index=False, name=None)
    inside = (table["post_type"] == stratum[0]) & (table["tone"] == stratum[1])
    for lost, found in ((1, []), (2, ["factor_coverage"])):
        fewer = table.drop(index=table.index[inside][:lost])
        results = by_name(gates.evaluate("prompts", small_task, fewer, target=176))
        assert failed(results) == found
        assert (f"{stratum[0]} × {stratum[1]}" in results["factor_coverage"].message) == bool(found)


def test_full_size_may_lack_rejected_rows_but_not_exceed_shares(small_task: Task, many: pd.DataFrame) -> None:
    full = subset(small_task, many, 220)
    lost = (full["post_type"] == "Question") & (full["rank"] >= 165)
    assert lost.sum() == 5
    assert failed(subset_verdicts(small_task, full[~lost], many, 220)) == []
    more = (full["post_type"] == "Question") & (full["rank"] >= 110)
    full.loc[more, ["post_type", "length"]] = ["Interactive", "long"]
    assert failed(subset_verdicts(small_task, full, many, 220)) == ["factor_coverage"]


def test_full_subset_without_a_stratum_fails_factor_coverage(small_task: Task, many: pd.DataFrame) -> None:
    full = subset(small_task, many, 220)
    lost = full["post_type"].eq("Question") & full["tone"].eq("Witty")
    assert failed(subset_verdicts(small_task, full[~lost], many, 220)) == ["factor_coverage"]


def test_full_subset_with_one_rejected_row_passes_every_gate(small_task: Task, many: pd.DataFrame) -> None:
    lost = many["post_type"].eq("Question") & many["tone"].eq("Witty") & (many["stratum_rank"] >= 3)
    many.loc[lost, "status"] = "rejected"
    full = subset(small_task, many, 220)
    assert len(full) == 219
    assert failed(subset_verdicts(small_task, full, many, 220)) == []


def test_entries_are_current_under_unchanged_limits(small_task: Task, edit_task: EditTask) -> None:
    entries = [*gates.evaluate("prompts", small_task, training_prompts(small_task))]
    assert {entry.name: entry.limits for entry in entries} == {
        "schema": {},
        "factor_coverage": {"max_rejected_share": 0.2},
        "leakage": {},
        "personal_data": {"phone_region": "US"},
    }
    other = edit_task("task.yaml", lambda task: task["quality"].update(phone_region="DE"))
    assert gates.are_current("prompts", small_task, entries)
    assert not gates.are_current("prompts", other, entries)
    assert not gates.are_current("prompts", small_task, entries[:-1])
