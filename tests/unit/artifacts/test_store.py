"""An artifact is there whole or not at all, is made once, and is refused where a check on it failed."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock

from synthpost_dagster.artifacts.manifest import (
    MANIFEST_FORMAT,
    GateEntry,
    Manifest,
    Plan,
    as_bytes,
    refuse_failed,
    sealed,
)
from synthpost_dagster.artifacts.store import MANIFEST, ArtifactStore, Draft, write_whole
from synthpost_dagster.errors import ArtifactBusy, ArtifactDamaged, GateFailed, StorageError

PLAN = Plan("verdicts", "88|50", {"predictions": "abc", "judge": {"name": "rubric"}})
TABLE = pd.DataFrame({"id": ["a", "b"], "wins": [3, 4]})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "storage", tmp_path / "home")


class Maker:
    """Makes a table and a note, and counts how often it was asked to."""

    def __init__(self, table: pd.DataFrame = TABLE, gate: GateEntry | None = None) -> None:
        self.table, self.gate, self.calls = table, gate, 0

    def __call__(self, draft: Draft) -> None:
        self.calls += 1
        draft.table("verdicts", self.table)
        (draft.folder / "note.txt").write_text("a note", encoding="utf-8")
        draft.facts["rows"] = len(self.table)
        draft.gates += [self.gate] if self.gate else []


def gate(is_passed: bool, is_blocking: bool = True) -> GateEntry:
    return GateEntry(name="duplicates", is_passed=is_passed, is_blocking=is_blocking, message="2 posts repeat another")


def folder_of(store: ArtifactStore, plan: Plan = PLAN) -> Path:
    return Path(str(store.root)) / plan.asset / plan.partition.replace("|", "_") / plan.fingerprint


def found(store: ArtifactStore, plan: Plan = PLAN) -> Manifest | None:
    return store.find(plan.asset, plan.partition, plan.fingerprint)


def existing(store: ArtifactStore) -> Manifest:
    manifest = found(store)
    assert manifest is not None
    return manifest


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to let this process's files grow beyond `size` bytes, as it would on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_artifact_records_what_differs_from_the_previous_one(store: ArtifactStore) -> None:
    store.reuse_or_make(PLAN, Maker(gate=gate(is_passed=False)))
    again = store.reuse_or_make(PLAN, Maker())
    assert again.manifest.facts["made_because"] == "the last one failed its check duplicates"
    part = next(iter(PLAN.parts))
    changed = PLAN._replace(parts=PLAN.parts | {part: "another"})
    assert store.reuse_or_make(changed, Maker()).manifest.facts["made_because"] == f"changed: {part}"


def test_published_artifact_is_found_and_read(store: ArtifactStore) -> None:
    made = store.reuse_or_make(PLAN, Maker())
    assert not made.is_reused
    assert found(store) == made.manifest
    assert (made.manifest.asset, made.manifest.partition) == ("verdicts", "88|50")
    assert made.manifest.facts == {"made_because": "it is the first", "rows": 2}
    assert set(made.manifest.files) == {"verdicts.parquet", "note.txt"}
    pd.testing.assert_frame_equal(store.read_table(made.manifest), TABLE)
    assert store.read_file(made.manifest, "note.txt") == b"a note"
    assert store.location(made.manifest) == str(folder_of(store))
    assert {path.name for path in folder_of(store).iterdir()} == {MANIFEST, "verdicts.parquet", "note.txt"}


def test_the_same_plan_is_made_once(store: ArtifactStore) -> None:
    maker = Maker()
    first, second = store.reuse_or_make(PLAN, maker), store.reuse_or_make(Plan(*PLAN), maker)
    assert (maker.calls, first.is_reused, second.is_reused) == (1, False, True)
    assert first.manifest == second.manifest


@pytest.mark.parametrize(
    "plan",
    [
        PLAN._replace(parts={**PLAN.parts, "predictions": "abd"}),
        PLAN._replace(parts={**PLAN.parts, "judge": {"name": "rubric", "seed": 1}}),
        PLAN._replace(parts={"predictions": "abc"}),
        PLAN._replace(partition="88|150"),
        PLAN._replace(asset="other"),
    ],
)
def test_changed_plan_makes_a_second_artifact(store: ArtifactStore, plan: Plan) -> None:
    old = store.reuse_or_make(PLAN, Maker()).manifest
    maker = Maker()
    assert not store.reuse_or_make(plan, maker).is_reused
    assert maker.calls == 1
    assert found(store) == old


def test_the_digest_is_of_the_content_and_not_of_the_plan(store: ArtifactStore) -> None:
    one = store.reuse_or_make(PLAN, Maker()).manifest
    same = store.reuse_or_make(PLAN._replace(parts={"x": 1}), Maker()).manifest
    other = store.reuse_or_make(PLAN._replace(parts={"x": 2}), Maker(TABLE.assign(wins=0))).manifest
    assert one.digest == same.digest != other.digest


def test_the_manifest_is_written_last(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def watched(path: Path, content: bytes) -> None:
        assert not (folder_of(store) / MANIFEST).exists()
        order.append(path.name)
        write_whole(path, content)

    monkeypatch.setattr("synthpost_dagster.artifacts.store.write_whole", watched)
    store.reuse_or_make(PLAN, Maker())
    assert order == ["note.txt", "verdicts.parquet", MANIFEST]


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_fingerprint(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 16}), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (MANIFEST, half),
        (MANIFEST, lambda path: path.write_bytes(b"")),
        (MANIFEST, lambda path: path.write_bytes(b"\xff\x00{")),
        (MANIFEST, lambda path: path.write_text("{}", encoding="utf-8")),
        (MANIFEST, lambda path: path.unlink()),
        (MANIFEST, other_fingerprint),
        ("verdicts.parquet", lambda path: path.unlink()),
        ("verdicts.parquet", half),
        ("note.txt", lambda path: path.write_text("a longer note", encoding="utf-8")),
    ],
)
def test_incomplete_artifact_is_not_found_and_is_made_again(
    store: ArtifactStore, name: str, damage: Callable[[Path], object]
) -> None:
    manifest = store.reuse_or_make(PLAN, Maker()).manifest
    damage(folder_of(store) / name)
    assert found(store) is None
    assert store.all_of("verdicts", "88|50") == []
    maker = Maker()
    again = store.reuse_or_make(PLAN, maker)
    assert (maker.calls, again.is_reused) == (1, False)
    assert again.manifest.files == manifest.files
    pd.testing.assert_frame_equal(store.read_table(again.manifest), TABLE)


def kept_aside(store: ArtifactStore) -> list[Path]:
    """Folders of artifacts that were set aside."""
    return sorted(folder_of(store).parent.glob("damaged-*"))


def without_a_file(folder: Path) -> None:
    (folder / "note.txt").unlink()


def with_a_changed_file(folder: Path) -> None:
    (folder / "note.txt").write_bytes(b"b note")


def with_a_changed_fact(folder: Path) -> None:
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"facts": {"wall_seconds": 123456}}), encoding="utf-8")


def with_a_passed_gate(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"is_passed": false', '"is_passed": true'), encoding="utf-8")


def with_half_a_manifest(folder: Path) -> None:
    half(folder / MANIFEST)


@pytest.mark.parametrize("damage", [without_a_file, with_a_changed_file])
def test_reading_damage_sets_artifact_aside_for_the_next_run(
    store: ArtifactStore, damage: Callable[[Path], None]
) -> None:
    manifest = store.reuse_or_make(PLAN, Maker()).manifest
    damage(folder_of(store))
    with pytest.raises(ArtifactDamaged, match=r"note.txt: .*the next run makes verdicts 88\|50 again"):
        store.read_file(manifest, "note.txt")
    assert found(store) is None
    (aside,) = kept_aside(store)
    assert (aside / "verdicts.parquet").is_file()
    again = store.reuse_or_make(PLAN, Maker())
    assert (again.is_reused, again.manifest.facts["made_because"]) == (False, "the last one was damaged")
    assert store.read_file(again.manifest, "note.txt") == b"a note"


@pytest.mark.parametrize("damage", [without_a_file, with_a_changed_file, with_a_changed_fact, with_half_a_manifest])
def test_damage_is_made_again_at_once_where_it_would_be_reused(
    store: ArtifactStore, damage: Callable[[Path], None]
) -> None:
    store.reuse_or_make(PLAN, Maker())
    damage(folder_of(store))
    maker, notes = Maker(), list[str]()
    again = store.reuse_or_make(PLAN, maker, note=notes.append)
    assert (maker.calls, again.is_reused) == (1, False)
    (aside,) = kept_aside(store)
    assert [str(aside) in note and "verdicts 88|50" in note for note in notes] == [True]
    assert store.reuse_or_make(PLAN, maker, note=notes.append).is_reused
    assert len(notes) == 1


def test_manifest_changed_by_hand_is_not_found(store: ArtifactStore) -> None:
    store.reuse_or_make(PLAN, Maker(gate=gate(is_passed=False)))
    with_a_passed_gate(folder_of(store))
    assert found(store) is None


def test_remains_of_a_stopped_publication_are_not_damage(store: ArtifactStore) -> None:
    store.reuse_or_make(PLAN, Maker())
    (folder_of(store) / MANIFEST).unlink()
    assert not store.reuse_or_make(PLAN, Maker()).is_reused
    assert kept_aside(store) == []


def test_damaged_artifact_that_was_made_again_is_kept(store: ArtifactStore) -> None:
    old = store.reuse_or_make(PLAN, Maker(TABLE.assign(wins=0))).manifest
    folder_of(store).rename(folder_of(store).parent / "elsewhere")
    made = store.reuse_or_make(PLAN, Maker()).manifest
    with pytest.raises(ArtifactDamaged):
        store.read_table(old)
    assert found(store) == made
    assert kept_aside(store) == []


def test_damage_in_an_object_store_is_set_aside_too(tmp_path: Path) -> None:
    store = ArtifactStore(f"memory://{tmp_path.name}/damage", tmp_path / "home")
    manifest = store.reuse_or_make(PLAN, Maker()).manifest
    folder = store.root / PLAN.asset / "88_50"
    (folder / PLAN.fingerprint / "note.txt").write_bytes(b"b note")
    with pytest.raises(ArtifactDamaged):
        store.read_file(manifest, "note.txt")
    names = sorted(child.name for child in folder.iterdir())
    assert len(names) == 1 and names[0].startswith(f"damaged-{PLAN.fingerprint}-")
    assert (folder / names[0] / "note.txt").read_bytes() == b"b note"
    assert not store.reuse_or_make(PLAN, Maker()).is_reused
    assert store.read_file(manifest, "note.txt") == b"a note"


def test_manifest_of_another_format_is_made_again(store: ArtifactStore) -> None:
    made = store.reuse_or_make(PLAN, Maker()).manifest
    write_whole(folder_of(store) / MANIFEST, as_bytes(sealed(made.model_copy(update={"format": 2}))))
    assert found(store) is None
    again = store.reuse_or_make(PLAN, Maker())
    assert (again.is_reused, again.manifest.format, again.manifest.digest) == (False, MANIFEST_FORMAT, made.digest)


def test_digest_covers_the_files_where_there_is_no_table(store: ArtifactStore) -> None:
    def digest(text: str) -> str:
        plan = PLAN._replace(parts={"text": text})
        make = lambda draft: (draft.folder / "note.txt").write_text(text)  # noqa: E731
        return store.reuse_or_make(plan, make).manifest.digest

    assert digest("one") and digest("one") != digest("two")


def test_a_failed_gate_is_refused_downstream_and_made_again(store: ArtifactStore) -> None:
    failed = Maker(gate=gate(is_passed=False))
    assert not store.reuse_or_make(PLAN, failed).is_reused
    with pytest.raises(GateFailed, match=r"^verdicts 88\|50 failed its check duplicates: 2 posts repeat another"):
        refuse_failed(existing(store))
    assert not store.reuse_or_make(PLAN, failed).is_reused
    assert failed.calls == 2
    assert not store.reuse_or_make(PLAN, Maker(gate=gate(is_passed=True))).is_reused
    assert existing(store).gates[0].is_passed
    assert store.reuse_or_make(PLAN, failed).is_reused


def test_a_gate_that_only_warns_refuses_nothing(store: ArtifactStore) -> None:
    store.reuse_or_make(PLAN, Maker(gate=gate(is_passed=False, is_blocking=False)))
    assert existing(store).failed_gates == []


def test_every_artifact_of_a_partition_is_listed_oldest_first(store: ArtifactStore) -> None:
    plans = [PLAN._replace(parts={"n": n}) for n in range(3)]
    made = [store.reuse_or_make(plan, Maker()).manifest for plan in plans]
    store.reuse_or_make(PLAN._replace(partition="88|150"), Maker())
    (folder_of(store).parent / "stray.txt").write_text("no artifact", encoding="utf-8")
    assert store.all_of("verdicts", "88|50") == made
    assert store.all_of("nothing") == []


def test_an_error_while_making_leaves_nothing(store: ArtifactStore) -> None:
    def fail(draft: Draft) -> None:
        Maker()(draft)
        raise ValueError("the model broke")

    with pytest.raises(ValueError, match="the model broke"):
        store.reuse_or_make(PLAN, fail)
    assert found(store) is None
    assert not folder_of(store).exists()
    assert list((store.home / "tmp").iterdir()) == []
    assert not store.reuse_or_make(PLAN, Maker()).is_reused


def test_full_disk_while_publishing_keeps_the_old_artifact(store: ArtifactStore) -> None:
    old = store.reuse_or_make(PLAN, Maker()).manifest
    plan = PLAN._replace(parts={"predictions": "new"})
    with contextlib.ExitStack() as full:

        def make(draft: Draft) -> None:
            Maker(pd.DataFrame({"id": range(1000), "wins": 0}))(draft)
            full.enter_context(files_no_larger_than(1_000))

        with pytest.raises(StorageError, match=r"cannot be written \(File too large\); free space, or set `storage`"):
            store.reuse_or_make(plan, make)
    assert not folder_of(store, plan).exists()
    assert found(store, plan) is None
    assert found(store) == old
    pd.testing.assert_frame_equal(store.read_table(old), TABLE)
    assert list((store.home / "tmp").iterdir()) == []
    assert not store.reuse_or_make(plan, Maker()).is_reused


def test_full_disk_at_the_manifest_leaves_no_artifact(store: ArtifactStore) -> None:
    with contextlib.ExitStack() as full:

        def make(draft: Draft) -> None:
            (draft.folder / "small.txt").write_bytes(b"12345")
            full.enter_context(files_no_larger_than(100))

        with pytest.raises(StorageError, match="cannot be written"):
            store.reuse_or_make(PLAN, make)
    assert not folder_of(store).exists()


def test_full_disk_while_drafting_leaves_nothing(store: ArtifactStore) -> None:
    large = Maker(pd.DataFrame({"id": range(5_000)}))
    with (
        files_no_larger_than(1_000),
        pytest.raises(StorageError, match=r"cannot be written .*File too large.*SYNTHPOST_HOME"),
    ):
        store.reuse_or_make(PLAN, large)
    assert found(store) is None
    assert list((store.home / "tmp").iterdir()) == []


def test_a_full_disk_while_a_local_folder_is_filled_is_a_clear_error(store: ArtifactStore) -> None:
    manifest = store.reuse_or_make(PLAN, Maker(pd.DataFrame({"id": range(5_000)}))).manifest
    with (
        files_no_larger_than(1_000),
        pytest.raises(StorageError, match=r"cannot be written \(File too large\)"),
        store.local_folder(manifest),
    ):
        raise AssertionError("the folder is not whole")
    assert list((store.home / "tmp").iterdir()) == []


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_whole(path, b"old")
    with files_no_larger_than(10), pytest.raises(OSError, match="File too large"):
        write_whole(path, b"x" * 1000)
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [child.name for child in tmp_path.iterdir()] == ["page.html"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_storage_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("in the way", encoding="utf-8")
    store = ArtifactStore(tmp_path / "storage", tmp_path / "home")
    with pytest.raises(StorageError, match="cannot be written"):
        store.reuse_or_make(PLAN, Maker())
    assert found(store) is None


def test_a_home_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match=r"cannot be written .*SYNTHPOST_HOME"):
        ArtifactStore(tmp_path / "storage", tmp_path / "home").reuse_or_make(PLAN, Maker())


def test_two_threads_make_one_artifact_once(store: ArtifactStore) -> None:
    maker, outcomes = Maker(), []
    start = threading.Barrier(4)

    def slowly(draft: Draft) -> None:
        time.sleep(0.2)
        maker(draft)

    def want() -> None:
        start.wait()
        outcomes.append(store.reuse_or_make(PLAN, slowly))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert maker.calls == 1
    assert sorted(outcome.is_reused for outcome in outcomes) == [False, True, True, True]


PROCESS = """
import sys, time
from pathlib import Path
from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.artifacts.store import ArtifactStore
root = Path(sys.argv[1])
def make(draft):
    with (root / "made").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    (draft.folder / "note.txt").write_text("a note")
(root / f"ready-{sys.argv[2]}").touch()
while len(list(root.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(ArtifactStore(root / "storage", root / "home").reuse_or_make(Plan("catalog", "", {"a": 1}), make).is_reused)
"""


def test_two_processes_make_one_artifact_once(tmp_path: Path) -> None:
    started: list[subprocess.Popen[str]] = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    said = sorted(process.communicate(timeout=300)[0].strip() for process in started)
    assert said == ["False", "True"]
    assert (tmp_path / "made").read_text() == "x"


HOLD = """
import sys
from pathlib import Path
from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.artifacts.store import ArtifactStore
root = Path(sys.argv[1])
def make(draft):
    print("makes", flush=True)
    sys.stdin.readline()
    (draft.folder / "note.txt").write_text("a note")
ArtifactStore(root / "storage", root / "home").reuse_or_make(Plan("catalog", "", {"a": 1}), make)
"""


def test_artifact_in_progress_elsewhere_is_skipped_without_waiting(tmp_path: Path) -> None:
    store, maker = ArtifactStore(tmp_path / "storage", tmp_path / "home"), Maker()
    plan, other = Plan("catalog", "", {"a": 1}), Plan("catalog", "", {"a": 2})
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "makes\n"
        with pytest.raises(ArtifactBusy):
            store.reuse_or_make(plan, maker, wait=False)
        assert maker.calls == 0
        assert not store.reuse_or_make(other, maker, wait=False).is_reused
        process.communicate("go on\n", timeout=300)
    reused = store.reuse_or_make(plan, maker, wait=False)
    assert reused.is_reused
    assert reused.manifest.files.keys() == {"note.txt"}
    assert maker.calls == 1


def test_existing_artifact_is_read_without_its_lock(store: ArtifactStore) -> None:
    """Another process that holds it only looks whether it is there."""
    store.reuse_or_make(PLAN, Maker())
    (lock,) = (store.home / "locks").glob("*.lock")
    with FileLock(lock):
        assert store.reuse_or_make(PLAN, Maker(), wait=False).is_reused


def test_local_folder_holds_the_files_and_is_removed_afterwards(store: ArtifactStore) -> None:
    manifest = store.reuse_or_make(PLAN, Maker()).manifest
    with store.local_folder(manifest) as folder:
        assert {path.name for path in folder.iterdir()} == {"verdicts.parquet", "note.txt"}
        (folder / "note.txt").write_text("scribble", encoding="utf-8")
    assert not folder.exists()
    assert store.read_file(manifest, "note.txt") == b"a note"


def test_an_object_store_works_as_well_as_a_folder(tmp_path: Path) -> None:
    store = ArtifactStore(f"memory://{tmp_path.name}/storage", tmp_path / "home")
    maker: Any = Maker()
    manifest = store.reuse_or_make(PLAN, maker).manifest
    assert store.reuse_or_make(PLAN, maker).is_reused
    pd.testing.assert_frame_equal(store.read_table(manifest), TABLE)
    assert store.all_of("verdicts", "88|50") == [manifest]
    assert not (tmp_path / "storage").exists()
