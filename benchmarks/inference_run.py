"""Measures one way of generating replies in a process of its own, for bench_inference.py.

`adapters` creates random LoRA adapters in PEFT's format; `measure` generates replies and writes a record: new tokens
per second, setup time, memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from random_llama import SEED, SPECIAL, word_tokenizer

GIB = 2**30
RANK, ALPHA = 16, 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPT_TOKENS = (150, 250)
PEFT_ADAPTERS = 1
"""Adapters measured with `generate`, which computes one after another."""
BATCHING_TIMES = 3
"""`generate_batch` gets this multiple of the other configurations' prompts."""
STARTED = time.perf_counter()

Record = dict[str, Any]
Prompts = list[list[int]]


class Clock:
    """Times the work after the setup, which ends at `start`."""

    def __init__(self, device: str) -> None:
        self._device, self.setup_seconds, self._begin = device, 0.0, 0.0

    def start(self) -> None:
        """Ends the setup."""
        self._wait()
        self._begin = time.perf_counter()
        self.setup_seconds = self._begin - STARTED

    def record(self, sequences: int, new_tokens: int) -> Record:
        """The record of the measured work."""
        self._wait()
        seconds = time.perf_counter() - self._begin
        return rates(sequences, new_tokens, seconds, self.setup_seconds, self._device)

    def _wait(self) -> None:
        import torch

        if self._device != "cpu":
            torch.cuda.synchronize()


def rates(sequences: int, new_tokens: int, seconds: float, setup_seconds: float, device: str) -> Record:
    """The common part of a record; a step is one token of each sequence, with a share of the prefill."""
    import torch

    found = {
        "sequences": sequences,
        "new_tokens": sequences * new_tokens,
        "tokens_per_second": round(sequences * new_tokens / seconds, 1),
        "ms_per_step": round(1000 * seconds / new_tokens, 2),
        "seconds": round(seconds, 2),
        "setup_seconds": round(setup_seconds, 1),
    }
    if device != "cpu":
        found["peak_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
    return found


def prompts_of(count: int, vocabulary: int) -> Prompts:
    """Random token ids, about 200 a prompt."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    sizes = generator.integers(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1, count)
    return [generator.integers(len(SPECIAL), vocabulary, size).tolist() for size in sizes]


def make_adapters(checkpoint: Path, folder: Path, count: int) -> None:
    """Writes random adapters for the checkpoint's model into numbered folders."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    config = json.loads((checkpoint / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = dict(zip(MODULES, [(hidden, hidden), *[(hidden, narrow)] * 2, (hidden, hidden)], strict=False))
    shapes |= {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    torch.manual_seed(SEED)
    for number in range(count):
        tensors = {}
        for layer in range(config["num_hidden_layers"]):
            for name, (inside, outside) in shapes.items():
                block = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
                key = f"base_model.model.model.layers.{layer}.{block}.{name}"
                tensors[f"{key}.lora_A.weight"] = (torch.randn(RANK, inside) / inside**0.5).bfloat16()
                tensors[f"{key}.lora_B.weight"] = (torch.randn(outside, RANK) * 0.02).bfloat16()
        place = folder / str(number)
        place.mkdir(parents=True)
        save_file(tensors, place / "adapter_model.safetensors")
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM").save_pretrained(place)


def load(options: argparse.Namespace) -> Any:
    """The checkpoint on the device."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=dtype, device_map={"": options.device}).eval()


def generated(model: Any, prompts: Prompts, options: argparse.Namespace, **more: Any) -> None:
    """Generates exactly `new_tokens` tokens per prompt with transformers' `generate`, padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts]).to(options.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]).to(options.device)
    new = options.new_tokens
    with torch.inference_mode():
        model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new, min_new_tokens=new, **more
        )


def with_peft(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
    """One adapter after another in padded batches, without the engine."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load(options), options.adapters / "0").eval()
    generated(model, prompts[:2], options)
    clock.start()
    for _ in range(PEFT_ADAPTERS):
        generated(model, prompts, options)
    return clock.record(PEFT_ADAPTERS * len(prompts), options.new_tokens)


def with_static_cache(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
    """The same with a static cache, for which decoding is compiled; the second run is measured."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load(options), options.adapters / "0").eval()
    generated(model, prompts, options, cache_implementation="static")
    clock.start()
    generated(model, prompts, options, cache_implementation="static")
    return clock.record(len(prompts), options.new_tokens)


def with_unsloth(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
    """Unsloth's model and kernels, one adapter after another."""
    import torch
    from peft import PeftModel
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(options.checkpoint),
        max_seq_length=2_048,
        dtype=torch.bfloat16,
        load_in_4bit=False,
        use_exact_model_name=True,
    )
    model = FastLanguageModel.for_inference(PeftModel.from_pretrained(model, options.adapters / "0"))
    generated(model, prompts[:2], options)
    clock.start()
    generated(model, prompts, options)
    return clock.record(len(prompts), options.new_tokens)


def with_continuous_batching(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
    """Continuous batching of transformers on the base model; it supports at most one adapter."""
    from transformers import GenerationConfig

    model = load(options)
    settings = GenerationConfig(
        max_new_tokens=options.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    clock.start()
    made = model.generate_batch(inputs=prompts * BATCHING_TIMES, generation_config=settings)
    tokens = sum(len(one.generated_tokens) for one in made.values())
    return clock.record(len(made), round(tokens / len(made)))


@contextlib.contextmanager
def timed_slots(device: str) -> Iterator[Record]:
    """Seconds in each phase of the engine, and the numbers of steps and prompt tokens."""
    import torch

    from synthpost_dagster.inference.slots import Slots

    spent: Record = {"rehearse": 0.0, "capture": 0.0, "prefill": 0.0, "step": 0.0, "steps": 0, "prompt_tokens": 0}

    def timed(name: str, method: Callable[..., None]) -> Callable[..., None]:
        def run(self: Slots, *given: Any) -> None:
            begin = time.perf_counter()
            method(self, *given)
            if device != "cpu":
                torch.cuda.synchronize()
            spent[name] += time.perf_counter() - begin
            spent["steps"] += given[1] if name == "step" else 0
            spent["prompt_tokens"] += sum(len(prompt.ids) for _, prompt in given[0]) if name == "prefill" else 0

        return run

    methods = {name: getattr(Slots, name) for name in ("rehearse", "capture", "prefill", "step")}
    for name, method in methods.items():
        setattr(Slots, name, timed(name, method))
    try:
        yield spent
    finally:
        for name, method in methods.items():
            setattr(Slots, name, method)


def with_engine(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
    """The package's engine: all adapters in one batch."""
    from synthpost_dagster.inference.engine import Options, engine
    from synthpost_dagster.inference.models import Loaded
    from synthpost_dagster.inference.slots import Prompt
    from synthpost_dagster.profiles.models import Sampling
    from synthpost_dagster.runtime.progress import SILENT

    loaded = Loaded(load(options), word_tokenizer(2_048))
    folders = [options.adapters / str(number) for number in range(options.count)]
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=options.new_tokens, batch_size=1, seed=0)
    clock.start()

    def answered(adapters: list[Path]) -> tuple[dict[int, list[int]], float, Record]:
        asked = [Prompt(ids, number, 0) for number in range(len(adapters)) for ids in prompts]
        how = Options(ignores_ends=True, keeps_shapes=True)
        with timed_slots(options.device) as spent, engine(loaded, adapters, sampling, how) as running:
            begin = time.perf_counter()
            made = dict(running.continued(asked, SILENT, "posts"))
            seconds = time.perf_counter() - begin - spent["rehearse"] - spent["capture"]
            return made, seconds, spent | {"slots": running.slots}

    begin = time.perf_counter()
    mixed, seconds, spent = answered(folders)
    setup = clock.setup_seconds + time.perf_counter() - begin - seconds
    found = rates(len(mixed), options.new_tokens, seconds, setup, options.device)
    found |= {
        "slots": spent["slots"],
        "capture_seconds": round(spent["rehearse"] + spent["capture"], 2),
        "ms_per_step": round(1000 * spent["step"] / spent["steps"], 2),
        "steps": spent["steps"],
        "prefill_tokens_per_second": round(spent["prompt_tokens"] / spent["prefill"], 1),
        "prefill_seconds": round(spent["prefill"], 2),
    }
    shares = []
    for number in {0, options.count - 1}:
        alone, seconds, _ = answered([folders[number]])
        shares.append(equal(alone, mixed, number * len(prompts)))
    return found | {"equal_alone": min(shares), "seconds_alone": round(seconds, 2)}


def equal(alone: dict[int, list[int]], mixed: dict[int, list[int]], start: int) -> float:
    """The share of an adapter's replies that are equal token by token; those in `mixed` begin at index `start`."""
    return round(sum(ids == mixed[start + number] for number, ids in alone.items()) / len(alone), 4)


WAYS: dict[str, Callable[[argparse.Namespace, Prompts, Clock], Record]] = {
    "generate, PEFT": with_peft,
    "generate, PEFT, static cache": with_static_cache,
    "generate, Unsloth": with_unsloth,
    "generate_batch, base": with_continuous_batching,
    "engine": with_engine,
}


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("adapters", "measure"))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, required=True, help="the folder that has or gets them")
    parser.add_argument("--count", type=int, default=5, help="adapters")
    parser.add_argument("--prompts", type=int, default=95, help="for each adapter")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--name", choices=tuple(WAYS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Creates the adapters, or measures and writes the record."""
    options = options_of()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.what == "adapters":
        make_adapters(options.checkpoint, options.adapters, options.count)
        return
    vocabulary = int(json.loads((options.checkpoint / "config.json").read_text())["vocab_size"])
    found = WAYS[options.name](options, prompts_of(options.prompts, vocabulary), Clock(options.device))
    options.out.write_text(json.dumps({"configuration": options.name, **found}))


if __name__ == "__main__":
    main()
