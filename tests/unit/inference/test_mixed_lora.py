"""Adapters that cannot be mixed are refused by name before the model changes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.engine import Request, engine
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.inference.mixed_lora import WIDTH, mixed, rank_slices, read_adapter
from synthpost_dagster.inference.models import load
from synthpost_dagster.inference.peft_files import CONFIGURATION, WEIGHTS
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.progress import SILENT
from tests.helpers.random_adapters import ALL_LAYERS, EMBEDDED, save_random_adapter
from tests.helpers.tuning import CPU

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_random_adapter(tmp_path / "adapter", 1, 2, ["q_proj"])


def test_adapter_is_read_with_its_scaling(folder: Path) -> None:
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
def test_adapter_of_another_kind_is_refused_by_name(folder: Path, change: dict[str, Any], named: str) -> None:
    file = folder / CONFIGURATION
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=rf"{re.escape(str(file))}: adapters with {named} cannot be mixed"):
        read_adapter(folder)


def test_weights_without_their_pair_are_refused_by_name(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {f"{QUERY}.lora_magnitude_vector": torch.ones(2)}, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"q_proj.lora_magnitude_vector is no pair of LoRA matrices"):
        read_adapter(folder)
    del tensors[f"{QUERY}.lora_B.weight"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"layers.0.self_attn.q_proj is no pair"):
        read_adapter(folder)


def test_rank_other_than_the_configurations_is_refused(folder: Path) -> None:
    file = folder / CONFIGURATION
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 3}))
    with pytest.raises(ModelError, match=r"q_proj does not have rank 3"):
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


@pytest.mark.parametrize(
    ("ranks", "starts"),
    [
        ([16, 16, 16], [0, 16, 32]),
        ([4, 8, 17, 16], [0, 16, 32, 64]),
        ([48, 48, 48, 16], [0, 48, 128, 176]),
        ([128, 1], [0, 128]),
        ([200, 16, 48, 200], [0, 208, 256, 384]),
        ([], []),
    ],
)
def test_adapter_begins_at_a_tile_and_spans_few_pairs(ranks: list[int], starts: list[int]) -> None:
    """A GPU then sums an adapter's products in the same order, whatever others there are."""
    assert rank_slices(ranks) == [slice(start, start + rank) for start, rank in zip(starts, ranks, strict=True)]


def test_pairs_have_a_fixed_width(tmp_path: Path) -> None:
    folders = [save_random_adapter(tmp_path / str(rank), rank, rank, ["q_proj"]) for rank in (4, 16, 100)]
    loaded = load(EMBEDDED, CPU)
    with mixed(loaded.model, folders, torch.float32) as masks:
        pairs = loaded.model.model.layers[0].self_attn.q_proj.pairs
    assert masks.table.shape == (4, 2 * WIDTH)
    assert (masks.pairs, masks.pair_bytes) == (2, 4 * 2 * 256 * WIDTH * 4)
    assert [(down.shape, up.shape) for down, up in pairs] == 2 * [((256, WIDTH), (WIDTH, 256))]
    down = torch.cat([down for down, _ in pairs], dim=1)
    used = {rank for rank in range(2 * WIDTH) if down[:, rank].any()}
    assert used == {*range(4), *range(16, 32), *range(WIDTH, WIDTH + 100)}


@pytest.mark.parametrize("rank", [16, 48, 96, 200])
def test_adapter_in_16_bits_computes_the_same_alone_and_with_others(tmp_path: Path, rank: int) -> None:
    folders = [save_random_adapter(tmp_path / str(seed), seed, rank, ["q_proj"]) for seed in range(4)]
    model = load(EMBEDDED.model_copy(update={"dtype": "bfloat16"}), CPU).model
    x = torch.randn(1, 64, 256, generator=torch.Generator().manual_seed(1)).bfloat16()

    def given(adapters: list[Path], row: int) -> torch.Tensor:
        with mixed(model, adapters, torch.bfloat16) as masks, torch.inference_mode():
            masks.mask = masks.table[[row] * 64]
            return model.model.layers[0].self_attn.q_proj(x)

    together = [given(folders, row) for row in range(4)]
    assert all(torch.equal(given([folder], 0), out) for folder, out in zip(folders, together, strict=True))
    assert not torch.equal(together[0], together[1])


def test_adapters_in_several_pairs_reply_like_each_alone(tmp_path: Path) -> None:
    folders = [save_random_adapter(tmp_path / str(seed), seed, 60, ALL_LAYERS) for seed in range(3)]
    loaded = load(EMBEDDED, CPU)
    requests = [Request(chat(f"Write a post about product {place}."), place % 3, place) for place in range(6)]
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=12, batch_size=1, seed=0)
    with engine(loaded, folders, sampling) as running:
        together = dict(running.answer(requests, SILENT, "posts"))
    for place, request in enumerate(requests):
        with engine(loaded, [folders[place % 3]], sampling) as running:
            assert dict(running.answer([request._replace(adapter=0)], SILENT, "posts")) == {0: together[place]}
    assert len({reply.text for reply in together.values()}) > 2
