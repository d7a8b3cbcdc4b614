"""Publishes artifacts, finds them again, and reads them.

An artifact is a folder `<asset>/<partition>/<fingerprint>` of files and a `manifest.json`, which is written last: an
artifact with a manifest is complete. A complete artifact never changes, except that its gates are evaluated again when
a limit changes. One that failed a gate is replaced; a damaged one is renamed to `damaged-…`. Stages decide what goes
into a fingerprint, `quality` which gates there are.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from upath import UPath

from synthpost_dagster.artifacts.drafts import draft_folder
from synthpost_dagster.artifacts.fingerprint import fingerprint, table_digest
from synthpost_dagster.artifacts.manifest import (
    FileEntry,
    GateEntry,
    Manifest,
    Outcome,
    Plan,
    as_bytes,
    read_manifest,
    sealed,
)
from synthpost_dagster.errors import ArtifactBusy, ArtifactDamaged, SpecError, StorageError
from synthpost_dagster.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
DAMAGED = "damaged-"
STORAGE = "set `storage` in the profile"
LOCK_SECONDS = 6 * 3600
QUIET_SECONDS = 1.0
"""A shorter wait for a lock is not reported."""
POLL_SECONDS = 0.2
READS = 2
"""A file counts as damaged when this number of reads fails."""


class Draft:
    """The files of an artifact while it is made, in a private local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.gates: list[GateEntry] = []
        self.digest = ""
        self.tables: dict[str, pd.DataFrame] = {}
        self.target_rows: int | None = None
        """Requested rows; None for the rows of the main table."""

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Writes `<name>.parquet`; the first table's digest is the artifact's, unless its stage sets another."""
        with writing(self.folder):
            table.to_parquet(self.folder / f"{name}.parquet", index=False)
        self.tables[name] = table
        self.digest = self.digest or table_digest(table)


class ArtifactStore:
    """Artifacts below `root` (a folder or an object store); locks and drafts below `home`, which is local."""

    def __init__(self, root: str | Path, home: Path) -> None:
        try:
            self.root = UPath(root)
            _ = self.root.fs  # imports what the protocol needs
        except (ValueError, ImportError) as error:
            raise SpecError(
                f"storage {str(root)!r} cannot be opened: {error}; correct `storage` in the profile, or install "
                "the package that its protocol needs"
            ) from None
        self.home = home
        self.damages = 0
        """Number of damaged artifacts that this process found."""

    def find(self, asset: str, partition: str, fingerprint: str) -> Manifest | None:
        """The manifest; None where the artifact is missing or incomplete."""
        folder = self._folder(asset, partition, fingerprint)
        manifest = read_manifest(folder / MANIFEST)
        if manifest is None or manifest.fingerprint != fingerprint:
            return None
        sizes = _sizes(folder)
        return manifest if all(sizes.get(name) == entry.bytes for name, entry in manifest.files.items()) else None

    def all_of(self, asset: str, partition: str = "") -> list[Manifest]:
        """Every whole artifact of an asset and partition, oldest first."""
        found = [self.find(asset, partition, name) for name in self.fingerprints(asset, partition)]
        return sorted((manifest for manifest in found if manifest), key=lambda manifest: manifest.made_at)

    def fingerprints(self, asset: str, partition: str = "") -> list[str]:
        """The fingerprints of an asset and partition that have a folder, complete or not."""
        return [name for name in _sizes(self.root / asset / _safe(partition)) if not name.startswith(DAMAGED)]

    def set_aside(self, asset: str, partition: str = "") -> list[Manifest]:
        """The readable manifests of damaged artifacts that were set aside."""
        folder = self.root / asset / _safe(partition)
        found = [read_manifest(folder / name / MANIFEST) for name in _sizes(folder) if name.startswith(DAMAGED)]
        return [manifest for manifest in found if manifest]

    def reuse_or_make(
        self,
        plan: Plan,
        make: Callable[[Draft], None],
        note: Callable[[str], None] = SILENT.note,
        *,
        wait: bool = True,
    ) -> Outcome:
        """The artifact of a plan; `make` fills a draft where it does not exist, is damaged, or failed a gate.

        All files of a reused artifact are compared with their hashes. A damaged artifact is set aside, and `note` gets
        a sentence about it. While another process makes the artifact, this call waits, or without `wait` raises
        ArtifactBusy. Raises StorageError when the disk is full or a file cannot be written; every other artifact is
        then untouched.
        """
        with self._lock(plan, wait) as is_ours:
            manifest = self.find(plan.asset, plan.partition, plan.fingerprint)
            if manifest and not manifest.failed_gates and not (is_ours and self._is_damaged(manifest)):
                return Outcome(manifest, is_reused=True)
            if not is_ours:
                raise ArtifactBusy(f"{plan.title}: another process is making it; wait for that run")
            if aside := self._set_damaged_aside(plan):
                note(
                    f"{plan.title} was damaged, or made by another version; it is made again, and the old files are "
                    f"kept as {aside}"
                )
            with self._draft() as draft:
                draft.facts["made_because"] = self._why(plan)
                make(draft)
                return Outcome(self._publish(plan, draft), is_reused=False)

    def replace_gates(self, manifest: Manifest, gates: Sequence[GateEntry]) -> Manifest:
        """The artifact's manifest with these verdicts, which replaces the one in the storage.

        While another process holds the artifact's lock, nothing is written.
        """
        changed, folder = sealed(manifest.model_copy(update={"gates": tuple(gates)})), self._folder_of(manifest)
        with self._lock(manifest, wait=False) as is_ours:
            if is_ours and self.find(manifest.asset, manifest.partition, manifest.fingerprint) == manifest:
                with writing(folder, STORAGE):
                    write_whole(folder / MANIFEST, as_bytes(changed))
        return changed

    def read_table(self, manifest: Manifest, name: str | None = None) -> pd.DataFrame:
        """A table of an artifact; without a name the asset's own. Raises as `read_file` does."""
        import pandas as pd

        return pd.read_parquet(io.BytesIO(self.read_file(manifest, f"{name or manifest.asset}.parquet")))

    def read_file(self, manifest: Manifest, name: str) -> bytes:
        """A file of an artifact, checked against its manifest.

        Raises StorageError where it cannot be read, ArtifactDamaged where it is missing or differs; the artifact is
        then set aside, so that the next run makes it again.
        """
        file = self._folder_of(manifest) / name
        for _ in range(READS):
            content = _content(file)
            if content is not None and manifest.files[name].is_of(content):
                return content
        self.damages += 1
        what = "is missing" if content is None else "differs from its manifest"
        with self._lock(manifest, wait=False) as is_ours:
            aside = self._set_damaged_aside(manifest) if is_ours else ""
        kept = f"; the damaged files are kept as {aside}" if aside else ""
        raise ArtifactDamaged(f"{file}: {what}; the next run makes {manifest.title} again{kept}")

    @contextlib.contextmanager
    def local_folder(self, manifest: Manifest) -> Iterator[Path]:
        """A local folder with the artifact's files, checked; a copy that is removed afterwards."""
        with self._draft() as draft:
            for name in manifest.files:
                content = self.read_file(manifest, name)
                with writing(draft.folder):
                    (draft.folder / name).write_bytes(content)
            yield draft.folder

    def location(self, manifest: Manifest) -> str:
        """The artifact's folder, for people."""
        return str(self._folder_of(manifest))

    def _is_damaged(self, manifest: Manifest) -> bool:
        """Whether a file is missing or differs from its hash."""
        folder = self._folder_of(manifest)
        return any(not entry.is_of(_content(folder / name)) for name, entry in manifest.files.items())

    def _set_damaged_aside(self, one: Plan | Manifest) -> str:
        """Renames a damaged artifact and returns its new folder; empty where it is not damaged. Needs its lock.

        A folder without a manifest is left from a publication that was stopped.
        """
        folder = self._folder_of(one)
        if not (folder / MANIFEST).exists():
            return ""
        manifest = self.find(one.asset, one.partition, one.fingerprint)
        if manifest and not self._is_damaged(manifest):
            return ""
        aside = folder.parent / f"{DAMAGED}{one.fingerprint}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        with writing(folder, STORAGE):
            folder.fs.mv(folder.path, aside.path, recursive=True)
        return str(aside)

    def _why(self, plan: Plan) -> str:
        """Why an artifact is made: the last one was damaged, or which of its inputs changed."""
        names = _sizes(self._folder_of(plan).parent)
        if any(name.startswith(f"{DAMAGED}{plan.fingerprint}-") for name in names):
            return "the last one was damaged"
        earlier = self.all_of(plan.asset, plan.partition)
        if not earlier:
            return "it is the first"
        if failed := earlier[-1].failed_gates:
            return f"the last one failed its check {failed[0].name}"
        before = earlier[-1].parts
        changed = [
            name for name, part in plan.parts.items() if fingerprint({"": before.get(name)}) != fingerprint({"": part})
        ]
        return f"changed: {', '.join(changed)}" if changed else "the last one is not whole"

    def _folder(self, asset: str, partition: str, fingerprint: str) -> UPath:
        return self.root / asset / _safe(partition) / fingerprint

    def _folder_of(self, one: Plan | Manifest) -> UPath:
        return self._folder(one.asset, one.partition, one.fingerprint)

    def _publish(self, plan: Plan, draft: Draft) -> Manifest:
        files = {path.name: FileEntry.of(path.read_bytes()) for path in sorted(draft.folder.iterdir())}
        manifest = sealed(
            Manifest(
                asset=plan.asset,
                partition=plan.partition,
                fingerprint=plan.fingerprint,
                digest=draft.digest or fingerprint({name: entry.sha256 for name, entry in files.items()}),
                parts=plan.parts,
                files=files,
                facts=draft.facts,
                gates=tuple(draft.gates),
                made_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            )
        )
        folder = self._folder_of(plan)
        try:
            with writing(folder, STORAGE):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / MANIFEST).unlink(missing_ok=True)
                for name in files:
                    write_whole(folder / name, (draft.folder / name).read_bytes())
                write_whole(folder / MANIFEST, as_bytes(manifest))
        except StorageError:
            with contextlib.suppress(OSError):
                folder.fs.rm(folder.path, recursive=True)
            raise
        return manifest

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Draft]:
        with contextlib.ExitStack() as stack:
            with writing(self.home / "tmp"):
                folder = stack.enter_context(draft_folder(self.home))
            yield Draft(folder)

    @contextlib.contextmanager
    def _lock(self, one: Plan | Manifest, wait: bool) -> Iterator[bool]:
        """Whether the artifact's lock was acquired; without `wait` it may not be."""
        folder = self.home / "locks"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{one.asset}-{_safe(one.partition)}-{one.fingerprint}.lock"
        lock = FileLock(path)
        with writing(path):
            if path.is_symlink():
                raise OSError(errno.ELOOP, "it is a symbolic link")
            is_ours = _is_acquired(lock, 0 if not wait else QUIET_SECONDS)
            if wait and not is_ours:
                Progress().note(f"another process is making {one.title}; waiting for it")
                is_ours = _is_acquired(lock, LOCK_SECONDS)
        if wait and not is_ours:
            raise StorageError(
                f"{one.title}: another process has been making it for {LOCK_SECONDS // 3600} hours; stop that run first"
            )
        try:
            yield is_ours
        finally:
            lock.release()


@contextlib.contextmanager
def writing(place: Path | UPath, setting: str = "set SYNTHPOST_HOME") -> Iterator[None]:
    """Turns an OSError of writing into a StorageError that names the place and the setting to change."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{place}: cannot be written ({error.strerror or error}); free space, or {setting}"
        ) from error


def write_whole(path: Path | UPath, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old content or the new one. Object stores do so by themselves."""
    if not isinstance(path, os.PathLike) or getattr(path, "protocol", "") not in ("", "file", "local"):
        path.write_bytes(content)
        return
    target = Path(path)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _is_acquired(lock: FileLock, timeout: float) -> bool:
    try:
        lock.acquire(timeout=timeout, poll_interval=POLL_SECONDS)
    except Timeout:
        return False
    return True


def _sizes(folder: UPath) -> dict[str, int]:
    """Name → bytes of the entries of a folder, from one listing; empty where it does not exist."""
    folder.fs.invalidate_cache(folder.path)  # other processes write too
    try:
        entries = folder.fs.ls(folder.path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {PurePosixPath(entry["name"]).name: entry["size"] for entry in entries}


def _content(file: UPath) -> bytes | None:
    """The file's bytes; None where it is missing. Raises StorageError where it cannot be read."""
    try:
        content: bytes = file.fs.cat_file(file.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{file}: cannot be read ({error.strerror or error}); check the storage") from error
    return content


def _safe(partition: str) -> str:
    return partition.replace("|", "_") or "all"
