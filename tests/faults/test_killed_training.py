"""Fault 14: kill -9 during training, through the stage that makes adapters. Fault 15: a failed training."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.training.sft import Tuner
from tests.helpers.small_study import SmallStudy
from tests.helpers.small_task import edit_yaml
from tests.helpers.tuning_home import ready_to_tune, run, waiting_at


@pytest.fixture
def small(tmp_path: Path) -> SmallStudy:
    return ready_to_tune(tmp_path)


def test_fault_14_after_kill_training_resumes_to_the_same_adapter(
    small: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(small.copy_to(tmp_path / "other").open())
    assert undisturbed.steps == [1, 2, 3, 4]
    with waiting_at(small, 3) as process:
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
    study = small.open()
    plan = study.resolver.plan("adapters", study.cells[0].place)
    folder = study.settings.home / "checkpoints" / f"{plan.partition.replace('|', '_')}-{plan.fingerprint}"
    assert [place.name for place in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not study.resolver.has("adapters", study.cells[0].place), "it was published"
    is_safe: list[object] = []
    load = torch.load

    def loading(*arguments: Any, **named: Any) -> Any:
        is_safe.append(named.get("weights_only"))
        return load(*arguments, **named)

    monkeypatch.setattr(torch, "load", loading)
    finished = run(study)
    assert "training resumes at step 2 of 4" in finished.notes
    assert finished.steps == [3, 4]
    assert is_safe
    assert set(is_safe) == {True}
    pd.testing.assert_frame_equal(finished.curve, undisturbed.curve, atol=1e-5)
    assert finished.curve["step"].tolist() == [1, 2, 3, 4]
    assert set(finished.weights) == set(undisturbed.weights)
    for name, weight in undisturbed.weights.items():
        assert weight.abs().max() > 1e-3
        torch.testing.assert_close(finished.weights[name], weight, atol=1e-5, rtol=0)
    assert not folder.exists(), "the checkpoints outlive the training"


def test_fault_14_changed_training_ignores_old_checkpoints(small: SmallStudy) -> None:
    def stop(event: Event) -> None:
        if event.what == "training" and event.done == 3:
            raise KeyboardInterrupt

    study = small.open()
    with pytest.raises(KeyboardInterrupt):
        materialize(study, "adapters", study.cells[0].place, Progress(stop))
    assert len(list(small.home.glob("checkpoints/*/checkpoint-2"))) == 1
    with study.devices.lease(0.001, timeout_seconds=0):
        pass
    changed(small, learning_rate=1e-3)
    assert run(small.open()).steps == [1, 2, 3, 4]


def changed(small: SmallStudy, **training: float) -> None:
    """Changes hyper-parameters in the profile's file."""
    edit_yaml(small.profile, lambda profile: profile["training"].update(training))


def test_fault_15_failed_training_publishes_nothing_and_frees_device(small: SmallStudy) -> None:
    changed(small, learning_rate=1e30, warmup_steps=0)
    study = small.open()
    with pytest.raises(SynthpostError, match=r"\bstep 2\b.*training\.learning_rate"):
        run(study)
    assert not study.store.all_of("adapters", study.cells[0].place)
    assert not list((small.home / "storage").rglob("adapter_*"))
    with study.devices.lease(0.001, timeout_seconds=0):
        pass


def test_fault_15_out_of_memory_publishes_nothing_and_next_run_works(
    small: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small.open()
    with monkeypatch.context() as patch:
        patch.setattr(Tuner, "_trained", lambda *arguments: None)
        with pytest.raises(DeviceError, match="memory"):
            run(study)
    assert not study.store.all_of("adapters", study.cells[0].place)
    assert run(study).steps == [1, 2, 3, 4]
