"""Tunes a LoRA adapter with TRL's SFTTrainer and PEFT."""

from __future__ import annotations

import json
import logging
import math
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.inference.generate import chat, end_tokens
from synthpost_dagster.inference.models import Loaded
from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.progress import Progress
from synthpost_dagster.training.supervision import refuse_untaught, supervision

if TYPE_CHECKING:
    import pandas as pd
    from peft import LoraConfig
    from trl import SFTConfig


class Tuned(NamedTuple):
    """The loss curve (schema LossCurve), and what of each row was learned (schema Supervision)."""

    curve: pd.DataFrame
    supervision: pd.DataFrame


def tune(
    loaded: Loaded,
    base_name: str,
    rows: pd.DataFrame,
    spec: TrainingSpec,
    steps: int,
    system_prompt: str | None,
    folder: Path,
    progress: Progress,
) -> Tuned:
    """Tunes on the rows (schema DataSubsets) for `steps` optimizer steps; leaves the adapter in `folder`.

    `base_name` is what the adapter's configuration names as its base. Raises SynthpostError where a row teaches
    nothing or not when to stop, before any step, and where the loss is not a number; nothing is left in `folder` then.
    """
    import pandas as pd
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback, set_seed
    from trl import SFTTrainer

    disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    set_seed(spec.seed)
    scratch = folder / "trainer"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = SFTTrainer(
            model=loaded.model,
            args=sft_config(spec, steps, scratch, loaded.model.device.type),
            train_dataset=Dataset.from_list(conversations(rows, spec, system_prompt)),
            processing_class=loaded.tokenizer,
            peft_config=lora_config(spec),
            callbacks=[_progress_callback(progress, steps)],
        )
        trainer.remove_callback(PrinterCallback)
        learned = supervision(trainer, rows, end_tokens(loaded))
        refuse_untaught(learned)
        progress.note(f"the first row teaches: {learned['learned'].iloc[0]!r}")
        trainer.train()
    curve = pd.DataFrame(
        {"step": entry["step"], "loss": float(entry["loss"]), "learning_rate": float(entry["learning_rate"])}
        for entry in trainer.state.log_history
        if "loss" in entry
    )
    if not all(map(math.isfinite, curve["loss"])):
        first = curve.loc[~curve["loss"].map(math.isfinite), "step"].iloc[0]
        raise SynthpostError(f"the loss is not a number at step {first}; lower training.learning_rate in the profile")
    shutil.rmtree(scratch, ignore_errors=True)
    _save(trainer.model, base_name, folder)
    return Tuned(curve, learned)


def conversations(rows: pd.DataFrame, spec: TrainingSpec, system_prompt: str | None) -> list[dict[str, Any]]:
    """TRL's records: prompt and completion apart where only the completion is learned, else whole messages."""
    system = system_prompt if spec.system_prompt else None
    turns = [
        (row.prompt_id, chat(row.student_prompt, system), [{"role": "assistant", "content": row.post}])
        for row in rows.itertuples()
    ]
    if spec.loss == "completion":
        return [{"prompt_id": name, "prompt": prompt, "completion": completion} for name, prompt, completion in turns]
    return [{"prompt_id": name, "messages": prompt + completion} for name, prompt, completion in turns]


def sft_config(spec: TrainingSpec, steps: int, folder: Path, device: str) -> SFTConfig:
    """The profile's hyper-parameters as TRL's arguments; what TRL would choose by itself is set here."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=spec.micro_batch,
        gradient_accumulation_steps=spec.rows_per_step // spec.micro_batch,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.scheduler,
        warmup_steps=spec.warmup_steps,
        weight_decay=spec.weight_decay,
        optim=spec.optimizer,
        seed=spec.seed,
        max_length=spec.max_length,
        packing=spec.packing,
        completion_only_loss=spec.loss == "completion",
        gradient_checkpointing=spec.gradient_checkpointing,
        max_grad_norm=spec.max_grad_norm,
        bf16=spec.precision == "bfloat16" and device != "cpu",
        use_cpu=device == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device != "cpu",
    )


def lora_config(spec: TrainingSpec) -> LoraConfig:
    """The profile's adapter as PEFT's configuration."""
    from peft import LoraConfig

    return LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        bias=spec.lora.bias,
        target_modules=list(spec.lora.target_modules),
        task_type="CAUSAL_LM",
    )


def _progress_callback(progress: Progress, steps: int) -> Any:
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.update("training", state.global_step, steps, "steps")

    return Report()


def _save(model: Any, base_name: str, folder: Path) -> None:
    """The adapter's safetensors and configuration, which names its base and not a path of this machine."""
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_name}
    file.write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")
