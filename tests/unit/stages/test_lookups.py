"""How often the storage is asked whether anything is to be done, where all artifacts exist."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem

from synthpost_dagster.artifacts import store as store_module
from synthpost_dagster.artifacts.manifest import GateEntry, Plan
from synthpost_dagster.artifacts.resolver import State
from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.quality.gates import gates_of, limits_of
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.stage import STAGES, stage_of
from synthpost_dagster.stages.study import Study
from tests.helpers.small_task import kept_rows, write_small_task, write_yaml

SIZES, STEPS = [8, 16, 24, 32, 40], [3, 5, "1-epoch"]
CALL_SECONDS = 0.04
"""A call of an object store."""
CALLS = ("_open", "cat_file", "ls", "info", "exists", "isdir", "isfile", "find", "pipe_file")


class Place(NamedTuple):
    """An artifact of a study."""

    asset: str
    partition: str


def places(study: Study) -> list[Place]:
    """Every artifact of the study, in the order data flows."""
    partitions = {
        "subsets": [str(size) for size in study.profile.sweep.data_sizes],
        "cell": [cell.place for cell in study.trainings],
    }
    return [Place(asset, one) for asset in STAGES for one in partitions.get(stage_of(asset).job, [""])]


def filled(root: Path, storage: str, sizes: list[int], steps: list[Any]) -> Study:
    """A study in which every artifact exists, most of them with a table of one row."""
    task, profile = write_small_task(root / "task"), root / "mine.yaml"
    content = yaml.safe_load((task / "task.yaml").read_text(encoding="utf-8"))
    sweep = {"data_sizes": sizes, "steps": steps}
    write_yaml(task / "task.yaml", content | {"sweep": sweep})
    write_yaml(profile, {"extends": "tiny", "name": "mine", "storage": storage, "sweep": sweep})
    study = open_study(Settings(home=root / "home", task=str(task), profile=str(profile)))
    posts = [" ".join(f"word{at * place}" for place in range(1, 9 + 3 * at)) for at in range(max(sizes))]
    rows = kept_rows(study.task, posts)
    for asset, partition in places(study):
        table = rows if asset == "synthetic_rows" else pd.DataFrame({"row": [partition]})
        plan = study.resolver.plan(asset, partition)
        if asset == "synthetic_rows":
            plan = Plan(asset, partition, plan.parts | {"rows": max(sizes)})
        add(study, plan, table)
    return study.fresh()


def add(study: Study, plan: Plan, table: pd.DataFrame) -> None:
    """An artifact whose gates all passed."""

    def fill(draft: Draft) -> None:
        draft.table(plan.asset, table)
        draft.facts |= {"rows": len(table), "asked_now": 1}
        draft.gates += [
            GateEntry(
                name=gate.name,
                is_passed=True,
                is_blocking=False,
                message="",
                limits=limits_of(gate, study.task),
            )
            for gate in gates_of(plan.asset)
        ]

    study.resolver.renew(study.store.reuse_or_make(plan, fill).manifest)


def assert_current(study: Study) -> None:
    assert {place: study.resolver.state(*place) for place in places(study)} == dict.fromkeys(
        places(study), State.CURRENT
    )


def test_four_cells_are_looked_up_with_one_read_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, reads, read = filled(tmp_path, "storage", [8, 16], [3, 5]), Counter[str](), store_module.read_manifest

    def counted(path: Any) -> Any:
        reads[str(path)] += 1
        return read(path)

    monkeypatch.setattr(store_module, "read_manifest", counted)
    assert len(places(study)) == 22
    assert_current(study)
    assert_current(study)
    assert reads.total() == 22


def test_fifteen_cells_on_a_slow_object_store_take_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, calls = filled(tmp_path, f"memory://{tmp_path.name}", SIZES, STEPS), Counter[str]()
    assert len(study.cells) == 15

    def count(name: str) -> None:
        call = getattr(MemoryFileSystem, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return call(*arguments, **named)

        monkeypatch.setattr(MemoryFileSystem, name, counted)

    for name in CALLS:
        count(name)
    assert_current(study)
    assert calls.total() * CALL_SECONDS < 10, calls
