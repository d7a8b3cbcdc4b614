"""The warning before personal data is sent to an endpoint."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.study import Study
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


def warnings_of(study: Study, role: str, prompts: pd.DataFrame, text: str) -> list[str]:
    """Warnings before prompts, the first of which ends in the text, are sent to the role's endpoint."""
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
def test_warning_names_table_count_and_endpoint(study: Study, prompts: pd.DataFrame, role: str) -> None:
    (line,) = warnings_of(study, role, prompts, " Ask ann@example.com.")
    endpoint = study.profile.hosted[role].endpoint
    assert re.match(rf"prompts: 1 of 5 .*e-mail in 1, phone in 0, card in 0.* {endpoint}$", line)


def test_clean_tables_give_no_warning(study: Study, prompts: pd.DataFrame) -> None:
    assert warnings_of(study, "teacher", prompts, "") == []


def test_local_models_give_no_warning(study: Study, prompts: pd.DataFrame) -> None:
    at_home = replace(study, profile=load_profile("tiny", study.task))
    assert warnings_of(at_home, "teacher", prompts, " Ask ann@example.com.") == []
