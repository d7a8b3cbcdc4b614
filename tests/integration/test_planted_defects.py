"""A table with a planted defect fails its blocking check, stops what is downstream, and is refused by later runs."""

from __future__ import annotations

import shutil
from typing import Any

import pandas as pd
import pytest
from dagster import AssetCheckEvaluation, AssetSelection, DagsterEventType, DagsterInstance

from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import GateFailed, SynthpostError
from synthpost_dagster.stages import data_subsets, synthetic_rows
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_study import SmallStudy, done


def failed_check(instance: DagsterInstance, run_id: str, name: str) -> AssetCheckEvaluation:
    """The evaluation of the check in a run; it did not pass and it blocks."""
    found = [
        event.asset_check_evaluation_data
        for entry in instance.all_logs(run_id)
        if (event := entry.dagster_event) and event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    (evaluation,) = [evaluation for evaluation in found if evaluation.check_name == name]
    assert not evaluation.passed
    assert evaluation.blocking
    assert evaluation.severity.value == "ERROR"
    return evaluation


def offending_ids(evaluation: AssetCheckEvaluation) -> set[object]:
    table: Any = evaluation.metadata["offending"]
    return {record.data["prompt_id"] for record in table.records}


@pytest.fixture
def planted_ids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompt ids of two rows to which the synthesis gives one post, as if it no longer rejected duplicates."""
    planted: list[str] = []
    real = synthetic_rows.synthesize

    def synthesize(*arguments: Any) -> Any:
        made = real(*arguments)
        kept = made.index[made["status"] == "kept"]
        first, second = kept[2], kept[5]
        made.loc[second, "post"] = f"  {made.loc[first, 'post'].upper()} !"
        planted[:] = made.loc[[first, second], "prompt_id"]
        return made

    monkeypatch.setattr(synthetic_rows, "synthesize", synthesize)
    return planted


def test_duplicated_posts_fail_the_check_and_later_runs_refuse_the_table(
    changeable: SmallStudy, planted_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.orchestration.driver import execute, open_driver
    from synthpost_dagster.stages.planning import Run

    shutil.rmtree(changeable.home / "storage" / "synthetic_rows")
    subset = changeable.recorded("data_subsets", "16")
    with open_driver(changeable.settings, Terminal()) as sweep:
        with pytest.raises(SynthpostError, match=r"^upstream: .*duplicates") as raised:
            execute(sweep.definitions, sweep.instance, Run("upstream"))
        assert "\n" not in str(raised.value)
        evaluation = failed_check(sweep.instance, sweep.instance.get_runs(limit=1)[0].run_id, "duplicates")
        assert offending_ids(evaluation) == set(planted_ids)
        assert "1 of 16 kept posts repeat another" in str(evaluation.description)

        with pytest.raises(GateFailed, match="synthetic_rows failed its check duplicates: 1 of 16 kept posts"):
            materialize(sweep.study.fresh(), "data_subsets", "16")
        with pytest.raises(SynthpostError, match="subset 16: synthetic_rows failed its check duplicates"):
            execute(sweep.definitions, sweep.instance, Run("subsets", size=16))
    assert changeable.recorded("data_subsets", "16") == subset

    monkeypatch.undo()
    assert changeable.sweep("16|3")[0] == done("upstream"), "a table that failed its check was used again"
    study = changeable.open()
    manifest = study.resolver.need("synthetic_rows")
    assert manifest.facts["asked_now"] == 0, "replies that are known were asked for again"
    assert not study.store.read_table(manifest)["post"].duplicated().any()


def run_together(study: SmallStudy, partition: str, *assets: str) -> tuple[bool, str, set[str]]:
    """The assets in one run, as a selection in the UI's lineage starts it: success, run id, what was materialized."""
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.orchestration.driver import open_driver

    with open_driver(study.settings, Terminal()) as sweep:
        chosen = AssetSelection.assets(*assets).resolve(sweep.definitions.resolve_asset_graph())
        job = sweep.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=chosen)
        result = job.execute_in_process(instance=sweep.instance, partition_key=partition, raise_on_error=False)
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}
    return result.success, result.run_id, made


def test_rows_and_subset_in_one_run_are_checked_on_their_own_tables(changeable: SmallStudy) -> None:
    success, _, made = run_together(changeable, "16", "synthetic_rows", "data_subsets")
    assert success
    assert made == {"synthetic_rows", "data_subsets"}


def test_a_failed_check_stops_what_is_downstream_in_its_run(changeable: SmallStudy, planted_ids: list[str]) -> None:
    shutil.rmtree(changeable.home / "storage" / "synthetic_rows")
    success, run_id, made = run_together(changeable, "16", "synthetic_rows", "data_subsets")
    assert not success
    assert made == {"synthetic_rows"}, "something was made of a table that failed its check"
    with changeable.instance() as instance:
        assert offending_ids(failed_check(instance, run_id, "duplicates")) == set(planted_ids)


def test_subset_that_lacks_strata_fails_and_stops_its_adapters(
    changeable: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.orchestration.driver import execute, open_driver
    from synthpost_dagster.stages.planning import Run

    real = data_subsets.subset

    def of_one_stratum(task: Task, rows: pd.DataFrame, size: int) -> pd.DataFrame:
        table = real(task, rows, size).copy()
        for column in ("post_type", "tone", "length"):
            table[column] = table[column].iloc[0]
        return table

    monkeypatch.setattr(data_subsets, "subset", of_one_stratum)
    adapter = changeable.recorded("adapters", "8|3")
    with open_driver(changeable.settings, Terminal()) as sweep:
        with pytest.raises(SynthpostError):
            execute(sweep.definitions, sweep.instance, Run("subsets", size=8))
        run = sweep.instance.get_runs(limit=1)[0]
        evaluation = failed_check(sweep.instance, run.run_id, "factor_coverage")
        planted = sweep.study.fresh().resolver.inputs("data_subsets", "8").rows
        assert set() < offending_ids(evaluation) <= set(planted["prompt_id"])
        with pytest.raises(SynthpostError, match=r"cell 8\|3: data_subsets 8 failed its check factor_coverage"):
            execute(sweep.definitions, sweep.instance, Run("cell", cells=(Cell(8, "3"),)))
    assert changeable.recorded("adapters", "8|3") == adapter
