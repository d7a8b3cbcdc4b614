"""The graph through the webserver's GraphQL, asked as the Dagster UI asks: `synthpost ui` in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from small_study import SYNTHPOST, SmallStudy, Whole, edit_yaml

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "synthpost_dagster.definitions"}

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
LAUNCH = """mutation Launch($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
RUN = """query Run($runId: ID!) { runOrError(runId: $runId) { ... on Run {
  status
  assetMaterializations { assetKey { path } partition metadataEntries { __typename label } }
} } }"""
CHECKS = """query Checks($assetKey: AssetKeyInput!, $checkName: String!) {
  assetCheckExecutions(assetKey: $assetKey, checkName: $checkName, limit: 1) {
    runId status evaluation { success severity description metadataEntries { label } }
  }
}"""
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
SENSOR_DRY_RUN = """mutation Dry($selectorData: SensorSelector!, $cursor: String) {
  sensorDryRun(selectorData: $selectorData, cursor: $cursor) {
    ... on DryRunInstigationTick { evaluationResult {
      cursor skipReason error { message } runRequests { jobName runKey tags { key value } } } }
    ... on PythonError { message }
  }
}"""


class Server:
    """The running webserver of a study."""

    def __init__(self, study: SmallStudy, port: int) -> None:
        self.study, self.port = study, port

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        found: dict[str, Any] = content["data"]
        return found

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("{ assetNodes { id } }")["assetNodes"])
        except (OSError, urllib.error.HTTPError):
            return False

    def run(self, job: str, assets: Sequence[str], tags: Mapping[str, str], seconds: float = 90) -> dict[str, Any]:
        """Launches a job on a partition as the UI's launchpad does, and waits until it has ended."""
        parameters = {
            "mode": "default",
            "runConfigData": "{}",
            "selector": {
                **REPOSITORY,
                "pipelineName": job,
                "assetSelection": [{"path": [asset]} for asset in assets],
                "assetCheckSelection": None,
            },
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.ask(LAUNCH, executionParams=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.ask(RUN, runId=launched["run"]["runId"])["runOrError"]
            if found["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
                return {**found, "runId": launched["run"]["runId"]}
            time.sleep(0.3)
        pytest.fail(f"{job} {tags}: not ended within {seconds:.0f} s")

    def sensor(self, name: str, cursor: str | None) -> dict[str, Any]:
        """What a sensor would start after `cursor`."""
        selector = {**REPOSITORY, "sensorName": name}
        found: dict[str, Any] = self.ask(SENSOR_DRY_RUN, selectorData=selector, cursor=cursor)["sensorDryRun"]
        result: dict[str, Any] = found["evaluationResult"]
        assert result["error"] is None, result["error"]
        return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`synthpost ui` over a copy of the whole study whose profile covers a further data size."""
    study = whole.study.copy_to(tmp_path_factory.mktemp("ui"))
    edit_yaml(study.profile, lambda profile: profile["sweep"]["data_sizes"].append(24))
    port, log = free_port(), study.root / "ui.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(SYNTHPOST), "ui", "--port", str(port)],
            env=study.environment(),
            cwd=study.root,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    served = Server(study, port)
    try:
        deadline = time.monotonic() + 60
        while not served.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the webserver did not come up:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield served
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # What was killed goes a moment after it.
    deadline = time.monotonic() + 20
    while is_open(port) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not is_open(port), "something still listens on the port of the UI"


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


def test_columns_of_every_table_stand_beside_its_asset(server: Server) -> None:
    from synthpost_dagster.schemas import TABLES

    for node in server.ask(LINEAGE)["assetNodes"]:
        (schema,) = [entry for entry in node["metadataEntries"] if entry["__typename"] == "TableSchemaMetadataEntry"]
        assert schema["label"] == "dagster/column_schema"
        columns = {column["name"]: column for column in schema["schema"]["columns"]}
        expected = TABLES["/".join(node["assetKey"]["path"])].to_schema().columns
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
    assert {sensor["name"] for sensor in found["sensors"]} == {
        "after_upstream",
        "after_subsets",
        "after_cell",
        "after_canceled_cell",
        "after_failed_cell",
        "after_controls",
        "after_failed_controls",
    }
    assert {sensor["sensorType"] for sensor in found["sensors"]} == {"RUN_STATUS"}
    assert {sensor["sensorState"]["status"] for sensor in found["sensors"]} == {"STOPPED"}


def test_a_dry_run_of_the_schedule_asks_for_one_run_of_the_upstream(server: Server) -> None:
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


def assert_checked(server: Server, run: Mapping[str, Any], asset: str, checks: Sequence[str]) -> None:
    """The UI's page of each check shows that it passed in this run."""
    for check in checks:
        (shown,) = server.ask(CHECKS, assetKey={"path": [asset]}, checkName=check)["assetCheckExecutions"]
        assert (shown["runId"], shown["status"]) == (run["runId"], "SUCCEEDED"), f"{asset} {check}"
        assert shown["evaluation"]["success"]
        assert "finding" in {entry["label"] for entry in shown["evaluation"]["metadataEntries"]}


def test_upstream_a_subset_and_a_cell_launched_in_the_ui_make_their_assets_and_pass_their_checks(
    server: Server,
) -> None:
    sensors = ("after_upstream", "after_subsets", "after_cell", "after_controls")
    cursors = {name: server.sensor(name, None)["cursor"] for name in sensors}
    for name in sensors:
        assert server.sensor(name, cursors[name])["runRequests"] == [], "nothing has run since"

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
    assert requested(server.sensor("after_upstream", cursors["after_upstream"])) == {("subsets", "24")}

    subset = server.run("subsets", ["data_subsets"], {"dagster/partition": "24"})
    assert subset["status"] == "SUCCESS"
    assert materialized(subset) == {("data_subsets", "24")}
    assert_checked(server, subset, "data_subsets", ["schema", "duplicates", "factor_coverage"])
    after_subsets = server.sensor("after_subsets", cursors["after_subsets"])
    assert requested(after_subsets) == {("cell", "24|3"), ("cell", "24|1-epoch")}
    assert {request["runKey"] for request in after_subsets["runRequests"]} == {
        f"{subset['runId']}:cell:24|3",
        f"{subset['runId']}:cell:24|1-epoch",
    }

    tags = {"dagster/partition": "24|3", "dagster/partition/data_size": "24", "dagster/partition/steps": "3"}
    cell = server.run("cell", ["adapters", "predictions", "verdicts"], tags)
    assert cell["status"] == "SUCCESS"
    assert materialized(cell) == {(asset, "24|3") for asset in ("adapters", "predictions", "verdicts")}
    for asset in ("adapters", "predictions", "verdicts"):
        assert_checked(server, cell, asset, ["schema"])
    labels = {entry["label"] for event in cell["assetMaterializations"] for entry in event["metadataEntries"]}
    assert {"dagster/row_count", "preview", "picture", "fingerprint", "is_reused", "location"} <= labels
    assert requested(server.sensor("after_cell", cursors["after_cell"])) == {("controls", None)}

    controls = server.run("controls", ["control_verdicts"], {})
    assert controls["status"] == "SUCCESS"
    assert requested(server.sensor("after_controls", cursors["after_controls"])) == {("report", None)}
