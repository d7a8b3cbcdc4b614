"""The family of a model by its name."""

from __future__ import annotations

import pytest

from synthpost_dagster.profiles import load_profile
from synthpost_dagster.profiles.families import family_of
from synthpost_dagster.tasks.task import Task


@pytest.mark.parametrize(
    ("profile", "families"),
    [
        ("tiny", ("embedded", "embedded", "rubric")),
        ("laptop", ("smollm", "smollm", "rubric")),
        ("llama3-8b", ("llama", "llama", "gpt")),
        ("llama3-8b-local", ("llama", "llama", "llama")),
    ],
)
def test_student_teacher_and_judge(sales_posts: Task, profile: str, families: tuple[str, ...]) -> None:
    loaded = load_profile(profile, sales_posts)
    assert (family_of(loaded.student), family_of(loaded.teacher), family_of(loaded.judges[0])) == families


def test_name_that_tells_nothing_has_no_family(sales_posts: Task) -> None:
    judge = load_profile("llama3-8b", sales_posts).judges[0].model_copy(update={"model": "acme/writer-1"})
    assert family_of(judge) == ""
