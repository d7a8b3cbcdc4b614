"""A decoder's frozen projections computed in 8 bits, their adapters as ever: half the time of the large products.

A weight is rounded twice, for the way forth by output and for the way back by input; what meets it is rounded by token.
Numbers are e4m3 (arXiv:2209.05433), a scale for each row. Adapters, their gradients and all else keep their precision.
Measured on Hopper (docs/decisions/0010). Imports torch and PEFT.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.runtime.devices import Device
from synthpost_dagster.training.joint_lora import Joint, Members, add_product, gradients_of

FORMAT = torch.float8_e4m3fn
MOST = torch.finfo(FORMAT).max
LEAST = 1e-12
"""A row's largest number is taken for at least this, so that a row of zeros has a scale."""
MULTIPLE = 16
"""GPUs multiply widths that this divides."""
TRIED = 256
"""Of the product that is tried on a device: as wide as the embedded model, which was tuned so on one."""


class Rounded(NamedTuple):
    """Rows in 8 bits (rows × width) and the scale of each (rows × 1, float32)."""

    numbers: Tensor
    scales: Tensor


def rounded(rows: Tensor) -> Rounded:
    """The rows of a matrix (rows × width) in 8 bits, the largest number of each becoming the largest that there is.

    A row with a number that is none becomes a row of such.
    """
    scales = rows.abs().amax(dim=-1, keepdim=True).float().clamp(min=LEAST) / MOST
    return Rounded((rows.float() / scales).to(FORMAT).contiguous(), scales)


def product(x: Rounded, weight: Rounded, dtype: torch.dtype) -> Tensor:
    """Of x (tokens × in) with a weight (out × in): tokens × out in `dtype`, on a GPU bfloat16.

    Raises RuntimeError where torch cannot do it on the device, or for a width that MULTIPLE does not divide.
    """
    # Fast sums are less exact, 12 % faster, and of numbers that were rounded to 3 bits of fraction before.
    return torch._scaled_mm(
        x.numbers,
        weight.numbers.t(),
        scale_a=x.scales,
        scale_b=weight.scales.t(),
        out_dtype=dtype,
        use_fast_accum=x.numbers.is_cuda,
    )


class _Float8Adapted(torch.autograd.Function):
    """Of x (tokens × in): the frozen weight's product in 8 bits, and the adapters' added to it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forth: Rounded, back: Rounded, outer: Tensor, down: Tensor, members: Members, *ups: Tensor
    ) -> Tensor:
        """`forth` is out × in, `back` in × out, `outer` out × ranks; gradients are made for x, down and ups."""
        del ups
        low = x @ down.t()
        found = product(rounded(x), forth, x.dtype)
        add_product(found, low, outer.t())
        ctx.save_for_backward(x, low, *back, outer, down)
        ctx.members = members
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """One large product in 8 bits, and the adapters' as exact as their precision."""
        (slope,) = gradients
        x, low, numbers, scales, outer, down = ctx.saved_tensors
        found = product(rounded(slope), Rounded(numbers, scales), slope.dtype)
        low_slope = slope @ outer
        add_product(found, low_slope, down)
        ups = gradients_of(slope.t() @ low, ctx.members)
        return found, None, None, None, low_slope.t() @ x, None, *ups


class Float8Joint(Joint):
    """Adapted projections of one input, whose frozen weights are multiplied in 8 bits.

    The weights themselves stay where they are, for what is computed in between and afterwards: a parameter takes two
    bytes more.
    """

    def dissolve(self) -> None:
        """Nothing to undo: the weights were never touched, and what was rounded goes with the joint."""

    def _hold(self, width: int, ranks: int) -> Tensor:
        weights = [base.weight.data for base in self.bases]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.forth, self.back = rounded(weight), rounded(weight.t().contiguous())
        self.outer = weight.new_zeros(width, ranks)
        return self.outer

    def _product(self, x: Tensor, down: Tensor) -> Tensor:
        found: Tensor = _Float8Adapted.apply(x, self.forth, self.back, self.outer, down, self.members, *self.ups)  # type: ignore[no-untyped-call]
        return found


def refuse(model: Any, spec: TrainingSpec, device: Device) -> None:
    """Raises DeviceError where torch does not multiply so on the device, and SynthpostError where the model, loaded and
    without an adapter, has a projection that cannot be computed so; both before anything is rounded.
    """
    from synthpost_dagster.training.padding_free import suits
    from synthpost_dagster.training.trl_arguments import is_mixed

    dtype = torch.bfloat16 if is_mixed(spec, device.name) else torch.float32
    refuse_device(device)
    if not suits(model, spec.lora.target_modules):
        raise SynthpostError(
            f"training.precision: float8: a student of type {model.config.model_type} is tuned padded here, because of "
            "its type, a sliding window or an adapter on lm_head; choose bfloat16 in the profile"
        )
    for name, module in model.model.layers.named_modules():
        if name.endswith(spec.lora.target_modules) and (fault := _fault(module, dtype)):
            raise SynthpostError(f"training.precision: float8: projection {name} {fault} in the profile")


def refuse_device(device: Device) -> None:
    """Raises DeviceError, with torch's own words, where a small product in 8 bits fails on the device."""
    numbers = torch.ones(TRIED, TRIED, device=device.name)
    try:
        product(rounded(numbers), rounded(numbers), torch.bfloat16)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(
            f"training.precision: float8: {device.label} does not multiply in 8 bits ({reason}); choose bfloat16 in "
            "the profile, or an NVIDIA GPU of Ada's or Hopper's kind"
        ) from error


def _fault(base: Any, dtype: torch.dtype) -> str | None:
    """Why a frozen projection cannot be computed in 8 bits, and the remedy."""
    if base.__class__ is not nn.Linear:
        return "has packed weights; set student.dequantize: true"
    if base.weight.dtype is not dtype:
        names = [str(one).removeprefix("torch.") for one in (base.weight.dtype, dtype)]
        return f"is in {names[0]}; set student.dtype: {names[1]}"
    bias: Any = base.bias
    if bias is not None:
        return "has a bias; choose bfloat16"
    if base.in_features % MULTIPLE or base.out_features % MULTIPLE:
        return f"is {base.out_features} × {base.in_features}, which {MULTIPLE} does not divide; choose bfloat16"
    return None
