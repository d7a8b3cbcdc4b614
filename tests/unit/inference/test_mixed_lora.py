"""What cannot be mixed is refused by name, before the model is touched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from random_adapters import save_random_adapter
from safetensors.torch import load_file, save_file

from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.mixed_lora import read_adapter
from synthpost_dagster.inference.peft_files import CONFIGURATION, WEIGHTS

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_random_adapter(tmp_path / "adapter", 1, 2, ["q_proj"])


def test_an_adapter_is_read_with_its_scaling(folder: Path) -> None:
    raw, adapter = load_file(folder / WEIGHTS), read_adapter(folder)
    pair = adapter.pairs["model.layers.0.self_attn.q_proj"]
    assert (adapter.rank, len(adapter.pairs)) == (2, 4)
    assert torch.equal(pair.down, raw[f"{QUERY}.lora_A.weight"])
    assert torch.equal(pair.up, raw[f"{QUERY}.lora_B.weight"] * 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"bias": "all"}, "bias: all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "peft_type: IA3"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_name(folder: Path, change: dict[str, Any], named: str) -> None:
    file = folder / CONFIGURATION
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=rf"{re.escape(str(file))}: adapters with {named} cannot be mixed"):
        read_adapter(folder)


def test_weights_that_are_no_pair_are_refused_by_name(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {f"{QUERY}.lora_magnitude_vector": torch.ones(2)}, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"q_proj.lora_magnitude_vector is no pair of LoRA matrices"):
        read_adapter(folder)
    del tensors[f"{QUERY}.lora_B.weight"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"layers.0.self_attn.q_proj is no pair"):
        read_adapter(folder)


def test_a_rank_other_than_the_configurations_is_refused(folder: Path) -> None:
    file = folder / CONFIGURATION
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 3}))
    with pytest.raises(ModelError, match=r"q_proj is not of rank 3"):
        read_adapter(folder)


def test_damaged_or_missing_files_are_named(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=rf"{WEIGHTS} cannot be read"):
        read_adapter(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=rf"{WEIGHTS} cannot be read"):
        read_adapter(folder)
    (folder / CONFIGURATION).write_text("{}")
    with pytest.raises(ModelError, match=rf"{CONFIGURATION} is no configuration of a LoRA adapter"):
        read_adapter(folder)
