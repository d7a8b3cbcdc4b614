"""Adapted projections that read the same input, computed as one: fewer and larger products, the same sums.

PEFT keeps its modules and weights. What changes is who computes: a decoder layer's query, key and value are one
product, and so are the gate and the way up. What adapters make of their ranks is in that product too: else it would be
written and added by itself, as wide as the output. Imports torch and PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from synthpost_dagster.training.adapter import NAME

TOGETHER = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))
"""Parts of a decoder layer, and which of their projections read what the part is given."""
ALONE = (("self_attn", "o_proj"), ("mlp", "down_proj"))
Members = tuple[tuple[slice, slice, float], ...]
"""Of each projection: its outputs, its ranks, and its adapter's scaling."""


def add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to the target in place, compiled too: there torch's own `addmm_` copies the target first."""
    torch.ops.synthpost.add_product_(target, left, right)


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    target.addmm_(left, right)


torch.library.define("synthpost::add_product_", "(Tensor(a!) target, Tensor left, Tensor right) -> ()")
torch.library.impl("synthpost::add_product_", "CompositeExplicitAutograd", _add_product)


def gradients_of(narrow: Tensor, members: Members) -> list[Tensor]:
    """Of each projection's outer matrix, from that of them all, whose scaling is in it (outputs × ranks)."""
    return [narrow[rows, ranks].float() * scaling for rows, ranks, scaling in members]


class _Adapted(torch.autograd.Function):
    """Of x (tokens × in): the frozen weight's product and the adapters', as one product over in + ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, extended: Tensor, down: Tensor, members: Members, *ups: Tensor) -> Tensor:
        """`extended` is out × (in + ranks), with `ups` in its last columns; gradients are made for x, down and ups."""
        del ups
        both = torch.cat([x, x @ down.t()], dim=1)
        ctx.save_for_backward(both, extended, down)
        ctx.members = members
        return both @ extended.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """Two products as large as the forward one's, and narrow ones beside them."""
        (slope,) = gradients
        both, extended, down = ctx.saved_tensors
        inside = down.shape[1]
        slopes = slope @ extended
        low, found = slopes[:, inside:].contiguous(), slopes[:, :inside]
        add_product(found, low, down)
        ups = gradients_of(slope.t() @ both[:, inside:], ctx.members)
        return found, None, low.t() @ both[:, :inside], None, *ups


class Joint:
    """Adapted projections of one input, computed by one weight, out × (in + ranks).

    Each projection's own frozen weight becomes a view of it, until `dissolve`. The last columns, which stay to be
    written, are the adapters' outer matrices with their scaling (`narrow`, a view for each projection).
    """

    def __init__(self, projections: Sequence[LoraLinear]) -> None:
        self.bases = [projection.base_layer for projection in projections]
        ranks = [projection.r[NAME] for projection in projections]
        widths = [base.out_features for base in self.bases]
        self.downs = [projection.lora_A[NAME].weight for projection in projections]
        self.ups = [projection.lora_B[NAME].weight for projection in projections]
        self.members: Members = tuple(
            (slice(end - width, end), slice(last - rank, last), projection.scaling[NAME])
            for projection, width, end, rank, last in zip(
                projections, widths, accumulate(widths), ranks, accumulate(ranks), strict=True
            )
        )
        outer = self._hold(sum(widths), sum(ranks))
        self.narrow = [outer[rows, ranks] for rows, ranks, _ in self.members]

    def __call__(self, x: Tensor) -> Tensor:
        """What all projections make of `x` (… × in), one beside the other: … × the sum of their widths."""
        down = torch.cat(self.downs).to(self.narrow[0].dtype)
        out: Tensor = self._product(x.flatten(0, -2), down).view(*x.shape[:-1], -1)
        return out

    def _hold(self, width: int, ranks: int) -> Tensor:
        """Takes the frozen weights; where the outer matrices go (width × ranks), zeros at first."""
        inside = self.bases[0].in_features
        self.extended = self.bases[0].weight.data.new_zeros(width, inside + ranks)
        for base, (rows, _, _) in zip(self.bases, self.members, strict=True):
            own = self.extended[rows, :inside]
            own.copy_(base.weight.data)
            base.weight.data = own
        outer: Tensor = self.extended[:, inside:]
        return outer

    def _product(self, x: Tensor, down: Tensor) -> Tensor:
        """Of `x` (tokens × in); `down` are the inner matrices (ranks × in)."""
        found: Tensor = _Adapted.apply(x, self.extended, down, self.members, *self.ups)  # type: ignore[no-untyped-call]
        return found

    def dissolve(self) -> None:
        """Each projection has a weight of its own again; by way of the host where the device has too little memory."""
        weights = [base.weight for base in self.bases]
        device = weights[0].device
        try:
            own = [weight.data.contiguous() for weight in weights]
        except torch.OutOfMemoryError:
            own = [weight.data.to("cpu", copy=True, memory_format=torch.contiguous_format) for weight in weights]
        for weight, data in zip(weights, own, strict=True):
            weight.data = data
        del self.extended, self.narrow
        for weight in weights:
            weight.data = weight.data.to(device)


class _Joined(NamedTuple):
    """A module, the class that it has while joints compute, and what it needs for that."""

    module: Any
    kind: Any
    joint: Joint | slice


class JointProjections:
    """The joints of a decoder; they compute from `join` to `dissolve`.

    Modules get another class for that, one for all of a kind, so that one compiled layer still serves all.
    """

    def __init__(self, decoder: nn.Module, dtype: torch.dtype, kind: type[Joint] = Joint) -> None:
        """Adapters are computed in `dtype`: autocast's, or where there is none float32."""
        self._decoder, self._dtype, self._kind = decoder, dtype, kind
        self._joined: list[_Joined] = []
        self._hook: RemovableHandle | None = None

    def join(self) -> None:
        """Joins what can be: projections without an adapter, with bias, dropout or packed weights are left to PEFT, and
        so are those whose weights are not of the dtype. Each forward pass begins with the adapters as they are then.

        Where memory runs out meanwhile, `dissolve` undoes what was done.
        """
        for layer in self._decoder.layers:  # type: ignore[union-attr]
            for name, names in TOGETHER:
                self._join(getattr(layer, name), names)
            for name, projection in ALONE:
                member = getattr(getattr(layer, name), projection)
                if self._suits(member):
                    self._joined.append(_Joined(member, _alone(member.__class__), self._kind([member])))
        joints = self._joints
        self._ups = [up for joint in joints for up in joint.ups]
        self._narrow = [narrow for joint in joints for narrow in joint.narrow]
        self._scalings = [scaling for joint in joints for _, _, scaling in joint.members]
        for module, kind, joint in self._joined:
            module.__class__, module._joint = kind, joint
        if joints:
            self._hook = self._decoder.register_forward_pre_hook(self._refresh)

    def dissolve(self) -> None:
        """PEFT's modules compute again, and the decoder is as it was."""
        for module, kind, _ in self._joined:
            if module.__class__ is kind:
                module.__class__ = kind.__base__
                del module._joint
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        joints, self._joined, self._ups, self._narrow = self._joints, [], [], []
        while joints:
            joints.pop().dissolve()

    @property
    def _joints(self) -> list[Joint]:
        return [joint for _, _, joint in self._joined if isinstance(joint, Joint)]

    @torch.no_grad()
    def _refresh(self, *_: Any) -> None:
        """Writes the adapters' outer matrices beside the frozen weights; all at once, as an optimizer does."""
        torch._foreach_copy_(self._narrow, torch._foreach_mul(self._ups, self._scalings))

    def _join(self, part: Any, names: Sequence[str]) -> None:
        members = [getattr(part, name) for name in names]
        if not all(map(self._suits, members)):
            return
        joint = self._kind(members)
        self._joined.append(_Joined(part, _with_outputs(part.__class__), joint))
        for member, (outputs, _, _) in zip(members, joint.members, strict=True):
            self._joined.append(_Joined(member, _own(member.__class__), outputs))

    def _suits(self, module: Any) -> bool:
        if not isinstance(module, LoraLinear):
            return False
        base: Any = module.base_layer
        has_dropout = not isinstance(module.lora_dropout[NAME], nn.Identity)
        is_plain = base.bias is None and base.__class__ is nn.Linear
        return is_plain and not has_dropout and base.weight.dtype is self._dtype


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
