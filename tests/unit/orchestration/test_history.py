"""Dagster's damaged databases are set aside; what a full disk or a damaged database raises becomes one sentence."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from synthpost_dagster.orchestration.history import set_damaged_aside, storage_sentence


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Dagster home with the three databases that are looked at."""
    for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE facts (text TEXT)")
            connection.executemany("INSERT INTO facts VALUES (?)", [("x" * 500,)] * 100)
        connection.close()
    return tmp_path


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def names(home: Path) -> list[str]:
    return sorted(path.name.partition(".damaged")[0] for path in home.iterdir())


@pytest.mark.parametrize("name", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_the_folder_of_a_database_cut_in_half_is_set_aside_whole(home: Path, name: str) -> None:
    cut_in_half(home / name)
    (moved,) = set_damaged_aside(home)
    folder, _, rest = name.partition("/")
    assert moved.name.startswith(f"{folder}.damaged-")
    assert (moved / rest).is_file()
    assert not (home / folder).exists()
    assert names(home) == ["history", "schedules"]


def test_a_file_that_is_no_database_is_set_aside(home: Path) -> None:
    (home / "schedules/schedules.db").write_text("not a database, " * 100)
    assert len(set_damaged_aside(home)) == 1


def test_whole_empty_missing_and_locked_databases_stay(home: Path) -> None:
    (home / "history/runs/index.db").unlink()
    (home / "schedules/schedules.db").write_bytes(b"")
    connection = sqlite3.connect(home / "history/runs.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    assert set_damaged_aside(home) == []
    connection.close()


@pytest.mark.parametrize(
    ("cause", "part"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "full"),
        (sqlite3.OperationalError("database or disk is full"), "full"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only"),
        (sqlite3.DatabaseError("database disk image is malformed"), "damaged"),
        (ValueError("a defect"), ""),
    ],
)
def test_root_of_an_error_chain_is_reported_with_the_home(cause: Exception, part: str, tmp_path: Path) -> None:
    try:
        raise RuntimeError("while a run was created") from cause
    except RuntimeError as error:
        sentence = storage_sentence(error, tmp_path)
    assert part in sentence
    assert bool(sentence) == bool(part)
    assert sentence.startswith(str(tmp_path) if part else "")
