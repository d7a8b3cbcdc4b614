"""What the sensors start: what is out of date, nothing twice, and nothing after a run of the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
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

from synthpost_dagster.cell import Cell
from synthpost_dagster.stages import planning
from tests.helpers.small_study import SmallStudy, edit_yaml


def sensed(
    study: SmallStudy,
    sensor: str,
    job: str,
    tags: dict[str, str | None] | None = None,
    cells: list[str] | None = None,
) -> list[RunRequest]:
    """What a sensor asks for after the latest run of `job`, taken as one that the UI launched; `tags` change its own,
    and None takes one off. `cells` are those that a sweep was asked for, in place of its own.
    """
    from synthpost_dagster.orchestration.build import build_definitions
    from synthpost_dagster.orchestration.instance import DRIVER_TAG

    definitions = build_definitions(study.settings)
    watched = definitions.get_repository_def().get_sensor_def(sensor)
    assert isinstance(watched, RunStatusSensorDefinition)
    with study.instance() as instance:
        run = next(run for run in instance.get_runs() if run.job_name == job and run.is_finished)
        assert DRIVER_TAG in run.tags, "the fixture's runs are those of the driver"
        changed = {**run.tags, DRIVER_TAG: None, **(tags or {})}
        run = run.with_tags({name: value for name, value in changed.items() if value is not None})
        run = run if cells is None else run._replace(run_config=asked_for(cells))
        if "canceled" in sensor:
            run = run.with_status(DagsterRunStatus.CANCELED)
        made = build_run_status_sensor_context(
            sensor_name=sensor,
            dagster_instance=instance,
            dagster_run=run,
            dagster_event=success_of(instance, run.run_id),
            resources={"study": definitions.resources["study"]} if definitions.resources else {},
        )
        with made as context:
            asked: Any = list(watched(context))
    assert all(isinstance(one, RunRequest | SkipReason) for one in asked)
    return [one for one in asked if isinstance(one, RunRequest)]


def evaluate(
    study: SmallStudy, sensor: str, job: str, cells: list[str] | None = None
) -> list[tuple[str | None, str | None]]:
    """Job and partition of what a sensor asks for after the latest run of `job`; for a sweep, its cells."""
    return [brief(one) for one in sensed(study, sensor, job, cells=cells)]


def brief(request: RunRequest) -> tuple[str | None, str | None]:
    if request.job_name == "sweep":
        return "sweep", " ".join(request.run_config["ops"]["fill"]["config"]["cells"])
    return request.job_name, request.partition_key


def asked_for(cells: list[str]) -> dict[str, Any]:
    """The run configuration of a sweep over these cells."""
    return {"ops": {"fill": {"config": {"cells": cells}}}}


def success_of(instance: DagsterInstance, run_id: str) -> Any:
    (event,) = [
        entry.dagster_event
        for entry in instance.all_logs(run_id)
        if entry.dagster_event and entry.dagster_event.event_type is DagsterEventType.RUN_SUCCESS
    ]
    return event


def other_learning_rate(study: SmallStudy) -> None:
    study.choose_learning_rate(1.0e-3)


def fill_from(retuned: SmallStudy, study: SmallStudy, cell: str) -> None:
    """What a sweep makes of a cell at the other learning rate."""
    for asset in ("adapters", "predictions"):
        place = Path("storage", asset, cell.replace("|", "_"))
        shutil.copytree(retuned.home / place, study.home / place, dirs_exist_ok=True)
    assert planning.unfilled(study.open(), [Cell.parse(cell)]) == []


def two_slots(study: SmallStudy) -> None:
    edit_yaml(study.profile, lambda profile: profile["device"].update(max_concurrent_runs=2))


def add_run(study: SmallStudy, job: str, status: DagsterRunStatus, cells: list[str] | None = None, **tags: str) -> None:
    """A run as Dagster's daemon would record it; of a sweep, with the cells that it was asked for."""
    from synthpost_dagster.orchestration.build import build_definitions

    asked = {} if cells is None else asked_for(cells)
    with study.instance() as instance:
        definition = build_definitions(study.settings).resolve_job_def(job)
        instance.create_run_for_job(definition, run_config=asked, tags=tags, status=status)


ALL = "8|3 8|1-epoch 16|3 16|1-epoch"
PARTS = ("8|3 16|1-epoch", "8|1-epoch 16|3")
"""The cells, dealt to two sweeps."""


@pytest.mark.parametrize(
    ("sensor", "job"),
    [("after_upstream", "upstream"), ("after_subsets", "subsets"), ("after_sweep", "sweep"), ("after_cell", "cell")],
)
def test_where_all_is_up_to_date_nothing_is_started(changeable: SmallStudy, sensor: str, job: str) -> None:
    assert evaluate(changeable, sensor, job) == []


def test_after_the_upstream_the_changed_subsets_are_started_and_nothing_before_them(changeable: SmallStudy) -> None:
    other_learning_rate(changeable)
    shutil.rmtree(changeable.home / "storage" / "data_subsets" / "16")
    assert evaluate(changeable, "after_upstream", "upstream") == [("subsets", "16")]
    add_run(changeable, "subsets", DagsterRunStatus.STARTED, **{"dagster/partition": "16"})
    assert evaluate(changeable, "after_upstream", "upstream") == [], "it is under way"


@pytest.mark.parametrize(("sensor", "job"), [("after_upstream", "upstream"), ("after_subsets", "subsets")])
def test_cells_that_lack_adapters_or_predictions_are_filled_by_one_sweep(
    changeable: SmallStudy, sensor: str, job: str
) -> None:
    other_learning_rate(changeable)
    assert evaluate(changeable, sensor, job) == [("sweep", ALL)]


def test_one_cell_that_lacks_them_gets_its_own_run_as_do_cells_that_need_only_be_judged(changeable: SmallStudy) -> None:
    for cell in ("16_3", "8_3"):
        shutil.rmtree(changeable.home / "storage" / "verdicts" / cell)
    shutil.rmtree(changeable.home / "storage" / "predictions" / "16_3")
    assert evaluate(changeable, "after_subsets", "subsets") == [("cell", "8|3"), ("cell", "16|3")]
    shutil.rmtree(changeable.home / "storage" / "adapters" / "16_1-epoch")
    assert evaluate(changeable, "after_subsets", "subsets") == [("cell", "8|3"), ("sweep", "16|3 16|1-epoch")]


def test_further_seeds_of_one_cell_are_worth_a_sweep(changeable: SmallStudy) -> None:
    edit_yaml(changeable.profile, lambda profile: profile["sweep"].update(more_seeds=[7, 8], steps=[3], data_sizes=[8]))
    assert evaluate(changeable, "after_subsets", "subsets") == [("sweep", "8|3")]


def test_nothing_follows_a_subset_while_another_is_under_way(changeable: SmallStudy) -> None:
    other_learning_rate(changeable)
    add_run(changeable, "subsets", DagsterRunStatus.NOT_STARTED, **{"dagster/partition": "8"})
    assert evaluate(changeable, "after_subsets", "subsets") == []


def test_a_subset_that_failed_leaves_its_cells_out_and_lets_the_others_follow(changeable: SmallStudy) -> None:
    other_learning_rate(changeable)
    shutil.rmtree(changeable.home / "storage" / "data_subsets" / "16")
    assert evaluate(changeable, "after_failed_subsets", "subsets") == [("sweep", "8|3 8|1-epoch")]


def test_two_subsets_of_one_upstream_that_end_together_ask_for_one_sweep(changeable: SmallStudy) -> None:
    from synthpost_dagster.orchestration.sensor import CAUSE_TAG

    def keys(**tags: str | None) -> list[str | None]:
        return [one.run_key for one in sensed(changeable, "after_subsets", "subsets", tags)]

    shutil.rmtree(changeable.home / "storage" / "data_subsets" / "8")
    (request,) = sensed(changeable, "after_upstream", "upstream")
    with changeable.instance() as instance:
        upstream = next(run.run_id for run in instance.get_runs() if run.job_name == "upstream")
    assert request.tags[CAUSE_TAG] == upstream
    edit_yaml(changeable.profile, lambda profile: profile["sweep"].update(data_sizes=[16]))
    other_learning_rate(changeable)
    (one,), (other,) = (keys(**{CAUSE_TAG: "upstream", "from": name}) for name in ("88", "176"))
    assert one == other
    assert one and one.startswith("upstream:sweep:")
    assert keys(**{CAUSE_TAG: "a later one"}) != [one]
    edit_yaml(changeable.profile, lambda profile: profile["sweep"].update(steps=["1-epoch", 3]))
    assert keys(**{CAUSE_TAG: "upstream"}) != [one], "other cells are another sweep"


@pytest.mark.parametrize(("sensor", "job"), [("after_upstream", "upstream"), ("after_subsets", "subsets")])
def test_with_two_slots_the_cells_are_dealt_to_two_sweeps_each_of_which_is_asked_for_once(
    changeable: SmallStudy, sensor: str, job: str
) -> None:
    from synthpost_dagster.orchestration.sensor import CAUSE_TAG

    other_learning_rate(changeable)
    two_slots(changeable)
    requests = sensed(changeable, sensor, job)
    assert [brief(one) for one in requests] == [("sweep", part) for part in PARTS]
    ended_together = [
        [one.run_key for one in sensed(changeable, sensor, job, {CAUSE_TAG: "upstream", "from": name})]
        for name in ("8", "16")
    ]
    assert ended_together[0] == ended_together[1]
    assert len(set(ended_together[0])) == 2
    assert not set(ended_together[0]) & {one.run_key for one in requests}, "another cause asks for them anew"


@pytest.mark.parametrize("cells", [["16|3", "8|3", "8|1-epoch"], None])
def test_a_cell_that_is_under_way_is_not_started_twice(changeable: SmallStudy, cells: list[str] | None) -> None:
    other_learning_rate(changeable)
    add_run(changeable, "sweep", DagsterRunStatus.STARTED, cells)
    # The one that is left lacks its adapter alone.
    assert evaluate(changeable, "after_subsets", "subsets") == ([("cell", "16|1-epoch")] if cells else [])
    add_run(changeable, "cell", DagsterRunStatus.STARTED, **{"dagster/partition": "16|1-epoch"})
    assert evaluate(changeable, "after_subsets", "subsets") == []


@pytest.mark.parametrize("sensor", ["after_sweep", "after_failed_sweep"])
def test_after_the_sweep_each_changed_cell_gets_its_run_whatever_became_of_the_sweep(
    changeable: SmallStudy, sensor: str
) -> None:
    other_learning_rate(changeable)
    requests = sensed(changeable, sensor, "sweep")
    assert [brief(one) for one in requests] == [("cell", cell) for cell in ALL.split()]
    assert len({one.run_key for one in requests}) == 4


def test_after_a_cancelled_sweep_the_cells_that_it_filled_get_their_runs_and_no_other(
    changeable: SmallStudy, retuned: SmallStudy
) -> None:
    other_learning_rate(changeable)
    assert evaluate(changeable, "after_canceled_sweep", "sweep") == [("report", None)]
    fill_from(retuned, changeable, "8|3")
    assert evaluate(changeable, "after_canceled_sweep", "sweep") == [("cell", "8|3")]


@pytest.mark.parametrize("sensor", ["after_sweep", "after_failed_sweep"])
def test_the_cells_of_a_sweep_follow_it_while_another_is_under_way_and_the_others_wait(
    changeable: SmallStudy, sensor: str
) -> None:
    other_learning_rate(changeable)
    one, other = (part.split() for part in PARTS)
    add_run(changeable, "sweep", DagsterRunStatus.STARTED, other)
    assert evaluate(changeable, sensor, "sweep", one) == [("cell", cell) for cell in one]


def test_of_two_sweeps_that_end_together_each_is_followed_by_its_own_cells(changeable: SmallStudy) -> None:
    other_learning_rate(changeable)
    for part in PARTS:
        cells = part.split()
        assert evaluate(changeable, "after_sweep", "sweep", cells) == [("cell", cell) for cell in cells]


def test_where_one_of_two_sweeps_is_cancelled_nobody_starts_the_cells_that_it_had_not_filled(
    changeable: SmallStudy, retuned: SmallStudy
) -> None:
    other_learning_rate(changeable)
    one, other = (part.split() for part in PARTS)
    fill_from(retuned, changeable, one[0])
    fill_from(retuned, changeable, other[1])
    assert evaluate(changeable, "after_canceled_sweep", "sweep", one) == [("cell", one[0])]
    assert evaluate(changeable, "after_sweep", "sweep", other) == [("cell", cell) for cell in other]


@pytest.mark.parametrize("job", ["sweep", "cell", "controls"])
def test_controls_and_report_wait_for_the_last_sweep(changeable: SmallStudy, job: str) -> None:
    (changeable.home / "report" / "index.html").unlink()
    if job != "controls":
        shutil.rmtree(changeable.home / "storage" / "control_verdicts")
    one, other = (part.split() for part in PARTS)
    last = [("report" if job == "controls" else "controls", None)]
    cells = one if job == "sweep" else None
    assert evaluate(changeable, f"after_{job}", job, cells) == last
    add_run(changeable, "sweep", DagsterRunStatus.STARTED, other)
    assert evaluate(changeable, f"after_{job}", job, cells) == []


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
    from synthpost_dagster.orchestration.instance import DRIVER_TAG

    other_learning_rate(changeable)
    assert sensed(changeable, "after_upstream", "upstream", {DRIVER_TAG: "cli"}) == []
