"""Training on a GPU in bfloat16: the CPU's tests, also with flash attention and compiled layers."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.inference.models import load
from synthpost_dagster.profiles import STUDY_TRAINING
from synthpost_dagster.runtime.devices import GIB, Device, Devices, free_gib
from synthpost_dagster.training.conversations import tokenized
from synthpost_dagster.training.fitting import Layout
from synthpost_dagster.training.float8 import check_device
from synthpost_dagster.training.sft import Tuner
from tests.helpers.children import command, environment
from tests.helpers.tuning import (
    BF16,
    FAR,
    ROUNDING,
    ProgressLog,
    alone,
    cell,
    half_done,
    largest_difference,
    rows_of,
    scaled_products,
    spec_of,
    state_of,
    tuner_of,
    weights,
)

pytestmark = pytest.mark.gpu

SPEC = spec_of(precision="bfloat16")


def bf16(**changes: Any) -> Any:
    """The specification in bfloat16 with some keys changed."""
    return SPEC.model_copy(update=changes)


@pytest.mark.parametrize("loss", ["completion", "full"])
@pytest.mark.parametrize(("micro_batch", "is_compiled"), [(8, False), (2, False), (8, True)])
def test_losses_without_padding_equal_those_of_trls_padded_trainer(
    gpu: Device, tmp_path: Path, loss: str, micro_batch: int, is_compiled: bool
) -> None:
    padded = alone(tmp_path / "padded", bf16(loss=loss, padding_free=False), BF16, gpu, steps=5)
    spec = bf16(loss=loss, micro_batch=micro_batch, compile=is_compiled)
    ours = alone(tmp_path / "ours", spec, BF16, gpu, steps=5)
    assert ours.layout == Layout(micro_batch, False, is_compiled)
    assert ours.curve["loss"].tolist() == pytest.approx(padded.curve["loss"].tolist(), rel=ROUNDING)
    assert ours.curve["loss"].iloc[-1] < 0.97 * ours.curve["loss"].iloc[0], "the model learns"
    assert {str(weight.dtype) for weight in weights(tmp_path / "ours").values()} == {"torch.float32"}


@pytest.mark.parametrize("is_compiled", [False, True])
def test_float8_learns_nearly_the_same(gpu: Device, tmp_path: Path, is_compiled: bool) -> None:
    try:
        check_device(gpu)
    except DeviceError as error:
        pytest.skip(str(error))
    exact = alone(tmp_path / "exact", bf16(compile=is_compiled), BF16, gpu, rows=rows_of(8), steps=6).curve["loss"]
    spec = bf16(precision="float8", compile=is_compiled)
    with contextlib.nullcontext() if is_compiled else scaled_products() as scaled:
        found = alone(tmp_path / "found", spec, BF16, gpu, rows=rows_of(8), steps=6).curve["loss"]
    assert scaled is None or scaled.made > 6 * 4 * 4
    assert found.tolist() == pytest.approx(exact.tolist(), rel=0.03)
    assert found.iloc[-1] < 0.9 * found.iloc[0]


def test_float32_adapter_equals_that_of_the_cpu(gpu: Device, tmp_path: Path) -> None:
    alone(tmp_path / "cpu", spec_of(), steps=3)
    alone(tmp_path / "gpu", spec_of(), device=gpu, steps=3)
    assert largest_difference(tmp_path / "gpu", tmp_path / "cpu") < FAR


def test_flash_attention_stays_within_a_row(gpu: Device) -> None:
    import torch

    from synthpost_dagster.training.padding_free import ATTENTION, RowsCollator

    loaded = load(BF16, gpu)
    rows = [one._asdict() for one in tokenized(rows_of(3), loaded.template, "full", None)]
    changed = [{**row, "input_ids": [7] * len(row["input_ids"])} if at == 1 else row for at, row in enumerate(rows)]
    apart = [loaded.model.model(torch.tensor([row["input_ids"]]).to(gpu.name)).last_hidden_state[0] for row in rows]
    loaded.model.set_attn_implementation(ATTENTION)
    before, after = (_hidden(loaded.model, RowsCollator(3, 512, is_padded=True)(some), gpu) for some in (rows, changed))
    ends = [0, *itertools.accumulate(len(row["input_ids"]) for row in rows)]
    first, second, third = (slice(start, end) for start, end in itertools.pairwise(ends))
    assert torch.equal(before[first], after[first])
    assert torch.equal(before[third], after[third])
    assert not torch.equal(before[second], after[second])
    for place, alone_ in zip((first, second, third), apart, strict=True):
        torch.testing.assert_close(before[place], alone_, atol=0.1, rtol=0.05)


def _hidden(model: Any, batch: dict[str, Any], device: Device) -> Any:
    """Tokens × width, after the last layer."""
    named = {name: batch[name].to(device.name) for name in ("input_ids", "position_ids", "ends")}
    return model.model(**named, longest=batch["longest"], use_cache=False).last_hidden_state[0]


def long_rows() -> Any:
    """Eight rows of about 1,500 tokens."""
    rows = rows_of(8)
    return rows.assign(post=[" ".join([post] * (1 + 900 // len(post.split()))) for post in rows["post"]])


def test_fault_15_out_of_memory_halves_the_micro_batch_and_learns_the_same(gpu: Device, tmp_path: Path) -> None:
    import torch

    spec, rows, log = bf16(loss="full", max_length=2_048), long_rows(), ProgressLog()
    with tuner_of(spec, BF16, gpu) as tuner:
        cell(tuner, tmp_path / "warm", spec, rows=rows_of(8), steps=1)
        _reset(gpu)
        before = torch.cuda.memory_reserved(gpu.name)
        whole = cell(tuner, tmp_path / "whole", spec, rows=rows, steps=3)
        needed = torch.cuda.max_memory_reserved(gpu.name) - before
        assert needed > 0.2 * GIB, "too little to run out of"
        _reset(gpu)
        total = torch.cuda.get_device_properties(gpu.name).total_memory
        torch.cuda.set_per_process_memory_fraction((before + 0.7 * needed) / total, gpu.name)
        tuned = cell(tuner, tmp_path / "small", spec, rows=rows, steps=3, log=log)
    assert f"{gpu.label} ran out of memory with 8 rows at a time" in log
    assert tuned.layout.micro_batch < 8
    assert f"training {tuned.layout.text}, 8 rows a step" in log
    assert log.steps == [1, 2, 3]
    assert tuned.curve["loss"].tolist() == pytest.approx(whole.curve["loss"].tolist(), rel=ROUNDING)


def _reset(device: Device) -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device.name)


def test_fault_15_no_row_fits_is_an_error_and_frees_the_gpu(gpu: Device, tmp_path: Path) -> None:
    import torch

    spec = bf16(loss="full", max_length=2_048)
    with tuner_of(spec, BF16, gpu) as tuner:
        cell(tuner, tmp_path / "warm", spec, rows=rows_of(8), steps=1)
        _reset(gpu)
        before = torch.cuda.memory_allocated(gpu.name)
        total = torch.cuda.get_device_properties(gpu.name).total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(gpu.name) / total, gpu.name)
        with pytest.raises(DeviceError, match=r"too little memory even for one row at a time; lower"):
            cell(tuner, tmp_path / "none", spec, rows=long_rows(), steps=1)
        _reset(gpu)
        assert torch.cuda.memory_allocated(gpu.name) == before
        torch.cuda.set_per_process_memory_fraction(1.0, gpu.name)
        cell(tuner, tmp_path / "next", spec, rows=rows_of(8), steps=1)
    assert not list((tmp_path / "none" / "adapter").iterdir())


def test_free_memory_is_within_the_limit_of_the_device(gpu: Device) -> None:
    limited = Devices("cuda", memory_gib=2.0).candidates()[0]
    assert free_gib(limited) <= 2.0 < free_gib(gpu)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_trainings_leave_nothing_on_the_gpu(gpu: Device, tmp_path: Path, is_compiled: bool) -> None:
    import torch

    alone(tmp_path / "warm", bf16(compile=is_compiled), BF16, gpu, rows=rows_of(8), steps=2)
    _reset(gpu)
    spec, empty = bf16(compile=is_compiled), torch.cuda.memory_allocated(gpu.name)
    loaded = load(BF16, gpu)
    before, plain = torch.cuda.memory_allocated(gpu.name), state_of(loaded.model)
    with Tuner(loaded, "embedded", spec, 6, gpu) as tuner:
        _reset(gpu)
        held = torch.cuda.memory_allocated(gpu.name)
        for name in ("one", "two"):
            cell(tuner, tmp_path / name, spec, rows=rows_of(8), steps=2)
            assert torch.cuda.memory_allocated(gpu.name) == held
        with pytest.raises(SynthpostError, match="not a number"):
            cell(tuner, tmp_path / "spoilt", bf16(learning_rate=1e30), rows=rows_of(8), steps=2)
        _reset(gpu)
        assert torch.cuda.memory_allocated(gpu.name) == held
    assert torch.cuda.memory_allocated(gpu.name) == before
    after = state_of(loaded.model)
    assert not [name for name, _, wants_gradient in after.pop("weights") if wants_gradient]
    del plain["weights"]
    assert after == plain
    assert largest_difference(tmp_path / "one", tmp_path / "two") < FAR
    del loaded, tuner
    _reset(gpu)
    assert torch.cuda.memory_allocated(gpu.name) == empty


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_8bit"])
def test_fault_14_resumed_training_equals_an_uninterrupted_one(gpu: Device, tmp_path: Path, optimizer: str) -> None:
    spec, log = bf16(optimizer=optimizer), ProgressLog()
    whole = alone(tmp_path / "whole", spec, BF16, gpu, steps=6)
    last = half_done(tmp_path / "half", 3, spec, BF16, gpu, steps=6)
    assert [path.name for path in last.parent.glob("checkpoint-*")] == ["checkpoint-3"]
    tuned = alone(tmp_path / "half", spec, BF16, gpu, steps=6, log=log)
    assert log.steps == [4, 5, 6]
    assert tuned.curve["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert tuned.curve["loss"].tolist() == pytest.approx(whole.curve["loss"].tolist(), rel=ROUNDING)
    assert largest_difference(tmp_path / "half", tmp_path / "whole") < FAR


def test_arguments_of_the_study_train_on_a_gpu(gpu: Device, tmp_path: Path) -> None:
    log = ProgressLog()
    tuned = alone(tmp_path, STUDY_TRAINING, BF16, gpu, steps=8, log=log, system_prompt="Be kind.")
    assert tuned.layout == Layout(2, gradient_checkpointing=True, is_compiled=False)
    assert log.steps == list(range(1, 9))
    assert tuned.curve["loss"].iloc[-1] < tuned.curve["loss"].iloc[0]


def test_adapters_are_learned_on_4_bit_weights_packed_or_decoded(gpu: Device, tmp_path: Path) -> None:
    import torch

    curves = {}
    for dequantize, kind in ((False, "Linear4bit"), (True, "Linear")):
        student = BF16.model_copy(update={"quantization": "nf4", "dequantize": dequantize})
        with tuner_of(SPEC, student, gpu) as tuner:
            curves[kind] = cell(tuner, tmp_path / kind, SPEC, rows=rows_of(8), steps=4).curve["loss"].tolist()
            model = tuner.loaded.model
        found = {type(module).__name__ for name, module in model.named_modules() if name.endswith("_proj")}
        assert found == {kind}
        assert {weight.dtype for weight in weights(tmp_path / kind).values()} == {torch.float32}
        assert curves[kind][3] < curves[kind][0]
    assert curves["Linear"] == pytest.approx(curves["Linear4bit"], rel=ROUNDING)


def losses_of(steps: int, **changes: Any) -> list[float]:
    """The losses of the first steps, from a separate process."""
    spec = bf16(micro_batch=4, **changes)
    start = command("losses_child", steps, spec.model_dump_json())
    done = subprocess.run(start, env=environment(), capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("losses: "))
    return list(json.loads(line.removeprefix("losses: ")))


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="unsloth is not installed")
@pytest.mark.parametrize("loss", ["completion", "full"])
def test_first_20_losses_of_unsloth_and_trl_agree_within_2_percent(loss: str) -> None:
    ours, theirs = losses_of(20, loss=loss), losses_of(20, loss=loss, trainer="unsloth")
    assert len(ours) == len(theirs) == 20
    assert ours[-1] < 0.9 * ours[0], "a model that does not learn shows nothing"
    assert theirs == pytest.approx(ours, rel=0.02)
