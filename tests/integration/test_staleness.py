"""Dagster's own stale status of every asset is what the command line says of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dagster import AssetKey
from dagster._core.definitions.data_version import StaleStatus

from synthpost_dagster.artifacts.manifest import MANIFEST_FORMAT
from synthpost_dagster.cell import Cell
from synthpost_dagster.console import Terminal
from synthpost_dagster.orchestration.build import build_definitions
from synthpost_dagster.orchestration.driver import open_driver
from synthpost_dagster.orchestration.instance import recorded_in, stale_status
from synthpost_dagster.stages import planning
from tests.helpers.small_study import BY_CELL, CELLS, SIZES, WHOLE, SmallStudy, Whole, done, edit_yaml
from tests.helpers.small_task import product_of

LARGER = 24


def everything(sizes: tuple[int, ...] = SIZES) -> list[tuple[str, str]]:
    """Every asset with its partition."""
    cells = [f"{size}|{steps}" for size in sizes for steps in ("3", "1-epoch")]
    found = [(asset, "") for asset in WHOLE] + [("data_subsets", str(size)) for size in sizes]
    return found + [(asset, cell) for asset in BY_CELL for cell in cells]


def by_dagster(study: SmallStudy, sizes: tuple[int, ...] = SIZES) -> set[tuple[str, str]]:
    """What Dagster does not call fresh."""
    graph = build_definitions(study.settings).resolve_asset_graph()
    with study.instance() as instance:
        return {
            (asset, partition)
            for asset, partition in everything(sizes)
            if stale_status(instance, graph, asset, partition) is not StaleStatus.FRESH
        }


def by_us(study: SmallStudy, sizes: tuple[int, ...] = SIZES) -> set[str]:
    """The jobs that have something to do."""
    opened, graph = study.open(), build_definitions(study.settings).resolve_asset_graph()
    with study.instance() as instance:
        recorded = recorded_in(instance, graph)
        cells = [Cell(size, steps) for size in sizes for steps in ("3", "1-epoch")]
        found = {f"subsets {size}" for size in planning.stale_subsets(opened, recorded, sizes)}
        found |= {f"cell {cell.key}" for cell in planning.stale_cells(opened, recorded, cells)}
        found |= {"upstream"} if planning.is_upstream_stale(opened, recorded, sizes[-1]) else set()
        found |= {"controls"} if planning.are_controls_stale(opened, recorded) else set()
        return found | ({"report"} if planning.is_report_stale(opened, recorded) else set())


def test_everything_is_fresh_after_a_sweep(whole: Whole) -> None:
    assert by_dagster(whole.study) == set()
    assert by_us(whole.study) == set()


@pytest.mark.slow
def test_growth_leaves_the_smaller_subset_and_its_cells_fresh(changeable: SmallStudy) -> None:
    for path in (changeable.task / "task.yaml", changeable.profile):
        edit_yaml(path, lambda content: content["sweep"].update(data_sizes=[8, 16, LARGER]))
    before = {place: changeable.recorded(*place) for place in everything()}
    runs = changeable.sweep(*CELLS, f"{LARGER}|3", f"{LARGER}|1-epoch")
    sizes = (*SIZES, LARGER)
    assert by_dagster(changeable, sizes) == set()
    assert by_us(changeable, sizes) == set()
    assert done("sweep") in runs
    kept = [("data_subsets", "8"), *((asset, "8|3") for asset in BY_CELL)]
    assert [changeable.recorded(*place) for place in kept] == [before[place] for place in kept]
    assert changeable.sweep(*CELLS) == [], "what was recorded again is recorded once"


@pytest.mark.slow
def test_home_of_another_format_is_made_again(changeable: SmallStudy) -> None:
    manifests = [path for path in changeable.manifests() if path.parts[-4] != "ratio_report"]
    for path in manifests:
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(content | {"format": MANIFEST_FORMAT - 1}), encoding="utf-8")
    changeable.sweep(*CELLS)
    assert all(json.loads(path.read_text(encoding="utf-8"))["format"] == MANIFEST_FORMAT for path in manifests)
    assert by_dagster(changeable) == set()
    assert changeable.sweep(*CELLS) == []


def test_asset_materialized_alone_leaves_nothing_stale(changeable: SmallStudy) -> None:
    def change(products: list[dict[str, Any]]) -> None:
        product_of(products, split="holdout")["description"] = "described in other words"

    edit_yaml(changeable.task / "products.yaml", change)
    with open_driver(changeable.settings, Terminal()) as sweep:
        job = sweep.definitions.resolve_implicit_global_asset_job_def()
        catalog = job.get_subset(asset_selection={AssetKey("catalog")})
        assert catalog.execute_in_process(instance=sweep.instance).success
    assert {("prompts", ""), ("evaluation_prompts", "")} <= by_dagster(changeable)
    changeable.sweep(*CELLS)
    assert by_dagster(changeable) == set()
    assert by_us(changeable) == set()
