"""The same model and rows through TRL's own trainer, one configuration per process, without this package.

    python benchmarks/rivals/trl_run.py --checkpoint FOLDER --name "nll, Liger" --out /tmp/record.json

The model is LLaMA 3 8B's shape with random weights in bf16 (`random_llama.py`), LoRA of rank 16 on all linear layers, 8
rows a step, 30 steps measured after 10 of warm-up. https://huggingface.co/docs/trl/sft_trainer
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from random_llama import SHAPES, random_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

GIB = 2**30
ROWS_PER_STEP, WARMUP, STEPS = 8, 10, 40
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "chunked_nll": {"loss_type": "chunked_nll"},
    "nll": {"loss_type": "nll"},
    "chunked_nll, padding_free": {"loss_type": "chunked_nll", "padding_free": True},
    "nll, Liger": {"loss_type": "nll", "use_liger_kernel": True},
    "nll, Liger, padding_free": {"loss_type": "nll", "use_liger_kernel": True, "padding_free": True},
}
"""`padding_free` without FlashAttention does not separate the rows in attention: a lower bound of its time."""
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock(TrainerCallback):
    """Times the steps after the warm-up."""

    begin = end = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Reads the clock once the GPU has finished."""
        if state.global_step in (WARMUP, STEPS):
            torch.cuda.synchronize()
            self.begin, self.end = self.end, time.perf_counter()


def dataset(tokenizer: Any) -> Dataset:
    """The rows, tokenized; the loss runs over the completion alone."""
    rows = random_rows(STEPS * ROWS_PER_STEP, int(SHAPES["llama3-8b"]["vocab_size"]))
    records = []
    for row in rows.to_dict("records"):
        chat = [{"role": "user", "content": row["student_prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        completion = [*tokenizer(row["post"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        records.append({"input_ids": [*prompt, *completion], "labels": [-100] * len(prompt) + completion})
    return Dataset.from_list(records)


def measure(checkpoint: str, name: str) -> dict[str, Any]:
    """The record of one configuration."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = dataset(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
    clock = Clock()
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=ROWS_PER_STEP,
        max_steps=STEPS,
        learning_rate=2e-4,
        bf16=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        optim="adamw_torch_fused",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        **CONFIGURATIONS[name],
    )
    lora = LoraConfig(r=16, lora_alpha=16, target_modules=PROJECTIONS)
    trainer = SFTTrainer(
        model, args=arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[clock], peft_config=lora
    )
    trainer.train()
    return {
        "configuration": f"TRL, {name}",
        "steps": STEPS - WARMUP,
        "ms_per_step": round(1000 * (clock.end - clock.begin) / (STEPS - WARMUP), 1),
        "tokens_per_step": round(sum(map(len, rows["input_ids"])) / STEPS, 1),
        "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
        "losses": [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry],
    }


def main() -> None:
    """Reads the command line, measures, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--name", choices=tuple(CONFIGURATIONS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(json.dumps(measure(options.checkpoint, options.name)))


if __name__ == "__main__":
    main()
