"""Filling many cells at once: what is made, what is there, what is left to others, and what fails or cannot be had."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from synthpost_dagster.errors import DeviceError, SpecError
from synthpost_dagster.inference.models import loads
from synthpost_dagster.runtime.progress import SILENT, Event, Progress
from synthpost_dagster.stages import adapters, planning, student, sweep
from synthpost_dagster.stages.facts import AdapterFacts
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.sweep import Filled, fill
from synthpost_dagster.training import forgetting
from synthpost_dagster.training.sft import Tuner
from tests.helpers.small_study import SmallStudy, edit_yaml


def other_learning_rate(study: SmallStudy, **more: Any) -> Study:
    """The study whose cells all have to be tuned anew."""
    study.choose_learning_rate(1.0e-3, **more)
    return study.open()


FILLED = ("adapters", "predictions")
"""What a sweep makes of each cell."""


def counts(filled: Filled) -> tuple[int, int, int, int, int]:
    return filled.made, filled.reused, filled.elsewhere, len(filled.errors), len(filled.skipped)


def made_files(study: SmallStudy) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in study.manifests()}


def test_cells_are_filled_under_every_seed_and_then_cost_nothing(
    changeable: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = other_learning_rate(changeable, more_seeds=[7], steps=[3])
    events: list[Event] = []
    filled = fill(study, study.cells, Progress(events.append))
    assert counts(filled) == (4, 0, 0, 0, 0)
    assert filled.model_loads == 1, "one loaded student tunes and answers for all"
    assert all(
        AdapterFacts.of(study.resolver.need("adapters", cell.place)).general_text_seconds > 0 for cell in study.cells
    )
    assert planning.lacking(study, study.cells) == []
    told = [event for event in events if event.unit in ("adapters", "trainings")]
    assert [(event.what, event.done, event.total) for event in told] == [
        (what, done, 4) for what in ("tuned", "done") for done in (1, 2, 3, 4)
    ]
    assert all(event.is_milestone for event in told)
    assert sum("the first row teaches" in event.what for event in events) == 1
    assert {event.what for event in events if event.unit == "steps"} == {
        f"{place} training" for place in ("8|3", "8|3|7", "16|3", "16|3|7")
    }

    monkeypatch.setattr(student, "load", lambda *_: pytest.fail("the student is loaded for nothing"))
    before = made_files(changeable)
    filled = fill(study, study.cells, SILENT)
    assert counts(filled) == (0, 4, 0, 0, 0)
    assert filled.model_loads == 0
    assert filled.text == "4 reused"
    assert made_files(changeable) == before


def assert_same_posts(one: Study, other: Study) -> None:
    for cell in one.cells:
        ours, theirs = (study.resolver.need("predictions", cell.place) for study in (one, other))
        assert ours.digest == theirs.digest
        assert ours.parts == theirs.parts


def test_cells_posts_are_the_same_alone_and_with_other_cells(changeable: SmallStudy, retuned: SmallStudy) -> None:
    together, single = retuned.open(), other_learning_rate(changeable, steps=[3])
    for cell in single.cells:
        materialize(single, "adapters", cell.place)
        assert not materialize(single, "predictions", cell.place).is_reused
    assert_same_posts(single, together)


@pytest.mark.slow
def test_cells_posts_are_the_same_with_few_concurrent_sequences(retuned: SmallStudy, tmp_path: Path) -> None:
    edit_yaml(retuned.profile, lambda profile: profile["predictions"].update(max_concurrent_sequences=6))
    together, single = retuned.copy_to(tmp_path / "together").open(), retuned.open()
    assert counts(fill(together, together.cells, SILENT)) == (2, 0, 0, 0, 0)
    for cell in single.cells:
        assert not materialize(single, "predictions", cell.place).is_reused
    assert_same_posts(single, together)


def test_fixed_number_of_concurrent_sequences_changes_the_fingerprint(changeable: SmallStudy) -> None:
    study = changeable.open()
    plan = study.resolver.plan("predictions", study.cells[0].place)
    assert "max_concurrent_sequences" not in plan.parts["sampling"]
    edit_yaml(changeable.profile, lambda profile: profile["predictions"].update(max_concurrent_sequences=6))
    assert changeable.open().resolver.fingerprint("predictions", study.cells[0].place) != plan.fingerprint


def test_one_loaded_model_writes_both_sets_of_untuned_posts(changeable: SmallStudy) -> None:
    edit_yaml(changeable.profile, lambda profile: profile["predictions"].update(max_new_tokens=9))
    study, before = changeable.open(), loads.made
    assert not materialize(study, "control_predictions").is_reused
    assert materialize(study, "baseline_predictions").is_reused
    assert loads.made == before + 1


def test_posts_that_another_process_is_writing_are_skipped(changeable: SmallStudy) -> None:
    edit_yaml(changeable.profile, lambda profile: profile["predictions"].update(max_new_tokens=9))
    study = changeable.open()
    plan = study.resolver.plan("control_predictions")
    with FileLock(changeable.home / "locks" / f"control_predictions-all-{plan.fingerprint}.lock"):
        assert not materialize(study, "baseline_predictions").is_reused
    assert not study.resolver.has("control_predictions")


def test_failed_cell_or_missing_subset_does_not_stop_other_cells(changeable: SmallStudy) -> None:
    study = other_learning_rate(changeable, steps=[3], data_sizes=[8, 16, 24])
    (subset,) = (changeable.home / "storage" / "data_subsets" / "8").glob("*/data_subsets.parquet")
    subset.write_bytes(bytes(subset.stat().st_size))
    notes: list[str] = []
    filled = fill(study, study.cells, Progress(lambda event: notes.append(event.text)))
    assert counts(filled) == (1, 0, 0, 1, 1)
    assert "differs from its manifest" in str(filled.errors["8|3"])
    assert "needs 24 kept rows" in filled.skipped["24|3"]
    assert [note.partition(":")[0] for note in notes if "manifest" in note or "kept rows" in note] == [
        "8|3",
        "24|3",
    ]
    assert filled.text == "1 made, 1 failed, 1 skipped"
    assert [one.place for one in planning.lacking(study, study.cells)] == ["8|3", "24|3"]


def test_loss_that_is_not_a_number_fails_only_its_cell(changeable: SmallStudy) -> None:
    study = other_learning_rate(changeable, steps=[3])
    edit_yaml(changeable.profile, lambda profile: profile["training"].update(learning_rate=1.0e30, warmup_steps=0))
    filled = fill(changeable.open(), study.cells, SILENT)
    assert counts(filled) == (0, 0, 0, 2, 0)
    assert all("the loss is not a number" in reason for reason in map(str, filled.errors.values()))
    assert not list((changeable.home / "tmp").iterdir())


def test_memory_that_runs_out_after_a_training_fails_its_cell_alone(
    changeable: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, measure, times = other_learning_rate(changeable, steps=[3]), forgetting.forgetting, []

    def short_once(*arguments: Any) -> Any:
        times.append(1)
        if len(times) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return measure(*arguments)

    monkeypatch.setattr(forgetting, "forgetting", short_once)
    filled = fill(study, study.cells, SILENT)
    assert counts(filled) == (1, 0, 0, 1, 0)
    assert str(filled.errors["8|3"]).startswith("CPU ran out of memory while general text was measured; stop what else")


def test_student_that_does_not_fit_is_loaded_once_and_freed(
    changeable: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, tries = other_learning_rate(changeable, steps=[3]), []

    def short(*arguments: Any) -> None:
        tries.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Tuner, "_wrapped", short)
    filled = fill(study, study.cells, SILENT)
    assert counts(filled) == (0, 0, 0, 2, 0)
    assert {reason[:50] for reason in map(str, filled.errors.values())} == {
        "CPU ran out of memory while the student was loaded"
    }
    assert (len(tries), filled.model_loads) == (1, 1)
    with student.holding(study, SILENT) as held:
        with pytest.raises(DeviceError):
            held.tuner(1)
        assert held._loaded is None, "it may have a part of an adapter on it"


def test_artifact_that_another_process_is_making_is_skipped(retuned: SmallStudy) -> None:
    study = retuned.open()
    plan = study.resolver.plan("adapters", "8|3")
    retuned.remove(f"adapters/8_3/{plan.fingerprint}", "predictions")
    with FileLock(retuned.home / "locks" / f"adapters-8_3-{plan.fingerprint}.lock"):
        filled = fill(study.fresh(), study.cells, SILENT)
    assert counts(filled) == (1, 0, 1, 0, 0)
    assert filled.text == "1 made, 1 made by another run"
    assert [one.place for one in planning.lacking(study.fresh(), study.cells)] == ["8|3"]


@pytest.mark.parametrize("keys", [["8|3", "88|abc"], ["8|100"]])
def test_cells_that_the_profile_does_not_have_are_refused_by_key(changeable: SmallStudy, keys: list[str]) -> None:
    from synthpost_dagster.orchestration.jobs import _chosen

    study = changeable.open()
    with pytest.raises(SpecError, match=rf"ops.fill.config.cells: {re.escape(keys[-1])} is none of .*8\|3"):
        _chosen(study, keys)
    assert [cell.key for cell in _chosen(study, ["16|3", "8|3", "16|3"])] == ["16|3", "8|3"]


def test_damaged_adapter_is_made_again_while_the_others_are_filled(retuned: SmallStudy) -> None:
    study = retuned.open()
    retuned.remove("predictions")
    plan = study.resolver.plan("adapters", "8|3")
    before = study.fresh().resolver.need("adapters", "8|3").digest
    weights = retuned.home / "storage" / "adapters" / "8_3" / plan.fingerprint / "adapter_model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert counts(fill(study, study.cells, SILENT)) == (2, 0, 0, 0, 0)
    assert study.fresh().resolver.need("adapters", "8|3").digest == before
    assert list(weights.parent.parent.glob("damaged-*")), "the damaged one is kept"


def test_trainer_in_its_own_process_tunes_the_same_adapters(
    changeable: SmallStudy, retuned: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = retuned.open()
    for module in (adapters, sweep):
        monkeypatch.setattr(module, "APART", {"trl"})
    study, events = other_learning_rate(changeable, steps=[3]), list[Event]()
    filled = fill(study, study.cells, Progress(events.append))
    assert counts(filled) == (2, 0, 0, 0, 0)
    assert filled.model_loads == 1, "this process loads the student to answer, the other one to tune"
    assert {event.what for event in events if event.unit == "steps"} == {"8|3 training", "16|3 training"}
    for cell in study.cells:
        ours, theirs = (one.resolver.need("adapters", cell.place) for one in (study, expected))
        assert ours.digest == theirs.digest
