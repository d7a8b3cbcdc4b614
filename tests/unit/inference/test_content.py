"""A model's fingerprint follows every byte that shapes it, and large files are hashed once."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference import content
from synthpost_dagster.inference.content import WEIGHTS
from synthpost_dagster.inference.models import identity
from synthpost_dagster.runtime.progress import Event, subscribed
from tests.helpers.tuning import STUDENT

MIDDLE = 3_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model, old enough to be cached."""
    made = shutil.copytree(MODEL_FOLDER, tmp_path / "model")
    (made / "merges.txt").write_text("a b\n", encoding="utf-8")
    return made


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_known", {})


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the weight files that were hashed; all count as large and old."""
    read: list[str] = []
    real = content._hashed
    monkeypatch.setattr(content, "_hashed", lambda path: read.append(path.name) or real(path))
    monkeypatch.setattr(content, "MIN_CACHED_BYTES", 1)
    monkeypatch.setattr(content, "MIN_AGE_SECONDS", -1e6)
    yield read


def digest(folder: Path) -> str:
    found = identity(STUDENT.model_copy(update={"model": str(folder)}))["content"]
    assert len(found) == 16
    return str(found)


def flip(file: Path, place: int) -> None:
    """Changes one byte, in place."""
    with file.open("r+b") as open_file:
        open_file.seek(place)
        byte = open_file.read(1)[0]
        open_file.seek(place)
        open_file.write(bytes([byte ^ 1]))


def test_changed_byte_within_the_weights_changes_the_identity(folder: Path) -> None:
    weights, before = folder / WEIGHTS, digest(folder)
    was = weights.stat()
    flip(weights, MIDDLE)
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    assert digest(folder) != before
    flip(weights, MIDDLE)
    assert digest(folder) == before


def test_changed_file_is_hashed_again_even_with_its_old_mtime(folder: Path, hashed: list[str]) -> None:
    weights, before = folder / WEIGHTS, digest(folder)
    was = weights.stat()
    while weights.stat().st_ctime_ns == was.st_ctime_ns:  # wait for a tick of the file system's clock
        flip(weights, MIDDLE)
        flip(weights, MIDDLE)
    flip(weights, MIDDLE)
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert digest(folder) != before
    assert hashed == [WEIGHTS, WEIGHTS]


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "merges.txt",
        "chat_templates/rag.jinja",
    ],
)
def test_each_file_that_shapes_the_model_changes_the_identity(folder: Path, name: str) -> None:
    before, file = digest(folder), folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{file.read_text(encoding='utf-8') if file.is_file() else ''} ", encoding="utf-8")
    assert digest(folder) != before


@pytest.mark.parametrize("name", ["README.md", "LICENSE.txt", "training.log", "optimizer.bin"])
def test_other_files_do_not_change_the_identity(folder: Path, name: str) -> None:
    before = digest(folder)
    (folder / name).write_text("other", encoding="utf-8")
    assert digest(folder) == before


def test_file_digest_is_the_hash_of_its_chunks_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "CHUNK", 1_000)
    (tmp_path / "file").write_bytes(b"a" * 1_000 + b"end")
    parts = sha256(b"a" * 1_000).digest() + sha256(b"end").digest()
    assert content._hashed(tmp_path / "file") == sha256(parts).hexdigest()


def test_large_file_is_read_once_by_all_processes(folder: Path, hashed: list[str]) -> None:
    before = digest(folder)
    content._known.clear()  # another process has its own memory
    assert digest(folder) == before
    assert hashed == [WEIGHTS]


def test_file_changed_just_now_is_not_cached(folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MIN_AGE_SECONDS", 1e6)
    assert digest(folder) == digest(folder)
    assert hashed == [WEIGHTS, WEIGHTS]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:20]),
        lambda file: file.write_text("[1]"),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: (file.unlink(), file.mkdir()),
    ],
)
def test_damaged_cache_is_ignored(folder: Path, hashed: list[str], damage: Callable[[Path], object]) -> None:
    before = digest(folder)
    content._known.clear()
    damage(content._cache_file())
    assert digest(folder) == before
    assert hashed == [WEIGHTS, WEIGHTS]


def test_cache_keeps_one_entry_per_file(folder: Path, hashed: list[str]) -> None:
    digest(folder)
    time.sleep(0.01)
    flip(folder / WEIGHTS, MIDDLE)
    digest(folder)
    assert len(content._read_cache()) == 1
    assert [file.name for file in content._cache_file().parent.iterdir()] == ["weights.json"]


def test_hashing_of_large_files_reports_progress(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "CHUNK", 2**21)
    events: list[Event] = []
    with subscribed(events.append):
        digest(folder)
    assert [(event.what, event.done, event.total) for event in events] == [
        (f"hashing {WEIGHTS}", done, 7) for done in (2, 4, 6, 7)
    ]


def test_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other.json").symlink_to(folder / "other.json.target")
    assert digest(folder), "a dangling link is no file"

    def fail(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(content, "_file_digest", fail)
    with pytest.raises(ModelError, match=rf"{WEIGHTS} cannot be read \(Permission denied\)"):
        digest(folder)
