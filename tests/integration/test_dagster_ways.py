"""The ways of Dagster's own tools into the graph, and what a run of `sweep` leaves in Dagster's records."""

from __future__ import annotations

import subprocess
import sys

from dagster import AssetKey, DagsterEventType

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.assets.partitions import key_of
from synthpost_dagster.cell import Cell
from synthpost_dagster.orchestration.build import build_definitions
from synthpost_dagster.orchestration.instance import latest, stale_status
from synthpost_dagster.quality.gates import gate_names
from synthpost_dagster.stages.stage import BY_CELL
from tests.helpers.small_study import CELLS, SmallStudy, Whole


def dagster(study: SmallStudy, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`dagster …` with the study's home as Dagster's."""
    return subprocess.run(
        [sys.executable, "-m", "dagster", *arguments, "-m", "synthpost_dagster.definitions"],
        env=study.environment(DAGSTER_HOME=str(study.home / "dagster")),
        cwd=study.root,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_sweep_records_each_cell_as_fresh_with_its_data_version(whole: Whole) -> None:
    study = whole.study.open()
    graph = build_definitions(whole.study.settings).resolve_asset_graph()
    with whole.study.instance() as instance:
        for key in CELLS:
            for asset in BY_CELL:
                manifest: Manifest = study.resolver.need(asset, key)
                materialization = latest(instance, asset, key_of(Cell.parse(key)))
                assert materialization is not None
                assert (materialization.tags or {})["dagster/data_version"] == manifest.digest
                assert stale_status(instance, graph, asset, key).name == "FRESH", (asset, key)


def test_sweep_records_the_checks_of_each_cell_in_its_own_run(whole: Whole) -> None:
    with whole.study.instance() as instance:
        runs = [run for run in instance.get_runs() if run.job_name == "sweep"]
        evaluations = [
            entry.dagster_event.asset_check_evaluation_data
            for run in runs
            for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
            if entry.dagster_event
        ]
        assert not [run for run in instance.get_runs() if run.job_name == "cell"], "no second run a cell"
    found = {(one.asset_key.to_user_string(), one.check_name, one.partition) for one in evaluations}
    assert found == {(asset, gate, key) for asset in BY_CELL for gate in gate_names(asset) for key in CELLS}
    assert all(one.target_materialization_data for one in evaluations)


def test_definitions_are_valid_for_dagsters_command_line(whole: Whole) -> None:
    done = dagster(whole.study, "definitions", "validate")
    assert done.returncode == 0, done.stderr


def test_one_partition_materializes_from_dagsters_command_line(changeable: SmallStudy) -> None:
    changeable.remove("verdicts/8_3")
    known = changeable.run_ids()
    done = dagster(changeable, "asset", "materialize", "--select", "verdicts", "--partition", "8|3")
    assert done.returncode == 0, done.stderr
    assert changeable.open().resolver.has("verdicts", "8|3")
    with changeable.instance() as instance:
        (run,) = [one for one in instance.get_runs() if one.run_id not in known]
        (entry,) = instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
    assert entry.dagster_event is not None
    assert entry.dagster_event.asset_key == AssetKey("verdicts")
    assert entry.dagster_event.partition == "8|3"
