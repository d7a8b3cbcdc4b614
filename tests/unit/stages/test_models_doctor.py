"""Doctor renders what a run will render, and reads weights' headers, before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.doctor import Finding, examine, require_models
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.study import Study

THINKS = r"{% if enable_thinking | default(true) and add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return shutil.copytree(MODEL_FOLDER, tmp_path / "model")


def study_of(folder: Path, system_prompt: bool = False, **student: Any) -> Study:
    """The packaged study with the folder's model as student."""
    opened = open_study(Settings(folder.parent / "home", "sales_posts", "tiny"))
    profile = opened.profile
    changes = {
        "student": profile.student.model_copy(update={"model": str(folder), **student}),
        "training": profile.training.model_copy(update={"system_prompt": system_prompt}),
    }
    return replace(opened, profile=profile.model_copy(update=changes))


def student_of(study: Study) -> Finding:
    return next(finding for finding in examine(study) if finding.subject == "student")


def change_template(folder: Path, change: Callable[[str], str]) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")


def test_doctor_is_content_with_a_copy_of_the_packaged_model(folder: Path) -> None:
    found = student_of(study_of(folder, system_prompt=True))
    assert found.is_good, found.text


def test_doctor_names_the_key_where_a_prompt_opens_thoughts(folder: Path) -> None:
    change_template(folder, lambda template: template + THINKS)
    found = student_of(study_of(folder))
    assert not found.is_good
    assert "chat_template_kwargs" in found.text
    assert student_of(study_of(folder, chat_template_kwargs={"enable_thinking": False})).is_good


@pytest.mark.parametrize("system_prompt", [True, False])
def test_doctor_renders_the_system_prompt_where_one_will_be(folder: Path, system_prompt: bool) -> None:
    change_template(folder, lambda template: NO_SYSTEM + template)
    found = student_of(study_of(folder, system_prompt))
    assert found.is_good is not system_prompt
    assert ("training.system_prompt: false" in found.text) is system_prompt


def test_doctor_says_what_of_a_generation_config_is_ignored(folder: Path) -> None:
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "repetition_penalty": 1.3}), encoding="utf-8")
    found = student_of(study_of(folder))
    assert found.is_good
    assert "repetition_penalty 1.3" in found.text


def test_damaged_weights_are_found_by_doctor_and_before_a_run(folder: Path) -> None:
    require_models(study_of(folder))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    study = study_of(folder)
    found = student_of(study)
    assert not found.is_good
    assert str(weights) in found.text
    with pytest.raises(ModelError, match=str(weights)):
        require_models(study)
