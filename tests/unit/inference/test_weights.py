"""Weights that are missing, damaged or pickles are refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.content import INDEX, WEIGHTS, check_weights, weight_files
from synthpost_dagster.inference.models import identity, load
from tests.helpers.tuning import CPU, STUDENT

PART = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return shutil.copytree(MODEL_FOLDER, tmp_path / "model")


def sharded(folder: Path) -> Path:
    """Replaces the folder's weights with two small files and an index."""
    (folder / WEIGHTS).unlink()
    names = [PART, PART.replace("00001", "00002", 1)]
    for place, name in enumerate(names):
        save_file({f"w{place}": np.zeros(4, dtype=np.float32)}, folder / name)
    index = {"metadata": {}, "weight_map": {f"w{place}": name for place, name in enumerate(names)}}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return folder


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def test_complete_weights_pass_in_one_file_and_in_several(folder: Path) -> None:
    check_weights(folder)
    assert weight_files(folder) == [folder / WEIGHTS]
    check_weights(sharded(folder))
    assert [file.name for file in weight_files(folder)] == [PART, "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: cut(file, -1),
        lambda file: cut(file, 10),
        lambda file: cut(file, 0),
        lambda file: file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:]),
        lambda file: file.write_bytes(file.read_bytes()[:9] + b"}" + file.read_bytes()[10:]),
    ],
    ids=["last byte missing", "header cut", "empty", "header's length", "header's text"],
)
def test_damaged_file_is_named(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder / WEIGHTS)
    spec = STUDENT.model_copy(update={"model": str(folder)})
    for look in (lambda: check_weights(folder), lambda: identity(spec), lambda: load(spec, CPU)):
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged or incomplete \([^\n]*\)"):
            look()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / PART).unlink(), f"{PART} is missing, and {INDEX} names it"),
        (lambda folder: (folder / INDEX).write_text("{"), f"{INDEX} is damaged"),
        (lambda folder: (folder / INDEX).write_text('{"weight_map": []}'), f"{INDEX} is damaged"),
        (
            lambda folder: (folder / INDEX).write_text('{"weight_map": {"w0": "../x.safetensors"}}'),
            "is not a safetensors file of this folder",
        ),
        (
            lambda folder: (folder / INDEX).write_text('{"weight_map": {"w0": "pytorch_model.bin"}}'),
            "is not a safetensors file of this folder",
        ),
        (
            lambda folder: save_file({"other": np.zeros(1)}, folder / PART),
            "names 1 tensors that no file has, such as w0",
        ),
    ],
)
def test_index_that_does_not_match_its_files_is_refused(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(sharded(folder))
    with pytest.raises(ModelError, match=message):
        check_weights(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)
    spec = STUDENT.model_copy(update={"model": str(folder)})
    with pytest.raises(ModelError, match=rf"pickles \({name}\).*save_pretrained"):
        load(spec, CPU)


def test_folder_without_weights_says_what_to_copy(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"no weights there; copy the model's {WEIGHTS}"):
        check_weights(folder)
