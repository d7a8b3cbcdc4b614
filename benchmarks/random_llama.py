"""LLaMAs with random weights, and rows of random words for them: speed and memory are those of the real ones.

python benchmarks/random_llama.py --checkpoint FOLDER                 # LLaMA 3 8B's shape, drawn on the GPU
python benchmarks/random_llama.py --checkpoint FOLDER --shape small --device cpu
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SEED = 3407
PAD, BEGIN, END, UNKNOWN, ANSWER = range(5)
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>", "<answer>")
PROMPT_TOKENS = (120, 350)
POST_TOKENS = (24, 142)
"""With these, 8 rows are about 2,540 tokens, as those of the study."""
TEMPLATE = (
    "<begin>{% for turn in messages %} {{ turn['content'] }}"
    "{% if turn['role'] == 'assistant' %} <end>{% else %} <answer>{% endif %}{% endfor %}"
)

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
    "pad_token_id": PAD,
}
SMALL = {
    **LLAMA_3_8B,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 2_048,
}
SHAPES = {"llama3-8b": LLAMA_3_8B, "small": SMALL}


def make_checkpoint(folder: Path, shape: str, device: str, tokenizer: Any = None) -> None:
    """A checkpoint with bf16 weights, drawn on the device; by default its tokenizer knows a word an id.

    Leaves alone what is there already.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "config.json").exists():
        return
    tokenizer = tokenizer or word_tokenizer(SHAPES[shape]["vocab_size"])
    own = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    before = torch.get_default_dtype()
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**{**SHAPES[shape], **own}, architectures=["LlamaForCausalLM"]))
    torch.set_default_dtype(before)
    # Left at zero by transformers: a tokenizer for which it is a word would meet gradients that grow without bound.
    model.get_input_embeddings().weight.data[tokenizer.pad_token_id].normal_(0, model.config.initializer_range)
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)


def word_tokenizer(vocabulary: Any) -> Any:
    """A tokenizer for which `w17` is the token 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {name: place for place, name in enumerate(SPECIAL)}
    words |= {f"w{place}": place for place in range(len(SPECIAL), vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))  # noqa: S106
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<begin>", "eos_token": "<end>", "unk_token": "<unknown>"}
    made = PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=["<answer>"], **special)
    made.chat_template = TEMPLATE
    return made


def random_rows(count: int, vocabulary: int) -> Any:
    """So many training rows (prompt_id, student_prompt, post): words drawn by Zipf's law, of uneven lengths."""
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, vocabulary - len(SPECIAL) + 1)
    weights /= weights.sum()

    def text(least: int, most: int) -> str:
        size = int(generator.integers(least, most + 1))
        ids = len(SPECIAL) + generator.choice(vocabulary - len(SPECIAL), size, p=weights)
        return " ".join(f"w{place}" for place in ids)

    return pd.DataFrame(
        {"prompt_id": f"{at:016x}", "student_prompt": text(*PROMPT_TOKENS), "post": text(*POST_TOKENS)}
        for at in range(count)
    )


def main() -> None:
    """Makes a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama3-8b")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    make_checkpoint(arguments.checkpoint, arguments.shape, arguments.device)


if __name__ == "__main__":
    main()
