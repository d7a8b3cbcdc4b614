"""One way of tuning, measured in a process of its own, for bench_training.py.

`checkpoint` makes a LLaMA with random weights; `measure` runs the optimizer steps of one configuration on rows of
uneven length and writes a record: milliseconds a step, tokens, memory, losses.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROWS_A_STEP = 8
RANK, ALPHA = 16, 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM, WARMUP_STEPS = 2e-4, 0.01, 1.0, 5
SEED = 3407
GIB = 2**30
PROMPT_TOKENS = (120, 350)
POST_WORDS = (20, 120)
TOKENS_A_WORD = 1.18
"""With this, 8 rows are about 2,540 tokens."""
BEGIN, END = 1, 2
PLAIN = 16
"""Ids under this are kept for special tokens."""

LLAMA_3_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128_256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "pad_token_id": 0,
}
SMALL = {
    **LLAMA_3_8B,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
}
SHAPES = {"llama3-8b": LLAMA_3_8B, "small": SMALL}

READY = "ready"
"""Said when all is loaded and compiled; a line on the standard input lets the steps begin."""
STARTED = time.perf_counter()

Row = tuple[list[int], int]
Record = dict[str, Any]


@dataclass
class Way:
    """A configuration: which engine, and what it is told."""

    engine: str
    settings: Record = field(default_factory=dict)


WAYS = {
    # The study's arguments: NF4, 2 rows × 4, checkpointing, the whole conversation learned, padded.
    "study, TRL": Way("trl", {"kind": "nf4", "micro": 2, "checkpointing": True, "is_full": True}),
    "study, Unsloth": Way("unsloth", {"kind": "nf4", "micro": 2, "checkpointing": "unsloth", "is_full": True}),
    "TRL, bf16, 8 x 1": Way("trl", {"kind": "bf16", "micro": 8, "checkpointing": False}),
    "Unsloth, NF4, 8 x 1": Way("unsloth", {"kind": "nf4", "micro": 8, "checkpointing": False}),
    "Unsloth, NF4, 8 x 1, checkpointing": Way("unsloth", {"kind": "nf4", "micro": 8, "checkpointing": "unsloth"}),
    "Unsloth, bf16, 8 x 1": Way("unsloth", {"kind": "bf16", "micro": 8, "checkpointing": False}),
    # PEFT's modules on transformers' model, rows end to end.
    "flat": Way("flat", {"compile": None, "multiple": 1}),
    "flat, compiled": Way("flat", {"compile": "dynamic", "multiple": 64}),
    "flat, compiled, lengths of 256": Way("flat", {"compile": "static", "multiple": 256}),
    "flat, NF4, compiled, checkpointing": Way(
        "flat", {"kind": "nf4", "compile": "dynamic", "multiple": 64, "checkpointing": True, "optimizer": "8bit"}
    ),
    # Our own modules, without and with CUDA graphs.
    "fused": Way("fused", {"is_compiled": False, "multiple": 1}),
    "fused, compiled": Way("fused", {"multiple": 64}),
    "fused, compiled, lengths of 256": Way("fused", {"multiple": 256, "is_dynamic": False}),
    "fused, graphs": Way("fused", {"multiple": 128, "has_graphs": True}),
    "fused, graphs, full loss": Way("fused", {"multiple": 128, "has_graphs": True, "is_full": True}),
    "fused, FP8, compiled": Way("fused", {"kind": "fp8", "multiple": 64}),
    "fused, FP8, graphs": Way("fused", {"kind": "fp8", "multiple": 128, "has_graphs": True}),
    "fused, NF4, compiled": Way("fused", {"kind": "nf4", "multiple": 64}),
    "fused, NF4, graphs": Way("fused", {"kind": "nf4", "multiple": 128, "has_graphs": True}),
    "fused, NF4, compiled, checkpointing": Way(
        "fused", {"kind": "nf4", "multiple": 64, "checkpointed": 32, "piece": 256, "optimizer": "8bit"}
    ),
    "fused, NF4, graphs, checkpointing": Way(
        "fused", {"kind": "nf4", "multiple": 128, "has_graphs": True, "checkpointed": 32, "piece": 256}
    ),
}


# Weights and rows -----------------------------------------------------------------------------------------------------


def make_checkpoint(folder: Path, shape: str, device: str) -> None:
    """A LLaMA with random bf16 weights, drawn on the device, and a tokenizer that only pads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "config.json").exists():
        return
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], architectures=["LlamaForCausalLM"]))
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer().save_pretrained(folder)


def tokenizer() -> Any:
    """One word a special token; the rows are token ids already."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<begin>": BEGIN, "<end>": END, "<unknown>": 3}
    core = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))  # noqa: S106
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<begin>", "eos_token": "<end>", "unk_token": "<unknown>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def rows_of(steps: int, vocabulary: int) -> list[list[Row]]:
    """So many steps of 8 rows each: token ids drawn by Zipf's law, and the prompt's length."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, vocabulary - PLAIN + 1)
    weights /= weights.sum()

    def row() -> Row:
        prompt = int(generator.integers(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1))
        post = round(int(generator.integers(POST_WORDS[0], POST_WORDS[1] + 1)) * TOKENS_A_WORD)
        ids = PLAIN + generator.choice(vocabulary - PLAIN, prompt + post - 2, p=weights)
        return [BEGIN, *ids.tolist(), END], prompt

    return [[row() for _ in range(ROWS_A_STEP)] for _ in range(steps)]


def load(folder: Path, kind: str, device: str, where: str | None = None) -> Any:
    """The checkpoint in bf16 or NF4."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings: Record = {"dtype": torch.bfloat16, "device_map": {"": where or device}}
    if kind == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


# Measuring ------------------------------------------------------------------------------------------------------------


class Watch:
    """Times of steps after some of warm-up, and memory; `mark` is called at the end of each step."""

    def __init__(self, warmup: int, device: str, is_told: bool) -> None:
        self._warmup, self._device, self._is_told, self._step = warmup, device, is_told, 0
        self._begin = self._end = 0.0
        self._events: list[Any] = []
        self._setup_peak, self._setup_seconds = 0, 0.0
        self.counts_reserved = False
        """Memory inside CUDA graphs is reserved, but not given out as the allocator counts it."""

    def start(self) -> None:
        """Training begins, once whoever started this process says so; memory taken before is setup's."""
        import gc

        import torch

        gc.collect()
        if self._device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            self._setup_peak = torch.cuda.max_memory_allocated()
        self._setup_seconds = time.perf_counter() - STARTED
        if self._is_told:
            print(READY, flush=True)
            sys.stdin.readline()
        if self._device != "cpu":
            torch.cuda.reset_peak_memory_stats()

    def mark(self) -> None:
        """A step is through."""
        import torch

        self._step += 1
        if self._device != "cpu" and self._step >= self._warmup:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        if self._step == self._warmup:
            self._begin = self._now()

    def stop(self) -> None:
        """The last step is through."""
        self._end = self._now()

    def record(self, rows: list[list[Row]]) -> Record:
        """What was measured, on the rows of all steps."""
        import torch

        measured = rows[self._warmup : self._step]
        seconds = self._end - self._begin
        tokens = sum(len(row) for step in measured for row, _ in step)
        found = {
            "steps": len(measured),
            "ms_per_step": round(1000 * seconds / len(measured), 1),
            "tokens_per_step": round(tokens / len(measured), 1),
            "tokens_per_second": round(tokens / seconds, 1),
            "setup_seconds": round(self._setup_seconds, 1),
        }
        if self._events:
            times = [a.elapsed_time(b) for a, b in zip(self._events, self._events[1:], strict=False)]
            found |= {
                "median_ms": round(statistics.median(times), 1),
                "slowest_ms": round(max(times), 1),
                "peak_gib": round(self._peak() / GIB, 2),
                "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
                "setup_peak_gib": round(self._setup_peak / GIB, 2),
            }
        return found

    def _peak(self) -> int:
        import torch

        reserved, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
        return int(reserved if self.counts_reserved else allocated)

    def _now(self) -> float:
        import torch

        if self._device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def rate(step: int, steps: int) -> float:
    """The linear schedule's factor in a step that begins with 0."""
    return step / WARMUP_STEPS if step < WARMUP_STEPS else max(0.0, (steps - step) / (steps - WARMUP_STEPS))


def optimizer_of(parameters: list[Any], name: str) -> Any:
    """AdamW on the adapters: torch's fused one, or the one of bitsandbytes with 8-bit states."""
    import torch

    if name == "8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    return torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=parameters[0].is_cuda, foreach=None
    )


def bare_loop(
    parameters: list[Any], steps: list[Any], gradients: Callable[[Any], Any], watch: Watch, optimizer: str
) -> list[float]:
    """Optimizer steps; `gradients` leaves a step's gradients in the parameters and gives its loss."""
    import torch

    for step in steps[:2]:  # what is compiled is compiled before the steps begin
        gradients(step)
    for parameter in parameters:
        parameter.grad = None
    adamw = optimizer_of(parameters, optimizer)
    losses = []
    watch.start()
    for number, step in enumerate(steps):
        for group in adamw.param_groups:
            group["lr"] = LEARNING_RATE * rate(number, len(steps))
        losses.append(gradients(step))
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        watch.mark()
    watch.stop()
    return [float(loss) for loss in losses]


def summed(losses: Iterator[Any]) -> Any:
    """Takes the gradients of a step's micro-batches, whose losses add up to that of the step."""
    import torch

    parts = []
    for loss in losses:
        loss.backward()
        parts.append(loss.detach())
    return torch.stack(parts).sum()


# Engines --------------------------------------------------------------------------------------------------------------


def with_trl(folder: Path, rows: list[list[Row]], way: Record, watch: Watch, device: str) -> list[float]:
    """TRL's SFTTrainer with PEFT, as synthpost_dagster.training.sft sets it up."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            watch.mark()

    is_full = way.get("is_full", False)
    arguments = SFTConfig(
        output_dir=str(folder / "trainer"),
        max_steps=len(rows),
        per_device_train_batch_size=way["micro"],
        gradient_accumulation_steps=ROWS_A_STEP // way["micro"],
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP_STEPS,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_NORM,
        optim="adamw_8bit" if device != "cpu" else "adamw_torch",
        seed=SEED,
        max_length=2048,
        packing=False,
        completion_only_loss=not is_full,
        gradient_checkpointing=way["checkpointing"],
        bf16=device != "cpu",
        use_cpu=device == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    flat = [row for step in rows for row in step]
    records = [{"input_ids": ids, "completion_mask": [int(at >= cut) for at in range(len(ids))]} for ids, cut in flat]
    if is_full:
        records = [{"input_ids": ids} for ids, _ in flat]
    trainer = InOrder(
        model=load(folder, way["kind"], device),
        args=arguments,
        train_dataset=Dataset.from_list(records),
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM"),
        callbacks=[Marks()],
    )
    watch.start()
    trainer.train()
    watch.stop()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def with_unsloth(folder: Path, rows: list[list[Row]], way: Record, watch: Watch, device: str) -> list[float]:
    """Unsloth's model in a bare loop over padded micro-batches."""
    from unsloth import FastLanguageModel  # isort: skip - has to be the first
    import torch

    model, _ = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=way["kind"] == "nf4"
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=MODULES,
        use_gradient_checkpointing=way["checkpointing"],
        random_state=SEED,
    )
    model.train()
    steps = [padded(step, way["micro"], way.get("is_full", False), device) for step in rows]

    def losses(step: list[Any]) -> Iterator[Any]:
        count = sum(int(batch["supervised"]) for batch in step)
        for batch in step:
            ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
            with torch.autocast("cuda", torch.bfloat16):
                yield model(
                    input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=torch.tensor(count).to(device)
                ).loss

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bare_loop(parameters, steps, lambda step: summed(losses(step)), watch, "8bit")


def padded(step: list[Row], micro: int, is_full: bool, device: str) -> list[Record]:
    """Micro-batches filled up on the right."""
    import torch

    made = []
    for start in range(0, len(step), micro):
        part = step[start : start + micro]
        longest = max(len(ids) for ids, _ in part)
        labels = [[-100] * (0 if is_full else cut) + ids[0 if is_full else cut :] for ids, cut in part]
        made.append(
            {
                "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in part]).to(device),
                "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in part]).to(
                    device
                ),
                "labels": torch.tensor([row + [-100] * (longest - len(row)) for row in labels]).to(device),
                "supervised": sum(label != -100 for row in labels for label in row[1:]),
            }
        )
    return made


def with_flat(folder: Path, rows: list[list[Row]], way: Record, watch: Watch, device: str) -> list[float]:
    """PEFT's modules on transformers' model; rows end to end, each layer compiled, supervised positions only."""
    import torch
    from fast_lora import SupervisedLoss, attention, flattened, piece_loss
    from peft import LoraConfig, get_peft_model
    from transformers import AttentionInterface

    def rowwise(_module: Any, query: Any, key: Any, value: Any, _mask: Any, **more: Any) -> tuple[Any, None]:
        parts = [part[0].transpose(0, 1) for part in (query, key, value)]
        return attention(*parts, more["ends"], more["longest"]).unsqueeze(0), None

    AttentionInterface.register("rowwise", rowwise)
    torch.manual_seed(SEED)
    base = load(folder, way.get("kind", "bf16"), device)
    base.set_attn_implementation("rowwise")
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM"))
    model.train()
    if way.get("checkpointing"):
        base.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    one = piece_loss
    if way["compile"]:
        one = torch.compile(piece_loss, dynamic=True)
        for layer in base.model.layers:
            layer.compile()
    longest = longest_of(rows)
    steps = [flattened(step, way["multiple"], device, way.get("is_full", False)) for step in rows]

    def losses(batch: Any) -> Iterator[Any]:
        ids = batch.ids.unsqueeze(0)
        with torch.autocast(device, torch.bfloat16):
            hidden = base.model(
                input_ids=ids,
                position_ids=batch.positions.unsqueeze(0),
                use_cache=False,
                ends=batch.ends,
                longest=longest,
            ).last_hidden_state[0]
        yield SupervisedLoss.apply(
            hidden[batch.learned], base.lm_head.weight, batch.targets, batch.supervised, 1024, one
        )

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.automatic_dynamic_shapes = way["compile"] != "static"
    once_each(steps, lambda step: summed(losses(step)), way["compile"] == "static")
    return bare_loop(parameters, steps, lambda step: summed(losses(step)), watch, way.get("optimizer", "fused"))


def with_fused(folder: Path, rows: list[list[Row]], way: Record, watch: Watch, device: str) -> list[float]:
    """Our own modules, see fast_lora.py."""
    import torch
    from fast_lora import FastLora, Graphs, Settings, flattened

    own = {key: value for key, value in way.items() if key in Settings.__dataclass_fields__}
    own["longest"] = longest_of(rows)
    from_cpu = way.get("kind") == "nf4"  # so that the whole never lies on the device
    fast = FastLora(load(folder, "bf16", device, "cpu" if from_cpu else None), device, Settings(**own), SEED)
    if device != "cpu":
        torch.cuda.empty_cache()
    has_graphs = way.get("has_graphs", False) and device != "cpu"
    learned = 256 if has_graphs else 64
    steps = [flattened(step, way["multiple"], device, way.get("is_full", False), learned) for step in rows]
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.automatic_dynamic_shapes = fast.settings.is_dynamic
    gradients: Callable[[Any], Any] = lambda batch: summed(iter([fast.loss(batch)]))  # noqa: E731
    if has_graphs:
        gradients = Graphs(fast)
        watch.counts_reserved = True
    once_each(steps, gradients, has_graphs or not fast.settings.is_dynamic)
    return bare_loop(list(fast.parameters()), steps, gradients, watch, way.get("optimizer", "fused"))


def once_each(steps: list[Any], gradients: Callable[[Any], Any], is_wanted: bool) -> None:
    """Meets every size of batch once, the largest first, where each is compiled or captured by itself."""
    sizes = {(len(batch.ids), len(batch.targets)): batch for batch in steps} if is_wanted else {}
    for size in sorted(sizes, reverse=True):
        gradients(sizes[size])
    if sizes:
        print("sizes:", sorted(sizes), file=sys.stderr)


def longest_of(rows: list[list[Row]]) -> int:
    """Tokens of the longest row, or a little more: flash attention wants to know, and each number is compiled anew."""
    return -(-max(len(ids) for step in rows for ids, _ in step) // 256) * 256


ENGINES = {"trl": with_trl, "unsloth": with_unsloth, "flat": with_flat, "fused": with_fused}


def measure(options: argparse.Namespace) -> Record:
    """The record of one configuration."""
    import torch

    way = WAYS[options.name]
    if options.steps_warmup >= options.steps:
        sys.exit("--steps: more than those of warm-up")
    vocabulary = int(json.loads((options.checkpoint / "config.json").read_text())["vocab_size"])
    rows = rows_of(options.steps, vocabulary)
    watch = Watch(options.steps_warmup, options.device, options.told)
    losses = ENGINES[way.engine](options.checkpoint, rows, way.settings, watch, options.device)
    found = {"configuration": options.name, "engine": way.engine, "settings": way.settings, **watch.record(rows)}
    if options.device != "cpu":
        free, total = torch.cuda.mem_get_info()
        found["device_used_gib"] = round((total - free) / GIB, 2)
    return {
        **found,
        "losses": [round(loss, 4) for loss in losses],
        "seconds_in_all": round(time.perf_counter() - STARTED, 1),
    }


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("checkpoint", "measure"))
    parser.add_argument("--checkpoint", type=Path, required=True, help="the folder with the random weights")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama3-8b")
    parser.add_argument("--name", choices=tuple(WAYS))
    parser.add_argument("--steps", type=int, default=35, help="those of warm-up counted in")
    parser.add_argument("--steps-warmup", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--told", action="store_true", help="wait for a line before the steps begin")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Makes the checkpoint, or measures and writes the record."""
    options = options_of()
    random.seed(SEED)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if options.what == "checkpoint":
        make_checkpoint(options.checkpoint, options.shape, options.device)
        return
    record = measure(options)
    print(json.dumps(record))
    if options.out:
        options.out.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
