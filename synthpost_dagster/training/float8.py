"""Frozen projections computed in float8, with adapters in full precision: half the time of the large products.

Each frozen weight is quantized twice, by output row for the forward pass and by input row for the backward pass;
activations and gradients are quantized by token. Numbers are e4m3 (arXiv:2209.05433) with one scale per row. Measured
on Hopper (docs/decisions/0010). Imports torch and PEFT.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.runtime.devices import Device
from synthpost_dagster.training.fitting import is_mixed
from synthpost_dagster.training.joint_lora import Joint, Members, add_product, up_gradients
from synthpost_dagster.training.padding_free import is_supported

FORMAT = torch.float8_e4m3fn
MIN_ROW_MAX = 1e-12
"""Lower bound of a row's largest absolute number, so that a row of zeros has a scale."""
MULTIPLE = 16
"""GPUs require widths that are multiples of this."""
TRIAL_WIDTH = 256
"""Width of the product that tests a device; the embedded model has this width."""


class Quantized(NamedTuple):
    """Rows in float8 (rows × width) and the scale of each (rows × 1, float32)."""

    numbers: Tensor
    scales: Tensor


def quantized(rows: Tensor) -> Quantized:
    """A matrix (rows × width) in float8; the largest number of each row becomes the largest of the format.

    A row with a NaN becomes a row of NaN.
    """
    scales = rows.abs().amax(dim=-1, keepdim=True).float().clamp(min=MIN_ROW_MAX) / torch.finfo(FORMAT).max
    return Quantized((rows.float() / scales).to(FORMAT).contiguous(), scales)


def product(x: Quantized, weight: Quantized, dtype: torch.dtype) -> Tensor:
    """X (tokens × in) times a weight (out × in), as tokens × out in `dtype`; a GPU requires bfloat16.

    Raises RuntimeError if torch cannot compute it on the device, or for a width that is no multiple of MULTIPLE.
    """
    # Fast accumulation is less exact and 12 % faster; the numbers themselves have 3 bits of fraction.
    return torch._scaled_mm(
        x.numbers,
        weight.numbers.t(),
        scale_a=x.scales,
        scale_b=weight.scales.t(),
        out_dtype=dtype,
        use_fast_accum=x.numbers.is_cuda,
    )


class _Float8Adapted(torch.autograd.Function):
    """The frozen weight's product in float8 plus the adapters' product, for x (tokens × in)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        forward_weight: Quantized,
        backward_weight: Quantized,
        outer: Tensor,
        down: Tensor,
        members: Members,
        *ups: Tensor,
    ) -> Tensor:
        """Weights are out × in and in × out, `outer` is out × ranks. Returns gradients for x, down and ups."""
        del ups
        low = x @ down.t()
        out = product(quantized(x), forward_weight, x.dtype)
        add_product(out, low, outer.t())
        ctx.save_for_backward(x, low, *backward_weight, outer, down)
        ctx.members = members
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """One large product in float8; the adapters' products stay in their own precision."""
        (slope,) = gradients
        x, low, numbers, scales, outer, down = ctx.saved_tensors
        x_slope = product(quantized(slope), Quantized(numbers, scales), slope.dtype)
        low_slope = slope @ outer
        add_product(x_slope, low_slope, down)
        ups = up_gradients(slope.t() @ low, ctx.members)
        return x_slope, None, None, None, low_slope.t() @ x, None, *ups


class Float8Joint(Joint):
    """A joint whose frozen weights are multiplied in float8.

    The original weights are kept for other computations, so a parameter takes two more bytes.
    """

    def dissolve(self) -> None:
        """Does nothing: the original weights were not changed."""

    def _hold(self, width: int, ranks: int) -> Tensor:
        weights = [base.weight.data for base in self.bases]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.forward_weight, self.backward_weight = quantized(weight), quantized(weight.t().contiguous())
        self.outer = weight.new_zeros(width, ranks)
        return self.outer

    def _product(self, x: Tensor, down: Tensor) -> Tensor:
        out: Tensor = _Float8Adapted.apply(  # type: ignore[no-untyped-call]
            x, self.forward_weight, self.backward_weight, self.outer, down, self.members, *self.ups
        )
        return out


def check_model(model: Any, spec: TrainingSpec, device: Device) -> None:
    """Raises DeviceError if the device lacks float8 products, and SynthpostError if a projection cannot use them.

    `model` has no adapter yet; nothing is quantized here.
    """
    dtype = torch.bfloat16 if is_mixed(spec, device.name) else torch.float32
    check_device(device)
    if not is_supported(model, spec.lora.target_modules):
        raise SynthpostError(
            f"training.precision: float8: a student of type {model.config.model_type} is trained with padding, because "
            "of its type, a sliding window or an adapter on lm_head; choose bfloat16 in the profile"
        )
    for name, module in model.model.layers.named_modules():
        if name.endswith(spec.lora.target_modules) and (fault := _fault(module, dtype)):
            raise SynthpostError(f"training.precision: float8: projection {name} {fault} in the profile")


def check_device(device: Device) -> None:
    """Raises DeviceError with torch's message if a small float8 product fails on the device."""
    numbers = torch.ones(TRIAL_WIDTH, TRIAL_WIDTH, device=device.name)
    try:
        product(quantized(numbers), quantized(numbers), torch.bfloat16)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(
            f"training.precision: float8: {device.label} cannot multiply in float8 ({reason}); choose bfloat16 in the "
            "profile, or use an NVIDIA GPU of the Ada or Hopper generation"
        ) from error


def _fault(base: Any, dtype: torch.dtype) -> str | None:
    """Why a frozen projection cannot be computed in float8, and the remedy."""
    if base.__class__ is not nn.Linear:
        return "has packed weights; set student.dequantize: true"
    if base.weight.dtype is not dtype:
        names = [str(one).removeprefix("torch.") for one in (base.weight.dtype, dtype)]
        return f"is in {names[0]}; set student.dtype: {names[1]}"
    bias: Any = base.bias
    if bias is not None:
        return "has a bias; choose bfloat16"
    if base.in_features % MULTIPLE or base.out_features % MULTIPLE:
        return f"is {base.out_features} × {base.in_features}, not multiples of {MULTIPLE}; choose bfloat16"
    return None
