"""Finds, identifies and loads a model: the embedded one, a local folder, or a pinned hub name."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.devices import GIB, Device, free_gib, is_out_of_memory
from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.profiles.models import EMBEDDED, ModelSpec
from synthpost_dagster.tasks.loading import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


DECODED_SHARE = 2.0
"""4-bit weights are decoded where so many times the decoded weights' size is free: the rest is for the work."""
BYTES = {"float32": 4, "bfloat16": 2}


class Loaded(NamedTuple):
    """A model on its device and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def identity(spec: ModelSpec) -> dict[str, Any]:
    """What makes this model this model, for fingerprints: name and commit, or the content of a folder's weights."""
    source = source_of(spec)
    known: dict[str, Any] = {"model": spec.model, "quantization": spec.quantization, "dtype": spec.dtype}
    if isinstance(source, Path):
        return {**known, "content": _folder_digest(source)}
    return {**known, "revision": spec.revision}


def check_suits_task(spec: ModelSpec, task: Task, is_allowed: bool) -> None:
    """Raises ModelError where the embedded model meets a task whose wording it was not trained on."""
    if spec.model != EMBEDDED or is_allowed:
        return
    trained = json.loads((MODEL_FOLDER / "synthpost.json").read_text(encoding="utf-8"))["wording_fingerprint"]
    if trained != task.wording_fingerprint:
        raise ModelError(
            f"the embedded model was not trained on the templates, types, tones and criteria of {task.folder}: its "
            "posts would be noise; use another profile, or set allow_untrained_task: true in the profile to see it"
        )


def load(spec: ModelSpec, device: Device) -> Loaded:
    """The model in evaluation mode on its device, in its dtype or quantization; see `ModelSpec.dequantize`.

    Raises ModelError naming the remedy.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _set_libraries_aside()
    tokenizer = load_tokenizer(spec)
    settings: dict[str, Any] = {"dtype": getattr(torch, spec.dtype), "device_map": {"": device.name}}
    if spec.quantization == "nf4":
        settings["quantization_config"] = _nf4(getattr(torch, spec.dtype))
    try:
        model = AutoModelForCausalLM.from_pretrained(source_of(spec), **settings, **_pinned(spec))
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise _unloadable(spec, error) from error
    loads.made += 1
    if is_packed(model) and _may_be_decoded(spec, model, device):
        _decode(model, getattr(torch, spec.dtype))
    return Loaded(model.eval().requires_grad_(False), tokenizer)


@cache
def _set_libraries_aside() -> None:
    """Takes what the process has loaded so far out of the garbage collector's sight, once, before the first model.

    Every training, every lease and accelerate collect garbage; the libraries' 600,000 objects are most of what they
    would look through each time. Models come after, so that none is kept by this.
    """
    gc.collect()
    gc.freeze()


@dataclass
class Loads:
    """How many models this process has loaded."""

    made: int = 0


loads = Loads()
"""Of this process: a sweep loads its student once."""


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the weights are 4-bit codes, as bitsandbytes keeps them. A decoded model still says so of itself."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return False
    from bitsandbytes.nn import Linear4bit

    return any(isinstance(module, Linear4bit) for module in model.modules())


def _may_be_decoded(spec: ModelSpec, model: PreTrainedModel, device: Device) -> bool:
    if spec.dequantize != "auto":
        return spec.dequantize
    decoded_gib = int(model.num_parameters()) * BYTES[spec.dtype] / GIB
    return free_gib(device) > DECODED_SHARE * decoded_gib


def _decode(model: PreTrainedModel, dtype: Any) -> None:
    """The same weights without their packing: what is computed stays the same and takes less time."""
    model.dequantize(dtype=dtype)


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer, which pads left. Raises ModelError where it cannot be had or has no chat template."""
    from transformers import AutoTokenizer

    _quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source_of(spec), padding_side="left", **_pinned(spec))
    except (OSError, ValueError, ImportError) as error:
        raise _unloadable(spec, error) from error
    if tokenizer.chat_template is None:
        raise ModelError(f"{spec.model} has no chat template; choose an instruct model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _pinned(spec: ModelSpec) -> dict[str, Any]:
    return {"revision": spec.revision} if spec.revision else {}


def _unloadable(spec: ModelSpec, error: Exception) -> ModelError:
    return ModelError(
        f"{spec.model} cannot be loaded: {str(error).splitlines()[0]}; check the name, the access to the hub "
        "(some models need a token) and `quantization` in the profile"
    )


def load_adapter(loaded: Loaded, folder: Path) -> Loaded:
    """The model with the PEFT adapter of a folder on top; safetensors only."""
    from peft import PeftModel

    return Loaded(PeftModel.from_pretrained(loaded.model, folder).eval(), loaded.tokenizer)


@contextlib.contextmanager
def with_adapter(loaded: Loaded, folder: Path | None) -> Iterator[Loaded]:
    """The model with the adapter of a folder for as long as this lasts; as it is without a folder."""
    if folder is None:
        yield loaded
        return
    adapted = load_adapter(loaded, folder)
    try:
        yield adapted
    finally:
        adapted.model.unload()


def _quiet_libraries() -> None:
    """Keeps bars and hints of libraries out of the terminal, where our own progress stands."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("bitsandbytes", "huggingface_hub", "transformers.integrations.bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)


def source_of(spec: ModelSpec) -> Path | str:
    """The folder of the model, or its hub name. Raises ModelError where a folder holds none."""
    if spec.model == EMBEDDED:
        return MODEL_FOLDER
    if spec.model[0] in "~./":
        folder = Path(spec.model).expanduser()
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no model there (a config.json is expected); correct `model` in the profile")
        return folder
    return spec.model


def _folder_digest(folder: Path) -> str:
    """Hash over the configuration and tokenizer, and over the weights' names, sizes and first and last megabyte."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja")):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _nf4(compute: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
