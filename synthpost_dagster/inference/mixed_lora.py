"""Several LoRA adapters on one model at the same time, each token under its own or none.

The adapters of a linear layer are stacked into pairs of matrices; for each token, a mask over the ranks selects its
adapter. All pairs have the same width, and an adapter's ranks begin at a tile and span as few pairs as possible, so
that a GPU sums its products in the same order whatever other adapters there are. Reads PEFT's folders. Imports torch.
"""

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
"""Keys of PEFT's configuration that change how an adapter computes; they must be empty."""
REQUIRED = {"peft_type": "LORA", "bias": "none"}
TILE = 16
"""Ranks that a GPU's product sums at once."""
WIDTH = 128
"""Ranks of a pair of matrices, usually those of eight adapters."""


class Pair(NamedTuple):
    """An adapter's matrices in one linear layer: `down` is rank × in, `up` is out × rank times the scaling."""

    down: Tensor
    up: Tensor


class Adapter(NamedTuple):
    """An adapter in float32, with a pair per linear layer by the layer's name."""

    folder: Path
    rank: int
    pairs: dict[str, Pair]


def read_adapter(folder: Path) -> Adapter:
    """The LoRA adapter of a PEFT folder. Raises ModelError if a file is damaged, missing, or of another kind."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    rank, scaling = _rank_and_scaling(folder / CONFIGURATION)
    file = folder / WEIGHTS
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read ({str(error).splitlines()[0]}); train the cell again") from error
    pairs = {}
    for name in sorted({key.removesuffix(".lora_A.weight").removesuffix(".lora_B.weight") for key in tensors}):
        down, up = (tensors.pop(f"{name}.lora_{part}.weight", None) for part in "AB")
        if down is None or up is None:
            raise ModelError(f"{file}: {name} is no pair of LoRA matrices; use a plain LoRA adapter")
        if down.shape[0] != rank or up.shape[1] != rank:
            raise ModelError(f"{file}: {name} does not have rank {rank} of {CONFIGURATION}; train the cell again")
        pairs[name.removeprefix(PREFIX)] = Pair(down.float(), up.float() * scaling)
    return Adapter(folder, rank, pairs)


def _rank_and_scaling(file: Path) -> tuple[int, float]:
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is no configuration of a LoRA adapter ({error}); train the cell again") from error
    refused = [key for key in UNSUPPORTED if config.get(key)]
    refused += [f"{key}: {config.get(key)}" for key, only in REQUIRED.items() if config.get(key, only) != only]
    if refused:
        raise ModelError(f"{file}: adapters with {', '.join(refused)} cannot be mixed; only plain LoRA can")
    return rank, alpha / rank


class RankMasks:
    """The ranks of the stacked adapters that each token of the current forward pass uses.

    `table` has a row of ranks per adapter, and a last row `base` of zeros; `mask` is tokens × ranks. `pair_bytes` is
    the memory of a pair in all layers.
    """

    def __init__(self, ranks: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.slices = rank_slices(ranks)
        self.pairs = -(-self.slices[-1].stop // WIDTH) if ranks else 0
        self.base = len(ranks)
        self.table = torch.zeros(len(ranks) + 1, self.pairs * WIDTH, dtype=dtype, device=device)
        for row, own in enumerate(self.slices):
            self.table[row, own] = 1
        self.mask = self.table[:0]
        self.pair_bytes = 0


def rank_slices(ranks: Sequence[int]) -> list[slice]:
    """The stacked ranks of each adapter: at the next tile, or at the next pair if this one has too few left."""
    found, end = [], 0
    for rank in ranks:
        tiled, left = -(-rank // TILE) * TILE, -end % WIDTH
        start = end if tiled <= left else end + left
        found.append(slice(start, start + rank))
        end = start + tiled
    return found


class MixedLinear(nn.Module):
    """A linear layer and its stacked adapters: pairs of in × WIDTH and WIDTH × out."""

    def __init__(self, base: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], masks: RankMasks) -> None:
        super().__init__()
        self.base, self.pairs, self.masks = base, pairs, masks

    def forward(self, x: Tensor) -> Tensor:
        """Maps 1 × tokens × in to 1 × tokens × out."""
        out: Tensor = self.base(x)
        for (down, up), mask in zip(self.pairs, torch.split(self.masks.mask, WIDTH, dim=1), strict=True):
            low = (x[0] @ down).mul_(mask)
            out[0].addmm_(low, up)  # in place, so that the base's output is not copied
        return out


@contextlib.contextmanager
def mixed(model: nn.Module, folders: Sequence[Path], dtype: torch.dtype) -> Iterator[RankMasks]:
    """Adds adapters to the model's linear layers for the duration of the context; no weight of the model changes.

    The low-rank part is computed in `dtype`, the model's. PEFT converts to float32 in between, and rounds the result.
    Raises ModelError if an adapter cannot be mixed or belongs to another model.
    """
    adapters = [read_adapter(folder) for folder in folders]
    device = next(model.parameters()).device
    masks = RankMasks([adapter.rank for adapter in adapters], dtype, device)
    names = sorted({name for adapter in adapters for name in adapter.pairs})
    bases = {name: _linear(model, name, adapters) for name in names}
    try:
        for name, base in bases.items():
            pairs = _stacked(name, adapters, masks)
            masks.pair_bytes += sum(part.nbytes for part in pairs[0])
            _put(model, name, MixedLinear(base, pairs, masks))
        del adapters
        yield masks
    finally:
        for name, base in bases.items():
            _put(model, name, base)


def _linear(model: nn.Module, name: str, adapters: Sequence[Adapter]) -> nn.Module:
    """The layer of that name. Raises ModelError if it is missing or does not fit an adapter."""
    found: nn.Module | None = dict(model.named_modules()).get(name)
    for adapter in adapters:
        pair = adapter.pairs.get(name)
        shape = (getattr(found, "out_features", None), getattr(found, "in_features", None))
        if pair is not None and shape != (pair.up.shape[0], pair.down.shape[1]):
            raise ModelError(
                f"{adapter.folder / WEIGHTS}: the shapes of {name} do not fit the model, so it was trained on another "
                "one; check the student in the profile"
            )
    if found is None:
        raise ModelError(f"the model has no layer {name}, which an adapter needs; check the student in the profile")
    return found


def _stacked(name: str, adapters: Sequence[Adapter], masks: RankMasks) -> list[tuple[Tensor, Tensor]]:
    """The pairs of MixedLinear; zeros for an adapter that does not change the layer."""
    first = next(adapter.pairs[name] for adapter in adapters if name in adapter.pairs)
    ranks, device = masks.table.shape[1], masks.table.device
    down = torch.zeros(ranks, first.down.shape[1], device=device)
    up = torch.zeros(first.up.shape[0], ranks, device=device)
    for adapter, own in zip(adapters, masks.slices, strict=True):
        if (pair := adapter.pairs.get(name)) is not None:
            down[own], up[:, own] = pair.down.to(device), pair.up.to(device)
    return [
        (a.to(masks.table.dtype).t().contiguous(), b.to(masks.table.dtype).t().contiguous())
        for a, b in zip(torch.split(down, WIDTH), torch.split(up, WIDTH, dim=1), strict=True)
    ]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
