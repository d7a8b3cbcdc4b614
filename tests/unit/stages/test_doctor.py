"""The doctor tries what a run will do: it writes to the storage, looks at the weights, asks the teacher once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import SpecError
from synthpost_dagster.profiles.models import InProcessChat
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.doctor import Finding, examine
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = open_study(Settings(tmp_path / "home", "sales_posts", "tiny"))
    return replace(made, devices=Devices("cpu", folder=tmp_path / "locks"))


def found(study: Study) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(study)}


def test_doctor_writes_an_object_requests_one_reply_and_leaves_nothing(study: Study) -> None:
    findings = found(study)
    assert all(finding.is_good for finding in findings.values())
    assert "answered with" in findings["teacher's first reply"].text
    assert list((study.settings.home / "storage").iterdir()) == []
    assert study.journal.summary() == []


def test_doctor_does_not_wait_for_a_device_in_use(study: Study) -> None:
    with study.devices.lease(0.001):
        finding = found(study)["teacher's first reply"]
    assert finding.is_good
    assert "another process holds the device" in finding.text


@pytest.mark.parametrize("storage", ["/proc/x", "file-in-the-way/x"])
def test_a_storage_that_cannot_be_written_is_found(study: Study, storage: str) -> None:
    home = study.settings.home
    home.mkdir()
    (home / "file-in-the-way").touch()
    store = ArtifactStore(str(home / storage), home)
    findings = found(replace(study, store=store))
    assert not findings["storage"].is_good
    assert storage in findings["storage"].text
    assert "teacher's first reply" not in findings


@pytest.mark.parametrize("storage", ["s3://bucket/x", "nothing://x"])
def test_a_storage_whose_package_is_missing_is_refused_at_once(tmp_path: Path, storage: str) -> None:
    with pytest.raises(SpecError, match=storage):
        ArtifactStore(storage, tmp_path)


def test_damaged_weights_are_found_before_they_are_loaded(study: Study, tmp_path: Path) -> None:
    folder = shutil.copytree(MODEL_FOLDER, tmp_path / "model")
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    student = study.profile.student.model_copy(update={"model": str(folder)})
    findings = found(replace(study, profile=study.profile.model_copy(update={"student": student})))
    assert not findings["student"].is_good
    assert str(weights) in findings["student"].text


def test_teacher_whose_first_reply_is_reasoning_alone_is_found(study: Study, tmp_path: Path) -> None:
    folder = shutil.copytree(MODEL_FOLDER, tmp_path / "model")
    (folder / "synthpost.json").unlink(missing_ok=True)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}")
    teacher = study.profile.teacher
    assert isinstance(teacher, InProcessChat)
    model = teacher.model.model_copy(update={"model": str(folder)})
    sampling = teacher.sampling.model_copy(update={"max_new_tokens": 4})
    teacher = teacher.model_copy(update={"model": model, "sampling": sampling})
    profile = study.profile.model_copy(update={"teacher": teacher, "allow_untrained_task": True})
    finding = found(replace(study, profile=profile))["teacher's first reply"]
    assert not finding.is_good
    assert "teacher.sampling.max_new_tokens (4)" in finding.text


def test_checkpoints_of_unfinished_trainings_are_counted(study: Study) -> None:
    (study.settings.home / "checkpoints" / "0123456789abcdef").mkdir(parents=True)
    home = next(finding for finding in examine(study) if finding.subject == "home")
    assert home.is_good
    assert "checkpoints of 1 unfinished" in home.text
