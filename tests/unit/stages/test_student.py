"""The student is loaded when it is first asked for, once, and given up with the device on every way out."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.inference.models import loads
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.student import Student, holding
from synthpost_dagster.stages.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The packaged study in miniature, with device locks of its own."""
    opened = open_study(Settings(tmp_path / "home", "sales_posts", "tiny"))
    return replace(opened, devices=Devices("cpu", folder=tmp_path / "locks"))


def is_free(study: Study) -> bool:
    try:
        with study.devices.lease(0.01, timeout_seconds=0):
            return True
    except DeviceError:
        return False


def test_no_device_is_leased_without_a_request(study: Study) -> None:
    before = loads.made
    with holding(study, SILENT):
        assert is_free(study)
    assert loads.made == before


def test_student_is_loaded_once_for_training_and_answering_on_one_lease(study: Study) -> None:
    before = loads.made
    with holding(study, SILENT) as student:
        tuner = student.tuner(1)
        assert student.tuner(1) is tuner
        assert not is_free(study)
        plain = student.untuned()
        assert plain is tuner.loaded
        assert not hasattr(plain.model, "peft_config"), "the tuner's adapter is off again"
        assert not is_free(study)
    assert loads.made == before + 1
    assert is_free(study)


def test_error_frees_the_device_and_the_model(study: Study) -> None:
    def fail(student: Student) -> None:
        model = student.untuned().model
        known.append(weakref.ref(model))
        raise SynthpostError("it went wrong")

    known: list[weakref.ref[object]] = []
    with pytest.raises(SynthpostError, match="it went wrong") as caught, holding(study, SILENT) as student:
        fail(student)
    assert is_free(study)
    assert caught.tb is not None, "the error is still there, with its frames"
    assert known[0]() is None, "its frames hold the model no more"
