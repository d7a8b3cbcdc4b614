"""The manifest of an artifact, with the verdicts of its gates."""

import builtins
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict
from upath import UPath

from synthpost_dagster.artifacts.explanation import Explanation
from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.errors import GateFailed

MANIFEST_FORMAT = 3
"""Raised when artifacts get other tables or facts. One of another format is not used: its artifact is made again."""


class FileEntry(BaseModel):
    """Size and hash of one file."""

    model_config = ConfigDict(frozen=True)
    bytes: int
    sha256: str

    @classmethod
    def of(cls, content: builtins.bytes) -> Self:
        """The entry of a file with this content."""
        return cls(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def is_of(self, content: builtins.bytes | None) -> bool:
        """Whether this is the content of the file."""
        return content is not None and hashlib.sha256(content).hexdigest() == self.sha256


class GateEntry(BaseModel):
    """A gate's verdict."""

    model_config = ConfigDict(frozen=True)
    name: str
    is_passed: bool
    is_blocking: bool
    message: str
    figures: dict[str, float] = {}
    offending: tuple[dict[str, str], ...] = ()
    """The first rows at fault, with long texts shortened."""
    is_severe: bool = True
    """Whether a failure is shown as an error, not as a warning."""
    limits: dict[str, Any] = {}
    """The keys of the task's `quality` that the verdict depends on, with their values at that time."""
    explanation: Explanation | None = None
    """None where the gate passed."""

    def sentence(self, title: str) -> str:
        """What failed on the artifact of that title, and what to do."""
        if self.explanation and self.explanation.cause:
            return f"{title}: {self.explanation.cause}"
        remedy = self.explanation.remedy if self.explanation else ""
        return f"{title} failed its check {self.name}: {self.message}; {remedy or 'correct it and materialize again'}"

    @property
    def details(self) -> list[str]:
        """The lines under the sentence: the finding where the sentence lacks it, reasons, examples."""
        why = self.explanation
        return ([f"{self.name}: {self.message}"] if why and why.cause else []) + (why.lines if why else [])


class Manifest(BaseModel):
    """The record of an artifact: `digest` is a hash of its content, `fingerprint` of its inputs, `self_digest` of this
    record.
    """

    model_config = ConfigDict(frozen=True)
    format: int = MANIFEST_FORMAT
    self_digest: str = ""
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

    @property
    def title(self) -> str:
        """The asset with its partition, for people."""
        return f"{self.asset} {self.partition}".strip()


class Plan(NamedTuple):
    """The identity of an artifact: `parts` are its inputs; `partition` is empty for an asset without partitions."""

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
    """An artifact, and whether it existed before."""

    manifest: Manifest
    is_reused: bool


def refuse_failed(manifest: Manifest) -> None:
    """Raises GateFailed where a blocking gate of the artifact failed; a gate with a known cause is named first."""
    if failed := manifest.failed_gates:
        explained = (gate for gate in failed if gate.explanation and gate.explanation.cause)
        raise gate_failure(manifest.title, next(explained, failed[0]))


def gate_failure(title: str, gate: GateEntry) -> GateFailed:
    """The error of a gate that failed on the artifact of that title."""
    return GateFailed(gate.sentence(title), details=gate.details)


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its own digest, as it will be read."""
    content = json.loads(manifest.model_dump_json())
    return Manifest.model_validate(content | {"self_digest": _self_digest(content)})


def _self_digest(content: Mapping[str, Any]) -> str:
    unsealed = {**content, "self_digest": ""}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True).encode()).hexdigest()


def as_bytes(manifest: Manifest) -> bytes:
    """The manifest as its file holds it."""
    return manifest.model_dump_json(indent=1).encode()


def read_manifest(path: UPath) -> Manifest | None:
    """The manifest; None where it is missing, cannot be read, differs from its own digest, or has another format."""
    try:
        content = json.loads(path.fs.cat_file(path.path))
        manifest = Manifest.model_validate(content)
    except (OSError, ValueError, RecursionError):
        return None
    is_valid = manifest.format == MANIFEST_FORMAT and manifest.self_digest == _self_digest(content)
    return manifest if is_valid else None
