"""TRL's SFTTrainer without padding, and what watches any trainer.

Imports torch, transformers and TRL, so it is imported where a trainer is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import SFTTrainer

from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.padding_free import ATTENTION, learned_loss, piece_loss
from synthpost_dagster.training.running import refuse_infinite

FETCHED = 10
"""Losses stay on the device for so many steps: fetching each would let the GPU wait for Python at every step."""


class Watch(TrainerCallback):
    """Tells of every step, stops at a loss that is not a number, and has checkpoints written in time."""

    def __init__(self, checkpoints: Checkpoints, progress: Progress, steps: int) -> None:
        self._checkpoints, self._progress, self._steps = checkpoints, progress, steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From which step it goes on."""
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Progress, and whether a checkpoint is due."""
        self._tell(state)
        control.should_save = self._checkpoints.is_due() and state.global_step < self._steps

    def _tell(self, state: Any) -> None:
        self._progress.update("training", state.global_step, self._steps, "steps")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Raises SynthpostError where a loss is not a number."""
        if "loss" in (logs or {}):
            refuse_infinite(state.global_step, float(logs["loss"]))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The checkpoint of this step is there."""
        self._checkpoints.written(state.global_step)


class PaddingFreeTrainer(SFTTrainer):
    """Rows end to end (`padding_free`), in steps that never let the GPU wait for Python.

    Nothing is read from the device at every step, and what transformers does at every step by going through all modules
    is done once or not at all: a LLaMA 3 8B with adapters has 2,600 modules.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.args.logging_strategy = "no"
        self.model_accepts_loss_kwargs = True
        self._causal = self.model.get_base_model()
        self._causal.set_attn_implementation(ATTENTION)
        self._one = piece_loss
        if getattr(self._causal.model.layers[0], "_compiled_call_impl", None) is not None:
            self._one = torch.compile(piece_loss, dynamic=True)
        self._weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.model.train()
        self._micro: list[Tensor] = []
        self._waiting: list[tuple[int, float, Tensor]] = []

    def train(self, *arguments: Any, **more: Any) -> Any:
        """As transformers has it, but that gradients are let go without looking for them in all modules."""
        self.model.zero_grad = self._zero_grad
        try:
            return super().train(*arguments, **more)
        finally:
            del self.model.zero_grad

    def _zero_grad(self) -> None:
        for weight in self._weights:
            weight.grad = None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The gradients of a micro-batch; its loss."""
        loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        torch.autograd.backward(loss)
        return loss.detach()

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Scales the adapter's gradients down to `max_grad_norm`; their norm before."""
        del model
        return torch.nn.utils.clip_grad_norm_(self._weights, self.args.max_grad_norm)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The micro-batch's part of the step's loss."""
        del model, return_outputs
        loss = learned_loss(self._causal, inputs, num_items_in_batch, self._one, self.args.bf16)
        self._micro.append(loss.detach())
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers goes through all parameters for it at every step."""
        del inputs
        return 0

    def _maybe_log_save_evaluate(self, *arguments: Any, **more: Any) -> None:
        """Puts the step's loss down, before a checkpoint takes the history with it."""
        if self._micro:
            self._waiting.append((self.state.global_step, more["learning_rate"], torch.stack(self._micro).sum()))
            self._micro = []
        is_last = self.state.global_step >= self.state.max_steps
        if self._waiting and (len(self._waiting) >= FETCHED or self.control.should_save or is_last):
            self._fetch()
        super()._maybe_log_save_evaluate(*arguments, **more)

    def _fetch(self) -> None:
        losses = torch.stack([loss for _, _, loss in self._waiting]).tolist()
        for (step, rate, _), loss in zip(self._waiting, losses, strict=True):
            refuse_infinite(step, loss)
            self.state.log_history.append({"step": step, "loss": loss, "learning_rate": rate})
        self._waiting = []
