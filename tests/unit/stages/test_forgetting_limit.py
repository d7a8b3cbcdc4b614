"""The limit on forgetting is about adapters: it makes no rows anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from synthpost_dagster.stages.data import _quality_parts

from synthpost_dagster.tasks.task import Task


def test_the_limit_is_no_part_of_the_rows_and_the_others_are(sales_posts: Task) -> None:
    def parts(**changes: float) -> dict[str, object]:
        quality = sales_posts.spec.quality.model_copy(update=changes)
        study: Any = SimpleNamespace(
            task=SimpleNamespace(spec=SimpleNamespace(language="en", quality=quality, sweep=sales_posts.spec.sweep)),
            profile=SimpleNamespace(embedder=None),
        )
        return _quality_parts(study)

    assert parts(max_perplexity_ratio=1.01) == parts(max_perplexity_ratio=2.0)
    assert parts(max_opening_share=0.5) != parts()
