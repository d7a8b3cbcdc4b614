"""What exists is looked up once, and again where it was made meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from synthpost_dagster.artifacts.manifest import GateEntry, Manifest
from synthpost_dagster.artifacts.resolver import Record, Resolver, State
from synthpost_dagster.artifacts.store import ArtifactStore, Draft
from synthpost_dagster.errors import GateFailed, SynthpostError, UpstreamMissing


class Inputs(NamedTuple):
    """A record."""

    parts: dict[str, Any]


class Graph:
    """`rows`, and `subset 8`, which is built from it and from the number `setting`."""

    def __init__(self) -> None:
        self.resolver: Resolver
        self.setting = 1
        self.are_current = True
        self.built: list[str] = []

    def inputs_of(self, asset: str, partition: str) -> Record:
        self.built.append(asset)
        if asset == "rows":
            return Inputs({"setting": self.setting})
        return Inputs({"rows": self.resolver.need("rows").digest, "earlier": len(self.resolver.all_of("rows"))})

    def remedy_of(self, asset: str, partition: str) -> str:
        return f"make {asset} {partition}"

    def are_gates_current(self, manifest: Manifest) -> bool:
        return self.are_current


class World(NamedTuple):
    """A store that counts its look-ups, its graph, and their resolver."""

    store: ArtifactStore
    graph: Graph
    resolver: Resolver
    lookups: list[str]

    def make(self, asset: str, partition: str = "", content: str = "x", *gates: GateEntry) -> Manifest:
        """Makes or reuses an artifact, as a run does."""

        def fill(draft: Draft) -> None:
            (draft.folder / "file.txt").write_text(content)
            draft.gates += gates

        manifest = self.store.reuse_or_make(self.resolver.plan(asset, partition), fill).manifest
        self.resolver.renew(manifest)
        return manifest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    store, graph, lookups = ArtifactStore(tmp_path / "storage", tmp_path / "home"), Graph(), list[str]()
    graph.resolver = Resolver(store, graph)
    found: Callable[[str, str, str], Manifest | None] = store.find

    def find(asset: str, partition: str, fingerprint: str) -> Manifest | None:
        lookups.append(asset)
        return found(asset, partition, fingerprint)

    monkeypatch.setattr(store, "find", find)
    return World(store, graph, graph.resolver, lookups)


def failed(*, is_blocking: bool) -> GateEntry:
    return GateEntry(name="duplicates", is_passed=False, is_blocking=is_blocking, message="2 rows repeat another")


def test_each_record_and_each_manifest_is_read_once(world: World) -> None:
    world.make("rows")
    world.make("subset", "8")
    world.lookups.clear(), world.graph.built.clear()
    for _ in range(3):
        assert world.resolver.has("rows")
        assert world.resolver.state("subset", "8") is State.CURRENT
        assert world.resolver.need("subset", "8").partition == "8"
    assert (world.lookups, world.graph.built) == ([], ["subset"]), "its rows were listed while it was made"


def test_missing_artifact_is_named_with_its_remedy(world: World) -> None:
    with pytest.raises(UpstreamMissing, match="rows does not exist for this task and profile yet; make rows"):
        world.resolver.need("rows")
    with pytest.raises(UpstreamMissing, match="rows does not exist"):
        world.resolver.need("subset", "8")
    assert world.resolver.state("subset", "8") is State.MISSING
    assert world.graph.built.count("subset") == 1, "an error is remembered as well"


def test_what_is_built_on_a_new_artifact_is_looked_up_again(world: World) -> None:
    assert not world.resolver.has("subset", "8")
    world.make("rows")
    first = world.make("subset", "8")
    world.graph.setting = 2
    world.resolver.renew(world.store.reuse_or_make(world.resolver.plan("rows"), pytest.fail).manifest)
    assert world.resolver.need("subset", "8") == first, "what was only reused changes nothing"

    other = Resolver(world.store, world.graph)
    world.graph.resolver = other
    assert not other.has("subset", "8")
    changed = world._replace(resolver=other)
    changed.make("rows", "", "y")
    assert changed.make("subset", "8").fingerprint != first.fingerprint


@pytest.mark.parametrize(("is_blocking", "state"), [(True, State.FAILED), (False, State.CURRENT)])
def test_failed_gate_blocks_where_it_is_blocking(world: World, is_blocking: bool, state: State) -> None:
    world.make("rows", "", "x", failed(is_blocking=is_blocking))
    assert world.resolver.state("rows") is state
    assert world.resolver.has("rows") is not is_blocking
    if is_blocking:
        with pytest.raises(GateFailed, match="duplicates: 2 rows repeat another"):
            world.resolver.need("rows")


def test_gates_of_other_limits_are_due_and_do_not_block(world: World) -> None:
    world.make("rows")
    world.graph.are_current = False
    assert world.resolver.state("rows") is State.RECHECK
    assert world.resolver.has("rows")


def test_damage_since_the_lookup_is_found_on_reuse(world: World) -> None:
    before = world.make("rows")
    file = Path(world.store.location(before)) / "file.txt"
    file.write_text("y")
    assert world.resolver.has("rows"), "content is not part of a look-up"
    with pytest.raises(SynthpostError, match="differs from its manifest"):
        world.store.read_file(before, "file.txt")
    assert not world.resolver.has("rows"), "damage makes it look again"
    again = world.make("rows")
    assert (again.digest, again.facts["made_because"]) == (before.digest, "the last one was damaged")
