"""Reasoning is no part of a student's post, and is counted."""

from __future__ import annotations

from synthpost_dagster.inference.generate import Completion
from synthpost_dagster.inference.models import Loaded
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.schemas import Predictions, schema_of
from synthpost_dagster.stages.posts import facts_of, table_of
from synthpost_dagster.tasks.task import Task

WRITTEN = [
    "Ready? Order yours today!",
    "<think>\nA plan.\n</think>\n\nReady? Order yours today!",
    "<think>\n\n</think>\n\nReady? Order yours today!",
    "<think>\nA plan that never ends",
]
POSTS = ["Ready? Order yours today!"] * 3 + [""]


def completions() -> list[Completion]:
    return [Completion(text, "length" if place == 3 else "stop", 10, 5) for place, text in enumerate(WRITTEN)]


def test_posts_are_judged_without_reasoning_and_may_be_empty(sales_posts: Task) -> None:
    prompts = evaluation_prompts(sales_posts, len(WRITTEN))
    schema = schema_of(Predictions, sales_posts.spec.prompt_columns)
    table = schema.validate(table_of(prompts, completions(), "tuned", "some/model"))
    assert table["post"].tolist() == POSTS


def test_reasoning_is_counted_beside_replies_that_are_nothing_else(sales_posts: Task) -> None:
    def counts(loaded: Loaded, replies: list[Completion]) -> tuple[int, int, dict[str, object]]:
        table = table_of(evaluation_prompts(sales_posts, len(replies)), replies, "tuned", "some/model")
        facts = facts_of(table, loaded, replies, 1.0, 0.0)
        return facts.with_reasoning, facts.only_reasoning, facts.ignored_generation_config

    assert counts(Loaded(None, None, ignored={"top_k": 3}), completions()) == (3, 1, {"top_k": 3})
    assert counts(Loaded(None, None), completions()[:1]) == (0, 0, {})
