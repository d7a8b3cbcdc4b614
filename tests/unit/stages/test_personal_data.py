"""What is said before personal data goes to an endpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from synthpost_dagster.artifacts.store import Draft, Plan
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.study import Study, open_study
from synthpost_dagster.tasks.task import Task


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The packaged task with the profile whose teacher and judge are behind endpoints."""
    opened = open_study(Settings(task="sales_posts", profile="llama3-8b", home=tmp_path / "home"))
    assert set(opened.profile.hosted) == {"teacher", "judge"}
    return opened


@pytest.fixture
def prompts(small_task: Task) -> pd.DataFrame:
    """Five training prompts."""
    return training_prompts(small_task).head(5)


def said(study: Study, role: str, prompts: pd.DataFrame, text: str) -> list[str]:
    """What is said before prompts, the first of which ends in the text, go to the role's endpoint."""
    table = prompts.assign(
        teacher_prompt=[prompts["teacher_prompt"].iloc[0] + text, *prompts["teacher_prompt"].iloc[1:]]
    )
    plan = Plan("prompts", "", {"text": text})

    def make(draft: Draft) -> None:
        draft.table("prompts", table)
        draft.gates += study.gate_entries("prompts", table, None, {})

    manifest = study.store.reuse_or_make(plan, make).manifest
    events: list[Event] = []
    study.warn_of_personal_data(role, [manifest], Progress(events.append))
    return [event.what for event in events]


@pytest.mark.parametrize("role", ["teacher", "judge"])
def test_the_table_the_count_and_the_endpoint_are_named(study: Study, prompts: pd.DataFrame, role: str) -> None:
    (line,) = said(study, role, prompts, " Ask ann@example.com.")
    assert line == (
        "prompts: 1 of 5 rows hold personal data: e-mail in 1, phone in 0, card in 0; this goes to "
        f"{study.profile.hosted[role].endpoint}"
    )


def test_nothing_is_said_of_clean_tables(study: Study, prompts: pd.DataFrame) -> None:
    assert said(study, "teacher", prompts, "") == []


def test_nothing_is_said_where_nothing_leaves_the_machine(study: Study, prompts: pd.DataFrame) -> None:
    at_home = replace(study, profile=load_profile("tiny", study.task))
    assert said(at_home, "teacher", prompts, " Ask ann@example.com.") == []
