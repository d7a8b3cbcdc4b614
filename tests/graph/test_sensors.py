"""What the sensors start: what is out of date, nothing twice, and nothing after a run of the command line."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    RunStatusSensorDefinition,
    SkipReason,
    build_run_status_sensor_context,
)
from small_study import SmallStudy, edit_yaml


def evaluate(study: SmallStudy, sensor: str, job: str, by_driver: bool = False) -> list[tuple[str | None, str | None]]:
    """Job and partition of what a sensor starts after the latest run of `job`, taken as one that the UI launched."""
    from synthpost_dagster.graph import build_definitions
    from synthpost_dagster.records import DRIVER_TAG

    definitions = build_definitions(study.settings)
    repository = definitions.get_repository_def()
    watched = repository.get_sensor_def(sensor)
    assert isinstance(watched, RunStatusSensorDefinition)
    with study.instance() as instance:
        run = next(run for run in instance.get_runs() if run.job_name == job)
        assert DRIVER_TAG in run.tags, "the fixture's runs are those of the driver"
        if not by_driver:
            run = run.with_tags({key: value for key, value in run.tags.items() if key != DRIVER_TAG})
        made = build_run_status_sensor_context(
            sensor_name=sensor,
            dagster_instance=instance,
            dagster_run=run,
            dagster_event=success_of(instance, run.run_id),
            resources={"study": definitions.resources["study"]} if definitions.resources else {},
        )
        with made as context:
            asked: Any = list(watched(context))
    found = []
    for request in asked:
        if isinstance(request, RunRequest):
            is_one = request.job_name in ("controls", "report")
            cause = request.job_name if is_one else f"{run.run_id}:{request.job_name}"
            assert str(request.run_key).startswith(f"{cause}:")
            found.append((request.job_name, request.partition_key))
        else:
            assert isinstance(request, SkipReason)
    return found


def success_of(instance: DagsterInstance, run_id: str) -> Any:
    (event,) = [
        entry.dagster_event
        for entry in instance.all_logs(run_id)
        if entry.dagster_event and entry.dagster_event.event_type is DagsterEventType.RUN_SUCCESS
    ]
    return event


def other_learning_rate(study: SmallStudy) -> None:
    edit_yaml(study.profile, lambda profile: profile["training"].__setitem__("learning_rate", 1.0e-3))


@pytest.mark.parametrize(
    ("sensor", "job"), [("after_upstream", "upstream"), ("after_subsets", "subsets"), ("after_cell", "cell")]
)
def test_where_all_is_up_to_date_nothing_is_started(changeable: SmallStudy, sensor: str, job: str) -> None:
    assert evaluate(changeable, sensor, job) == []


def test_after_the_upstream_the_cells_that_changed_are_started(changeable: SmallStudy) -> None:
    other_learning_rate(changeable)
    assert evaluate(changeable, "after_upstream", "upstream") == [
        ("cell", cell) for cell in ("8|3", "8|1-epoch", "16|3", "16|1-epoch")
    ]


def test_a_cell_that_is_under_way_is_not_started_twice(changeable: SmallStudy) -> None:
    from synthpost_dagster.graph import build_definitions

    other_learning_rate(changeable)
    with changeable.instance() as instance:
        job = build_definitions(changeable.settings).resolve_job_def("cell")
        instance.create_run_for_job(job, tags={"dagster/partition": "16|3"}, status=DagsterRunStatus.STARTED)
    assert evaluate(changeable, "after_subsets", "subsets") == [("cell", "16|1-epoch")]


def test_after_a_subset_the_cells_of_its_size_alone_are_started(changeable: SmallStudy) -> None:
    other_learning_rate(changeable)
    assert evaluate(changeable, "after_subsets", "subsets") == [("cell", "16|3"), ("cell", "16|1-epoch")]


def test_after_a_cell_the_report_is_made_of_what_is_there(changeable: SmallStudy) -> None:
    (changeable.home / "report" / "index.html").unlink()
    assert evaluate(changeable, "after_cell", "cell") == [("report", None)]


def test_after_the_last_cell_the_controls_are_judged_before_the_report(changeable: SmallStudy) -> None:
    shutil.rmtree(changeable.home / "storage" / "control_verdicts")
    assert evaluate(changeable, "after_cell", "cell") == [("controls", None)]


def test_after_the_controls_the_report_is_made_of_what_is_there(changeable: SmallStudy) -> None:
    (changeable.home / "report" / "index.html").unlink()
    assert evaluate(changeable, "after_controls", "controls") == [("report", None)]


def test_controls_that_failed_are_not_started_again_and_the_report_says_so(changeable: SmallStudy) -> None:
    shutil.rmtree(changeable.home / "storage" / "control_verdicts")
    assert evaluate(changeable, "after_controls", "controls") == [("report", None)]


def test_runs_of_the_command_line_start_nothing(changeable: SmallStudy) -> None:
    other_learning_rate(changeable)
    assert evaluate(changeable, "after_upstream", "upstream", by_driver=True) == []
