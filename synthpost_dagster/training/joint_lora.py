"""Adapted projections that read the same input, computed as one product: fewer and larger products, the same sums.

PEFT keeps its modules and weights. A decoder layer's query, key and value become one product, and so do gate and up.
The adapters' ranks are part of that product, because a separate one would write and add an output as wide as the
layer's. Imports torch and PEFT.
"""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from synthpost_dagster.training.adapter import NAME

SHARED_INPUT = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))
"""Parts of a decoder layer, and their projections that read the part's input."""
OWN_INPUT = (("self_attn", "o_proj"), ("mlp", "down_proj"))
Members = tuple[tuple[slice, slice, float], ...]
"""The outputs, ranks and adapter scaling of each projection."""


def add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to the target in place. Compiled code would copy the target first with torch's `addmm_`."""
    torch.ops.synthpost.add_product_(target, left, right)


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    target.addmm_(left, right)


torch.library.define("synthpost::add_product_", "(Tensor(a!) target, Tensor left, Tensor right) -> ()")
torch.library.impl("synthpost::add_product_", "CompositeExplicitAutograd", _add_product)


def up_gradients(scaled: Tensor, members: Members) -> list[Tensor]:
    """Gradients of the lora_B matrices, from that of all scaled ones together (outputs × ranks)."""
    return [scaled[rows, ranks].float() * scaling for rows, ranks, scaling in members]


class _Adapted(torch.autograd.Function):
    """The products of frozen weight and adapters, computed as one over in + ranks, for x (tokens × in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, extended: Tensor, down: Tensor, members: Members, *ups: Tensor) -> Tensor:
        """`extended` is out × (in + ranks), with `ups` in its last columns. Returns gradients for x, down and ups."""
        del ups
        both = torch.cat([x, x @ down.t()], dim=1)
        ctx.save_for_backward(both, extended, down)
        ctx.members = members
        return both @ extended.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """Two products as large as the forward one, and small ones for the adapters."""
        (slope,) = gradients
        both, extended, down = ctx.saved_tensors
        inside = down.shape[1]
        slopes = slope @ extended
        low, x_slope = slopes[:, inside:].contiguous(), slopes[:, :inside]
        add_product(x_slope, low, down)
        ups = up_gradients(slope.t() @ both[:, inside:], ctx.members)
        return x_slope, None, low.t() @ both[:, :inside], None, *ups


class Joint:
    """Adapted projections of one input, computed with one weight, out × (in + ranks).

    Until `dissolve`, each projection's frozen weight is a view of it. Its last columns are the adapters' lora_B
    matrices times their scaling (`scaled_ups`, one view per projection), refreshed before each forward pass.
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
        self.scaled_ups = [outer[rows, ranks] for rows, ranks, _ in self.members]

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs of all projections for `x` (… × in), concatenated: … × the sum of their widths."""
        down = torch.cat(self.downs).to(self.scaled_ups[0].dtype)
        out: Tensor = self._product(x.flatten(0, -2), down).view(*x.shape[:-1], -1)
        return out

    def _hold(self, width: int, ranks: int) -> Tensor:
        """Takes over the frozen weights; returns zeros (width × ranks) for the lora_B matrices."""
        inside = self.bases[0].in_features
        self.extended = self.bases[0].weight.data.new_zeros(width, inside + ranks)
        for base, (rows, _, _) in zip(self.bases, self.members, strict=True):
            own = self.extended[rows, :inside]
            own.copy_(base.weight.data)
            base.weight.data = own
        outer: Tensor = self.extended[:, inside:]
        return outer

    def _product(self, x: Tensor, down: Tensor) -> Tensor:
        out: Tensor = _Adapted.apply(x, self.extended, down, self.members, *self.ups)  # type: ignore[no-untyped-call]
        return out

    def dissolve(self) -> None:
        """Gives each projection a weight of its own, copied through host memory if the device has too little."""
        weights = [base.weight for base in self.bases]
        device = weights[0].device
        try:
            own = [weight.data.contiguous() for weight in weights]
        except torch.OutOfMemoryError:
            own = [weight.data.to("cpu", copy=True, memory_format=torch.contiguous_format) for weight in weights]
        for weight, data in zip(weights, own, strict=True):
            weight.data = data
        del self.extended, self.scaled_ups
        for weight in weights:
            weight.data = weight.data.to(device)


class JointProjections:
    """The joints of a decoder; they compute from `join` to `dissolve`.

    Modules get another class meanwhile, the same for all modules of a kind, so that one compiled layer serves all.
    """

    def __init__(self, decoder: nn.Module, dtype: torch.dtype, kind: type[Joint] = Joint) -> None:
        """Adapters are computed in `dtype`: that of autocast, else float32."""
        self._decoder, self._dtype, self._kind = decoder, dtype, kind
        self._joined: list[tuple[Any, Any, Joint | slice]] = []
        """Modules, their class while joints compute, and the value of their `_joint`."""
        self._hook: RemovableHandle | None = None

    def join(self) -> None:
        """Joins the projections of each layer. PEFT still computes those without an adapter, with bias, dropout or
        packed weights, or with weights of another dtype.

        If memory runs out, `dissolve` undoes what was done.
        """
        for layer in self._decoder.layers:  # type: ignore[union-attr]
            for name, names in SHARED_INPUT:
                self._join(getattr(layer, name), names)
            for name, projection in OWN_INPUT:
                member = getattr(getattr(layer, name), projection)
                if self._is_supported(member):
                    self._joined.append((member, _joint_by_itself(member.__class__), self._kind([member])))
        joints = self._joints
        self._ups = [up for joint in joints for up in joint.ups]
        self._scaled_ups = [scaled for joint in joints for scaled in joint.scaled_ups]
        self._scalings = [scaling for joint in joints for _, _, scaling in joint.members]
        for module, kind, joint in self._joined:
            module.__class__, module._joint = kind, joint
        if joints:
            self._hook = self._decoder.register_forward_pre_hook(self._refresh)

    def dissolve(self) -> None:
        """Restores the decoder, so that PEFT's modules compute again."""
        for module, kind, _ in self._joined:
            if module.__class__ is kind:
                module.__class__ = kind.__base__
                del module._joint
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        joints, self._joined, self._ups, self._scaled_ups = self._joints, [], [], []
        while joints:
            joints.pop().dissolve()

    @property
    def _joints(self) -> list[Joint]:
        return [joint for _, _, joint in self._joined if isinstance(joint, Joint)]

    @torch.no_grad()
    def _refresh(self, *_: Any) -> None:
        """Copies the current lora_B matrices beside the frozen weights, all at once."""
        torch._foreach_copy_(self._scaled_ups, torch._foreach_mul(self._ups, self._scalings))

    def _join(self, part: Any, names: Sequence[str]) -> None:
        members = [getattr(part, name) for name in names]
        if not all(map(self._is_supported, members)):
            return
        joint = self._kind(members)
        self._joined.append((part, _with_outputs(part.__class__), joint))
        for member, (outputs, _, _) in zip(members, joint.members, strict=True):
            self._joined.append((member, _own_outputs(member.__class__), outputs))

    def _is_supported(self, module: Any) -> bool:
        if not isinstance(module, LoraLinear):
            return False
        base: Any = module.base_layer
        has_dropout = not isinstance(module.lora_dropout[NAME], nn.Identity)
        is_plain = base.bias is None and base.__class__ is nn.Linear
        return is_plain and not has_dropout and base.weight.dtype is self._dtype


@cache
def _with_outputs(kind: Any) -> type:
    """The class of a part that receives the outputs of all its projections in place of its input."""

    def forward(self: Any, hidden_states: Tensor, **more: Any) -> Any:
        return kind.forward(self, self._joint(hidden_states), **more)

    return type("PartGivenOutputs", (kind,), {"forward": forward})


@cache
def _own_outputs(kind: Any) -> type:
    """The class of a projection that selects its own outputs."""
    return type("OwnOutputs", (kind,), {"forward": lambda self, outputs: outputs[..., self._joint]})


@cache
def _joint_by_itself(kind: Any) -> type:
    """The class of a projection that is a joint of its own."""
    return type("JointProjection", (kind,), {"forward": lambda self, x: self._joint(x)})
