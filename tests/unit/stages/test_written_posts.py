"""Reasoning is no part of a student's post, and is counted."""

from __future__ import annotations

from synthpost_dagster.inference.generate import Completion
from synthpost_dagster.inference.models import Loaded
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.schemas import Predictions
from synthpost_dagster.stages.predictions import _predictions, _written_facts
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
    table = Predictions.validate(_predictions(prompts, completions(), "tuned", "some/model"))
    assert table["post"].tolist() == POSTS


def test_reasoning_is_counted_beside_replies_that_are_nothing_else() -> None:
    facts = _written_facts(Loaded(None, None, ignored={"top_k": 3}), completions())
    assert facts == {"with_reasoning": 3, "only_reasoning": 1, "ignored_generation_config": {"top_k": 3}}
    assert _written_facts(Loaded(None, None), completions()[:1]) == {"with_reasoning": 0, "only_reasoning": 0}
