"""One way of answering many prompts, measured in a process of its own, for bench_inference.py.

`adapters` makes random LoRA adapters in PEFT's format; `measure` answers and writes a record: new tokens a second, time
of setting up, memory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from random_llama import SEED, SPECIAL, word_tokenizer

GIB = 2**30
RANK, ALPHA = 16, 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPT_TOKENS = (150, 250)
PEFT_ADAPTERS = 1
"""So many are answered under by `generate`, which takes them one after the other anyway."""
BATCHING_TIMES = 3
"""`generate_batch` is given so many prompts for each of the others' batch."""
STARTED = time.perf_counter()

Record = dict[str, Any]
Prompts = list[list[int]]


class Clock:
    """Times what follows `setup`, which ends when it is started; counts the device's memory."""

    def __init__(self, device: str) -> None:
        self._device, self.setup_seconds, self._begin = device, 0.0, 0.0

    def start(self) -> None:
        """Setting up is over."""
        self._wait()
        self._begin = time.perf_counter()
        self.setup_seconds = self._begin - STARTED

    def record(self, sequences: int, new_tokens: int) -> Record:
        """What was measured."""
        self._wait()
        seconds = time.perf_counter() - self._begin
        return rates(sequences, new_tokens, seconds, self.setup_seconds, self._device)

    def _wait(self) -> None:
        import torch

        if self._device != "cpu":
            torch.cuda.synchronize()


def rates(sequences: int, new_tokens: int, seconds: float, setup_seconds: float, device: str) -> Record:
    """A record's common part: new tokens a second, and milliseconds for one token of each, prefill counted in."""
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
    """So many random adapters of the checkpoint's model, in folders of their numbers."""
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
    """Answers of exactly so many tokens from transformers' `generate`, padded on the left."""
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
    """An adapter after the other, each batch padded: how it is done without the engine."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load(options), options.adapters / "0").eval()
    generated(model, prompts[:2], options)
    clock.start()
    for _ in range(PEFT_ADAPTERS):
        generated(model, prompts, options)
    return clock.record(PEFT_ADAPTERS * len(prompts), options.new_tokens)


def with_static_cache(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
    """The same with a cache of fixed size, for which decoding is compiled; the second time is measured."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load(options), options.adapters / "0").eval()
    generated(model, prompts, options, cache_implementation="static")
    clock.start()
    generated(model, prompts, options, cache_implementation="static")
    return clock.record(len(prompts), options.new_tokens)


def with_unsloth(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
    """Unsloth's model and kernels, an adapter after the other."""
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
    """Transformers' own continuous batching on the base model, which takes one adapter at most."""
    from transformers import GenerationConfig

    model = load(options)
    settings = GenerationConfig(
        max_new_tokens=options.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    clock.start()
    made = model.generate_batch(inputs=prompts * BATCHING_TIMES, generation_config=settings)
    tokens = sum(len(one.generated_tokens) for one in made.values())
    return clock.record(len(made), round(tokens / len(made)))


def with_engine(keeps_shapes: bool) -> Callable[[argparse.Namespace, Prompts, Clock], Record]:
    """Ours: all adapters in one batch."""

    def run(options: argparse.Namespace, prompts: Prompts, clock: Clock) -> Record:
        from synthpost_dagster.inference.engine import Options, engine
        from synthpost_dagster.inference.models import Loaded
        from synthpost_dagster.inference.slots import Prompt
        from synthpost_dagster.profiles.models import Sampling
        from synthpost_dagster.runtime.progress import SILENT

        loaded = Loaded(load(options), word_tokenizer(2_048))
        folders = [options.adapters / str(number) for number in range(options.count)]
        sampling = Sampling(temperature=0, top_p=1, max_new_tokens=options.new_tokens, batch_size=1, seed=0)
        how = Options(ignores_ends=True, keeps_shapes=keeps_shapes)
        clock.start()

        def answered(adapters: list[Path], lanes: list[int]) -> tuple[dict[int, list[int]], float, Any]:
            asked = [Prompt(ids, lane, 0) for lane in lanes for ids in prompts]
            with engine(loaded, adapters, sampling, how) as running:
                begin = time.perf_counter()
                made = dict(running.continued(asked, SILENT, "posts"))
                return made, time.perf_counter() - begin - running.spent.setup_seconds, running.spent

        begin = time.perf_counter()
        mixed, seconds, spent = answered(folders, list(range(options.count)))
        setup = clock.setup_seconds + time.perf_counter() - begin - seconds
        found = rates(len(mixed), options.new_tokens, seconds, setup, options.device)
        found |= {
            "slots": spent.slots,
            "capture_seconds": round(spent.setup_seconds, 2),
            "ms_per_step": round(1000 * spent.step_seconds / spent.steps, 2),
            "steps": spent.steps,
            "prefill_tokens_per_second": round(spent.prefill_tokens / spent.prefill_seconds, 1),
            "prefill_seconds": round(spent.prefill_seconds, 2),
        }
        shares = []
        for number in {0, options.count - 1}:
            alone, seconds, _ = answered([folders[number]], [0])
            shares.append(equal(alone, mixed, number * len(prompts)))
        return found | {"equal_alone": min(shares), "seconds_alone": round(seconds, 2)}

    return run


def equal(alone: dict[int, list[int]], mixed: dict[int, list[int]], start: int) -> float:
    """The share of an adapter's replies that are the same token for token; its own begin at so many of the mixed."""
    return round(sum(ids == mixed[start + number] for number, ids in alone.items()) / len(alone), 4)


WAYS: dict[str, Callable[[argparse.Namespace, Prompts, Clock], Record]] = {
    "generate, PEFT": with_peft,
    "generate, PEFT, static cache": with_static_cache,
    "generate, Unsloth": with_unsloth,
    "generate_batch, base": with_continuous_batching,
    "engine": with_engine(keeps_shapes=True),
    "engine, shapes not kept": with_engine(keeps_shapes=False),
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
    """Makes the adapters, or measures and writes the record."""
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
