"""Tunes LoRA adapters on a loaded model with TRL's SFTTrainer and PEFT: the trainer `trl`.

The trainer `unsloth` is the same but for how the model is loaded and wrapped, see `unsloth_sft`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.errors import DeviceError, SynthpostError
from synthpost_dagster.inference.generate import chat, end_tokens
from synthpost_dagster.inference.models import Loaded, is_packed, load
from synthpost_dagster.inference.templates import check_template
from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.profiles.models import ModelSpec
from synthpost_dagster.runtime.devices import Device, is_out_of_memory
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.training import adapter
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.conversations import Conversation, tokenized
from synthpost_dagster.training.fitting import Layout, first_index, layouts
from synthpost_dagster.training.running import Ran, run
from synthpost_dagster.training.supervision import refuse_untaught, supervision
from synthpost_dagster.training.trl_arguments import is_mixed, sft_config

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.training.joint_lora import JointProjections


CHECKED_ROWS = 3
"""Rows whose prompt at generation is compared with what is trained."""


class Tuned(NamedTuple):
    """The loss curve (schema LossCurve), what of each row was learned (schema Supervision), how it was laid out, and
    how many of the steps were done now: the others were, before a checkpoint.
    """

    curve: pd.DataFrame
    supervision: pd.DataFrame
    layout: Layout
    steps_now: int


class Job(NamedTuple):
    """One training: rows (schema DataSubsets), optimizer steps, and the hyper-parameters with their seed."""

    rows: pd.DataFrame
    steps: int
    spec: TrainingSpec
    system_prompt: str | None


class _Prepared(NamedTuple):
    """A training's rows as tokens, and what of each is learned (schema Supervision)."""

    job: Job
    conversations: list[Conversation]
    supervision: pd.DataFrame


def _is_alike(job: Job, other: Job) -> bool:
    """Whether the same is learned from the same rows, under whatever seed and for however long."""
    spec = other.spec.model_copy(update={"seed": job.spec.seed})
    return (job.spec, job.system_prompt) == (spec, other.system_prompt) and job.rows.equals(other.rows)


class Tuner:
    """Tunes one adapter after another on a loaded model, which is as it was once the tuner is closed.

    Used as a context. `steps` are all that will be trained with it: they decide whether compiling pays.
    """

    def __init__(self, loaded: Loaded, base_name: str, spec: TrainingSpec, steps: int, device: Device) -> None:
        self.loaded, self.base_name, self.device, self._steps = loaded, base_name, device, steps
        self._attention, self._use_cache = loaded.model.config._attn_implementation, loaded.model.config.use_cache
        if spec.precision == "float8":
            from synthpost_dagster.training import float8

            float8.refuse(loaded.model, spec, device)
        self._is_packed = is_packed(loaded.model)
        self.model = self._wrapped(spec)
        self._is_compiled = False
        self._joints: JointProjections | None = None
        self._last: _Prepared | None = None
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @staticmethod
    def load(spec: ModelSpec, training: TrainingSpec, device: Device) -> Loaded:
        """The student, loaded as this trainer wants it."""
        del training
        return load(spec, device)

    def tune(self, job: Job, folder: Path, checkpoints: Checkpoints, progress: Progress) -> Tuned:
        """Tunes for `job.steps` optimizer steps, from the last checkpoint on where there is one; the adapter is left in
        `folder`.

        Out of memory halves the micro-batch. Raises SynthpostError where there is no row, or where one teaches nothing
        or not when to stop, before any step, and where the loss is not a number; ModelError where the chat template's
        prompt is not the beginning of what is trained; DeviceError where memory does not
        suffice. Nothing is left in `folder` then, and nothing on the device.
        """
        if job.rows.empty:
            raise SynthpostError("there are no training rows; make rows first, or choose another data size")
        _, conversations, learned = self._prepared(job)
        refuse_untaught(learned, job.spec.max_length)
        asked = [chat(text, job.system_prompt) for text in job.rows["student_prompt"].head(CHECKED_ROWS)]
        check_template(self.loaded.template, asked, is_trained=True, ends=end_tokens(self.loaded))
        self._show(learned["learned"].iloc[0], progress)
        for layout in self._layouts(job.spec, checkpoints):
            how = ", frozen products in 8 bits" if job.spec.precision == "float8" else ""
            progress.note(f"training {layout.text}, {job.spec.rows_per_step} rows a step{how}")
            if (ran := self._trained(job, conversations, layout, checkpoints, progress)) is not None:
                with writing(folder):
                    adapter.save(self.model, self.base_name, folder)
                return Tuned(ran.curve, learned, layout, ran.steps)
            progress.note(f"{self.device.label} ran out of memory with {layout.text}")
        raise DeviceError(
            f"{self.device.label} has too little memory even for one row at a time; lower training.max_length or "
            "training.lora.r, or set student.quantization: nf4 in the profile"
        )

    def _prepared(self, job: Job) -> _Prepared:
        """A training's rows, tokenized; kept for the next one, since a data size is trained for several lengths."""
        if self._last is None or not _is_alike(job, self._last.job):
            conversations = tokenized(job.rows, self.loaded.template, job.spec.loss, job.system_prompt)
            self._last = _Prepared(job, conversations, self._supervision(job, conversations))
        return self._last

    def _show(self, text: str, progress: Progress) -> None:
        """Tells what a row teaches, once: data subsets are nested, so that most trainings begin with the same row."""
        if text != self._shown:
            progress.note(f"the first row teaches: {text!r}")
        self._shown = text

    @contextlib.contextmanager
    def as_loaded(self) -> Iterator[None]:
        """Within it, the model has its adapter and is otherwise as loaded. What is compiled is kept for the next
        training, which sees to attention itself.
        """
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
        """Takes the adapter off, and all that was put on the model for it."""
        self._compile(False)
        self.model.unload()
        self.loaded.model.set_attn_implementation(self._attention)
        self.loaded.model.config.use_cache = self._use_cache
        self.loaded.model.eval()
        del self.model
        self._free()

    def _wrapped(self, spec: TrainingSpec) -> Any:
        from peft import get_peft_model

        adapter.refuse_targets(self.loaded.model, spec.lora.target_modules)
        return get_peft_model(self.loaded.model, adapter.lora_config(spec.lora))

    def _trainer_class(self, spec: TrainingSpec) -> type:
        from trl import SFTTrainer

        from synthpost_dagster.training.trl_trainers import PaddingFreeTrainer

        found: type = PaddingFreeTrainer if self._is_padding_free(spec) else SFTTrainer
        return found

    def _is_padding_free(self, spec: TrainingSpec) -> bool:
        from synthpost_dagster.training.padding_free import suits

        return spec.padding_free and suits(self.loaded.model, spec.lora.target_modules)

    def _collator(self, spec: TrainingSpec, conversations: Sequence[Conversation], rows: int) -> Any:
        """For micro-batches of at most `rows` of the conversations."""
        from synthpost_dagster.training.padding_free import RowsCollator

        if self._is_padding_free(spec):
            longest = max((len(one.input_ids) for one in conversations), default=0)
            return RowsCollator(rows, longest, is_filled=self.device.name != "cpu")
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        return DataCollatorForLanguageModeling(pad_token_id=self.loaded.tokenizer.pad_token_id)

    def _supervision(self, job: Job, conversations: Sequence[Conversation]) -> pd.DataFrame:
        posts, collator = list(job.rows["post"]), self._collator(job.spec, conversations, 1)
        return supervision(conversations, posts, collator, self.loaded.tokenizer, end_tokens(self.loaded))

    def _layouts(self, spec: TrainingSpec, checkpoints: Checkpoints) -> list[Layout]:
        """The layouts to try, from that of the last checkpoint on where there is one."""
        self._free()
        # Where the model does not suit, rows are padded whatever the profile says.
        actual = spec.model_copy(update={"padding_free": self._is_padding_free(spec)})
        found = layouts(actual, self._steps, self.device.name != "cpu", self._is_packed)
        return found[first_index(found, checkpoints.last_layout()) :]

    def _trained(
        self,
        job: Job,
        conversations: Sequence[Conversation],
        layout: Layout,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> Ran | None:
        """What ran; None where memory ran out."""
        hooks, trainer = set(self._input_hooks), None
        ran: Ran | None = None
        try:
            checkpoints.layout = layout.memory_text
            trainer = self._trainer(job, conversations, layout, checkpoints, progress)
            ran = run(trainer, checkpoints, progress, job.steps)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            ran = None
        finally:
            if trainer is not None:
                trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
                trainer.accelerator.free_memory()
            self.model.zero_grad(set_to_none=True)
            self.loaded.model.gradient_checkpointing_disable()
            for hook in set(self._input_hooks) - hooks:
                del self._input_hooks[hook]
            del trainer
            self._free()
            self._separate()
        return ran

    @property
    def _input_hooks(self) -> dict[int, Any]:
        """Those on the embeddings: with gradient checkpointing TRL and transformers each add one, and lose track."""
        hooks: dict[int, Any] = self.loaded.model.get_input_embeddings()._forward_hooks
        return hooks

    def _trainer(
        self,
        job: Job,
        conversations: Sequence[Conversation],
        layout: Layout,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> Any:
        """TRL's trainer, ready to train; the adapter is at its start."""
        from datasets import Dataset, disable_progress_bars
        from transformers import PrinterCallback, set_seed

        from synthpost_dagster.training.trl_trainers import Watch

        disable_progress_bars()
        logging.getLogger("trl").setLevel(logging.ERROR)
        set_seed(job.spec.seed)
        self._lay_out(layout)
        if self._is_padding_free(job.spec):
            self._join(job.spec)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            trainer = self._trainer_class(job.spec)(
                model=self.model,
                args=sft_config(job.spec, layout, job.steps, checkpoints.folder, self.device.name),
                train_dataset=Dataset.from_list([one._asdict() for one in conversations]),
                data_collator=self._collator(job.spec, conversations, layout.micro_batch),
                processing_class=self.loaded.tokenizer,
                callbacks=[Watch(checkpoints, progress, job.steps)],
            )
        trainer.remove_callback(PrinterCallback)
        adapter.begin(self.model, job.spec.seed)
        return trainer

    def _lay_out(self, layout: Layout) -> None:
        """Puts on the model what the layout asks for and TRL does not see to."""
        self._compile(layout.is_compiled)

    def _compile(self, is_wanted: bool) -> None:
        """Compiles each decoder layer, or takes that back."""
        if is_wanted == self._is_compiled:
            return
        for layer in self._layers:
            layer._compiled_call_impl = None
            if is_wanted:
                layer.compile()
        self._is_compiled = is_wanted

    def _join(self, spec: TrainingSpec) -> None:
        """Lets projections that read the same input be computed as one, in the precision asked for."""
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
                f"training.precision: float8: {self.device.label} has too little memory for the frozen weights in 8 "
                "bits beside themselves; choose bfloat16 in the profile"
            ) from error
        self._free()

    def _separate(self) -> None:
        """Lets each projection be computed by itself again."""
        if self._joints is not None:
            self._joints.dissolve()
            self._joints = None
            self._free()

    @property
    def _layers(self) -> list[Any]:
        """The decoder's layers, where they are found as LLaMA has them; others are never compiled."""
        return list(getattr(getattr(self.loaded.model, "model", None), "layers", ()))

    def _free(self) -> None:
        import torch

        gc.collect()
        if self.device.name != "cpu":
            torch.cuda.empty_cache()
