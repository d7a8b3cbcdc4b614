"""Frozen projections computed in 8 bits, their adapters as ever: half the time of the large products on Hopper and Ada.

A weight is rounded twice, for the way forth by output and for the way back by input; what meets it is rounded by token.
Numbers are e4m3 (arXiv:2209.05433), a scale for each row. Adapters, their gradients and all else keep their precision.
Imports torch and PEFT.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from synthpost_dagster.training.joint_lora import Joint, Members, add_product, gradients_of

FORMAT = torch.float8_e4m3fn
MOST = torch.finfo(FORMAT).max
LEAST = 1e-12
"""No scale is smaller, so that a row of zeros has one."""
CAPABILITY = (8, 9)
"""The first NVIDIA GPUs that multiply so: Ada; Hopper is 9.0."""


class Rounded(NamedTuple):
    """Rows in 8 bits (rows × width) and the scale of each (rows × 1, float32)."""

    numbers: Tensor
    scales: Tensor


def rounded(rows: Tensor) -> Rounded:
    """The rows of a matrix in 8 bits, the largest number of each becoming the largest that there is."""
    scales = rows.abs().amax(dim=-1, keepdim=True).float().clamp(min=LEAST) / MOST
    return Rounded((rows.float() / scales).to(FORMAT), scales)


def product(x: Rounded, weight: Rounded, dtype: torch.dtype) -> Tensor:
    """Of x (tokens × in) with a weight (out × in): tokens × out in `dtype`."""
    return torch._scaled_mm(
        x.numbers,
        weight.numbers.t(),
        scale_a=x.scales,
        scale_b=weight.scales.t(),
        out_dtype=dtype,
        use_fast_accum=x.numbers.is_cuda,
    )


class _Adapted(torch.autograd.Function):
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
        """What was rounded is gone; the weights were never touched."""
        del self.forth, self.back, self.outer, self.narrow

    def _hold(self, width: int, ranks: int) -> Tensor:
        weight = torch.cat([base.weight.data for base in self.bases])
        self.forth, self.back = rounded(weight), rounded(weight.t().contiguous())
        self.outer = weight.new_zeros(width, ranks)
        return self.outer

    def _product(self, x: Tensor, down: Tensor) -> Tensor:
        found: Tensor = _Adapted.apply(x, self.forth, self.back, self.outer, down, self.members, *self.ups)  # type: ignore[no-untyped-call]
        return found
