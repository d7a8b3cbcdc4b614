"""The limit on forgetting is about adapters: it makes no rows anew."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from synthpost_dagster.stages.synthetic_rows import row_rules
from synthpost_dagster.tasks.task import Task


def test_the_limit_is_no_part_of_the_rows_and_the_others_are(sales_posts: Task) -> None:
    def parts(**changes: float) -> dict[str, object]:
        quality = sales_posts.spec.quality.model_copy(update=changes)
        task = replace(sales_posts, spec=sales_posts.spec.model_copy(update={"quality": quality}))
        study: Any = SimpleNamespace(task=task, profile=SimpleNamespace(embedder=None))
        return row_rules(study)

    assert parts(max_perplexity_ratio=1.01) == parts(max_perplexity_ratio=2.0)
    assert parts(max_opening_share=0.5) != parts()
