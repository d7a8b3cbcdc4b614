"""The environment is read in one place, and the home is made or refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from synthpost_dagster.errors import StorageError
from synthpost_dagster.settings import Settings, prepare, read_settings

OURS = ("SYNTHPOST_HOME", "SYNTHPOST_TASK", "SYNTHPOST_PROFILE")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """None of our variables at first, and everything as it was at the end."""
    before = dict(os.environ)
    for name in OURS:
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_without_variables_the_defaults_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings() == Settings(tmp_path / ".synthpost", "sales_posts", "tiny")


def test_variables_are_read_and_an_argument_wins(tmp_path: Path) -> None:
    os.environ.update(SYNTHPOST_HOME=str(tmp_path / "a"), SYNTHPOST_TASK="mine", SYNTHPOST_PROFILE="laptop")
    assert read_settings() == Settings(tmp_path / "a", "mine", "laptop")
    assert read_settings(str(tmp_path / "b"), "other", "tiny") == Settings(tmp_path / "b", "other", "tiny")


def test_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.environ.update(dict.fromkeys(OURS, ""))
    assert read_settings() == Settings(tmp_path / ".synthpost", "sales_posts", "tiny")


def test_home_is_absolute_and_a_tilde_is_the_users_folder(tmp_path: Path) -> None:
    os.environ["HOME"] = str(tmp_path)
    settings = read_settings("~/study")
    assert settings.home == tmp_path / "study"
    assert settings.dagster_home == tmp_path / "study" / "dagster"


def test_prepare_creates_the_home_and_sets_the_environment(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home", "sales_posts", "tiny")
    prepare(settings)
    assert [path.name for path in settings.dagster_home.iterdir()] == ["dagster.yaml"]
    assert [path.name for path in settings.home.iterdir()] == ["dagster"]
    assert os.environ["DAGSTER_HOME"] == str(settings.dagster_home)
    assert [os.environ[name] for name in OURS] == [str(settings.home), "sales_posts", "tiny"]
    assert read_settings() == settings


def test_prepare_disables_telemetry_but_keeps_variables_that_are_set(tmp_path: Path) -> None:
    for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "UNSLOTH_DISABLE_STATISTICS"):
        os.environ.pop(name, None)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    prepare(Settings(tmp_path / "home", "sales_posts", "tiny"))
    assert [os.environ[name] for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")] == ["1", "1"]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_dagsters_file_that_a_user_changed_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home", "sales_posts", "tiny")
    prepare(settings)
    file = settings.dagster_home / "dagster.yaml"
    assert "telemetry" in file.read_text(encoding="utf-8")
    file.write_text("# mine\n", encoding="utf-8")
    prepare(settings)
    assert file.read_text(encoding="utf-8") == "# mine\n"


@pytest.mark.parametrize("below", ["", "deep/home"])
def test_unwritable_home_is_an_error_with_a_remedy(tmp_path: Path, below: str) -> None:
    # A file in place of the folder: permissions do not stop the superuser.
    file = tmp_path / "file"
    file.write_text("in the way", encoding="utf-8")
    before = dict(os.environ)
    with pytest.raises(StorageError) as caught:
        prepare(Settings(file / below, "sales_posts", "tiny"))
    assert str(caught.value).startswith(f"{file / below}: the home folder cannot be written (")
    assert "SYNTHPOST_HOME or --home" in str(caught.value)
    assert dict(os.environ) == before
    assert file.read_text(encoding="utf-8") == "in the way"


def test_home_with_an_undecodable_name_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "h\udcc3\udcb4m"
    with pytest.raises(StorageError, match="PYTHONUTF8=1"):
        prepare(Settings(home, "sales_posts", "tiny"))
    assert list(tmp_path.iterdir()) == []
