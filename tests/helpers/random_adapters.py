"""Random LoRA adapters of the embedded model, as folders in PEFT's format, for tests of inference."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from synthpost_dagster.inference.models import load
from synthpost_dagster.profiles.models import ModelSpec
from tests.helpers.tuning import CPU

EMBEDDED = ModelSpec(model="embedded", revision=None, quantization="none", dtype="float32", memory_gib=1.0)
ALL_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_random_adapter(folder: Path, seed: int, rank: int, layers: list[str]) -> Path:
    """An adapter of this rank on these layers, scaled by 2 and strong enough to change every reply."""
    torch.manual_seed(seed)
    model = get_peft_model(load(EMBEDDED, CPU).model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder
