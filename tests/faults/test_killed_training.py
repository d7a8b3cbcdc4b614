"""Fault 14: kill -9 during training, through the stage that makes adapters. Fault 15: nothing published."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.training.sft import Tuner
from tests.helpers.tuning_home import World, ready_to_tune, run, standing_at


@pytest.fixture
def world(tmp_path: Path) -> World:
    return ready_to_tune(tmp_path)


def test_fault_14_after_kill_9_the_next_run_goes_on_from_the_last_checkpoint_to_the_same_adapter(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(world.copied(tmp_path / "other").open())
    assert undisturbed.steps == [1, 2, 3, 4]
    with standing_at(world, 3) as process:
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
    study = world.open()
    plan = study.resolver.plan("adapters", study.cells[0].place)
    folder = study.settings.home / "checkpoints" / f"{plan.partition.replace('|', '_')}-{plan.fingerprint}"
    assert [place.name for place in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not study.resolver.has("adapters", study.cells[0].place), "nothing is published of it"
    is_safe: list[object] = []
    load = torch.load

    def loading(*arguments: Any, **named: Any) -> Any:
        is_safe.append(named.get("weights_only"))
        return load(*arguments, **named)

    monkeypatch.setattr(torch, "load", loading)
    finished = run(study)
    assert "training goes on from step 2 of 4" in finished.notes
    assert finished.steps == [3, 4]
    assert is_safe
    assert set(is_safe) == {True}
    pd.testing.assert_frame_equal(finished.curve, undisturbed.curve, atol=1e-5)
    assert finished.curve["step"].tolist() == [1, 2, 3, 4]
    assert set(finished.weights) == set(undisturbed.weights)
    for name, weight in undisturbed.weights.items():
        assert weight.abs().max() > 1e-3
        torch.testing.assert_close(finished.weights[name], weight, atol=1e-5, rtol=0)
    assert not folder.exists(), "the checkpoints go once the adapter is there"


def test_fault_14_another_training_does_not_go_on_from_the_checkpoints_of_a_stopped_one(world: World) -> None:
    def stop(event: Event) -> None:
        if event.what == "training" and event.done == 3:
            raise KeyboardInterrupt

    study = world.open()
    with pytest.raises(KeyboardInterrupt):
        materialize(study, "adapters", study.cells[0].place, Progress(stop))
    assert len(list(world.home.glob("checkpoints/*/checkpoint-2"))) == 1
    with study.devices.lease(0.001, timeout_seconds=0):
        pass
    changed(world, learning_rate=1e-3)
    assert run(world.open()).steps == [1, 2, 3, 4]


def changed(world: World, **training: float) -> None:
    """Changes hyper-parameters in the profile's file."""
    content = yaml.safe_load(world.profile.read_text(encoding="utf-8"))
    content["training"] |= training
    world.profile.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_fault_15_a_training_that_fails_publishes_nothing_and_frees_the_device(world: World) -> None:
    changed(world, learning_rate=1e30, warmup_steps=0)
    study = world.open()
    with pytest.raises(SynthpostError, match=r"the loss is not a number at step 2; lower training\.learning_rate"):
        run(study)
    assert not study.store.all_of("adapters", study.cells[0].place)
    assert not list((world.home / "storage").rglob("adapter_*"))
    with study.devices.lease(0.001, timeout_seconds=0):
        pass


def test_fault_15_where_memory_runs_out_for_good_nothing_is_published_and_the_next_run_makes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = world.open()
    with monkeypatch.context() as small:
        small.setattr(Tuner, "_trained", lambda *arguments: None)
        with pytest.raises(DeviceError, match="too little memory even for one row"):
            run(study)
    assert not study.store.all_of("adapters", study.cells[0].place)
    assert run(study).steps == [1, 2, 3, 4]
