"""Which artifacts exist, remembered for one run or one decision.

Each record of inputs is built once and each manifest is read once. When a run makes an artifact, its entry and every
record that was built from it are dropped. Content is not remembered: it is compared with its hashes whenever it is
read or reused. Damage drops all entries.
"""

from collections import defaultdict
from enum import Enum
from typing import Any, Protocol

from synthpost_dagster.artifacts.manifest import Manifest, Plan, refuse_failed
from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.errors import SynthpostError, UpstreamMissing


class Record(Protocol):
    """The typed inputs of one artifact; their hash is its fingerprint."""

    @property
    def parts(self) -> dict[str, Any]:
        """Every input by name, as JSON."""


class Graph(Protocol):
    """What the resolver needs from the stages."""

    def inputs_of(self, asset: str, partition: str) -> Record:
        """The inputs of an artifact. Raises SynthpostError where something before it is missing or failed."""

    def remedy_of(self, asset: str, partition: str) -> str:
        """What to do where the artifact does not exist."""

    def are_gates_current(self, manifest: Manifest) -> bool:
        """Whether its gates were evaluated under the present limits."""


class State(Enum):
    """Whether a run has to make an artifact."""

    CURRENT = "current"
    RECHECK = "to be checked again"
    """It exists and passed its gates, under other limits than the present ones."""
    FAILED = "failed"
    MISSING = "missing"
    """It does not exist, or its inputs do not."""


Key = tuple[str, str]


class Resolver:
    """Finds the artifacts of one study. Where an asset has no partitions, the partition is empty."""

    def __init__(self, store: ArtifactStore, graph: Graph) -> None:
        self._store, self._graph, self._damages = store, graph, store.damages
        self._records: dict[Key, Record | SynthpostError] = {}
        self._fingerprints: dict[Key, str] = {}
        self._manifests: dict[tuple[str, str, str], Manifest | None] = {}
        self._listings: dict[Key, list[Manifest]] = {}
        self._readers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._building: list[Key] = []

    def inputs(self, asset: str, partition: str = "") -> Any:
        """The record of an artifact's inputs. Raises SynthpostError where it cannot be built."""
        key = (asset, partition)
        self._note_reader(key)
        if key not in self._records:
            self._building.append(key)
            try:
                self._records[key] = self._graph.inputs_of(asset, partition)
            except SynthpostError as error:
                self._records[key] = error
            finally:
                self._building.pop()
        record = self._records[key]
        if isinstance(record, SynthpostError):
            raise record.with_traceback(None)
        return record

    def plan(self, asset: str, partition: str = "") -> Plan:
        """Identity and inputs of an artifact. Raises SynthpostError where its inputs are missing or failed."""
        return Plan(asset, partition, self.inputs(asset, partition).parts)

    def fingerprint(self, asset: str, partition: str = "") -> str:
        """The hash of its inputs. Raises SynthpostError where they are missing or failed."""
        record, key = self.inputs(asset, partition), (asset, partition)
        if key not in self._fingerprints:
            self._fingerprints[key] = Plan(asset, partition, record.parts).fingerprint
        return self._fingerprints[key]

    def find(self, asset: str, partition: str = "") -> Manifest | None:
        """The artifact, even if it failed its gates; None where it or its inputs do not exist."""
        try:
            return self._manifest(asset, partition, self.fingerprint(asset, partition))
        except SynthpostError:
            return None

    def need(self, asset: str, partition: str = "") -> Manifest:
        """The artifact. Raises UpstreamMissing where it does not exist, GateFailed where a blocking gate failed, and
        what its inputs raise.
        """
        manifest = self._manifest(asset, partition, self.fingerprint(asset, partition))
        if manifest is None:
            title, remedy = f"{asset} {partition}".strip(), self._graph.remedy_of(asset, partition)
            raise UpstreamMissing(f"{title} does not exist for this task and profile yet; {remedy}")
        refuse_failed(manifest)
        return manifest

    def state(self, asset: str, partition: str = "") -> State:
        """Whether a run has to make the artifact."""
        manifest = self.find(asset, partition)
        if manifest is None:
            return State.MISSING
        if manifest.failed_gates:
            return State.FAILED
        return State.CURRENT if self._graph.are_gates_current(manifest) else State.RECHECK

    def has(self, asset: str, partition: str = "") -> bool:
        """Whether the artifact exists and its blocking gates passed."""
        return self.state(asset, partition) in (State.CURRENT, State.RECHECK)

    def all_of(self, asset: str, partition: str = "") -> list[Manifest]:
        """Every complete artifact of an asset and partition, with any inputs, oldest first."""
        key = (asset, partition)
        self._note_reader(key)
        if key not in self._listings:
            found = [self._manifest(asset, partition, name) for name in self._store.fingerprints(asset, partition)]
            self._listings[key] = sorted((one for one in found if one), key=lambda one: one.made_at)
        return self._listings[key]

    def renew(self, manifest: Manifest) -> None:
        """Remembers an artifact that was made or reused; where it is another one, drops what was built on the last."""
        if self._manifests.get((manifest.asset, manifest.partition, manifest.fingerprint)) != manifest:
            self._forget((manifest.asset, manifest.partition))
        self.remember(manifest)

    def remember(self, manifest: Manifest) -> None:
        """Remembers an artifact whose content is the same as before."""
        self._manifests[manifest.asset, manifest.partition, manifest.fingerprint] = manifest

    def _manifest(self, asset: str, partition: str, fingerprint: str) -> Manifest | None:
        place = (asset, partition, fingerprint)
        if place not in self._manifests:
            self._manifests[place] = self._store.find(*place)
        return self._manifests[place]

    def _note_reader(self, key: Key) -> None:
        if self._damages != self._store.damages:
            self._damages = self._store.damages
            for memo in (self._records, self._fingerprints, self._listings, self._manifests):
                memo.clear()
        if self._building and self._building[-1] != key:
            self._readers[key].add(self._building[-1])

    def _forget(self, key: Key) -> None:
        for memo in (self._records, self._fingerprints, self._listings):
            memo.pop(key, None)
        for reader in self._readers.pop(key, set()):
            self._forget(reader)
