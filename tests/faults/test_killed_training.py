"""Fault 14: kill -9 during training, through the stage that makes adapters. Fault 15: nothing published."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
import yaml

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.progress import Event, Progress
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.settings import read_settings
from synthpost_dagster.stages.adapters import ADAPTER_WEIGHTS, adapters, adapters_plan
from synthpost_dagster.stages.data import catalog, data_subsets, prompts, synthetic_rows_plan
from synthpost_dagster.stages.study import Study, open_study
from synthpost_dagster.tasks.loading import Task
from synthpost_dagster.training.sft import Tuner

CHILD = Path(__file__).with_name("tuning_child.py")
MOST_SECONDS = 180
"""Three trainings in two processes, each of which imports the trainer's libraries."""
REPOSITORY = Path(__file__).parents[2]
EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]


class World(NamedTuple):
    """A home in which all that an adapter is made of lies ready, its task and its profile."""

    home: Path
    task: Path
    profile: Path

    def open(self, home: Path | None = None) -> Study:
        return open_study(read_settings(str(home or self.home), str(self.task), str(self.profile)))

    def copied(self) -> Path:
        """Another home with the same in it."""
        return shutil.copytree(self.home, self.home.with_name("other"))


@pytest.fixture
def world(edit_task: EditTask, tmp_path: Path) -> World:
    """Eight rows for cells of 8 rows and 4 steps, written without a teacher; a checkpoint after every step."""
    task = edit_task("task.yaml", lambda content: content["sweep"].update(data_sizes=[8], steps=[4]))
    profile = {
        "extends": "tiny",
        "name": "mine",
        "training": {"checkpoint_seconds": 1e-9, "lora": {"r": 4}},
        "sweep": {"data_sizes": [8], "steps": [4]},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    made = World(tmp_path / "home", task.folder, tmp_path / "mine.yaml")
    study = made.open()
    catalog(study)
    prompts(study)
    rows = synthetic(task)
    study.store.reuse_or_make(synthetic_rows_plan(study, 8), lambda draft: draft.table("synthetic_rows", rows))
    assert not data_subsets(study, 8).manifest.failed_gates
    return made


def synthetic(task: Task) -> pd.DataFrame:
    """A kept row for each of the first eight prompts."""
    table = training_prompts(task).head(8)
    posts = [" ".join(f"word{at * place}" for place in range(1, 9 + 3 * at)) for at in range(8)]
    return table.drop(columns=["teacher_prompt"]).assign(
        attempt=0,
        post=posts,
        status="kept",
        reason="",
        stripped="",
        is_in_band=True,
        raw_reply=posts,
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        teacher_model="by hand",
        reply_key=[f"{at:016x}" for at in range(8)],
    )


class Run(NamedTuple):
    """What a run of the stage made."""

    weights: dict[str, torch.Tensor]
    curve: pd.DataFrame
    notes: list[str]
    steps: list[int]


def run(study: Study) -> Run:
    """The cell's adapter, made or made to its end in this process."""
    from safetensors.torch import load

    events: list[Event] = []
    manifest = adapters(study, study.cells[0], Progress(events.append)).manifest
    return Run(
        load(study.store.read_file(manifest, ADAPTER_WEIGHTS)),
        study.store.read_table(manifest),
        [event.text for event in events],
        [event.done for event in events if event.what == "training"],
    )


@contextlib.contextmanager
def killed_at(world: World, step: int) -> Iterator[list[str]]:
    """What a process said until it was killed with signal 9 at the end of that step."""
    command = [sys.executable, str(CHILD), str(world.home), str(world.task), str(world.profile), str(step)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.strip())
                if line.startswith(f"training: {step} of"):
                    break
        finally:
            process.kill()
        assert process.wait(20) == -9, said
    yield said


def test_fault_14_after_kill_9_the_next_run_goes_on_from_the_last_checkpoint_to_the_same_adapter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(world.open(world.copied()))
    assert undisturbed.steps == [1, 2, 3, 4]
    with killed_at(world, 3) as said:
        assert said[-1] == "training: 3 of 4 steps"
    study = world.open()
    plan = adapters_plan(study, study.cells[0])
    folder = study.settings.home / "checkpoints" / f"{plan.partition.replace('|', '_')}-{plan.fingerprint}"
    assert [place.name for place in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not study.has(lambda: adapters_plan(study, study.cells[0])), "nothing is published of it"
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
        adapters(study, study.cells[0], Progress(stop))
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
