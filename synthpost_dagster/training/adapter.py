"""The adapter while it is tuned: put on the model, begun anew for each cell, saved, taken off."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthpost_dagster.errors import SpecError
from synthpost_dagster.inference.peft_files import CONFIGURATION
from synthpost_dagster.profiles import Lora

if TYPE_CHECKING:
    from peft import LoraConfig

NAME = "default"


def lora_config(lora: Lora) -> LoraConfig:
    """The profile's adapter as PEFT's configuration."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias=lora.bias,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )


def refuse_targets(model: Any, targets: Sequence[str]) -> None:
    """Raises SpecError where a target is no linear layer within the decoder, before anything is put on the model."""
    import torch

    head = model.get_output_embeddings()
    linear = (
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    )
    known = sorted({name.rpartition(".")[2] for name in linear})
    if unknown := [target for target in targets if target not in known]:
        raise SpecError(
            f"training.lora.target_modules: {', '.join(unknown)} cannot be adapted in this student; choose among "
            f"{', '.join(known)} in the profile"
        )


def begin(model: Any, seed: int) -> None:
    """Gives every adapter matrix its start under the seed: PEFT's own, down uniform and up zero.

    Drawn on the CPU and in float32, so that a cell begins alike on every machine, under every trainer, and whether it
    is the first on a loaded model or the tenth.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    for layer in _layers(model):
        down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        drawn = torch.empty(down.shape)
        torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        for weight in (down, up):
            weight.data = weight.data.float()
        down.data.copy_(drawn)
        up.data.zero_()


def save(model: Any, base_name: str, folder: Path) -> None:
    """The adapter's safetensors and configuration, which names its base and not a path of this machine."""
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / CONFIGURATION
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_name}
    file.write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")


def _layers(model: Any) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))
