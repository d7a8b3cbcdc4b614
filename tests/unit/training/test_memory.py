"""Fault 15: memory runs out in training. Compiled and checkpointed layers learn the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from synthpost_dagster.errors import DeviceError
from synthpost_dagster.runtime.devices import Device
from synthpost_dagster.training import joint_lora
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.fitting import MIN_COMPILED_STEPS, Layout
from synthpost_dagster.training.sft import Tuner
from tests.helpers.tuning import (
    ALWAYS,
    CPU,
    ProgressLog,
    alone,
    cell,
    largest_difference,
    rows_of,
    spec_of,
    state_of,
    tuner_of,
)

ROWS = rows_of(8)
FOUR_ROWS = 300
"""Tokens: more than in any four of the rows, fewer than in all of them."""


NONE_LEFT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
NO_WORKSPACE = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


class SmallDevice:
    """Runs out of memory if a forward pass has more than `most` tokens, or if `fails` is true for its number."""

    def __init__(
        self,
        tuner: Tuner,
        most: int = 10**9,
        fails: Callable[[int], bool] = lambda number: False,
        error: RuntimeError = NONE_LEFT,
    ) -> None:
        self.most, self.fails, self.error = most, fails, error
        self.held: list[int] = []
        self._other: tuple[int, RuntimeError] | None = None
        self._handle = tuner.loaded.model.model.embed_tokens.register_forward_pre_hook(self._look)

    def _look(self, module: Any, inputs: tuple[Any]) -> None:
        (ids,) = inputs
        self.held.append(int((ids == 0).sum()))  # a row begins with token 0
        if self._other is not None and len(self.held) == self._other[0]:
            raise self._other[1]
        if ids.numel() > self.most or self.fails(len(self.held)):
            raise self.error

    def fails_otherwise(self, number: int, error: RuntimeError) -> None:
        """Fails with another error at the forward pass of this number."""
        self._other = (number, error)

    def grow(self) -> None:
        """Has unlimited memory from now on."""
        self._handle.remove()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    alone(folder, rows=ROWS, steps=3)
    return folder


@pytest.mark.parametrize("error", [NONE_LEFT, NO_WORKSPACE])
def test_fault_15_out_of_memory_halves_the_micro_batch(undisturbed: Path, tmp_path: Path, error: RuntimeError) -> None:
    log = ProgressLog()
    with tuner_of() as tuner:
        device = SmallDevice(tuner, most=FOUR_ROWS, error=error)
        tuned = cell(tuner, tmp_path, rows=ROWS, steps=3, log=log)
        device.grow()
    assert device.held == [8, 4, 4, 4, 4, 4, 4]
    assert log[1:4] == [
        "training 8 rows at a time, 8 rows a step",
        "CPU ran out of memory with 8 rows at a time",
        "training 4 rows at a time, 8 rows a step",
    ]
    assert log.steps == [1, 2, 3]
    assert tuned.layout == Layout(4, False, False)
    assert largest_difference(tmp_path, undisturbed) < 2e-4


def test_another_error_of_the_device_ends_the_training(tmp_path: Path) -> None:
    with tuner_of() as tuner:
        SmallDevice(tuner, fails=lambda number: number == 2, error=RuntimeError("an illegal memory access"))
        with pytest.raises(RuntimeError, match="illegal"):
            cell(tuner, tmp_path, rows=ROWS, steps=3)


def test_fault_15_out_of_memory_resumes_from_the_last_checkpoint(undisturbed: Path, tmp_path: Path) -> None:
    log = ProgressLog()
    with tuner_of() as tuner:
        device = SmallDevice(tuner, fails=lambda number: number == 3)
        tuned = cell(tuner, tmp_path, rows=ROWS, steps=3, log=log, seconds=ALWAYS)
        device.grow()
    assert device.held == [8, 8, 8, 4, 4]
    assert "training resumes at step 2 of 3" in log
    assert log.steps == [1, 2, 3]
    assert tuned.curve["step"].tolist() == [1, 2, 3]
    assert largest_difference(tmp_path, undisturbed) < 2e-4


def test_fault_15_no_row_fits_is_an_error_and_restores_the_model(undisturbed: Path, tmp_path: Path) -> None:
    log = ProgressLog()
    with tuner_of() as tuner:
        device = SmallDevice(tuner, most=20)
        with pytest.raises(DeviceError, match=r"CPU has too little memory even for one row at a time; lower .*nf4"):
            cell(tuner, tmp_path, rows=ROWS, steps=3, log=log)
        device.grow()
        assert not list((tmp_path / "adapter").iterdir())
        model = tuner.loaded.model
        cell(tuner, tmp_path / "next", rows=ROWS, steps=3)
        assert not model.is_gradient_checkpointing, "the next cell pays for memory that it has"
    assert device.held == [8, 4, 2, 1, 1]
    assert [line for line in log if line.startswith("training ")] == [
        *(f"training {size} rows at a time, 8 rows a step" for size in (8, 4, 2, 1)),
        "training 1 rows at a time, gradient checkpointing, 8 rows a step",
    ]
    with tuner_of() as other:
        untouched = other.loaded.model
    assert state_of(model) == state_of(untouched)
    assert largest_difference(tmp_path / "next", undisturbed) == 0


def test_fault_15_out_of_memory_before_step_1_leaves_the_next_cell_intact(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with tuner_of() as tuner:
        with monkeypatch.context() as small:
            small.setattr(joint_lora.Joint, "__init__", short)
            with pytest.raises(DeviceError, match="CPU has too little memory even for one row at a time"):
                cell(tuner, tmp_path, rows=ROWS, steps=3)
        cell(tuner, tmp_path / "next", rows=ROWS, steps=3)
    assert largest_difference(tmp_path / "next", undisturbed) == 0


@pytest.mark.parametrize("padding_free", [True, False])
def test_gradient_checkpointing_learns_the_same_and_leaves_no_hooks(
    undisturbed: Path, tmp_path: Path, padding_free: bool
) -> None:
    spec = spec_of(gradient_checkpointing=True, padding_free=padding_free)
    with tuner_of(spec) as tuner:
        model = tuner.loaded.model
        for name in ("one", "two"):
            cell(tuner, tmp_path / name, spec, rows=ROWS, steps=3)
            assert not model.is_gradient_checkpointing
            assert not state_of(model)["hooks"]
    with tuner_of() as other:
        untouched = other.loaded.model
    assert state_of(model) == state_of(untouched)
    assert largest_difference(tmp_path / "one", undisturbed) < 2e-4
    assert largest_difference(tmp_path / "two", tmp_path / "one") == 0


def test_unsupported_model_gets_the_layouts_of_padded_training(tmp_path: Path) -> None:
    spec = spec_of(compile="auto")
    with tuner_of(spec, steps=MIN_COMPILED_STEPS) as tuner:
        tuner.device = Device("cuda:0", "a GPU", "a GPU")
        tuner._free = lambda: None  # type: ignore[method-assign]
        for window, is_compiled in ((4096, False), (None, True)):
            tuner.loaded.model.config.sliding_window = window
            found = tuner._layouts(spec, Checkpoints(tmp_path, 60))
            assert {layout.is_compiled for layout in found} == {is_compiled}
        tuner.device = CPU


def test_new_process_resumes_with_the_checkpoints_layout(undisturbed: Path, tmp_path: Path) -> None:
    """The first process runs out of memory with 8 rows, and is stopped at step 3 with 4."""
    with tuner_of() as tuner:
        ended = RuntimeError("an illegal memory access")
        device = SmallDevice(tuner, most=FOUR_ROWS)
        device.fails_otherwise(6, ended)
        with pytest.raises(RuntimeError, match="illegal"):
            cell(tuner, tmp_path, rows=ROWS, steps=3, seconds=ALWAYS)
    assert device.held == [8, 4, 4, 4, 4, 4]
    log = ProgressLog()
    with tuner_of() as tuner:
        device = SmallDevice(tuner)
        tuned = cell(tuner, tmp_path, rows=ROWS, steps=3, log=log, seconds=ALWAYS)
        device.grow()
    assert device.held == [4, 4]
    assert tuned.layout == Layout(4, False, False)
    assert log.steps == [3]
    assert largest_difference(tmp_path, undisturbed) < 2e-4
