"""The trainer `unsloth`: Unsloth's model and kernels under TRL's SFTTrainer.

Importing Unsloth replaces parts of transformers, TRL and PEFT for the whole process: see `trainers.APART`.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.models import (
    NO_CODE,
    Loaded,
    check_files,
    load_tokenizer,
    loads,
    set_plain_generation,
    source_of,
)
from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.profiles.models import ModelSpec
from synthpost_dagster.runtime.devices import Device
from synthpost_dagster.training.sft import Tuner

if TYPE_CHECKING:
    from synthpost_dagster.training.fitting import Layout


class UnslothTuner(Tuner):
    """`Tuner` with Unsloth's model, adapter and gradient checkpointing."""

    @staticmethod
    def load(spec: ModelSpec, training: TrainingSpec, device: Device) -> Loaded:
        """Loads the student with Unsloth. Raises ModelError without Unsloth or without a GPU."""
        if device.name == "cpu":
            raise ModelError("training.trainer: unsloth needs an NVIDIA GPU; set it to trl in the profile")
        # Unsloth writes the trainers that it patches, by default into the working directory.
        os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", tempfile.mkdtemp(prefix="synthpost-unsloth-"))
        try:
            from unsloth import FastLanguageModel
        except ImportError as error:
            raise ModelError(
                f"training.trainer: unsloth cannot be imported ({error}); install the extra `gpu`, or set it to trl"
            ) from error
        import torch

        check_files(spec)
        tokenizer = load_tokenizer(spec)
        # Its attention ignores the mask in training, so padding has to come last.
        tokenizer.padding_side = "right"
        model, _ = FastLanguageModel.from_pretrained(
            str(source_of(spec)),
            max_seq_length=training.max_length,
            dtype=getattr(torch, spec.dtype),
            load_in_4bit=spec.quantization == "nf4" or spec.model.endswith("bnb-4bit"),
            revision=spec.revision,
            use_exact_model_name=True,
            use_safetensors=True,
            **NO_CODE,
        )
        loads.made += 1
        return Loaded(model, tokenizer, spec.chat_template_kwargs, set_plain_generation(model, tokenizer))

    def _wrapped(self, spec: TrainingSpec) -> Any:
        from unsloth import FastLanguageModel

        lora = spec.lora
        return FastLanguageModel.get_peft_model(
            self.loaded.model,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias=lora.bias,
            target_modules=list(lora.target_modules),
            use_gradient_checkpointing="unsloth" if spec.gradient_checkpointing is not False else False,
            random_state=spec.seed,
            max_seq_length=spec.max_length,
        )

    def _is_padding_free(self, spec: TrainingSpec) -> bool:
        """False: Unsloth decides by itself."""
        del spec
        return False

    def _lay_out(self, layout: Layout) -> None:
        from unsloth import FastLanguageModel

        FastLanguageModel.for_training(self.model, use_gradient_checkpointing=layout.gradient_checkpointing)
