"""The LoRA adapter on a model: its PEFT configuration, its initial weights, and its saved files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
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


def check_targets(model: Any, targets: Sequence[str]) -> None:
    """Raises SpecError if a target is not a linear layer of the decoder."""
    import torch

    head = model.get_output_embeddings()
    linear = (name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head)
    known = sorted({name.rpartition(".")[2] for name in linear})
    if unknown := [target for target in targets if target not in known]:
        raise SpecError(
            f"training.lora.target_modules: {', '.join(unknown)} cannot be adapted in this student; choose among "
            f"{', '.join(known)} in the profile"
        )


def initialize(model: Any, seed: int) -> None:
    """Sets every adapter matrix to PEFT's initial values: lora_A uniform, lora_B zero.

    They are drawn on the CPU in float32. A cell therefore starts with the same weights on every machine, under every
    trainer, and whether or not other cells were trained on this model before.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    generator = torch.Generator().manual_seed(seed)
    for layer in (module for module in model.modules() if isinstance(module, LoraLayer)):
        down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        drawn = torch.empty(down.shape)
        torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        for weight in (down, up):
            weight.data = weight.data.float()
        down.data.copy_(drawn)
        up.data.zero_()


def save(model: Any, base_name: str, folder: Path) -> None:
    """Writes the adapter as safetensors and its configuration, which names the base model instead of a local path."""
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / CONFIGURATION
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_name}
    file.write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")
