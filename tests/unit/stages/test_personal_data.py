"""What is said before personal data goes to an endpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from synthpost_dagster.artifacts.store import Plan
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.progress import Event, Progress
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.study import Study, open_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The packaged task with the profile whose teacher and judge are behind endpoints."""
    opened = open_study(Settings(task="sales_posts", profile="llama3-8b", home=tmp_path / "home"))
    assert set(opened.profile.hosted) == {"teacher", "judge"}
    return opened


def said(study: Study, role: str, text: str) -> list[str]:
    """What is said before prompts, the first of which ends in the text, go to the role's endpoint."""
    table = training_prompts(study.task).head(5)
    table.loc[0, "teacher_prompt"] += text
    plan = Plan("prompts", "", {"text": text})
    manifest = study.store.reuse_or_make(plan, lambda draft: study.add_gated_table(draft, "prompts", table)).manifest
    events: list[Event] = []
    study.warn_of_personal_data(role, [manifest], Progress(events.append))
    return [event.what for event in events]


@pytest.mark.parametrize("role", ["teacher", "judge"])
def test_the_table_the_count_and_the_endpoint_are_named(study: Study, role: str) -> None:
    (line,) = said(study, role, " Ask ann@example.com.")
    assert line == (
        "prompts: 1 of 5 rows hold personal data: e-mail in 1, phone in 0, card in 0; this goes to "
        f"{study.profile.hosted[role].endpoint}"
    )


def test_nothing_is_said_of_clean_tables(study: Study) -> None:
    assert said(study, "teacher", "") == []


def test_nothing_is_said_where_nothing_leaves_the_machine(study: Study) -> None:
    at_home = replace(study, profile=load_profile("tiny", study.task))
    assert said(at_home, "teacher", " Ask ann@example.com.") == []
