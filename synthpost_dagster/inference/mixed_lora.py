"""Several LoRA adapters on one model at a time, each token under its own or none.

All adapters of a linear layer are stacked into pairs of narrow matrices; a mask over the ranks keeps, for each token,
the columns of its adapter. So that a GPU sums up an adapter's products alike, whichever others are there and wherever
it stands, pairs are always as wide, and its ranks begin at a tile and lie in as few pairs as can be. Reads PEFT's
folders; torch is imported with this module.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.peft_files import CONFIGURATION, WEIGHTS

PREFIX = "base_model.model."
UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)
"""Keys of PEFT's configuration that change what an adapter does; empty in those that can be mixed."""
PLAIN = {"peft_type": "LORA", "bias": "none"}
"""Keys that can be mixed with this value only."""


TILE = 16
"""Ranks that a GPU's product sums up at once."""
WIDTH = 128
"""Ranks of a pair of narrow matrices: those of eight adapters, mostly."""


class Pair(NamedTuple):
    """An adapter's share in one linear layer: `down` is rank × in, `up` is out × rank with the scaling in it."""

    down: Tensor
    up: Tensor


class Adapter(NamedTuple):
    """An adapter in float32: its folder, its rank, and a pair for each linear layer by the layer's name."""

    folder: Path
    rank: int
    pairs: dict[str, Pair]


def read_adapter(folder: Path) -> Adapter:
    """The LoRA adapter of a PEFT folder. Raises ModelError naming the file and what cannot be mixed or is missing."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    rank, scaling = _rank_and_scaling(folder / CONFIGURATION)
    file = folder / WEIGHTS
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read ({str(error).splitlines()[0]}); tune the cell again") from error
    pairs = {}
    for name in sorted({key.removesuffix(".lora_A.weight").removesuffix(".lora_B.weight") for key in tensors}):
        down, up = (tensors.pop(f"{name}.lora_{part}.weight", None) for part in "AB")
        if down is None or up is None:
            raise ModelError(f"{file}: {name} is no pair of LoRA matrices, and nothing else can be mixed")
        if down.shape[0] != rank or up.shape[1] != rank:
            raise ModelError(f"{file}: {name} is not of rank {rank}, as {CONFIGURATION} says")
        pairs[name.removeprefix(PREFIX)] = Pair(down.float(), up.float() * scaling)
    return Adapter(folder, rank, pairs)


def _rank_and_scaling(file: Path) -> tuple[int, float]:
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is no configuration of a LoRA adapter ({error}); tune the cell again") from error
    refused = [key for key in UNSUPPORTED if config.get(key)]
    refused += [f"{key}: {config.get(key)}" for key, plain in PLAIN.items() if config.get(key, plain) != plain]
    if refused:
        raise ModelError(f"{file}: adapters with {', '.join(refused)} cannot be mixed; only plain LoRA can")
    return rank, alpha / rank


class Lanes:
    """Which ranks of the stacked adapters each token of the present forward pass may use.

    `table` is (adapters + 1) × ranks, its last row, all zeros, for the base; `mask` is tokens × ranks. Ranks are those
    of whole pairs; `pair_bytes` are what a pair takes in all layers.
    """

    def __init__(self, ranks: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.places = places(ranks)
        width = _whole(self.places[-1].stop, WIDTH) if ranks else 0
        self.table = torch.zeros(len(ranks) + 1, width, dtype=dtype, device=device)
        for row, place in enumerate(self.places):
            self.table[row, place] = 1
        self.mask = self.table[:0]
        self.pair_bytes = 0

    @property
    def pairs(self) -> int:
        """Of narrow matrices beside each layer."""
        return self.table.shape[1] // WIDTH

    @property
    def base(self) -> int:
        """The table's row for tokens without an adapter."""
        return len(self.table) - 1


def places(ranks: Sequence[int]) -> list[slice]:
    """Where adapters of these ranks stand: each at the next tile, or at the next pair where this one cannot hold it."""
    found, end = [], 0
    for rank in ranks:
        left = -end % WIDTH
        start = end if _whole(rank, TILE) <= left else end + left
        found.append(slice(start, start + rank))
        end = start + _whole(rank, TILE)
    return found


class MixedLinear(nn.Module):
    """A linear layer and the stacked adapters beside it: pairs of in × WIDTH and WIDTH × out."""

    def __init__(self, base: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], lanes: Lanes) -> None:
        super().__init__()
        self.base, self.pairs, self.lanes = base, pairs, lanes

    def forward(self, x: Tensor) -> Tensor:
        """X is 1 × tokens × in; gives 1 × tokens × out."""
        out: Tensor = self.base(x)
        for (down, up), mask in zip(self.pairs, torch.split(self.lanes.mask, WIDTH, dim=1), strict=True):
            low = (x[0] @ down).mul_(mask)
            out[0].addmm_(low, up)  # in place, or the base's part would be copied first
        return out


@contextlib.contextmanager
def mixed(model: nn.Module, folders: Sequence[Path], dtype: torch.dtype) -> Iterator[Lanes]:
    """Puts adapters beside the model's linear layers for as long as this lasts; no weight of the model changes.

    The low-rank part is computed in `dtype`, the model's: in float32 exactly what PEFT does, in bfloat16 without
    PEFT's detour over float32, whose result is rounded to bfloat16 in the end as well. Raises ModelError where an
    adapter cannot be mixed or was not made for this model.
    """
    adapters = [read_adapter(folder) for folder in folders]
    device = next(model.parameters()).device
    lanes = Lanes([adapter.rank for adapter in adapters], dtype, device)
    names = sorted({name for adapter in adapters for name in adapter.pairs})
    bases = {name: _linear(model, name, adapters) for name in names}
    try:
        for name, base in bases.items():
            pairs = _pairs(_stacked(name, adapters, lanes), dtype)
            lanes.pair_bytes += sum(part.nbytes for part in pairs[0])
            _put(model, name, MixedLinear(base, pairs, lanes))
        del adapters
        yield lanes
    finally:
        for name, base in bases.items():
            _put(model, name, base)


def _whole(count: int, size: int) -> int:
    """The least multiple of the size that is no less."""
    return -(-count // size) * size


def _pairs(stacked: Pair, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """The stacked matrices as MixedLinear wants them."""
    return [
        (down.to(dtype).t().contiguous(), up.to(dtype).t().contiguous())
        for down, up in zip(torch.split(stacked.down, WIDTH), torch.split(stacked.up, WIDTH, dim=1), strict=True)
    ]


def _linear(model: nn.Module, name: str, adapters: Sequence[Adapter]) -> nn.Module:
    """The layer of that name, which all adapters fit."""
    found: nn.Module | None = dict(model.named_modules()).get(name)
    for adapter in adapters:
        pair = adapter.pairs.get(name)
        shape = (getattr(found, "out_features", None), getattr(found, "in_features", None))
        if pair is not None and shape != (pair.up.shape[0], pair.down.shape[1]):
            raise ModelError(
                f"{adapter.folder / WEIGHTS} has a pair for {name} that does not fit the model: it was tuned on "
                "another one; check the student in the profile"
            )
    if found is None:
        raise ModelError(f"the model has no layer {name}, which an adapter wants")
    return found


def _stacked(name: str, adapters: Sequence[Adapter], lanes: Lanes) -> Pair:
    """All adapters' matrices of one layer, ranks × in and out × ranks; zeros for an adapter that leaves it alone."""
    wanted = next(adapter.pairs[name] for adapter in adapters if name in adapter.pairs)
    ranks, device = lanes.table.shape[1], lanes.table.device
    down = torch.zeros(ranks, wanted.down.shape[1], device=device)
    up = torch.zeros(wanted.up.shape[0], ranks, device=device)
    for adapter, place in zip(adapters, lanes.places, strict=True):
        if (pair := adapter.pairs.get(name)) is not None:
            down[place], up[:, place] = pair.down.to(device), pair.up.to(device)
    return Pair(down, up)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
