"""TRL's SFTTrainer: its arguments, a subclass without padding, and the callback of every trainer.

Imports torch, transformers and TRL.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.training.checkpoints import Checkpoints, check_loss
from synthpost_dagster.training.fitting import Layout, is_mixed
from synthpost_dagster.training.padding_free import ATTENTION, chunk_loss, learned_loss

FETCH_STEPS = 10
"""Losses are fetched from the device at this interval: a fetch at every step would make the GPU wait for Python."""


def sft_config(spec: TrainingSpec, layout: Layout, steps: int, folder: Path, device: str) -> SFTConfig:
    """TRL's arguments for a training."""
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
        # TRL's default permanently replaces the model's forward pass.
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
        # A blocking copy waits until the GPU has finished the previous step.
        accelerator_config={"non_blocking": device != "cpu"},
        average_tokens_across_devices=False,
    )


class Watch(TrainerCallback):
    """Reports every step, stops at a loss that is not finite, and requests checkpoints when they are due."""

    def __init__(self, checkpoints: Checkpoints, progress: Progress, steps: int) -> None:
        self._checkpoints, self._progress, self._steps = checkpoints, progress, steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the first step."""
        self._progress.update("training", state.global_step, self._steps, "steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the step, and requests a checkpoint if one is due."""
        self._progress.update("training", state.global_step, self._steps, "steps")
        control.should_save = self._checkpoints.is_due() and state.global_step < self._steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Raises SynthpostError if a loss is not finite."""
        if "loss" in (logs or {}):
            check_loss(state.global_step, float(logs["loss"]))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Marks the checkpoint as complete."""
        self._checkpoints.complete(state.global_step)


class PaddingFreeTrainer(SFTTrainer):
    """SFTTrainer without padding (`padding_free`), in steps that never make the GPU wait for Python.

    It reads nothing from the device at every step, and avoids transformers' walks over all modules at every step:
    LLaMA 3 8B with adapters has 2,600 modules.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.args.logging_strategy = "no"
        self.model_accepts_loss_kwargs = True
        self._causal = self.model.get_base_model()
        self._causal.set_attn_implementation(ATTENTION)
        self._chunk_loss = chunk_loss
        if getattr(self._causal.model.layers[0], "_compiled_call_impl", None) is not None:
            self._chunk_loss = torch.compile(chunk_loss, dynamic=True)
        self._weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.model.train()
        self._micro: list[Tensor] = []
        self._pending: list[tuple[int, float, Tensor]] = []

    def train(self, *arguments: Any, **more: Any) -> Any:
        """Trains with a `zero_grad` that does not walk over all modules."""
        self.model.zero_grad = self._zero_grad
        try:
            return super().train(*arguments, **more)
        finally:
            del self.model.zero_grad

    def _zero_grad(self) -> None:
        for weight in self._weights:
            weight.grad = None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Adds the gradients of a micro-batch, and returns its loss."""
        loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        torch.autograd.backward(loss)
        return loss.detach()

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Clips the adapter's gradients to `max_grad_norm`, and returns their norm before."""
        del model
        return torch.nn.utils.clip_grad_norm_(self._weights, self.args.max_grad_norm)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The micro-batch's part of the step's loss."""
        del model, return_outputs
        loss = learned_loss(self._causal, inputs, num_items_in_batch, self._chunk_loss, self.args.bf16)
        self._micro.append(loss.detach())
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """0: transformers would walk over all parameters at every step."""
        del inputs
        return 0

    def _maybe_log_save_evaluate(self, *arguments: Any, **more: Any) -> None:
        """Records the step's loss before a checkpoint saves the history."""
        if self._micro:
            self._pending.append((self.state.global_step, more["learning_rate"], torch.stack(self._micro).sum()))
            self._micro = []
        is_last = self.state.global_step >= self.state.max_steps
        if self._pending and (len(self._pending) >= FETCH_STEPS or self.control.should_save or is_last):
            self._fetch()
        super()._maybe_log_save_evaluate(*arguments, **more)

    def _fetch(self) -> None:
        losses = torch.stack([loss for _, _, loss in self._pending]).tolist()
        for (step, rate, _), loss in zip(self._pending, losses, strict=True):
            check_loss(step, loss)
            self.state.log_history.append({"step": step, "loss": loss, "learning_rate": rate})
        self._pending = []
