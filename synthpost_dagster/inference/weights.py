"""The weight files of a model's folder, and the check that they are complete by their headers and sizes.

`content` hashes them. Nothing here imports torch or reads a pickle.
"""

from __future__ import annotations

import json
from pathlib import Path

from synthpost_dagster.errors import ModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def weight_files(folder: Path) -> list[Path]:
    """The weight files that transformers reads.

    Raises ModelError if there are none, if they are pickles, or if the index of several cannot be read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(_weight_map(folder / INDEX).values()))]
    pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder}: the weights are pickles ({pickled[0]}), which can run code when they are read; only "
            "safetensors are read. If you trust their source, convert them: python -c 'from transformers import "
            f'AutoModelForCausalLM as M; M.from_pretrained("{folder}").save_pretrained("{folder}")\''
        )
    raise ModelError(f"{folder}: no weights there; copy the model's {WEIGHTS}, or {INDEX} and the files it names")


def check_weights(folder: Path) -> None:
    """Raises ModelError if a weight file is missing, damaged, or shorter than its header says."""
    from safetensors import SafetensorError, safe_open

    found: set[str] = set()
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="numpy") as weights:
                found |= set(weights.keys())
        except FileNotFoundError:
            raise ModelError(f"{file} is missing, and {INDEX} names it; copy or download it again") from None
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{file} is damaged or incomplete ({reason}); copy or download it again") from error
    if (folder / WEIGHTS).is_file():
        return
    if missing := sorted(set(_weight_map(folder / INDEX)) - found):
        raise ModelError(
            f"{folder / INDEX} names {len(missing)} tensors that no file has, such as {missing[0]}; "
            "download the model again"
        )


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor → file name. Raises ModelError if a name leads out of the folder or is no safetensors file."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found = {str(tensor): str(name) for tensor, name in named.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged ({error!r}); download it again") from error
    for name in found.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: {name!r} is not a safetensors file of this folder; download the model again")
    return found
