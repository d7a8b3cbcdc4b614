"""Weights are looked at without being loaded: what is cut, missing or something else is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.weights import INDEX, check_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        save_file({f"{name}.weight": torch.ones(3, 4)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {f"{name}.weight": f"{name}.safetensors" for name in ("one", "two")}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    return tmp_path


def test_whole_weights_are_counted_in_bytes(folder: Path) -> None:
    assert check_weights(folder) == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert check_weights(MODEL_FOLDER) > 1_000


@pytest.mark.parametrize("content", [b"", b"abc", b"not weights but text", b"\xff" * 100])
def test_a_file_that_holds_no_weights_is_named(folder: Path, content: bytes) -> None:
    (folder / "two.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"two\.safetensors"):
        check_weights(folder)


@pytest.mark.parametrize("change", [lambda whole: whole[:-1], lambda whole: whole + b"0", lambda whole: whole[:20]])
def test_a_file_that_is_cut_or_longer_than_its_header_says_is_named(folder: Path, change: object) -> None:
    path = folder / "one.safetensors"
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"one\.safetensors"):
        check_weights(folder)


def test_a_file_that_the_index_names_and_nobody_copied_is_named(folder: Path) -> None:
    (folder / "two.safetensors").unlink()
    with pytest.raises(ModelError, match=r"two\.safetensors is missing"):
        check_weights(folder)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_cannot_be_read_is_named(folder: Path, index: str) -> None:
    (folder / INDEX).write_text(index)
    with pytest.raises(ModelError, match="index"):
        check_weights(folder)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="safetensors"):
        check_weights(tmp_path)
