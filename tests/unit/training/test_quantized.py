"""QLoRA without a GPU: adapters on 4-bit weights of the embedded model, packed or decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from synthpost_dagster.inference.models import is_packed, load
from synthpost_dagster.profiles.models import ModelSpec
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.sft import Tuned, Tuner
from tests.helpers.tuning import CPU, STUDENT, alone, cell, rows_of, spec_of, weights

PACKED = STUDENT.model_copy(update={"quantization": "nf4", "dequantize": False})
DECODED = PACKED.model_copy(update={"dequantize": True})
ROWS = rows_of(8)


def kinds(model: Any) -> set[str]:
    """The classes of the decoder's linear layers."""
    return {type(module).__name__ for name, module in model.model.named_modules() if name.endswith("_proj")}


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" not in name}


@pytest.fixture(scope="module")
def qlora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tuned]:
    folder = tmp_path_factory.mktemp("qlora")
    loaded = load(PACKED, CPU)
    before = base_weights(loaded.model)
    assert kinds(loaded.model) == {"Linear4bit"}
    assert is_packed(loaded.model)
    with Tuner(loaded, "embedded", spec_of(), 4, CPU) as tuner:
        tuned = cell(tuner, folder, rows=ROWS, steps=4)
        adapter = [weight.dtype for name, weight in tuner.model.named_parameters() if "lora_" in name]
        assert set(adapter) == {torch.float32}
    after = base_weights(loaded.model)
    assert kinds(loaded.model) == {"Linear4bit"}
    packed = [weight for name, weight in after.items() if "_proj" in name]
    assert {weight.dtype for weight in packed} == {torch.uint8}
    assert set(after) == set(before)
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    return folder, tuned


def test_adapter_is_learned_on_4_bit_weights_that_do_not_change(qlora: tuple[Path, Tuned]) -> None:
    folder, tuned = qlora
    losses = tuned.curve["loss"].tolist()
    assert losses[3] < losses[2] < losses[1] < losses[0]
    assert {weight.dtype for weight in weights(folder).values()} == {torch.float32}


def test_decoded_weights_are_plain_and_learn_the_same(qlora: tuple[Path, Tuned], tmp_path: Path) -> None:
    _, packed = qlora
    loaded = load(DECODED, CPU)
    assert kinds(loaded.model) == {"Linear"}
    assert not is_packed(loaded.model)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    with Tuner(loaded, "embedded", spec_of(), 4, CPU) as tuner:
        decoded = cell(tuner, tmp_path, rows=ROWS, steps=4)
    assert decoded.curve["loss"].tolist() == pytest.approx(packed.curve["loss"].tolist(), abs=1e-3)
    assert {weight.dtype for weight in weights(tmp_path).values()} == {torch.float32}


def test_4_bit_weights_differ_from_the_full_ones(qlora: tuple[Path, Tuned], tmp_path: Path) -> None:
    whole = alone(tmp_path, rows=ROWS, steps=1)
    assert whole.curve["loss"].iloc[0] != pytest.approx(qlora[1].curve["loss"].iloc[0], abs=1e-3)


def test_weights_are_decoded_automatically_if_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    from synthpost_dagster.inference import models

    auto = PACKED.model_copy(update={"dequantize": "auto"})
    for free_gib, kind in ((1.0, "Linear"), (0.001, "Linear4bit")):
        monkeypatch.setattr(models, "free_gib", lambda device, free=free_gib: free)
        assert kinds(load(auto, CPU).model) == {kind}


@pytest.mark.parametrize(("student", "second"), [(PACKED, (8, True)), (DECODED, (4, False)), (STUDENT, (4, False))])
def test_packed_weights_prefer_checkpointing_to_half_the_rows(
    tmp_path: Path, student: ModelSpec, second: tuple[int, bool]
) -> None:
    spec = spec_of(micro_batch="auto", gradient_checkpointing="auto")
    with Tuner(load(student, CPU), "embedded", spec, 4, CPU) as tuner:
        found = tuner._layouts(spec, Checkpoints(tmp_path, 60))
    assert [layout[:2] for layout in found[:2]] == [(8, False), second]
