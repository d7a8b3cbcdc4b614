"""What runs next: `next_runs` on the small study, and what the sensor requests of it."""

from __future__ import annotations

import shutil

import pytest
from dagster import DagsterRunStatus, RunRequest, SkipReason, build_sensor_context

from synthpost_dagster.cell import Cell
from synthpost_dagster.stages.planning import Recorded, Run, next_runs
from synthpost_dagster.stages.study import Study
from tests.helpers.small_study import SmallStudy, edit_yaml

ALL = tuple(Cell.parse(key) for key in ("8|3", "8|1-epoch", "16|3", "16|1-epoch"))
SMALL, LARGE = ALL[:2], ALL[2:]
SUBSET_8, SUBSET_16 = Run("subsets", size=8), Run("subsets", size=16)
SWEEP = Run("sweep", cells=ALL, holds_model=True)


def everything_recorded(study: Study) -> Recorded:
    """As if Dagster had recorded every artifact that exists, and called it fresh."""
    fresh = study.fresh()

    def recorded(asset: str, partition: str) -> str | None:
        manifest = fresh.resolver.find(asset, partition)
        return manifest.self_digest if manifest else None

    return recorded


def decided(small: SmallStudy, in_progress: list[Run] | None = None, failed: list[Run] | None = None) -> list[Run]:
    study = small.open()
    return next_runs(study, everything_recorded(study), in_progress or [], failed or [])


def change_learning_rate(study: SmallStudy) -> None:
    study.choose_learning_rate(1.0e-3)


def remove_report(study: SmallStudy) -> None:
    (study.home / "report" / "index.html").unlink()


def test_nothing_runs_where_everything_is_current(changeable: SmallStudy) -> None:
    assert decided(changeable) == []


def test_upstream_runs_first_and_alone(changeable: SmallStudy) -> None:
    changeable.remove("synthetic_rows", "data_subsets", "adapters")
    assert decided(changeable) == [Run("upstream", rows=16, holds_model=True)]
    assert decided(changeable, in_progress=[Run("upstream")]) == []
    assert decided(changeable, failed=[Run("upstream")]) == []


def test_missing_subset_runs_before_its_cells(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    changeable.remove("data_subsets/16")
    assert decided(changeable) == [SUBSET_16]
    assert decided(changeable, in_progress=[SUBSET_16]) == []


def test_failed_subset_leaves_out_its_cells_only(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    changeable.remove("data_subsets/16")
    assert decided(changeable, failed=[SUBSET_16]) == [Run("sweep", cells=SMALL, holds_model=True)]


def test_cells_without_adapters_or_verdicts_are_one_sweep(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    assert decided(changeable) == [SWEEP]


def test_cells_that_only_lack_verdicts_hold_no_model(changeable: SmallStudy) -> None:
    changeable.remove("verdicts/8_3")
    assert decided(changeable) == [Run("sweep", cells=(ALL[0],))]


def test_artifact_that_dagster_has_not_recorded_runs_again(changeable: SmallStudy) -> None:
    study = changeable.open()
    recorded = everything_recorded(study)
    runs = next_runs(study, lambda *key: None if key == ("predictions", "16|3") else recorded(*key))
    assert runs == [Run("sweep", cells=(ALL[2],))]


def test_two_concurrent_runs_share_the_cells_by_steps(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    edit_yaml(changeable.profile, lambda profile: profile["device"].update(max_concurrent_runs=2))
    first, second = decided(changeable)
    assert sorted(first.cells + second.cells) == sorted(ALL)
    assert {len(first.cells), len(second.cells)} == {2}


def test_cell_in_progress_is_not_started_twice(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    assert decided(changeable, in_progress=[Run("cell", cells=SMALL)]) == [Run("sweep", cells=LARGE, holds_model=True)]
    assert decided(changeable, in_progress=[SWEEP]) == []


def test_failed_cells_do_not_stop_controls_and_report(changeable: SmallStudy) -> None:
    changeable.remove("verdicts/16_3", "control_verdicts")
    failed = [Run("sweep", cells=(ALL[2],))]
    assert decided(changeable, failed=failed) == [Run("controls")]
    assert decided(changeable, failed=[*failed, Run("controls")]) == [Run("report")]


def test_controls_and_report_wait_for_cells_in_progress(changeable: SmallStudy) -> None:
    changeable.remove("control_verdicts")
    assert decided(changeable, in_progress=[Run("sweep", cells=LARGE)]) == []
    assert decided(changeable) == [Run("controls")]
    assert decided(changeable, in_progress=[Run("controls")]) == []


def test_report_runs_where_its_files_left_the_home(changeable: SmallStudy) -> None:
    remove_report(changeable)
    assert decided(changeable) == [Run("report")]


def test_report_waits_for_the_controls(changeable: SmallStudy) -> None:
    remove_report(changeable)
    assert decided(changeable, in_progress=[Run("controls")]) == []


def test_only_the_chosen_cells_are_brought_up_to_date(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    study = changeable.open()
    runs = next_runs(study, everything_recorded(study), cells=[ALL[3]])
    assert runs == [Run("sweep", cells=(ALL[3],), holds_model=True)]


def test_cell_runs_for_each_further_seed(changeable: SmallStudy) -> None:
    edit_yaml(changeable.profile, lambda profile: profile["sweep"].update(more_seeds=[7], steps=[3], data_sizes=[8]))
    assert decided(changeable) == [Run("sweep", cells=(ALL[0],), holds_model=True)]


def requests(study: SmallStudy) -> list[tuple[str | None, str | None, object]]:
    """Job, partition and cells of the sensor's requests."""
    from synthpost_dagster.orchestration.build import build_definitions
    from synthpost_dagster.orchestration.jobs import cells_of

    definitions = build_definitions(study.settings)
    sensor = definitions.get_repository_def().get_sensor_def("next_runs")
    resources = {"study": definitions.resources["study"]} if definitions.resources else {}
    with study.instance() as instance, build_sensor_context(instance=instance, resources=resources) as context:
        found = sensor(context)
        asked = list(found) if not isinstance(found, RunRequest | SkipReason | None) else [found]
    return [(one.job_name, one.partition_key, cells_of(one.run_config)) for one in asked if isinstance(one, RunRequest)]


def add_run(study: SmallStudy, job: str, status: DagsterRunStatus, cells: list[str] | None = None, **tags: str) -> None:
    """A run as Dagster's daemon records it."""
    from synthpost_dagster.orchestration.build import build_definitions

    config = {} if cells is None else {"ops": {"fill": {"config": {"cells": cells}}}}
    with study.instance() as instance:
        definition = build_definitions(study.settings).resolve_job_def(job)
        instance.create_run_for_job(definition, run_config=config, tags=tags, status=status)


def test_sensor_requests_nothing_after_the_command_line(changeable: SmallStudy) -> None:
    assert requests(changeable) == []


def test_sensor_requests_a_sweep_with_its_cells(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    assert requests(changeable) == [("sweep", None, [cell.key for cell in ALL])]


def test_sensor_requests_the_subset_of_a_data_size(changeable: SmallStudy) -> None:
    changeable.remove("data_subsets/16")
    assert requests(changeable) == [("subsets", "16", None)]


def test_sensor_never_starts_the_upstream(changeable: SmallStudy) -> None:
    changeable.remove("synthetic_rows")
    assert requests(changeable) == []


def test_sensor_waits_for_a_run_of_the_command_line(changeable: SmallStudy) -> None:
    from synthpost_dagster.orchestration.instance import DRIVER_TAG

    change_learning_rate(changeable)
    add_run(changeable, "report", DagsterRunStatus.STARTED, **{DRIVER_TAG: "cli"})
    assert requests(changeable) == []


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_sensor_leaves_failed_and_cancelled_sweeps_alone(changeable: SmallStudy, status: DagsterRunStatus) -> None:
    change_learning_rate(changeable)
    add_run(changeable, "sweep", status, [cell.key for cell in SMALL])
    assert requests(changeable) == [("sweep", None, [cell.key for cell in LARGE])]


def test_sensor_tries_again_after_the_next_upstream(changeable: SmallStudy) -> None:
    change_learning_rate(changeable)
    add_run(changeable, "sweep", DagsterRunStatus.FAILURE, None)
    assert requests(changeable) == []
    add_run(changeable, "upstream", DagsterRunStatus.SUCCESS)
    assert requests(changeable) == [("sweep", None, [cell.key for cell in ALL])]


def test_sensor_stops_runs_that_repeat_too_often(changeable: SmallStudy) -> None:
    from synthpost_dagster.orchestration.sensor import MAX_RUNS_AN_HOUR

    shutil.rmtree(changeable.home / "report")
    for _ in range(MAX_RUNS_AN_HOUR):
        assert requests(changeable) == [("report", None, None)]
        add_run(changeable, "report", DagsterRunStatus.SUCCESS)
    assert requests(changeable) == []
