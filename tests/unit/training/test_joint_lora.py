"""Joint projections compute the same as PEFT's modules one by one, and the model is restored."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from peft import get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from transformers import AutoConfig, AutoModelForCausalLM

from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.profiles import Lora
from synthpost_dagster.training.adapter import lora_config
from synthpost_dagster.training.conversations import tokenized
from synthpost_dagster.training.joint_lora import JointProjections
from synthpost_dagster.training.padding_free import MODEL_TYPES
from tests.helpers.tuning import CPU, SPEC, STUDENT, Counted, alone, cell, rows_of, spec_of, tuner_of

ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def adapted(**changes: Any) -> tuple[Loaded, Any]:
    """The embedded model with a nonzero adapter, in training mode."""
    loaded = load(STUDENT, CPU)
    model = get_peft_model(loaded.model, lora_config(Lora(**{**SPEC.lora.model_dump(), **changes})))
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.05, generator=generator)
    return loaded, model.train()


def outcome(loaded: Loaded, model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of a row, and the adapter's gradients."""
    (row,) = tokenized(rows_of(1), loaded.template, "full", None)
    torch.manual_seed(1)
    return _with_gradients(model(input_ids=torch.tensor([row.input_ids])).logits, model)


def _with_gradients(logits: torch.Tensor, model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits.square().mean().backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return logits.detach(), found


def layers_of(loaded: Loaded) -> list[Any]:
    return list(loaded.model.model.layers)


def test_outputs_and_gradients_equal_those_of_single_projections() -> None:
    loaded, model = adapted()
    logits, gradients = outcome(loaded, model)
    JointProjections(loaded.model.model, torch.float32).join()
    found, theirs = outcome(loaded, model)
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    assert set(theirs) == set(gradients)
    assert len(theirs) == 4 * 2 * len(ALL)
    for name, gradient in gradients.items():
        torch.testing.assert_close(theirs[name], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_student_learns_in_every_dtype_and_precision(tmp_path: Path, dtype: str, precision: str) -> None:
    """A CPU has no autocast at any precision, so PEFT computes weights in bfloat16 there."""
    student, classes = STUDENT.model_copy(update={"dtype": dtype}), []
    spec = spec_of(precision=precision)
    with tuner_of(spec, student) as tuner:
        part = tuner.loaded.model.model.layers[0].mlp
        part.register_forward_pre_hook(lambda module, given: classes.append(type(module).__name__))
        joined = cell(tuner, tmp_path / "joined", spec, rows=rows_of(2), steps=3).curve["loss"]
        with tuner.as_loaded():
            assert type(part).__name__ == "LlamaMLP"
    apart = spec_of(precision=precision, padding_free=False)
    theirs = alone(tmp_path / "apart", apart, student, rows=rows_of(2), steps=3).curve["loss"]
    assert classes == ["PartGivenOutputs" if dtype == "float32" else "LlamaMLP"] * 3
    assert joined.iloc[-1] < 0.97 * joined.iloc[0]
    assert joined.tolist() == pytest.approx(theirs.tolist(), rel=1e-4 if dtype == "float32" else 0.01)


@pytest.mark.filterwarnings(  # of torch, while compiling
    "ignore:The .grad attribute of a Tensor that is not a leaf",
    "ignore:.*should not be instantiated:DeprecationWarning",
)
@torch._dynamo.config.patch(error_on_recompile=True)
def test_one_compiled_layer_serves_all() -> None:
    loaded, model = adapted()
    JointProjections(loaded.model.model, torch.float32).join()
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    for layer in layers_of(loaded):
        layer.compile(backend="eager")
    (row,) = tokenized(rows_of(1), loaded.template, "full", None)
    embedded = loaded.model.model.embed_tokens(torch.tensor([row.input_ids])).detach().requires_grad_()
    model(inputs_embeds=embedded, use_cache=False)
    assert counted["unique_graphs"] == 1


PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def test_fewer_products_are_made() -> None:
    loaded, model = adapted()
    (row,) = tokenized(rows_of(1), loaded.template, "full", None)
    ids = torch.tensor([row.input_ids])
    with Counted(*PRODUCTS) as alone:
        model(input_ids=ids)
    JointProjections(loaded.model.model, torch.float32).join()
    with Counted(*PRODUCTS) as joined:
        model(input_ids=ids)
    assert (alone.made, joined.made) == (4 * 3 * 7 + 1, 4 * 2 * 4 + 1)


def test_each_forward_pass_uses_the_current_adapters() -> None:
    loaded, model = adapted()
    joints = JointProjections(loaded.model.model, torch.float32)
    joints.join()
    before, _ = outcome(loaded, model)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.mul_(2)
    changed, _ = outcome(loaded, model)
    joints.dissolve()
    expected, _ = outcome(loaded, model)
    torch.testing.assert_close(changed, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_dissolved_model_is_restored_and_can_be_joined_again() -> None:
    loaded, model = adapted()
    logits, _ = outcome(loaded, model)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    types = {name: type(module) for name, module in model.named_modules()}
    joints = JointProjections(loaded.model.model, torch.float32)
    for _ in range(2):
        joints.join()
        assert {name: type(module) for name, module in model.named_modules()} != types
        joints.dissolve()
        joints.dissolve()
    assert {name: type(module) for name, module in model.named_modules()} == types
    assert not [name for name, module in model.named_modules() if hasattr(module, "_joint")]
    after = model.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())
    assert torch.equal(outcome(loaded, model)[0], logits)


def test_without_memory_for_copies_weights_return_through_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short(self: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    loaded, model = adapted()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    joints = JointProjections(loaded.model.model, torch.float32)
    joints.join()
    assert not all(weight.is_contiguous() for weight in model.state_dict().values())
    extended = [weakref.ref(joint.extended) for joint in joints._joints]
    own = [projection for projection in model.modules() if isinstance(projection, LoraLinear)]
    to, left = torch.Tensor.to, list[tuple[int, int]]()

    def held() -> tuple[int, int]:
        """The numbers of joined weights, and of projections whose weight is a view of one."""
        kept = [projection.base_layer.weight for projection in own]
        parts = sum(weight.untyped_storage().nbytes() > weight.nbytes for weight in kept)
        return sum(reference() is not None for reference in extended), parts

    with monkeypatch.context() as small:
        small.setattr(torch.Tensor, "contiguous", short)
        small.setattr(torch.Tensor, "to", lambda *given, **more: left.append(held()) or to(*given, **more))
        joints.dissolve()
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())
    assert all(weight.is_contiguous() for weight in after.values())
    assert left[0] == (4 * 4, 4 * 7)
    assert left[-1] == (0, 0), "freed before the device is asked for more"


@pytest.mark.parametrize(
    ("changes", "joined"),
    [
        ({"target_modules": ("q_proj", "v_proj", "gate_proj", "up_proj")}, {"gate_proj", "up_proj"}),
        ({"target_modules": ("o_proj",)}, {"o_proj"}),
        ({"dropout": 0.1}, set()),
        ({}, ALL),
    ],
    ids=["some of a group", "a single one", "dropout", "all"],
)
def test_unsupported_projections_stay_with_peft(changes: dict[str, Any], joined: set[str]) -> None:
    loaded, model = adapted(**changes)
    logits, gradients = outcome(loaded, model)
    types = {name: type(module) for name, module in model.named_modules()}
    JointProjections(loaded.model.model, torch.float32).join()
    changed = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is not types[name]}
    assert changed & ALL == joined
    found, theirs = outcome(loaded, model)
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    assert set(theirs) == set(gradients)


@pytest.mark.parametrize("kind", sorted(MODEL_TYPES))
def test_every_supported_decoder_computes_the_same_and_can_be_saved(kind: str, tmp_path: Path) -> None:
    base, model = small_decoder(kind)
    logits, gradients = small_outcome(model)
    before = {name: weight.clone() for name, weight in base.state_dict().items() if "lora_" not in name}
    joints = JointProjections(base.model, torch.float32)
    joints.join()
    found, theirs = small_outcome(model)
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(theirs[name], gradient, atol=1e-6, rtol=1e-3)
    joints.dissolve()
    model.unload()
    base.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert len(again) == len(before)
    assert all(torch.equal(weight, again[name.replace(".base_layer", "")]) for name, weight in before.items())


def small_decoder(kind: str) -> tuple[Any, Any]:
    """A decoder of this type with random weights and fewer key heads than query heads, and the same with an adapter."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, **sizes, head_dim=16, intermediate_size=48, vocab_size=50)
    base = AutoModelForCausalLM.from_config(config)
    model = get_peft_model(base, lora_config(SPEC.lora))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.3)
    return base, model.train()


def small_outcome(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(input_ids=torch.arange(20)[None]).logits
    return _with_gradients(logits, model)


def test_projection_with_a_bias_keeps_it() -> None:
    loaded, model = adapted()
    bias = torch.nn.Parameter(torch.ones(256), requires_grad=False)
    layers_of(loaded)[0].self_attn.q_proj.base_layer.bias = bias
    logits, _ = outcome(loaded, model)
    JointProjections(loaded.model.model, torch.float32).join()
    torch.testing.assert_close(outcome(loaded, model)[0], logits, atol=1e-4, rtol=1e-4)
