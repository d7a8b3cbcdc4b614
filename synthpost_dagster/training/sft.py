"""The trainer `trl`: tunes LoRA adapters on a loaded model with TRL's SFTTrainer and PEFT.

The trainer `unsloth` differs in how the model is loaded and wrapped, see `unsloth_sft`.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.inference.generate import chat, end_tokens
from synthpost_dagster.inference.models import Loaded, is_packed, load
from synthpost_dagster.inference.templates import check_template
from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.profiles.models import ModelSpec
from synthpost_dagster.runtime.devices import Device, free_memory, is_out_of_memory
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.training import adapter
from synthpost_dagster.training.checkpoints import Checkpoints, run
from synthpost_dagster.training.conversations import Conversation, check_supervision, supervision, tokenized
from synthpost_dagster.training.fitting import Layout, first_index, is_mixed, layouts

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.training.joint_lora import JointProjections


CHECKED_ROWS = 3
"""Rows whose prompt in generation is compared with the trained conversation."""


class Tuned(NamedTuple):
    """The result of a training: loss curve (schema LossCurve), learned tokens (schema Supervision), memory layout, and
    the steps done now rather than before a checkpoint.
    """

    curve: pd.DataFrame
    supervision: pd.DataFrame
    layout: Layout
    steps_now: int


class Job(NamedTuple):
    """One training: rows (schema DataSubsets), optimizer steps, and hyper-parameters."""

    rows: pd.DataFrame
    steps: int
    spec: TrainingSpec
    system_prompt: str | None


class Tuner:
    """Tunes one adapter after another on a loaded model, and restores the model when it is closed.

    It is a context manager. `steps` is the number of all steps that it will train; it decides whether to compile.
    """

    def __init__(self, loaded: Loaded, base_name: str, spec: TrainingSpec, steps: int, device: Device) -> None:
        self.loaded, self.base_name, self.device, self._steps = loaded, base_name, device, steps
        self._attention, self._use_cache = loaded.model.config._attn_implementation, loaded.model.config.use_cache
        if spec.precision == "float8":
            from synthpost_dagster.training import float8

            float8.check_model(loaded.model, spec, device)
        self._is_packed = is_packed(loaded.model)
        self.model = self._wrapped(spec)
        self._is_compiled = False
        self._joints: JointProjections | None = None
        self._last: tuple[Job, list[Conversation], pd.DataFrame] | None = None
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def load(spec: ModelSpec, training: TrainingSpec, device: Device) -> Loaded:
        """Loads the student for this trainer."""
        del training
        return load(spec, device)

    def tune(self, job: Job, folder: Path, checkpoints: Checkpoints, progress: Progress) -> Tuned:
        """Tunes for `job.steps` steps, from the last checkpoint if there is one, and writes the adapter to `folder`.

        Out of memory leads to the next smaller layout. Before the first step it raises SynthpostError if there are no
        rows or `check_supervision` refuses one, and ModelError if the chat template does not suit training. Later it
        raises SynthpostError if a loss is not finite, and DeviceError if not even one row fits. Then nothing is left in
        `folder` or on the device.
        """
        if job.rows.empty:
            raise SynthpostError("there are no training rows; make rows first, or choose another data size")
        _, learned = self._prepared(job)
        check_supervision(learned, job.spec.max_length)
        chats = [chat(text, job.system_prompt) for text in job.rows["student_prompt"].head(CHECKED_ROWS)]
        check_template(self.loaded.template, chats, is_trained=True, ends=end_tokens(self.loaded))
        self._show(learned["learned"].iloc[0], progress)
        for layout in self._layouts(job.spec, checkpoints):
            precision = ", frozen products in 8 bits" if job.spec.precision == "float8" else ""
            progress.note(f"training {layout.text}, {job.spec.rows_per_step} rows a step{precision}")
            if (result := self._trained(job, layout, checkpoints, progress)) is not None:
                curve, steps_now = result
                with writing(folder):
                    adapter.save(self.model, self.base_name, folder)
                return Tuned(curve, learned, layout, steps_now)
            progress.note(f"{self.device.label} ran out of memory with {layout.text}")
        raise DeviceError(
            f"{self.device.label} has too little memory even for one row at a time; lower training.max_length or "
            "training.lora.r, or set student.quantization: nf4 in the profile"
        )

    def _prepared(self, job: Job) -> tuple[list[Conversation], pd.DataFrame]:
        """The rows as tokens and what they teach; kept for the next job, which may differ in steps and seed only."""
        if self._last is None or not _has_same_rows(job, self._last[0]):
            conversations = tokenized(job.rows, self.loaded.template, job.spec.loss, job.system_prompt)
            posts, collator = list(job.rows["post"]), self._collator(job.spec, conversations, 1)
            learned = supervision(conversations, posts, collator, self.loaded.tokenizer, end_tokens(self.loaded))
            self._last = job, conversations, learned
        return self._last[1:]

    def _show(self, text: str, progress: Progress) -> None:
        """Reports what the first row teaches; once, since nested data subsets begin with the same row."""
        if text != self._shown:
            progress.note(f"the first row teaches: {text!r}")
        self._shown = text

    @contextlib.contextmanager
    def as_loaded(self) -> Iterator[None]:
        """The model with its adapter and otherwise as loaded; compiled layers are kept for the next training."""
        layers = self._layers
        compiled = [layer._compiled_call_impl for layer in layers]
        self.loaded.model.set_attn_implementation(self._attention)
        for layer in layers:
            layer._compiled_call_impl = None
        try:
            yield
        finally:
            for layer, call in zip(layers, compiled, strict=True):
                layer._compiled_call_impl = call

    def close(self) -> None:
        """Removes the adapter and restores the model."""
        self._compile(False)
        self.model.unload()
        self.loaded.model.set_attn_implementation(self._attention)
        self.loaded.model.config.use_cache = self._use_cache
        self.loaded.model.eval()
        del self.model
        free_memory(self.device)

    def _wrapped(self, spec: TrainingSpec) -> Any:
        from peft import get_peft_model

        adapter.check_targets(self.loaded.model, spec.lora.target_modules)
        return get_peft_model(self.loaded.model, adapter.lora_config(spec.lora))

    def _is_padding_free(self, spec: TrainingSpec) -> bool:
        from synthpost_dagster.training.padding_free import is_supported

        return spec.padding_free and is_supported(self.loaded.model, spec.lora.target_modules)

    def _collator(self, spec: TrainingSpec, conversations: Sequence[Conversation], rows: int) -> Any:
        """The collator for micro-batches of at most `rows` of the conversations."""
        from synthpost_dagster.training.padding_free import RowsCollator

        if self._is_padding_free(spec):
            longest = max((len(one.input_ids) for one in conversations), default=0)
            return RowsCollator(rows, longest, is_padded=self.device.name != "cpu")
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        return DataCollatorForLanguageModeling(pad_token_id=self.loaded.tokenizer.pad_token_id)

    def _layouts(self, spec: TrainingSpec, checkpoints: Checkpoints) -> list[Layout]:
        """The layouts to try, beginning with that of the last checkpoint if there is one."""
        free_memory(self.device)
        # A model that is not supported is padded even if the profile says otherwise.
        actual = spec.model_copy(update={"padding_free": self._is_padding_free(spec)})
        found = layouts(actual, self._steps, self.device.name != "cpu", self._is_packed)
        return found[first_index(found, checkpoints.last_layout()) :]

    def _trained(
        self, job: Job, layout: Layout, checkpoints: Checkpoints, progress: Progress
    ) -> tuple[pd.DataFrame, int] | None:
        """The result of `run`; None if memory ran out."""
        # With gradient checkpointing TRL and transformers each add a hook here and never remove it.
        hooks: dict[int, Any] = self.loaded.model.get_input_embeddings()._forward_hooks
        before, trainer = set(hooks), None
        result: tuple[pd.DataFrame, int] | None = None
        try:
            checkpoints.layout = layout.memory_text
            trainer = self._trainer(job, layout, checkpoints, progress)
            result = run(trainer, checkpoints, progress, job.steps)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        finally:
            if trainer is not None:
                trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
                trainer.accelerator.free_memory()
            self.model.zero_grad(set_to_none=True)
            self.loaded.model.gradient_checkpointing_disable()
            for hook in set(hooks) - before:
                del hooks[hook]
            del trainer
            free_memory(self.device)
            if self._joints is not None:
                self._joints.dissolve()
                self._joints = None
                free_memory(self.device)
        return result

    def _trainer(self, job: Job, layout: Layout, checkpoints: Checkpoints, progress: Progress) -> Any:
        """TRL's trainer on an initialized adapter."""
        from datasets import Dataset, disable_progress_bars
        from transformers import PrinterCallback, set_seed
        from trl import SFTTrainer

        from synthpost_dagster.training.trl_trainers import PaddingFreeTrainer, Watch, sft_config

        disable_progress_bars()
        logging.getLogger("trl").setLevel(logging.ERROR)
        set_seed(job.spec.seed)
        self._lay_out(layout)
        conversations, _ = self._prepared(job)
        is_padding_free = self._is_padding_free(job.spec)
        if is_padding_free:
            self._join(job.spec)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            trainer = (PaddingFreeTrainer if is_padding_free else SFTTrainer)(
                model=self.model,
                args=sft_config(job.spec, layout, job.steps, checkpoints.folder, self.device.name),
                train_dataset=Dataset.from_list([one._asdict() for one in conversations]),
                data_collator=self._collator(job.spec, conversations, layout.micro_batch),
                processing_class=self.loaded.tokenizer,
                callbacks=[Watch(checkpoints, progress, job.steps)],
            )
        trainer.remove_callback(PrinterCallback)
        adapter.initialize(self.model, job.spec.seed)
        return trainer

    def _lay_out(self, layout: Layout) -> None:
        """Applies the part of the layout that TRL's arguments do not cover."""
        self._compile(layout.is_compiled)

    def _compile(self, is_compiled: bool) -> None:
        """Compiles each decoder layer, or undoes that."""
        if is_compiled == self._is_compiled:
            return
        for layer in self._layers:
            layer._compiled_call_impl = None
            if is_compiled:
                layer.compile()
        self._is_compiled = is_compiled

    def _join(self, spec: TrainingSpec) -> None:
        """Joins projections that read the same input, in the profile's precision."""
        import torch

        from synthpost_dagster.training.float8 import Float8Joint
        from synthpost_dagster.training.joint_lora import Joint, JointProjections

        dtype = torch.bfloat16 if is_mixed(spec, self.device.name) else torch.float32
        kind = Float8Joint if spec.precision == "float8" else Joint
        self._joints = JointProjections(self.loaded.model.model, dtype, kind)
        try:
            self._joints.join()
        except RuntimeError as error:
            if kind is Joint or not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"training.precision: float8: {self.device.label} has too little memory for float8 copies of the "
                "frozen weights; choose bfloat16 in the profile"
            ) from error
        free_memory(self.device)

    @property
    def _layers(self) -> list[Any]:
        """The decoder's layers if they are where LLaMA has them; other models are never compiled."""
        return list(getattr(getattr(self.loaded.model, "model", None), "layers", ()))


def _has_same_rows(job: Job, other: Job) -> bool:
    """Whether two jobs learn the same tokens; steps and seed may differ."""
    spec = other.spec.model_copy(update={"seed": job.spec.seed})
    return (job.spec, job.system_prompt) == (spec, other.system_prompt) and job.rows.equals(other.rows)
