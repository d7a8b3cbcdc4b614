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
from synthpost_dagster.inference.content import check_weights, folder_digest
from synthpost_dagster.inference.peft_files import CONFIGURATION, WEIGHTS
from synthpost_dagster.inference.templates import TEMPLATE_DATE, ChatTemplate
from synthpost_dagster.profiles.models import EMBEDDED, ModelSpec
from synthpost_dagster.runtime.devices import GIB, Device, free_gib, is_out_of_memory
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


MIN_FREE_SHARE = 2.0
"""4-bit weights are decoded if this multiple of the decoded size is free; the rest is working memory."""
BYTES = {"float32": 4, "bfloat16": 2}
NO_CODE = MappingProxyType({"trust_remote_code": False})
"""Code in a model's folder is never run, and transformers does not ask for permission."""
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
_PLAIN_KEYS = frozenset({*TOKEN_KEYS, "transformers_version", "_from_model_config", "use_cache"})


class Loaded(NamedTuple):
    """A model on its device, its tokenizer, and the profile's `chat_template_kwargs`.

    `ignored` is the sampling in the model's generation_config.json: only the profile's sampling is used.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template_kwargs: Mapping[str, Any] = MappingProxyType({})
    ignored: Mapping[str, Any] = MappingProxyType({})

    @property
    def template(self) -> ChatTemplate:
        """The chat template with these arguments."""
        return ChatTemplate(self.tokenizer, self.template_kwargs)


def identity(spec: ModelSpec) -> dict[str, Any]:
    """The model's part of fingerprints: its commit or the digest of its folder, and its chat template's arguments.

    The packaged model has a constant, because the seeds of its posts depend on it. Raises ModelError like
    `folder_digest`.
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
    """Raises ModelError if the embedded model was not trained on the task's wording."""
    if spec.model != EMBEDDED or is_allowed:
        return
    trained = json.loads((MODEL_FOLDER / "synthpost.json").read_text(encoding="utf-8"))["wording_fingerprint"]
    if trained != task.wording_fingerprint:
        raise ModelError(
            f"the embedded model was not trained on the templates, factors and criteria of {task.folder}: its "
            "posts would be noise; use another profile, or set allow_untrained_task: true in the profile"
        )


def check_files(spec: ModelSpec) -> None:
    """Raises ModelError if the files in a model's folder cannot be loaded; see `check_weights`."""
    source = source_of(spec)
    if isinstance(source, Path):
        check_weights(source)


def load(spec: ModelSpec, device: Device) -> Loaded:
    """The model in evaluation mode on its device, in its dtype or quantization; see `ModelSpec.dequantize`.

    Raises ModelError if it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _freeze_libraries()
    check_files(spec)
    tokenizer = load_tokenizer(spec)
    dtype = getattr(torch, spec.dtype)
    settings: dict[str, Any] = {"dtype": dtype, "device_map": {"": device.name}}
    if spec.quantization == "nf4":
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        settings["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, **nf4)
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
            f"{spec.model}: its weights lack {len(missing)} tensors, such as {missing[0]}, which would be initialized "
            "at random; use a complete model for text generation"
        )
    loads.made += 1
    if is_packed(model) and _should_decode(spec, model, device):
        model.dequantize(dtype=dtype)  # the same results in less time
    ignored = set_plain_generation(model, tokenizer)
    return Loaded(model.eval().requires_grad_(False), tokenizer, spec.chat_template_kwargs, ignored)


def set_plain_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Reduces a model's generation configuration to its special tokens, and returns the sampling that it had.

    The engine and `generate` then use only the profile's sampling, and end at the same tokens.
    """
    from transformers import GenerationConfig

    given = model.generation_config
    ends = sorted(ends_of(given, tokenizer))
    model.generation_config = GenerationConfig(bos_token_id=given.bos_token_id, eos_token_id=ends)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return ignored_sampling(given)


def ignored_sampling(given: GenerationConfig) -> dict[str, Any]:
    """The settings of a generation configuration other than its special tokens."""
    found: dict[str, Any] = given.to_diff_dict()
    return {key: value for key, value in sorted(found.items()) if key not in _PLAIN_KEYS and value not in (None, False)}


def generation_config(spec: ModelSpec) -> GenerationConfig:
    """The model's generation configuration, without its weights. Raises ModelError if it cannot be read."""
    from transformers import AutoConfig, GenerationConfig

    source = source_of(spec)
    try:
        try:
            return GenerationConfig.from_pretrained(source, **_pinned(spec))
        except OSError:  # there is none, so the model's configuration is used
            return GenerationConfig.from_model_config(AutoConfig.from_pretrained(source, **_pinned(spec), **NO_CODE))
    except (OSError, ValueError) as error:
        raise _unloadable(spec, error) from error


def ends_of(given: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that end a reply: those of the generation configuration, and the tokenizer's end token."""
    own = getattr(given, "eos_token_id", None)
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id}
    return {end for end in ends if end is not None}


@cache
def _freeze_libraries() -> None:
    """Excludes the objects loaded so far from garbage collection, once, before the first model.

    Trainings, leases and accelerate collect garbage often; the libraries' 600,000 objects take most of that time.
    """
    gc.collect()
    gc.freeze()


@dataclass
class Loads:
    """Counts the models that this process has loaded."""

    made: int = 0


loads = Loads()


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the weights are 4-bit codes of bitsandbytes. `is_loaded_in_4bit` stays true for a decoded model."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return False
    from bitsandbytes.nn import Linear4bit

    return any(isinstance(module, Linear4bit) for module in model.modules())


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode for the duration of the context; afterwards every module has its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _should_decode(spec: ModelSpec, model: PreTrainedModel, device: Device) -> bool:
    if spec.dequantize != "auto":
        return spec.dequantize
    decoded_gib = int(model.num_parameters()) * BYTES[spec.dtype] / GIB
    return free_gib(device) > MIN_FREE_SHARE * decoded_gib


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding left. Raises ModelError if it cannot be loaded or has no chat template."""
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("bitsandbytes", "huggingface_hub", "transformers.integrations.bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
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
            "that transformers supports"
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
    """The model with the PEFT adapter of a folder. Raises ModelError if its weights are not safetensors."""
    from peft import PeftModel

    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {WEIGHTS} there, and pickles are not read; train the cell again")
    return loaded._replace(model=PeftModel.from_pretrained(loaded.model, folder).eval())


@contextlib.contextmanager
def with_adapter(loaded: Loaded, folder: Path | None) -> Iterator[Loaded]:
    """The model with the adapter of a folder for the duration of the context; the plain model without a folder."""
    if folder is None:
        yield loaded
        return
    adapted = load_adapter(loaded, folder)
    try:
        yield adapted
    finally:
        adapted.model.unload()


def source_of(spec: ModelSpec) -> Path | str:
    """The folder of the model, or its hub name. Raises ModelError if a folder has no model."""
    if spec.model == EMBEDDED:
        return MODEL_FOLDER
    if spec.model[0] in "~./":
        folder = Path(spec.model).expanduser()
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no model there (a config.json is expected); correct `model` in the profile")
        if (folder / CONFIGURATION).is_file():
            raise ModelError(
                f"{folder}: has a model and an adapter ({CONFIGURATION}), which would load another base model; merge "
                "the two, or remove the file"
            )
        return folder
    return spec.model
