"""Finds, identifies and loads a model: the embedded one, a local folder, or a pinned hub name."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.embedded import CONTENT, MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.content import folder_digest
from synthpost_dagster.inference.peft_files import CONFIGURATION, WEIGHTS
from synthpost_dagster.inference.templates import TEMPLATE_DATE, ChatTemplate
from synthpost_dagster.inference.weights import check_weights
from synthpost_dagster.profiles.models import EMBEDDED, ModelSpec
from synthpost_dagster.runtime.devices import GIB, Device, free_gib, is_out_of_memory
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


DECODED_SHARE = 2.0
"""4-bit weights are decoded where so many times the decoded weights' size is free: the rest is for the work."""
BYTES = {"float32": 4, "bfloat16": 2}


NO_CODE = MappingProxyType({"trust_remote_code": False})
"""Code that lies beside a model is never run, and nobody is asked whether it may."""
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
_PLAIN_KEYS = frozenset({*TOKEN_KEYS, "transformers_version", "_from_model_config", "use_cache"})


class Loaded(NamedTuple):
    """A model on its device, its tokenizer, and the profile's `chat_template_kwargs`.

    `ignored` is what the model's generation_config.json would have made of sampling: the profile's sampling alone
    counts.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template_kwargs: Mapping[str, Any] = MappingProxyType({})
    ignored: Mapping[str, Any] = MappingProxyType({})

    @property
    def template(self) -> ChatTemplate:
        """How chats are written for it."""
        return ChatTemplate(self.tokenizer, self.template_kwargs)


def identity(spec: ModelSpec) -> dict[str, Any]:
    """What makes this model this model, for fingerprints: its commit or the content of its folder, and what its chat
    template is given.

    The packaged model's is a constant: seeds of its posts follow from it. Raises ModelError as `folder_digest` does.
    """
    source = source_of(spec)
    known: dict[str, Any] = {"model": spec.model, "quantization": spec.quantization, "dtype": spec.dtype}
    if spec.chat_template_kwargs:
        known["chat_template_kwargs"] = dict(spec.chat_template_kwargs)
    if spec.model == EMBEDDED:
        return {**known, "content": CONTENT}
    known["template_date"] = TEMPLATE_DATE.isoformat()
    if isinstance(source, Path):
        return {**known, "content": folder_digest(source)}
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


def check_files(spec: ModelSpec) -> None:
    """Raises ModelError where a model's folder cannot be loaded, by what lies there alone; see `check_weights`."""
    source = source_of(spec)
    if isinstance(source, Path):
        check_weights(source)


def load(spec: ModelSpec, device: Device) -> Loaded:
    """The model in evaluation mode on its device, in its dtype or quantization; see `ModelSpec.dequantize`.

    Raises ModelError naming the remedy.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _set_libraries_aside()
    check_files(spec)
    tokenizer = load_tokenizer(spec)
    settings: dict[str, Any] = {"dtype": getattr(torch, spec.dtype), "device_map": {"": device.name}}
    if spec.quantization == "nf4":
        settings["quantization_config"] = _nf4(getattr(torch, spec.dtype))
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            source_of(spec), **settings, **_pinned(spec), **NO_CODE, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise _unloadable(spec, error) from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{spec.model}: its weights lack {len(missing)} tensors, such as {missing[0]}, which would be drawn at "
            "random; use a complete model that writes text"
        )
    loads.made += 1
    if is_packed(model) and _may_be_decoded(spec, model, device):
        _decode(model, getattr(torch, spec.dtype))
    ignored = set_plain_generation(model, tokenizer)
    return Loaded(model.eval().requires_grad_(False), tokenizer, spec.chat_template_kwargs, ignored)


def set_plain_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Takes everything but the special tokens out of a model's generation configuration, and gives back what it was.

    Both ways of generating text then draw by the profile's sampling alone, and end at the same tokens.
    """
    from transformers import GenerationConfig

    given = model.generation_config
    ends = sorted(ends_of(given, tokenizer))
    model.generation_config = GenerationConfig(bos_token_id=given.bos_token_id, eos_token_id=ends)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return ignored_sampling(given)


def ignored_sampling(given: GenerationConfig) -> dict[str, Any]:
    """What a generation configuration says beside its special tokens."""
    said: dict[str, Any] = given.to_diff_dict()
    return {key: value for key, value in sorted(said.items()) if key not in _PLAIN_KEYS and value not in (None, False)}


def generation_config(spec: ModelSpec) -> GenerationConfig:
    """What the model says of generation, read without its weights. Raises ModelError where it cannot be read."""
    from transformers import AutoConfig, GenerationConfig

    source = source_of(spec)
    try:
        return GenerationConfig.from_pretrained(source, **_pinned(spec))
    except OSError:  # there is none: its configuration says it
        try:
            return GenerationConfig.from_model_config(AutoConfig.from_pretrained(source, **_pinned(spec), **NO_CODE))
        except (OSError, ValueError) as error:
            raise _unloadable(spec, error) from error
    except ValueError as error:
        raise _unloadable(spec, error) from error


def ends_of(given: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that end a reply: those of the generation configuration, and the tokenizer's end token."""
    said = getattr(given, "eos_token_id", None)
    ends = {*(said if isinstance(said, list) else [said]), tokenizer.eos_token_id}
    return {end for end in ends if end is not None}


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
        source = source_of(spec)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", **_pinned(spec), **NO_CODE)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise _unloadable(spec, error) from error
    if tokenizer.chat_template is None:
        raise ModelError(f"{spec.model} has no chat template; choose an instruct model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _pinned(spec: ModelSpec) -> dict[str, Any]:
    return {"revision": spec.revision} if spec.revision else {}


def _unloadable(spec: ModelSpec, error: Exception) -> ModelError:
    message = (str(error).splitlines() or [type(error).__name__])[0]
    if "custom code" in message:
        return ModelError(
            f"{spec.model} needs code of its own (auto_map in its configuration), which is never run; choose a model "
            "that transformers knows"
        )
    if "use_safetensors" in message or "safetensors`" in message:
        return ModelError(
            f"{spec.model} has no safetensors at this revision, and pickles are not read; choose a revision with them"
        )
    return ModelError(
        f"{spec.model} cannot be loaded: {message}; check the name, the access to the hub "
        "(some models need a token) and `quantization` in the profile"
    )


def load_adapter(loaded: Loaded, folder: Path) -> Loaded:
    """The model with the PEFT adapter of a folder on top. Raises ModelError where its weights are no safetensors."""
    from peft import PeftModel

    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {WEIGHTS} there, and pickles are not read; tune the cell again")
    return loaded._replace(model=PeftModel.from_pretrained(loaded.model, folder).eval())


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
        if (folder / CONFIGURATION).is_file():
            raise ModelError(
                f"{folder}: an adapter lies there ({CONFIGURATION}), which would be put on another model; merge the "
                "two into one folder, or remove the file"
            )
        return folder
    return spec.model


def _nf4(compute: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
