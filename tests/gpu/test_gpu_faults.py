"""Faults 12, 14, 16 and 20 on a GPU in bfloat16: shared GPUs, ended processes, and odd numbers of rows."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.runtime.child_processes import INTERRUPTED
from synthpost_dagster.runtime.devices import Device, free_gib
from synthpost_dagster.stages.stage import materialize
from tests.helpers.side_by_side import Worker, assert_apart, assert_made_once, side_by_side
from tests.helpers.small_study import SmallStudy
from tests.helpers.tuning import BF16, FAR, FEW_OR_ODD, ROUNDING, alone, assert_steps_take, rows_of, spec_of
from tests.helpers.tuning_home import Run, ready_to_tune, run, waiting_at

pytestmark = pytest.mark.gpu

SPEC = spec_of(precision="bfloat16")


@pytest.fixture(scope="module")
def small(gpu: Device, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """The study that each test copies."""
    made = ready_to_tune(tmp_path_factory.mktemp("study"), "cuda", "bfloat16", steps=(4, 5, 6))
    materialize(made.open(), "evaluation_prompts")
    return made


@pytest.fixture(scope="module")
def undisturbed(small: SmallStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(small.copy_to(tmp_path_factory.mktemp("undisturbed")).open())


class Shared(NamedTuple):
    small: SmallStudy
    workers: list[Worker]


@pytest.fixture(scope="module")
def shared(small: SmallStudy, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Two processes on one cell, then on different cells."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "ready").mkdir()
    copy = small.copy_to(folder / "study")
    return Shared(copy, side_by_side(copy.environment(), folder / "ready", ["8|4", "8|5"], ["8|4", "8|6"]))


def test_fault_12_two_processes_on_one_cell_train_it_once(shared: Shared) -> None:
    assert_made_once(shared.workers, "8|4")
    store = shared.small.open().store
    for asset in ("adapters", "predictions"):
        (manifest,) = store.all_of(asset, "8|4")
        store.read_table(manifest)
    assert not list((shared.small.home / "tmp").iterdir())


def test_fault_12_processes_hold_the_gpu_one_after_the_other(shared: Shared) -> None:
    assert_apart(shared.workers, times=6)
    for worker, cell in zip(shared.workers, ("8|5", "8|6"), strict=True):
        assert [worker.made[f"{asset} {cell}"][2] for asset in ("adapters", "predictions")] == [False, False]
    notes = [note for worker in shared.workers for note in worker.notes if not note.startswith("8|4")]
    assert any("held by another process" in note for note in notes), "none had to wait"


@pytest.mark.parametrize(
    ("ending", "code", "drafts"),
    [(signal.SIGKILL, -signal.SIGKILL, 1), (signal.SIGINT, INTERRUPTED, 0)],
    ids=["killed", "cancelled"],
)
def test_faults_14_and_20_ended_training_frees_the_gpu_and_resumes(
    gpu: Device, small: SmallStudy, undisturbed: Run, tmp_path: Path, ending: signal.Signals, code: int, drafts: int
) -> None:
    """A kill leaves a draft that is never read; a cancel leaves none."""
    small = small.copy_to(tmp_path / "study")
    study = small.open()
    before = free_gib(gpu)
    with waiting_at(small, 3) as process:
        assert before - free_gib(gpu) > 0.2, "it has nothing on the GPU: the test shows nothing"
        with pytest.raises(DeviceError, match="held by another process"), study.devices.lease(0.001, timeout_seconds=0):
            pass
        process.send_signal(ending)
        assert process.wait(30) == code
    with study.devices.lease(0.001, timeout_seconds=0):
        pass
    assert _comes_to(gpu, before - 0.05)
    assert not (small.home / "storage" / "adapters").exists()
    assert len(list((small.home / "tmp").iterdir())) == drafts
    finished = run(study)
    assert "training resumes at step 2 of 4" in finished.notes
    assert finished.steps == [3, 4]
    assert finished.curve["step"].tolist() == [1, 2, 3, 4]
    assert finished.curve["loss"].tolist() == pytest.approx(undisturbed.curve["loss"].tolist(), rel=ROUNDING)
    assert set(finished.weights) == set(undisturbed.weights)
    for name, weight in undisturbed.weights.items():
        assert weight.abs().max() > FAR
        assert (finished.weights[name] - weight).abs().max() < FAR
    assert not list((small.home / "checkpoints").iterdir())


def _comes_to(device: Device, free: float) -> bool:
    """Whether `free` GiB become free soon: a driver may take a moment to free the memory of a killed process."""
    deadline = time.monotonic() + 10
    while free_gib(device) < free and time.monotonic() < deadline:
        time.sleep(0.1)
    return free_gib(device) >= free


def test_fault_16_no_rows_are_refused_by_name(gpu: Device, tmp_path: Path) -> None:
    with pytest.raises(SynthpostError, match="there are no training rows; make rows first"):
        alone(tmp_path, SPEC, BF16, gpu, rows=rows_of(0))


@pytest.mark.parametrize(("rows", "micro_batch", "taken"), FEW_OR_ODD)
def test_fault_16_few_or_odd_numbers_of_rows_are_trained(
    gpu: Device, tmp_path: Path, rows: int, micro_batch: int, taken: list[int]
) -> None:
    spec = SPEC.model_copy(update={"micro_batch": micro_batch})
    assert_steps_take(tmp_path, rows, taken, spec, BF16, gpu)


def test_fault_16_rows_of_a_single_type_are_learned(gpu: Device, tmp_path: Path) -> None:
    rows = rows_of(8).assign(post="Same again. Same again.")
    curve = alone(tmp_path, SPEC, BF16, gpu, rows=rows, steps=4).curve
    assert curve["loss"].iloc[-1] < 0.9 * curve["loss"].iloc[0]
