"""Links that someone planted in the home or among the locks are not written through; foreign folders stay as are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.errors import DeviceError, StorageError
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.runtime.heartbeats import heartbeat, is_dead
from synthpost_dagster.settings import Settings, prepare


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(tmp_path / "home", "sales_posts", "tiny")
    made.dagster_home.mkdir(parents=True)
    return made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def take(folder: Path) -> None:
    with Devices("cpu", folder=folder).lease(0.001, timeout_seconds=0):
        pass


def test_a_dangling_probe_in_the_home_is_not_written_through(settings: Settings, tmp_path: Path) -> None:
    (settings.home / ".writable").symlink_to(tmp_path / "planted")
    prepare(settings)
    assert not (tmp_path / "planted").exists()
    assert sorted(path.name for path in settings.home.iterdir()) == [".writable", "dagster"]


def test_a_dangling_dagster_yaml_is_refused_and_not_written_through(settings: Settings, tmp_path: Path) -> None:
    link = settings.dagster_home / "dagster.yaml"
    link.symlink_to(tmp_path / "planted")
    with pytest.raises(StorageError, match=str(link)):
        prepare(settings)
    assert not (tmp_path / "planted").exists()


def test_a_dagster_yaml_that_is_a_link_to_a_file_is_read(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# mine\n")
    (settings.dagster_home / "dagster.yaml").symlink_to(tmp_path / "mine.yaml")
    prepare(settings)
    assert (tmp_path / "mine.yaml").read_text() == "# mine\n"


def test_a_lock_folder_that_is_a_link_is_refused_and_its_target_kept(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    (tmp_path / "locks").symlink_to(foreign)
    with pytest.raises(DeviceError, match=str(tmp_path / "locks")):
        take(tmp_path / "locks")
    assert (mode(foreign), list(foreign.iterdir())) == (0o700, [])


def test_a_dangling_lock_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locks").symlink_to(tmp_path / "planted")
    with pytest.raises(DeviceError, match=str(tmp_path / "locks")):
        take(tmp_path / "locks")
    assert not (tmp_path / "planted").exists()


def test_a_planted_lock_is_refused_and_not_written_through(tmp_path: Path) -> None:
    take(tmp_path / "locks")
    (lock,) = (tmp_path / "locks").iterdir()
    for target in (tmp_path / "planted", tmp_path / "file"):
        (tmp_path / "file").write_text("kept")
        lock.unlink()
        lock.symlink_to(target)
        with pytest.raises(DeviceError, match=str(lock)):
            take(tmp_path / "locks")
    assert not (tmp_path / "planted").exists()
    assert (tmp_path / "file").read_text() == "kept"


def test_a_new_lock_folder_is_shared_with_a_sticky_bit(tmp_path: Path) -> None:
    take(tmp_path / "locks")
    (lock,) = (tmp_path / "locks").iterdir()
    assert (mode(tmp_path / "locks"), mode(lock)) == (0o1777, 0o666)


def test_an_open_lock_folder_of_an_earlier_version_gets_a_sticky_bit(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks").chmod(0o777)
    take(tmp_path / "locks")
    assert mode(tmp_path / "locks") == 0o1777


def test_a_private_lock_folder_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir(mode=0o700)
    take(tmp_path / "locks")
    assert mode(tmp_path / "locks") == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
@pytest.mark.parametrize(("given", "is_refused"), [(0o777, True), (0o1777, False)])
def test_a_lock_folder_of_another_user_needs_the_sticky_bit(tmp_path: Path, given: int, is_refused: bool) -> None:
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(given)
    os.chown(folder, 12_345, 12_345)
    if is_refused:
        with pytest.raises(DeviceError, match="1777"):
            take(folder)
    else:
        take(folder)
    assert mode(folder) == given


def test_a_planted_artifact_lock_is_refused_in_one_sentence(tmp_path: Path) -> None:
    store, plan = ArtifactStore(tmp_path / "storage", tmp_path), Plan("catalog", "", {})
    (tmp_path / "locks").mkdir()
    lock = tmp_path / "locks" / f"catalog-all-{plan.fingerprint}.lock"
    lock.symlink_to(tmp_path / "planted")
    with pytest.raises(StorageError, match=str(lock)):
        store.reuse_or_make(plan, lambda _: None)
    assert not (tmp_path / "planted").exists()


def test_a_planted_heartbeat_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    sign.symlink_to(tmp_path / "planted")
    assert not is_dead(sign)
    with heartbeat(sign):
        assert not sign.is_symlink()
    assert not (tmp_path / "planted").exists()
