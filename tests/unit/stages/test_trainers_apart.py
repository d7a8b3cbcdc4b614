"""A trainer that needs a process of its own tunes there, and what it needs is named where it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthpost_dagster.errors import ModelError
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.adapters import MORE_LIBRARIES, _trainer_libraries
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.training import trainers
from synthpost_dagster.training.sft import Tuner
from synthpost_dagster.training.unsloth_sft import UnslothTuner
from tests.helpers.tuning import CPU, SPEC, STUDENT


def test_trainers_are_found_by_the_name_in_the_profile() -> None:
    assert trainers.trainer("trl") is Tuner
    assert trainers.trainer("unsloth") is UnslothTuner
    assert {"unsloth"} == trainers.APART


def test_without_a_gpu_the_error_names_the_key_and_the_other_trainer() -> None:
    with pytest.raises(ModelError, match=r"training\.trainer.* unsloth .*\btrl\b"):
        UnslothTuner.load(STUDENT, SPEC, CPU)


def test_adapter_depends_on_the_versions_of_its_trainers_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _trainer_libraries("trl")
    assert "unsloth" not in plain
    assert {"trl", "peft", "torch"} <= set(plain)
    monkeypatch.setitem(MORE_LIBRARIES, "trl", ("click",))
    assert set(_trainer_libraries("trl")) - set(plain) == {"click"}


def test_a_trainer_that_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MORE_LIBRARIES, "other", ("no-such-package",))
    with pytest.raises(ModelError, match=r"training\.trainer.* other .*no-such-package.*`gpu`"):
        _trainer_libraries("other")


def test_packaged_profiles_train_with_trl(tmp_path: Path) -> None:
    for name in ("tiny", "laptop", "llama3-8b", "llama3-8b-local"):
        assert open_study(Settings(tmp_path, "sales_posts", name)).profile.training.trainer == "trl"
