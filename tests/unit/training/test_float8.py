"""Frozen products in float8: their error, adapters in full precision, and the cases that are refused."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from peft import get_peft_model
from peft.tuners.lora import Linear as LoraLinear

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.inference.models import load
from synthpost_dagster.profiles import Lora
from synthpost_dagster.training.adapter import NAME, lora_config
from synthpost_dagster.training.float8 import Float8Joint, Quantized, product, quantized
from synthpost_dagster.training.joint_lora import JointProjections
from synthpost_dagster.training.sft import Tuner
from tests.helpers.tuning import (
    BF16,
    CPU,
    STUDENT,
    alone,
    cell,
    half_done,
    largest_difference,
    rows_of,
    scaled_products,
    spec_of,
    tuner_of,
)

FLOAT8 = spec_of(precision="float8")
BITS = 3
"""Bits of an e4m3 number's fraction."""
NOISE = 0.05
"""Maximum relative error of a product of random numbers in float8."""


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The relative error."""
    return ((found - exact).norm() / exact.norm()).item()


def test_each_row_is_quantized_with_its_own_scale() -> None:
    rows = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-9, 9, 40)[:, None]
    found = quantized(rows)
    back = found.numbers.float() * found.scales
    most = rows.abs().amax(dim=1, keepdim=True)
    assert found.numbers.dtype is torch.float8_e4m3fn
    assert torch.equal(found.numbers.float().abs().amax(dim=1), torch.full((40,), 448.0))
    # Half a step of the fraction; for subnormal numbers, half of the smallest step.
    assert ((back - rows).abs() <= rows.abs() * 2.0 ** -(BITS + 1) + most / 448 * 2.0**-10).all()


def test_transposed_matrix_is_quantized_like_a_contiguous_one() -> None:
    columns = torch.randn(32, 16).t()
    found, same = quantized(columns), quantized(columns.contiguous())
    assert found.numbers.is_contiguous()
    assert torch.equal(found.numbers.float(), same.numbers.float())


def test_row_of_zeros_stays_zero_and_nan_stays_nan() -> None:
    zeros = quantized(torch.zeros(2, 16))
    assert not zeros.numbers.float().any()
    assert product(zeros, quantized(torch.ones(16, 16)), torch.float32).eq(0).all()
    spoilt = torch.ones(2, 16)
    spoilt[1, 3] = torch.nan
    found = product(quantized(spoilt), quantized(torch.ones(16, 16)), torch.float32)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


@pytest.fixture
def projection() -> LoraLinear:
    """A projection of the embedded model with a nonzero adapter."""
    loaded = load(STUDENT, CPU)
    model = get_peft_model(loaded.model, lora_config(Lora(**{**FLOAT8.lora.model_dump(), "r": 16})))
    found: LoraLinear = model.get_base_model().model.layers[1].mlp.down_proj
    torch.manual_seed(3)
    found.lora_B[NAME].weight.data.normal_(0, 0.05)
    return found


def test_adapters_are_not_quantized(projection: LoraLinear) -> None:
    joint = Float8Joint([projection])
    (up,), (down,) = joint.ups, joint.downs
    joint.scaled_ups[0].copy_(up.detach() * projection.scaling[NAME])
    x = torch.randn(7, projection.in_features, requires_grad=True)
    slope = torch.randn(7, projection.out_features)
    found = joint(x)
    found.backward(slope)
    theirs = {name: tensor.grad for name, tensor in (("x", x), ("up", up), ("down", down))}
    x.grad = up.grad = down.grad = None
    exact = projection(x)
    exact.backward(slope)
    added = exact - projection.base_layer(x)
    torch.testing.assert_close(
        found - product(quantized(x), joint.forward_weight, x.dtype), added, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(theirs["up"], up.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(theirs["down"], down.grad, atol=1e-5, rtol=1e-4)
    assert 0.001 < off(found.detach(), exact.detach()) < NOISE
    added = x.grad - slope @ projection.base_layer.weight
    torch.testing.assert_close(
        theirs["x"] - product(quantized(slope), joint.backward_weight, x.dtype), added, atol=1e-5, rtol=1e-4
    )
    assert 0.001 < off(theirs["x"], x.grad) < NOISE


def test_float8_learns_nearly_the_same_and_restores_the_model(tmp_path: Path) -> None:
    exact = alone(tmp_path / "exact", rows=rows_of(8), steps=6).curve["loss"]
    with tuner_of(FLOAT8) as tuner:
        model = tuner.loaded.model
        types = [type(module) for module in model.modules()]
        kept = {name: weight.clone() for name, weight in model.state_dict().items() if "lora_" not in name}
        with scaled_products() as scaled:
            found = cell(tuner, tmp_path / "found", FLOAT8, rows=rows_of(8), steps=6).curve["loss"]
        assert [type(module) for module in model.modules()] == types
        assert "zero_grad" not in vars(tuner.model)
        after = model.state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in kept.items())
    assert scaled.made == 6 * 4 * 4 * 2, "steps, layers, joints of a layer, forward and backward"
    assert found.tolist() == pytest.approx(exact.tolist(), rel=0.03)
    assert found.tolist() != pytest.approx(exact.tolist(), rel=1e-4)
    assert found.iloc[-1] < 0.9 * found.iloc[0]


def test_quantized_weights_are_freed() -> None:
    loaded = load(STUDENT, CPU)
    get_peft_model(loaded.model, lora_config(FLOAT8.lora))
    joints = JointProjections(loaded.model.model, torch.float32, Float8Joint)
    joints.join()
    made = [
        weakref.ref(kept.numbers) for joint in joints._joints for kept in (joint.forward_weight, joint.backward_weight)
    ]
    assert len(made) == 4 * 4 * 2
    joints.dissolve()
    assert [reference() for reference in made] == [None] * len(made)


@pytest.mark.filterwarnings(  # of torch, while compiling
    "ignore:The .grad attribute of a Tensor that is not a leaf",
    "ignore:.*should not be instantiated:DeprecationWarning",
)
@torch._dynamo.config.patch(error_on_recompile=True)
def test_one_compiled_layer_serves_all() -> None:
    loaded = load(STUDENT, CPU)
    model = get_peft_model(loaded.model, lora_config(FLOAT8.lora)).train()
    JointProjections(loaded.model.model, torch.float32, Float8Joint).join()
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    for layer in loaded.model.model.layers:
        layer.compile(backend="aot_eager", fullgraph=True)
    embedded = loaded.model.model.embed_tokens(torch.arange(20)[None]).detach().requires_grad_()
    model(inputs_embeds=embedded, use_cache=False).logits.sum().backward()
    assert counted["unique_graphs"] == 1


@pytest.mark.parametrize(
    "changes", [{"gradient_checkpointing": True}, {"seed": 3407}], ids=["checkpointing", "resumed"]
)
def test_checkpointing_and_resuming_change_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    alone(tmp_path / "whole", FLOAT8, rows=rows_of(8), steps=3)
    spec = FLOAT8.model_copy(update=changes)
    if "seed" in changes:
        half_done(tmp_path / "other", 1, spec, rows=rows_of(8), steps=3)
    alone(tmp_path / "other", spec, rows=rows_of(8), steps=3)
    assert largest_difference(tmp_path / "other", tmp_path / "whole") == 0


def test_smaller_micro_batch_learns_nearly_the_same(tmp_path: Path) -> None:
    """Sums in another order round some numbers differently."""
    whole, parts = (
        alone(tmp_path / str(size), FLOAT8.model_copy(update={"micro_batch": size}), rows=rows_of(8), steps=4)
        for size in (8, 2)
    )
    assert parts.layout.micro_batch == 2
    assert parts.curve["loss"].tolist() == pytest.approx(whole.curve["loss"].tolist(), rel=0.02)


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        (
            STUDENT.model_copy(update={"quantization": "nf4", "dequantize": False}),
            "has packed weights; set .*dequantize",
        ),
        (BF16, "is in bfloat16; set student.dtype: float32 in the profile"),
    ],
    ids=["packed", "another dtype"],
)
def test_unsupported_weights_are_refused_with_the_reason(student: Any, reason: str) -> None:
    loaded = load(student, CPU)
    with pytest.raises(SynthpostError, match=rf"float8: projection 0\.self_attn\.q_proj {reason}"):
        Tuner(loaded, "embedded", FLOAT8, 1, CPU)
    assert not [module for module in loaded.model.modules() if isinstance(module, LoraLinear)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"bias": True}, "has a bias"), ({"out_features": 40}, "is 40 × 256, not multiples of 16")],
    ids=["bias", "width"],
)
def test_unsupported_projections_are_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    loaded = load(STUDENT, CPU)
    sizes = {"in_features": 256, "out_features": 256, "bias": False}
    loaded.model.model.layers[2].self_attn.k_proj = torch.nn.Linear(**{**sizes, **changes})
    with pytest.raises(
        SynthpostError, match=rf"projection 2\.self_attn\.k_proj {reason}; choose bfloat16 in the profile"
    ):
        Tuner(loaded, "embedded", FLOAT8, 1, CPU)


def test_decoder_that_needs_padding_is_refused() -> None:
    loaded = load(STUDENT, CPU)
    loaded.model.config.model_type = "gpt_neox"
    with pytest.raises(
        SynthpostError, match=r"float8: a student of type gpt_neox is trained with padding.*choose bfloat16"
    ):
        Tuner(loaded, "embedded", FLOAT8, 1, CPU)


def test_unsupported_device_is_refused_with_torchs_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("torch._scaled_mm is only supported on newer devices\nException raised from …")

    monkeypatch.setattr(torch, "_scaled_mm", missing)
    words = r"CPU cannot multiply in float8 \(torch._scaled_mm is only supported on newer devices\); choose bfloat16"
    with pytest.raises(DeviceError, match=words):
        Tuner(load(STUDENT, CPU), "embedded", FLOAT8, 1, CPU)


def test_fault_15_no_memory_for_quantized_weights_restores_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def short(rows: torch.Tensor) -> Quantized:
        if len(made) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        found = quantized(rows)
        made.append(weakref.ref(found.numbers))
        return found

    alone(tmp_path / "alone", FLOAT8, rows=rows_of(8), steps=2)
    with tuner_of(FLOAT8) as tuner:
        with monkeypatch.context() as small:
            small.setattr("synthpost_dagster.training.float8.quantized", short)
            with pytest.raises(
                DeviceError, match=r"float8: CPU has too little memory for float8 copies of the frozen weights"
            ):
                cell(tuner, tmp_path / "short", FLOAT8, rows=rows_of(8), steps=2)
        gc.collect()
        assert [reference() for reference in made] == [None] * 7
        cell(tuner, tmp_path / "again", FLOAT8, rows=rows_of(8), steps=2)
    assert largest_difference(tmp_path / "again", tmp_path / "alone") == 0
