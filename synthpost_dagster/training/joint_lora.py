"""Adapted projections that read the same input, computed as one: fewer and larger products, the same sums.

PEFT keeps its modules and weights. What changes is who computes: a decoder layer's query, key and value are one product
with one pair of narrow ones beside it, and so are the gate and the way up. Imports torch and PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from synthpost_dagster.training.adapter import NAME

TOGETHER = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))
"""Parts of a decoder layer, and which of their projections read what the part is given."""
ALONE = (("self_attn", "o_proj"), ("mlp", "down_proj"))


class Joint:
    """Adapted projections of one input: one frozen weight, of which each projection's own becomes a view, and one pair
    of adapter matrices, put together anew at each call and computed in `dtype`.
    """

    def __init__(self, members: Sequence[LoraLinear], dtype: torch.dtype) -> None:
        self.dtype = dtype
        bases = [member.base_layer for member in members]
        self.members, self.widths = list(members), [base.out_features for base in bases]
        self.weight = bases[0].weight.data
        if len(bases) > 1:
            self.weight = torch.cat([base.weight.data for base in bases])
            for base, part in zip(bases, self.weight.split(self.widths), strict=True):
                base.weight.data = part

    def __call__(self, x: Tensor) -> Tensor:
        """What all members make of `x` (… × in), one beside the other: … × the sum of their widths."""
        down = torch.cat([member.lora_A[NAME].weight for member in self.members])
        ups = (member.lora_B[NAME].weight * member.scaling[NAME] for member in self.members)
        up: Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
        out = F.linear(x, self.weight)
        narrow = F.linear(F.linear(x.to(self.dtype), down.to(self.dtype)), up.to(self.dtype))
        return out + narrow.to(out.dtype)


class _Joined(NamedTuple):
    """A module, the class that it has while joints compute, and what it needs for that."""

    module: Any
    kind: Any
    joint: Joint | slice


class JointProjections:
    """The joints of some decoder layers; they compute from `put_on` to `take_off`.

    Modules get another class for that, one for all of a kind, so that one compiled layer still serves all.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        """Joins what can be: projections without an adapter, with bias, dropout or packed weights are left to PEFT.

        Adapters are computed in `dtype`: that of autocast, or where there is none float32, as PEFT does.
        """
        self._dtype = dtype
        self._joined: list[_Joined] = []
        for layer in layers:
            for name, names in TOGETHER:
                self._join(getattr(layer, name), names)
            for name, projection in ALONE:
                member = getattr(getattr(layer, name), projection)
                if _is_plain(member):
                    self._joined.append(_Joined(member, _alone(member.__class__), Joint([member], dtype)))

    def put_on(self) -> None:
        """The joints compute."""
        for module, kind, joint in self._joined:
            module.__class__, module._joint = kind, joint

    def take_off(self) -> None:
        """PEFT's modules compute, as if nothing had been."""
        for module, kind, _ in self._joined:
            if module.__class__ is kind:
                module.__class__ = kind.__base__
                del module._joint

    def _join(self, part: Any, names: Sequence[str]) -> None:
        members = [getattr(part, name) for name in names]
        if not all(map(_is_plain, members)):
            return
        joint, start = Joint(members, self._dtype), 0
        self._joined.append(_Joined(part, _with_outputs(part.__class__), joint))
        for member, width in zip(members, joint.widths, strict=True):
            self._joined.append(_Joined(member, _own(member.__class__), slice(start, start + width)))
            start += width


def _is_plain(module: Any) -> bool:
    if not isinstance(module, LoraLinear):
        return False
    base: Any = module.base_layer
    has_dropout = not isinstance(module.lora_dropout[NAME], nn.Identity)
    return not has_dropout and base.bias is None and base.__class__ is nn.Linear


@cache
def _with_outputs(kind: Any) -> type:
    """A part that is given all of its projections' outputs instead of its input."""

    def forward(self: Any, hidden_states: Tensor, **more: Any) -> Any:
        return kind.forward(self, self._joint(hidden_states), **more)

    return type("PartGivenOutputs", (kind,), {"forward": forward})


@cache
def _own(kind: Any) -> type:
    """A projection that takes its own of the outputs that it is given."""
    return type("OwnOutputs", (kind,), {"forward": lambda self, outputs: outputs[..., self._joint]})


@cache
def _alone(kind: Any) -> type:
    """A projection that is a joint by itself."""
    return type("JointProjection", (kind,), {"forward": lambda self, x: self._joint(x)})
