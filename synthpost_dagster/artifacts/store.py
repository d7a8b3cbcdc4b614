"""Publishes artifacts, finds them again, and reads them.

An artifact is a folder `<asset>/<partition>/<fingerprint>` of files and a `manifest.json` that is written last: if it
is there, the artifact is whole. Nothing whole is changed in place; only what failed a check is made again there. What
goes into a fingerprint is the stages' business; which gates there are is that of `rows.gates`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from upath import UPath

from synthpost_dagster.artifacts.explanation import Explanation
from synthpost_dagster.artifacts.fingerprint import fingerprint, table_digest
from synthpost_dagster.errors import GateFailed, SpecError, StorageError, UpstreamMissing

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
LOCK_SECONDS = 6 * 3600


class FileEntry(BaseModel):
    """Size and hash of one file."""

    model_config = ConfigDict(frozen=True)
    bytes: int
    sha256: str


class GateEntry(BaseModel):
    """A gate's verdict as the manifest keeps it."""

    model_config = ConfigDict(frozen=True)
    name: str
    is_passed: bool
    is_blocking: bool
    message: str
    figures: dict[str, float] = {}
    offending: tuple[dict[str, str], ...] = ()
    """The first rows at fault, long texts cut."""
    explanation: Explanation | None = None
    """Of a gate that did not pass."""

    def sentence(self, title: str) -> str:
        """What failed on the artifact of that title, and what to do."""
        if self.explanation and self.explanation.cause:
            return f"{title}: {self.explanation.cause}"
        remedy = self.explanation.remedy if self.explanation else ""
        return f"{title} failed its check {self.name}: {self.message}; {remedy or 'correct it and materialize again'}"

    @property
    def details(self) -> list[str]:
        """What belongs under the sentence: the finding where the sentence does not hold it, reasons, examples."""
        if self.explanation is None:
            return []
        finding = [f"{self.name}: {self.message}"] if self.explanation.cause else []
        return finding + self.explanation.lines


class Manifest(BaseModel):
    """What is known of an artifact. `digest` is a hash of its content, `fingerprint` of what shaped it."""

    model_config = ConfigDict(frozen=True)
    asset: str
    partition: str
    fingerprint: str
    digest: str
    parts: dict[str, Any]
    files: dict[str, FileEntry]
    facts: dict[str, Any]
    gates: tuple[GateEntry, ...]
    made_at: str

    @property
    def failed_gates(self) -> list[GateEntry]:
        """The blocking gates that did not pass."""
        return [gate for gate in self.gates if gate.is_blocking and not gate.is_passed]


class Plan(NamedTuple):
    """An artifact to be: `parts` is everything that shapes it; `partition` is empty where there is none."""

    asset: str
    partition: str
    parts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the parts."""
        return fingerprint(self.parts)

    @property
    def title(self) -> str:
        """The asset with its partition, for people."""
        return f"{self.asset} {self.partition}".strip()


class Outcome(NamedTuple):
    """An artifact that is there, and whether it was there before."""

    manifest: Manifest
    is_reused: bool


class Draft:
    """The files of an artifact while it is made, in a private local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.gates: list[GateEntry] = []
        self.digest = ""

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Writes `<name>.parquet`; the first table's digest is the artifact's."""
        with writing(self.folder):
            table.to_parquet(self.folder / f"{name}.parquet", index=False)
        self.digest = self.digest or table_digest(table)


class ArtifactStore:
    """Artifacts below `root` (a folder or an object store); locks and drafts below `home`, which is local."""

    def __init__(self, root: str | Path, home: Path) -> None:
        try:
            self.root = UPath(root)
        except (ValueError, ImportError) as error:
            raise SpecError(
                f"storage {str(root)!r} cannot be opened: {error}; correct `storage` in the profile, or install "
                "the package that its protocol needs"
            ) from None
        self.home = home

    def find(self, asset: str, partition: str, fingerprint: str) -> Manifest | None:
        """The manifest, or None where the artifact is not there or not whole."""
        folder = self._folder(asset, partition, fingerprint)
        manifest = _read_manifest(folder / MANIFEST)
        if manifest is None or manifest.fingerprint != fingerprint:
            return None
        for name, entry in manifest.files.items():
            file = folder / name
            if not file.exists() or file.stat().st_size != entry.bytes:
                return None
        return manifest

    def need(self, plan: Plan, remedy: str) -> Manifest:
        """The artifact of a plan. Raises UpstreamMissing, or GateFailed where a check on it failed."""
        manifest = self.find(plan.asset, plan.partition, plan.fingerprint)
        if manifest is None:
            raise UpstreamMissing(f"{plan.title} does not exist for this task and profile yet; {remedy}")
        refuse_failed(manifest)
        return manifest

    def all_of(self, asset: str, partition: str = "") -> list[Manifest]:
        """Every whole artifact of an asset and partition, oldest first."""
        folder = self.root / asset / _safe(partition)
        if not folder.exists():
            return []
        found = [self.find(asset, partition, child.name) for child in folder.iterdir()]
        return sorted((manifest for manifest in found if manifest), key=lambda manifest: manifest.made_at)

    @overload
    def reuse_or_make(self, plan: Plan, make: Callable[[Draft], None]) -> Outcome: ...

    @overload
    def reuse_or_make(self, plan: Plan, make: Callable[[Draft], None], *, wait: bool) -> Outcome | None: ...

    def reuse_or_make(self, plan: Plan, make: Callable[[Draft], None], *, wait: bool = True) -> Outcome | None:
        """The artifact of a plan; `make` fills a draft where it is not there, or where a check on it failed.

        Two processes that want one artifact wait for each other; one that says `wait=False` gets None instead, where
        the other is still at it. Raises StorageError when the disk is full or a file cannot be written; every other
        artifact is then untouched.
        """
        with self._lock(plan, wait) as is_ours:
            manifest = self.find(plan.asset, plan.partition, plan.fingerprint)
            if manifest and not manifest.failed_gates:
                return Outcome(manifest, is_reused=True)
            if not is_ours:
                return None
            with self._draft() as draft:
                draft.facts["made_because"] = _why(plan, self.all_of(plan.asset, plan.partition))
                make(draft)
                return Outcome(self._publish(plan, draft), is_reused=False)

    def read_table(self, manifest: Manifest, name: str | None = None) -> pd.DataFrame:
        """A table of an artifact; without a name the asset's own. Raises StorageError if the file was changed."""
        import pandas as pd

        return pd.read_parquet(io.BytesIO(self.read_file(manifest, f"{name or manifest.asset}.parquet")))

    def read_file(self, manifest: Manifest, name: str) -> bytes:
        """A file of an artifact, checked against its manifest."""
        file = self._folder(manifest.asset, manifest.partition, manifest.fingerprint) / name
        try:
            content: bytes = file.read_bytes()
        except OSError as error:
            raise StorageError(f"{file}: cannot be read ({error}); materialize {manifest.asset} again") from None
        if hashlib.sha256(content).hexdigest() != manifest.files[name].sha256:
            raise StorageError(f"{file}: differs from its manifest; delete its folder and materialize {manifest.asset}")
        return content

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
        """Where the artifact is, for people."""
        return str(self._folder(manifest.asset, manifest.partition, manifest.fingerprint))

    def _folder(self, asset: str, partition: str, fingerprint: str) -> UPath:
        return self.root / asset / _safe(partition) / fingerprint

    def _publish(self, plan: Plan, draft: Draft) -> Manifest:
        files = {path.name: _entry(path) for path in sorted(draft.folder.iterdir())}
        manifest = Manifest(
            asset=plan.asset,
            partition=plan.partition,
            fingerprint=plan.fingerprint,
            digest=draft.digest,
            parts=plan.parts,
            files=files,
            facts=draft.facts,
            gates=tuple(draft.gates),
            made_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        folder = self._folder(plan.asset, plan.partition, plan.fingerprint)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)
            for name in files:
                write_whole(folder / name, (draft.folder / name).read_bytes())
            write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())
        except OSError as error:
            with contextlib.suppress(OSError):
                _remove(folder)
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror or error}); free space or set `storage` in the profile"
            ) from error
        return manifest

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Draft]:
        base = self.home / "tmp"
        with writing(base):
            base.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=base))
        try:
            yield Draft(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _lock(self, plan: Plan, wait: bool) -> Iterator[bool]:
        """Whether the right to make the artifact was got; it always is, unless one does not wait for it."""
        folder = self.home / "locks"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{plan.asset}-{_safe(plan.partition)}-{plan.fingerprint}.lock")
        try:
            lock.acquire(timeout=LOCK_SECONDS if wait else 0)
        except Timeout:
            if wait:
                raise StorageError(
                    f"{plan.title} has been in the making elsewhere for {LOCK_SECONDS // 3600} hours; "
                    "stop that run first"
                ) from None
        try:
            yield lock.is_locked
        finally:
            lock.release()


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns what the system says against writing into a StorageError that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{place}: cannot be written ({error.strerror or error}); free space, or set SYNTHPOST_HOME"
        ) from error


def refuse_failed(manifest: Manifest) -> None:
    """Raises GateFailed where a blocking gate of the artifact did not pass; one whose cause is known goes first."""
    if failed := manifest.failed_gates:
        raise gate_failure(f"{manifest.asset} {manifest.partition}".strip(), _best_explained(failed))


def gate_failure(title: str, gate: GateEntry) -> GateFailed:
    """The error of a gate that did not pass on the artifact of that title."""
    return GateFailed(gate.sentence(title), details=gate.details)


def _best_explained(failed: list[GateEntry]) -> GateEntry:
    return next((gate for gate in failed if gate.explanation and gate.explanation.cause), failed[0])


def write_whole(path: Path | UPath, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one; object stores do so by themselves."""
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


def _why(plan: Plan, earlier: list[Manifest]) -> str:
    """Why an artifact is made: what differs from the one made last."""
    if not earlier:
        return "it is the first"
    last = earlier[-1]
    if failed := last.failed_gates:
        return f"the last one failed its check {failed[0].name}"
    changed = [
        name
        for name, part in plan.parts.items()
        if fingerprint({name: last.parts.get(name)}) != fingerprint({name: part})
    ]
    return f"changed: {', '.join(changed)}" if changed else "the last one is not whole"


def _entry(path: Path) -> FileEntry:
    content = path.read_bytes()
    return FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _read_manifest(path: UPath) -> Manifest | None:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _remove(folder: UPath) -> None:
    for child in folder.iterdir():
        child.unlink()
    folder.rmdir()


def _safe(partition: str) -> str:
    return partition.replace("|", "_") or "all"
