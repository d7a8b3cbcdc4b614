"""Figures of variety against hand-made ones, and draws at equal rows."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pandas as pd
import pytest

from synthpost_dagster.quality.gates import posts as gates
from synthpost_dagster.rows import diversity as module
from synthpost_dagster.rows.corpus import Corpus
from synthpost_dagster.rows.diversity import (
    MAX_DRAWS,
    Spread,
    compression_ratio,
    distinct,
    diversity,
    diversity_facts,
    diversity_table,
    opening,
    opening_share,
    self_bleu,
    spreads,
)
from synthpost_dagster.rows.prompts import shares, training_prompts
from synthpost_dagster.schemas import Diversity
from synthpost_dagster.tasks.task import Task
from tests.helpers.varied_posts import WORDS, varied_posts

DRAWN = {"distinct_1", "distinct_2", "distinct_3", "compression_ratio", "opening_share"}


@pytest.fixture
def kept(small_task: Task) -> pd.DataFrame:
    """220 kept rows, four in each stratum."""
    return training_prompts(small_task).assign(post=varied_posts(220))


def test_distinct_n_of_two_posts_by_hand() -> None:
    corpus = Corpus(["the cat and the dog", "The cat!"])
    assert distinct(corpus, 1) == 4 / 7  # the, cat, and, dog
    assert distinct(corpus, 2) == 4 / 5  # "the cat" twice
    assert distinct(corpus, 3) == 1
    assert math.isnan(distinct(corpus, 6))


def test_compression_ratio_is_that_of_one_line_a_post() -> None:
    posts = ["Ride on, größer!", "Ride on, größer!", "Buy now."]
    text = "Ride on, größer!\nRide on, größer!\nBuy now.\n".encode()
    assert compression_ratio(posts) == len(text) / len(zlib.compress(text, 6))


def test_compression_ratio_rises_with_repetition() -> None:
    varied = varied_posts(50)
    assert 1 < compression_ratio(varied) < 4 < 20 < compression_ratio(varied[:1] * 50)


def test_opening_is_five_words_without_case_and_punctuation() -> None:
    assert opening("Ready? Set… GO, ride on now!") == "ready set go ride on"
    assert opening("Ride on!") == "ride on"


def test_opening_share_is_that_of_the_commonest() -> None:
    assert opening_share(["a", "b", "a", "c", "b", "a"]) == 3 / 6
    assert opening_share(["a", "b"]) == 1 / 2
    assert math.isnan(opening_share([]))


def test_self_bleu_of_identical_posts_is_100() -> None:
    assert self_bleu(varied_posts(1) * 5) == pytest.approx(100)


def test_self_bleu_is_near_0_without_common_words_and_rises() -> None:
    apart = ["a b c d e f", "g h i j k l", "m n o p q r"]
    assert self_bleu(apart) < 1
    assert self_bleu(varied_posts(20)) < self_bleu(varied_posts(20, words=WORDS[:10])) < 100


@pytest.mark.parametrize("posts", [[], ["one post"]])
def test_self_bleu_of_fewer_than_two_posts_is_none(posts: list[str]) -> None:
    assert math.isnan(self_bleu(posts))


def test_self_bleu_uses_a_sample_of_fixed_size_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SELF_BLEU_POSTS", 5)
    posts = varied_posts(12)
    chosen = sorted(np.random.default_rng(module.SEED).permutation(12)[:5])
    assert self_bleu(posts) == self_bleu(posts) == self_bleu([posts[at] for at in chosen])


def test_too_few_posts_give_nan_for_every_wording_metric() -> None:
    for posts in ([], ["!!!"], ["Buy"], ["Buy", "now"]):
        assert set(diversity(posts)) == DRAWN | {"self_bleu"} <= set(module.IS_MORE_BETTER)
    few = diversity(["Buy", "now"])
    assert (few["distinct_1"], few["opening_share"]) == (1, 0.5)
    assert math.isnan(few["distinct_2"])


def test_draws_are_stratified_without_replacement(
    small_task: Task, kept: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    stratum_of = dict(zip(kept["post"], zip(kept["post_type"], kept["tone"], strict=True), strict=True))
    drawn: list[list[str]] = []
    original = module._of_posts

    def seen(corpus: Corpus, posts: list[str], openings: list[str]) -> dict[str, float]:
        drawn.append(posts)
        assert len(corpus) == len(posts)
        assert openings == [opening(post) for post in posts]
        return original(corpus, posts, openings)

    monkeypatch.setattr(module, "_of_posts", seen)
    assert set(spreads(kept, small_task, 88)) == DRAWN
    assert len(drawn) == MAX_DRAWS
    due = shares(small_task.capacities("train"), 88)
    for posts in drawn:
        assert len(set(posts)) == len(posts) == 88
        assert pd.Series([stratum_of[post] for post in posts]).value_counts().to_dict() == due
    assert len({tuple(posts) for posts in drawn}) == MAX_DRAWS


@pytest.mark.parametrize(("rows", "draws"), [(10**6, 30), (88 * 12, 12), (1, 10)])
def test_large_draws_are_fewer(
    small_task: Task, kept: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, rows: int, draws: int
) -> None:
    made: list[None] = []
    monkeypatch.setattr(module, "DRAWN_ROWS", rows)
    monkeypatch.setattr(module, "_of_posts", lambda *given: made.append(None) or {"distinct_1": 0.5})
    spreads(kept, small_task, 88)
    assert len(made) == draws


def test_draws_are_the_same_each_time(small_task: Task, kept: pd.DataFrame) -> None:
    assert spreads(kept, small_task, 88) == spreads(kept, small_task, 88)


def test_index_of_the_kept_rows_does_not_matter(small_task: Task, kept: pd.DataFrame) -> None:
    moved = kept.set_index(kept.index + 1_000)
    assert spreads(kept, small_task, 55) == spreads(moved, small_task, 55)


def test_small_stratum_gives_all_its_rows(small_task: Task, kept: pd.DataFrame) -> None:
    lost = kept["post_type"].eq("Question") & kept["stratum_rank"].ge(1)
    without = kept[~kept["tone"].eq("Witty") & ~lost]
    assert set(spreads(without, small_task, 110)) == DRAWN


@pytest.mark.parametrize("size", [220, 221, 1_000])
def test_no_draws_without_more_rows_than_the_draw_size(small_task: Task, kept: pd.DataFrame, size: int) -> None:
    assert spreads(kept, small_task, size) == {}


def test_spread_is_mean_and_sample_deviation_over_draws(
    small_task: Task, kept: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter(range(MAX_DRAWS))
    monkeypatch.setattr(module, "_of_posts", lambda *given: {"distinct_1": float(next(figures))})
    (found,) = spreads(kept, small_task, 8).values()
    assert found.mean == (MAX_DRAWS - 1) / 2
    assert found.deviation == pytest.approx(math.sqrt(MAX_DRAWS * (MAX_DRAWS + 1) / 12))


def test_edges_of_a_spread_are_three_deviations_away() -> None:
    assert (Spread(0.5, 0.1).low, Spread(0.5, 0.1).high) == pytest.approx((0.2, 0.8))


def test_table_holds_own_figures_and_those_of_draws(small_task: Task, kept: pd.DataFrame) -> None:
    own = kept.head(88)
    table = Diversity.validate(diversity_table(own, kept, small_task, 55)).set_index("metric")
    figures, drawn = diversity(own["post"].tolist()), spreads(kept, small_task, 55)
    assert set(table["rows"]) == {88}
    assert set(table["equal_rows"]) == {55}
    assert table["value"].to_dict() == pytest.approx(figures)
    for metric in DRAWN:
        assert tuple(table.loc[metric, ["draws_mean", "draws_deviation"]]) == drawn[metric]
    assert table.loc["self_bleu", ["draws_mean", "draws_deviation"]].isna().all()


def test_table_of_one_post_follows_its_schema(small_task: Task, kept: pd.DataFrame) -> None:
    one = kept.head(1).assign(post="Buy")
    table = Diversity.validate(diversity_table(one, one, small_task, 8)).set_index("metric")
    unknown = table.index[table["value"].isna()]
    assert set(unknown) == {"distinct_2", "distinct_3", "self_bleu"}


def test_facts_use_draws_if_there_are_any_and_omit_nan(small_task: Task, kept: pd.DataFrame) -> None:
    table = diversity_table(kept, kept, small_task, 88)
    facts, drawn = diversity_facts(table), spreads(kept, small_task, 88)
    assert facts["distinct_2_at_88_rows"] == round(drawn["distinct_2"].mean, 4)
    assert facts["self_bleu_at_88_rows"] == round(self_bleu(kept["post"].tolist()), 4)
    one = kept.head(1).assign(post="Buy")
    assert set(diversity_facts(diversity_table(one, one, small_task, 8))) == {
        "distinct_1_at_8_rows",
        "compression_ratio_at_8_rows",
        "opening_share_at_8_rows",
    }


def test_subset_drawn_as_the_draws_are_lies_within_them(small_task: Task, kept: pd.DataFrame) -> None:
    table = diversity_table(kept.head(88), kept, small_task, 88).set_index("metric").drop("self_bleu")
    assert (table["value"] - table["draws_mean"]).abs().le(3 * table["draws_deviation"] + 1e-12).all()


def test_packaged_limits_detect_a_collapsed_teacher(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    generator = np.random.default_rng(0)
    words = [f"word{number}" for number in range(12)]
    rows = all_prompts.head(880).assign(post=[" ".join(generator.choice(words, 40)) for _ in range(880)])
    found = gates.diversity(sales_posts, diversity_table(rows, rows, sales_posts, 88), len(rows))
    assert not found.is_passed
    assert {"distinct_1", "distinct_2"} <= set(found.rows["metric"])
