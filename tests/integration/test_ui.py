"""The graph through the webserver's GraphQL, asked as the Dagster UI asks: `synthpost ui` in its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import yaml

from tests.helpers.small_study import Whole, edit_yaml
from tests.helpers.ui_server import REPOSITORY, Server, served

DEPENDENCIES = {
    "catalog": set(),
    "prompts": {"catalog"},
    "evaluation_prompts": {"catalog"},
    "synthetic_rows": {"prompts"},
    "data_subsets": {"synthetic_rows"},
    "adapters": {"data_subsets"},
    "baseline_predictions": {"evaluation_prompts"},
    "predictions": {"adapters", "evaluation_prompts"},
    "verdicts": {"predictions", "baseline_predictions"},
    "control_predictions": {"evaluation_prompts"},
    "control_verdicts": {"predictions", "baseline_predictions", "control_predictions"},
    "ratio_report": {"verdicts", "control_verdicts"},
}

LINEAGE = """query Lineage { assetNodes {
  assetKey { path } dependencyKeys { path } dependedByKeys { path } isPartitioned isExecutable hasAssetChecks
  partitionKeys
  metadataEntries { __typename label ... on TableSchemaMetadataEntry { schema { columns { name type description } } } }
} }"""
CHECKS = """query Checks($assetKey: AssetKeyInput!, $checkName: String!) {
  assetCheckExecutions(assetKey: $assetKey, checkName: $checkName, limit: 1) {
    runId status evaluation { success severity description metadataEntries { label } }
  }
}"""
OUTPUTS = """query Outputs($runId: ID!) { logsForRun(runId: $runId) { ... on EventConnection { events {
  __typename ... on ExecutionStepOutputEvent { metadataEntries { label ... on IntMetadataEntry { intValue } } }
} } } }"""
INSTIGATORS = """query Instigators($repositorySelector: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repositorySelector) { ... on Repository {
    schedules { name cronSchedule pipelineName scheduleState { status } }
    sensors { name sensorType sensorState { status } }
  } }
}"""
SCHEDULE_DRY_RUN = """mutation Dry($selectorData: ScheduleSelector!, $timestamp: Float) {
  scheduleDryRun(selectorData: $selectorData, timestamp: $timestamp) {
    ... on DryRunInstigationTick { evaluationResult {
      skipReason error { message } runRequests { jobName runConfigYaml tags { key value } } } }
    ... on PythonError { message }
  }
}"""


@pytest.fixture(scope="module")
def server(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`synthpost ui` over a copy of the whole study whose profile covers a further data size."""
    study = whole.study.copy_to(tmp_path_factory.mktemp("ui"))
    edit_yaml(study.profile, lambda profile: profile["sweep"]["data_sizes"].append(24))
    with served(study) as running:
        yield running


def names(keys: Sequence[Mapping[str, Sequence[str]]]) -> set[str]:
    return {"/".join(key["path"]) for key in keys}


def test_lineage_is_the_graph_of_the_design(server: Server) -> None:
    nodes = {"/".join(node["assetKey"]["path"]): node for node in server.ask(LINEAGE)["assetNodes"]}
    assert {name: names(node["dependencyKeys"]) for name, node in nodes.items()} == DEPENDENCIES
    for name, node in nodes.items():
        assert names(node["dependedByKeys"]) == {child for child, parents in DEPENDENCIES.items() if name in parents}
        assert node["isExecutable"]
        assert node["hasAssetChecks"]
    assert nodes["data_subsets"]["partitionKeys"] == ["8", "16", "24", "330"]
    assert {"8|3", "24|1-epoch"} <= set(nodes["verdicts"]["partitionKeys"])


def test_asset_metadata_holds_the_columns_of_its_table(server: Server) -> None:
    from synthpost_dagster.schemas import TABLES, schema_of
    from synthpost_dagster.tasks.loading import load_task

    own = load_task("sales_posts").spec.prompt_columns
    for node in server.ask(LINEAGE)["assetNodes"]:
        (schema,) = [entry for entry in node["metadataEntries"] if entry["__typename"] == "TableSchemaMetadataEntry"]
        assert schema["label"] == "dagster/column_schema"
        columns = {column["name"]: column for column in schema["schema"]["columns"]}
        expected = schema_of(TABLES["/".join(node["assetKey"]["path"])], own).columns
        assert list(columns) == list(expected)
        for name, column in expected.items():
            assert (columns[name]["description"] or "") == (column.description or "")


def test_schedule_and_sensors_are_there_and_switched_off(server: Server) -> None:
    found = server.ask(INSTIGATORS, repositorySelector=REPOSITORY)["repositoryOrError"]
    assert found["schedules"] == [
        {
            "name": "weekly",
            "cronSchedule": "0 6 * * 1",
            "pipelineName": "upstream",
            "scheduleState": {"status": "STOPPED"},
        }
    ]
    assert [(one["name"], one["sensorType"], one["sensorState"]["status"]) for one in found["sensors"]] == [
        ("next_runs", "STANDARD", "STOPPED")
    ]


def test_dry_run_of_the_schedule_requests_one_upstream_run(server: Server) -> None:
    selector = {**REPOSITORY, "scheduleName": "weekly"}
    monday_at_six = 1_767_592_800.0
    result = server.ask(SCHEDULE_DRY_RUN, selectorData=selector, timestamp=monday_at_six)["scheduleDryRun"]
    evaluation = result["evaluationResult"]
    assert (evaluation["skipReason"], evaluation["error"]) == (None, None)
    (request,) = evaluation["runRequests"]
    assert request["runConfigYaml"].strip() == "{}"
    assert {"key": "dagster/schedule_name", "value": "weekly"} in request["tags"]


def materialized(run: Mapping[str, Any]) -> set[tuple[str, str | None]]:
    return {("/".join(event["assetKey"]["path"]), event["partition"]) for event in run["assetMaterializations"]}


def requested(result: Mapping[str, Any]) -> set[tuple[str, str | None]]:
    """Job and partition of a dry run's run requests."""
    found = set()
    for request in result["runRequests"]:
        tags = {tag["key"]: tag["value"] for tag in request["tags"]}
        found.add((request["jobName"], tags.get("dagster/partition")))
    return found


def results(server: Server, run: Mapping[str, Any]) -> dict[str, int]:
    """The counts that stand beside the output of a run's only step."""
    events = server.ask(OUTPUTS, runId=run["runId"])["logsForRun"]["events"]
    (entries,) = [event["metadataEntries"] for event in events if event["__typename"] == "ExecutionStepOutputEvent"]
    return {entry["label"]: entry["intValue"] for entry in entries if "intValue" in entry}


def assert_checked(server: Server, run: Mapping[str, Any], asset: str, checks: Sequence[str]) -> None:
    """The UI's page of each check shows that it passed in this run."""
    for check in checks:
        (shown,) = server.ask(CHECKS, assetKey={"path": [asset]}, checkName=check)["assetCheckExecutions"]
        assert (shown["runId"], shown["status"]) == (run["runId"], "SUCCEEDED"), f"{asset} {check}"
        assert shown["evaluation"]["success"]
        assert "finding" in {entry["label"] for entry in shown["evaluation"]["metadataEntries"]}


def next_runs(server: Server) -> set[tuple[str, str | None]]:
    """Job and partition of what the sensor requests now."""
    return requested(server.sensor("next_runs", None))


def test_jobs_launched_in_the_ui_follow_each_other_by_the_sensor(server: Server) -> None:
    assert next_runs(server) == set(), "the upstream lacks rows, which a person or the schedule starts"

    upstream_assets = [
        "catalog",
        "prompts",
        "evaluation_prompts",
        "synthetic_rows",
        "baseline_predictions",
        "control_predictions",
    ]
    upstream = server.run("upstream", upstream_assets, {})
    assert upstream["status"] == "SUCCESS"
    assert materialized(upstream) == {(asset, None) for asset in upstream_assets}
    assert_checked(server, upstream, "synthetic_rows", ["schema", "duplicates", "factor_coverage", "rejected_share"])
    assert_checked(server, upstream, "evaluation_prompts", ["schema", "factor_coverage"])
    assert next_runs(server) == {("subsets", size) for size in ("8", "16", "24")}

    for size in ("8", "16", "24"):
        subset = server.run("subsets", ["data_subsets"], {"dagster/partition": size})
        assert subset["status"] == "SUCCESS"
        assert materialized(subset) == {("data_subsets", size)}
    assert_checked(server, subset, "data_subsets", ["schema", "duplicates", "factor_coverage"])
    (request,) = server.sensor("next_runs", None)["runRequests"]
    asked = yaml.safe_load(request["runConfigYaml"])
    assert {"24|3", "24|1-epoch"} <= set(asked["ops"]["fill"]["config"]["cells"])

    sweep = server.run("sweep", [], {}, asked)
    assert sweep["status"] == "SUCCESS"
    assert {(asset, "24|3") for asset in ("adapters", "predictions", "verdicts")} <= materialized(sweep)
    assert results(server, sweep)["made"] == 2
    labels = {entry["label"] for event in sweep["assetMaterializations"] for entry in event["metadataEntries"]}
    assert {"dagster/row_count", "preview", "picture", "fingerprint", "is_reused", "location"} <= labels
    assert next_runs(server) == {("controls", None)}

    controls = server.run("controls", ["control_verdicts"], {})
    assert controls["status"] == "SUCCESS"
    assert next_runs(server) == {("report", None)}


def test_one_partition_launched_in_the_ui_is_made_and_checked(server: Server) -> None:
    tags = {"dagster/partition": "8|3", "dagster/partition/data_size": "8", "dagster/partition/steps": "3"}
    cell = server.run("cell", ["adapters", "predictions", "verdicts"], tags)
    assert cell["status"] == "SUCCESS"
    assert materialized(cell) == {(asset, "8|3") for asset in ("adapters", "predictions", "verdicts")}
    for asset in ("adapters", "predictions", "verdicts"):
        assert_checked(server, cell, asset, ["schema"])


BACKFILL = """mutation Backfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""
BACKFILL_RUNS = """query Runs($backfillId: String!) { partitionBackfillOrError(backfillId: $backfillId) {
  ... on PartitionBackfill { status runs(limit: 10) { id status } }
} }"""


def test_backfill_of_two_cells_materializes_both(server: Server, until: Callable[..., object]) -> None:
    assets = [{"path": [asset]} for asset in ("adapters", "predictions", "verdicts")]
    parameters = {"assetSelection": assets, "partitionNames": ["8|3", "16|3"]}
    launched = server.ask(BACKFILL, backfillParams=parameters)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def runs() -> list[dict[str, str]]:
        found = server.ask(BACKFILL_RUNS, backfillId=launched["backfillId"])["partitionBackfillOrError"]
        ended = found["status"] in ("COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED")
        return list(found["runs"]) if ended else []

    until("the backfill has ended", runs)
    assert {run["status"] for run in runs()} == {"SUCCESS"}
    made = {pair for run in runs() for pair in materialized(server.ended(run["id"]))}
    assert made == {(asset["path"][0], cell) for asset in assets for cell in ("8|3", "16|3")}
