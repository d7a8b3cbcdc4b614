"""The profile's hyper-parameters as TRL's arguments. Imports TRL only when they are made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.training.fitting import Layout

if TYPE_CHECKING:
    from trl import SFTConfig


def is_mixed(spec: TrainingSpec, device: str) -> bool:
    """Whether products are made in bfloat16 under autocast, the adapters staying in float32."""
    return spec.precision != "float32" and device != "cpu"


def sft_config(spec: TrainingSpec, layout: Layout, steps: int, folder: Path, device: str) -> SFTConfig:
    """The arguments for a training; what TRL would choose by itself is set here."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=layout.micro_batch,
        gradient_accumulation_steps=spec.rows_per_step // layout.micro_batch,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.scheduler,
        warmup_steps=spec.warmup_steps,
        weight_decay=spec.weight_decay,
        optim=spec.optimizer,
        seed=spec.seed,
        max_length=spec.max_length,
        packing=spec.packing,
        completion_only_loss=spec.loss == "completion",
        # TRL's default puts another forward pass on the model, and leaves it there.
        loss_type="nll",
        gradient_checkpointing=layout.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": spec.lora.dropout > 0},
        max_grad_norm=spec.max_grad_norm,
        bf16=is_mixed(spec, device),
        use_cpu=device == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device != "cpu",
        # A copy that blocks waits until the GPU has ended the step before.
        accelerator_config={"non_blocking": device != "cpu"},
        average_tokens_across_devices=False,
    )
