"""`synthpost ui` in a process of its own, and a client that sends the queries of the Dagster UI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.helpers.ports import free_port, is_open
from tests.helpers.small_study import SYNTHPOST, SmallStudy

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "synthpost_dagster.definitions"}

LAUNCH = """mutation Launch($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
TERMINATE = """mutation Terminate($runId: String!) { terminateRun(runId: $runId) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message }
} }"""
RUN = """query Run($runId: ID!) { runOrError(runId: $runId) { ... on Run {
  status
  assetMaterializations { assetKey { path } partition metadataEntries { __typename label } }
} } }"""
SENSOR_DRY_RUN = """mutation Dry($selectorData: SensorSelector!, $cursor: String) {
  sensorDryRun(selectorData: $selectorData, cursor: $cursor) {
    ... on DryRunInstigationTick { evaluationResult {
      cursor skipReason error { message } runRequests { jobName runKey runConfigYaml tags { key value } } } }
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
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        found: dict[str, Any] = content["data"]
        return found

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("{ assetNodes { id } }")["assetNodes"])
        except (OSError, urllib.error.HTTPError):
            return False

    def launch(self, job: str, assets: Sequence[str], tags: Mapping[str, str], config: object = None) -> str:
        """Launches a job as the UI's launchpad does; the run's id. Without assets, the whole job."""
        chosen = {"assetSelection": [{"path": [asset]} for asset in assets], "assetCheckSelection": None}
        parameters = {
            "mode": "default",
            "runConfigData": json.dumps(config or {}),
            "selector": {**REPOSITORY, "pipelineName": job, **(chosen if assets else {})},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.ask(LAUNCH, executionParams=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """Terminates a run as the UI's button does."""
        answer = self.ask(TERMINATE, runId=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run, once it has ended."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.ask(RUN, runId=run_id)["runOrError"]
            if found["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
                return {**found, "runId": run_id}
            time.sleep(0.3)
        pytest.fail(f"run {run_id}: not ended within five minutes")

    def run(self, job: str, assets: Sequence[str], tags: Mapping[str, str], config: object = None) -> dict[str, Any]:
        """Launches a job and waits until it has ended."""
        return self.ended(self.launch(job, assets, tags, config))

    def sensor(self, name: str, cursor: str | None) -> dict[str, Any]:
        """The result of a dry run of a sensor after `cursor`."""
        selector = {**REPOSITORY, "sensorName": name}
        found: dict[str, Any] = self.ask(SENSOR_DRY_RUN, selectorData=selector, cursor=cursor)["sensorDryRun"]
        result: dict[str, Any] = found["evaluationResult"]
        assert result["error"] is None, result["error"]
        return result


@contextlib.contextmanager
def served(study: SmallStudy, **environment: str) -> Iterator[Server]:
    """The UI and the daemon of a study; both end with the context."""
    port, log = free_port(), study.root / "ui.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(SYNTHPOST), "ui", "--port", str(port)],
            env=study.environment(**environment),
            cwd=study.root,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    served = Server(study, port)
    try:
        deadline = time.monotonic() + 300
        while not served.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the webserver did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield served
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # The killed processes of the group end a moment later.
    deadline = time.monotonic() + 60
    while is_open(port) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not is_open(port), "something still listens on the port of the UI"
