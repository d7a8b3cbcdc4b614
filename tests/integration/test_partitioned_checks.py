"""A check's verdict stands beside the partition that it is about, in Dagster's records and in its UI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dagster import AssetCheckKey, AssetKey

from synthpost_dagster.cell import Cell
from synthpost_dagster.console import Terminal
from synthpost_dagster.orchestration.driver import execute, open_driver
from synthpost_dagster.stages.planning import Run
from tests.helpers.small_study import SmallStudy, Whole
from tests.helpers.ui_server import Server, served

GATE = "memorisation"
FAILED, PASSED = "16|3", "8|3"
FINDING = "planted: every post stands in a training post"
STATUSES = """query Statuses($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetChecksOrError { ... on AssetChecks { checks { name partitionStatuses { __typename
    ... on AssetCheckMultiPartitionStatuses { ranges { primaryDimStartKey primaryDimEndKey secondaryDim { __typename
      ... on AssetCheckDefaultPartitionStatuses { succeededPartitions failedPartitions } } } primaryDimensionName }
  } } } }
} } }"""


@pytest.fixture(scope="module")
def study(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """A study in which a gate of one cell fails, and the same gate of another cell passes in a later run."""
    copy = whole.study.copy_to(tmp_path_factory.mktemp("checks"))
    opened = copy.open()
    manifest = opened.resolver.need("predictions", FAILED)
    planted = [
        entry.model_copy(
            update={"is_passed": False, "is_severe": False, "message": FINDING, "figures": {"posts": 11.0}}
        )
        if entry.name == GATE
        else entry
        for entry in manifest.gates
    ]
    opened.store.replace_gates(manifest, planted)
    with open_driver(copy.settings, Terminal()) as sweep:
        for cell in (FAILED, PASSED):
            execute(sweep.definitions, sweep.instance, Run("cell", cells=(Cell.parse(cell),)))
    return copy


def latest(study: SmallStudy, partition: str) -> Any:
    """The latest evaluation of the gate on a partition, as Dagster keeps it."""
    key = AssetCheckKey(AssetKey("predictions"), GATE)
    with study.instance() as instance:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    evaluations = [record.event.dagster_event.asset_check_evaluation_data for record in records if record.event]
    return next(one for one in evaluations if one.partition == partition)


def test_cell_that_passes_later_covers_no_cell_that_failed(study: SmallStudy) -> None:
    assert not latest(study, FAILED).passed
    assert latest(study, PASSED).passed


def test_check_shows_the_entry_of_the_manifest(study: SmallStudy) -> None:
    shown = latest(study, FAILED)
    assert shown.description == FINDING
    assert shown.metadata["finding"].value == FINDING
    assert shown.metadata["posts"].value == 11.0
    assert shown.severity.value == "WARN"


@pytest.fixture(scope="module")
def server(study: SmallStudy) -> Iterator[Server]:
    with served(study) as running:
        yield running


def test_ui_shows_the_status_of_each_partition(server: Server) -> None:
    found = server.ask(STATUSES, key={"path": ["predictions"]})["assetNodeOrError"]["assetChecksOrError"]["checks"]
    (statuses,) = [check["partitionStatuses"] for check in found if check["name"] == GATE]
    assert statuses["primaryDimensionName"] == "data_size"
    by_size = {one["primaryDimStartKey"]: one["secondaryDim"] for one in statuses["ranges"]}
    assert by_size["16"]["failedPartitions"] == ["3"]
    assert by_size["16"]["succeededPartitions"] == ["1-epoch"]
    assert set(by_size["8"]["succeededPartitions"]) == {"3", "1-epoch"}
