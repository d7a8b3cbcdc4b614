"""Frozen products in 8 bits: how far off they are, that adapters are not rounded, and where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from peft import get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch.utils._python_dispatch import TorchDispatchMode
from tuning_world import BF16, CPU, STUDENT, Told, alone, cell, rows_of, spec_of, state_of, tuner_of

from synthpost_dagster.devices import Device
from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.inference.models import load
from synthpost_dagster.profiles import Lora
from synthpost_dagster.training.adapter import NAME, lora_config
from synthpost_dagster.training.float8 import Float8Joint, product, rounded
from synthpost_dagster.training.joint_lora import JointProjections
from synthpost_dagster.training.sft import Tuner

FLOAT8 = spec_of(precision="float8")
BITS = 3
"""Of an e4m3 number's fraction."""
NOISE = 0.05
"""Of a product of random numbers so rounded, relative."""


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    """How far off, relative to all of it."""
    return ((found - exact).norm() / exact.norm()).item()


def test_each_row_is_rounded_on_a_scale_of_its_own() -> None:
    rows = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-9, 9, 40)[:, None]
    found = rounded(rows)
    back = found.numbers.float() * found.scales
    most = rows.abs().amax(dim=1, keepdim=True)
    assert found.numbers.dtype is torch.float8_e4m3fn
    assert torch.equal(found.numbers.float().abs().amax(dim=1), torch.full((40,), 448.0))
    # Half a step of the fraction; of numbers too small for that, half of the least step that there is.
    assert ((back - rows).abs() <= rows.abs() * 2.0 ** -(BITS + 1) + most / 448 * 2.0**-10).all()


def test_a_row_of_zeros_stays_zero_and_what_is_no_number_is_not_hidden() -> None:
    zeros = rounded(torch.zeros(2, 16))
    assert not zeros.numbers.float().any()
    assert product(zeros, rounded(torch.ones(16, 16)), torch.float32).eq(0).all()
    spoilt = torch.ones(2, 16)
    spoilt[1, 3] = torch.nan
    found = product(rounded(spoilt), rounded(torch.ones(16, 16)), torch.float32)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


@pytest.fixture
def projection() -> LoraLinear:
    """One of the embedded model's, with an adapter that says something."""
    loaded = load(STUDENT, CPU)
    model = get_peft_model(loaded.model, lora_config(Lora(**{**FLOAT8.lora.model_dump(), "r": 16})))
    found: LoraLinear = model.get_base_model().model.layers[1].mlp.down_proj
    torch.manual_seed(3)
    found.lora_B[NAME].weight.data.normal_(0, 0.05)
    return found


def test_adapters_are_not_rounded(projection: LoraLinear) -> None:
    joint = Float8Joint([projection])
    (up,), (down,) = joint.ups, joint.downs
    joint.narrow[0].copy_(up.detach() * projection.scaling[NAME])
    x = torch.randn(7, projection.in_features, requires_grad=True)
    slope = torch.randn(7, projection.out_features)
    found = joint(x)
    found.backward(slope)
    theirs = {name: tensor.grad for name, tensor in (("x", x), ("up", up), ("down", down))}
    x.grad = up.grad = down.grad = None
    exact = projection(x)
    exact.backward(slope)
    added = exact - projection.base_layer(x)
    torch.testing.assert_close(found - product(rounded(x), joint.forth, x.dtype), added, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(theirs["up"], up.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(theirs["down"], down.grad, atol=1e-5, rtol=1e-4)
    assert 0.001 < off(found.detach(), exact.detach()) < NOISE
    assert 0.001 < off(theirs["x"], x.grad) < NOISE


class Scaled(TorchDispatchMode):
    """Counts products in 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.made += function is torch.ops.aten._scaled_mm.default
        return function(*args, **(kwargs or {}))


def test_a_student_learns_much_the_same_and_is_left_as_it_was(tmp_path: Path) -> None:
    exact = alone(tmp_path / "exact", rows=rows_of(8), steps=6).curve["loss"]
    with tuner_of(FLOAT8) as tuner:
        model = tuner.loaded.model
        types = [type(module) for module in model.modules()]
        kept = {name: weight.clone() for name, weight in model.state_dict().items() if "lora_" not in name}
        with Scaled() as scaled:
            found = cell(tuner, tmp_path / "found", FLOAT8, rows=rows_of(8), steps=6).curve["loss"]
        assert [type(module) for module in model.modules()] == types
        assert "zero_grad" not in vars(tuner.model)
        after = model.state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in kept.items())
    assert scaled.made == 6 * 4 * 4 * 2, "steps, layers, joints of a layer, forth and back"
    assert found.tolist() == pytest.approx(exact.tolist(), rel=0.03)
    assert found.tolist() != pytest.approx(exact.tolist(), rel=1e-4)
    assert found.iloc[-1] < 0.9 * found.iloc[0]


def test_what_was_rounded_is_let_go() -> None:
    loaded = load(STUDENT, CPU)
    get_peft_model(loaded.model, lora_config(FLOAT8.lora))
    joints = JointProjections(loaded.model.model, torch.float32, Float8Joint)
    joints.join()
    made = list(joints._joints)
    assert len(made) == 4 * 4
    joints.dissolve()
    assert not [joint for joint in made for name in ("forth", "back", "outer", "narrow") if hasattr(joint, name)]


@pytest.mark.filterwarnings(  # torch's own, while compiling
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
    ("student", "told"),
    [
        (STUDENT.model_copy(update={"quantization": "nf4", "dequantize": False}), "its weights are packed"),
        (BF16, "not float32"),
    ],
    ids=["packed", "another dtype"],
)
def test_what_cannot_be_computed_so_is_refused_before_a_step(tmp_path: Path, student: Any, told: str) -> None:
    heard = Told()
    with tuner_of(FLOAT8, student) as tuner:
        before = state_of(tuner.loaded.model)
        with pytest.raises(SynthpostError, match=rf"layers\.0\.self_attn\.q_proj cannot be computed .*{told}") as error:
            cell(tuner, tmp_path, FLOAT8, told=heard)
        assert state_of(tuner.loaded.model) == before
    assert "set student.dequantize: true where they are packed, or training.precision: bfloat16" in str(error.value)
    assert not heard.steps


def test_a_decoder_of_another_kind_is_refused() -> None:
    loaded = load(STUDENT, CPU)
    loaded.model.config.model_type = "gpt_neox"
    with pytest.raises(SynthpostError, match=r"float8 is for models of these kinds: llama.*choose .*bfloat16"):
        Tuner(loaded, "embedded", FLOAT8, 1, CPU)


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (8, 0))
    with pytest.raises(
        DeviceError, match=r"float8: NVIDIA A100 \(cuda:0\) is older than Ada and Hopper; choose .*bfloat16"
    ):
        Tuner(load(STUDENT, CPU), "embedded", FLOAT8, 1, Device("cuda:0", "GPU-1", "NVIDIA A100 (cuda:0)"))


def test_fault_15_where_memory_does_not_suffice_the_remedy_is_more_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(rows: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with tuner_of(FLOAT8) as tuner:
        before = state_of(tuner.loaded.model)
        with monkeypatch.context() as small, pytest.raises(DeviceError, match=r"or set training.precision: bfloat16"):
            small.setattr("synthpost_dagster.training.float8.rounded", short)
            cell(tuner, tmp_path, FLOAT8)
        assert state_of(tuner.loaded.model) == before
