"""Looks at a model folder's weights without loading them: their headers, and whether the files are whole.

The format: https://huggingface.co/docs/safetensors/index#format. What the weights are good for is not known here.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from synthpost_dagster.errors import ModelError

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""


def check_weights(folder: Path) -> int:
    """The bytes of the weights. Raises ModelError naming the file that is missing, cut off or no safetensors file."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no weights there (*.safetensors is expected); save the model as safetensors")
    missing = sorted(_indexed(folder / INDEX) - {file.name for file in files})
    if missing:
        raise ModelError(f"{folder}: {missing[0]} is missing, which {INDEX} names; copy or download the model again")
    for file in files:
        try:
            _check_file(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file}: these weights are damaged ({error}); copy or download the model again") from None
    return sum(file.stat().st_size for file in files)


def _indexed(index: Path) -> set[str]:
    """The files that hold the weights where there are several."""
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: cannot be read ({error}); copy or download the model again") from None


def _check_file(file: Path) -> None:
    """Raises ValueError, KeyError or TypeError where the header does not fit the file."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if len(start) < 8:
            raise ValueError(f"it has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError("it does not begin as a safetensors file does")
        header = json.loads(opened.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"it has {size:,} bytes and its header tells of {expected:,}")
