"""Attention over a cache with a fixed slot per sequence, installed into a transformers model and removed again.

A forward pass receives tokens of many sequences, concatenated into one row without padding. Its `Job` says where their
keys and values are cached and what each query attends to: in a prefill the tokens of its own prompt, in a decoding step
the cache of its slot. It uses flash attention on a GPU, else scaled_dot_product_attention. Imports torch.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NAME = "synthpost_slots"
"""The name under which transformers knows this attention."""
AMPERE = 8
"""Compute capability."""
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Position encodings that do not depend on the length of the sequence."""


class Cache:
    """Keys and values of `slots` sequences of at most `tokens`: layers × (slots · tokens + 1) × heads × size each.

    The last row is written by tokens that are never read.
    """

    def __init__(self, config: Any, slots: int, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self.slots, self.tokens, self.unread = slots, tokens, slots * tokens
        shape = (config.num_hidden_layers, slots * tokens + 1, config.num_key_value_heads, _head_size(config))
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of one slot into another."""
        start, end = source * self.tokens, target * self.tokens
        for cached in (self.keys, self.values):
            cached[:, end : end + length] = cached[:, start : start + length]


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of a token in the cache."""
    return 2 * int(config.num_hidden_layers * config.num_key_value_heads * _head_size(config)) * dtype.itemsize


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def uses_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's flash attention is used; it needs half precision on an Ampere GPU or later."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device)[0] >= AMPERE


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    starts: Tensor,
    max_queries: int,
    max_keys: int,
    scale: float,
    lengths: Tensor | None = None,
) -> Tensor:
    """Flash attention of concatenated rows, tokens × heads × size: queries up to `ends`, keys from `starts`.

    `lengths` are the numbers of keys per row, by default all. The last query of a row attends to all of them, each
    earlier one to one fewer.
    """
    is_causal = max_queries > 1  # without it, heads that share a key are computed together
    out: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, ends, starts, max_queries, max_keys, 0.0, is_causal, False, scale=scale, seqused_k=lengths
    )[0]
    return out


def causal_by_row(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scale: float) -> Tensor:
    """Causal attention within each row, tokens × heads × size.

    `ends` (int32) begins with 0; no row is longer than `longest`. With flash attention tokens after the last end are
    allowed, and their output is arbitrary.
    """
    if uses_flash(query.device, query.dtype):
        return flash(query, key, value, ends, ends, longest, longest, scale)
    rows = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if start < end:
            q, k, v = (part[start:end].transpose(0, 1).unsqueeze(0) for part in (query, key, value))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            rows.append(out[0].transpose(0, 1))
    return torch.cat(rows)


LayerCache = tuple[Tensor, Tensor]
"""Keys and values of one layer: cache rows × heads × size."""


class Prefill(NamedTuple):
    """Concatenated prompts, see `causal_by_row`; `rows` are the tokens' cache rows."""

    rows: Tensor
    ends: Tensor
    longest: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, scale: float) -> Tensor:
        """Causal attention within each prompt."""
        return causal_by_row(query, key, value, self.ends, self.longest, scale)


class FlashStep(NamedTuple):
    """One token per slot with flash attention.

    `ends` counts the queries and `starts` are the first cache rows of the slots (both int32, one longer than the
    slots); `lengths` are the cached tokens per slot, the new one included.
    """

    rows: Tensor
    ends: Tensor
    starts: Tensor
    lengths: Tensor
    longest: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, scale: float) -> Tensor:
        """Attention to the slot's cache; a single query is the last token, so nothing is masked."""
        return flash(query, *cache, self.ends, self.starts, 1, self.longest, scale, self.lengths)


class PlainStep(NamedTuple):
    """One token per slot without flash attention; `mask` is slots × 1 × 1 × longest, true for cached tokens."""

    rows: Tensor
    mask: Tensor
    tokens: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, scale: float) -> Tensor:
        """Attention to the slots' caches up to the longest."""
        slots, longest = len(query), self.mask.shape[-1]
        keys, values = (
            part[: slots * self.tokens].view(slots, self.tokens, *part.shape[1:])[:, :longest].transpose(1, 2)
            for part in cache
        )
        out = F.scaled_dot_product_attention(
            query.unsqueeze(2), keys, values, attn_mask=self.mask, scale=scale, enable_gqa=True
        )
        return out.squeeze(2)


Job = Prefill | FlashStep | PlainStep
"""One forward pass: the cache rows of its tokens, and what they attend to."""


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: None, scaling: float, job: Job, **_: Any
) -> tuple[Tensor, None]:
    """The attention function for transformers: 1 × heads × tokens × size in, 1 × tokens × heads × size out."""
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    keys, values = cache = module.cached_keys, module.cached_values
    keys.index_copy_(0, job.rows, key)
    values.index_copy_(0, job.rows, value)
    return job.attend(query, key, value, cache, scaling).unsqueeze(0), None


@contextlib.contextmanager
def attending(model: Any) -> Iterator[None]:
    """Installs this attention into the model for the duration of the context."""
    from transformers import AttentionInterface

    before = model.config._attn_implementation
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def holding(model: Any, cache: Cache) -> Iterator[None]:
    """Gives each layer of the model its part of the cache for the duration of the context.

    The parts are attributes of the modules and not a list by layer number, so that one compilation serves all layers.
    """
    attentions = [layer.self_attn for layer in model.model.layers]
    try:
        for number, module in enumerate(attentions):
            module.cached_keys, module.cached_values = cache.keys[number], cache.values[number]
        yield
    finally:
        for module in attentions:
            for name in ("cached_keys", "cached_values"):
                module.__dict__.pop(name, None)


def is_supported(model: Any) -> bool:
    """Whether this attention can replace the model's: LLaMA's own classes, without a sliding window, a cap on scores or
    attention sinks.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    return type(model).__name__ == "LlamaForCausalLM" and rope.get("rope_type", "default") in ROPE_TYPES
