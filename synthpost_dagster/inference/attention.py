"""Attention over a cache with a fixed place for each sequence, put into a transformers model and taken out again.

A forward pass gets tokens of many sequences end to end, as one row without padding. Its `Job` says where their keys
and values go and what each query sees: in a prefill the tokens of its own prompt, in a decoding step the cache of its
slot. Flash attention on a GPU, scaled_dot_product_attention elsewhere. torch is imported with this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

NAME = "synthpost_slots"
"""What transformers calls this attention."""


class Cache:
    """Keys and values of `slots` sequences of at most `tokens`: layers × (slots · tokens + 1) × heads × size each.

    The last place takes what nobody will read.
    """

    def __init__(self, config: Any, slots: int, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self.slots, self.tokens = slots, tokens
        shape = (config.num_hidden_layers, slots * tokens + 1, config.num_key_value_heads, _head_size(config))
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def unread(self) -> int:
        """The place that nobody reads."""
        return self.slots * self.tokens

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of one slot into another."""
        start, end = source * self.tokens, target * self.tokens
        for kept in (self.keys, self.values):
            kept[:, end : end + length] = kept[:, start : start + length]


AMPERE = 8
"""Compute capability."""


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """What a token takes in the cache."""
    return 2 * int(config.num_hidden_layers * config.num_key_value_heads * _head_size(config)) * dtype.itemsize


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def uses_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's flash attention, which knows half precision on Ampere and later alone, and its fixed shapes are
    used there.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device)[0] >= AMPERE


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    starts: Tensor,
    most_queries: int,
    most_keys: int,
    scale: float,
    lengths: Tensor | None = None,
) -> Tensor:
    """Attention of rows end to end, tokens × heads × size: queries up to `ends`, keys from `starts`.

    Of each row's keys the first `lengths` count, or all. The last query sees them all, each one before it one fewer.
    """
    is_causal = most_queries > 1  # without it, the heads that share a key are taken together
    out: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, ends, starts, most_queries, most_keys, 0.0, is_causal, False, scale=scale, seqused_k=lengths
    )[0]
    return out


class Job(Protocol):
    """One forward pass: the place in the cache of each token, and what it attends to."""

    @property
    def places(self) -> Tensor:
        """Tokens, each a place in the cache."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kept: Kept, scale: float) -> Tensor:
        """Of tokens × heads × size, all; `kept` is the layer's cache, with this pass's keys and values in it."""


class Kept(NamedTuple):
    """A layer's cache: places × heads × size."""

    keys: Tensor
    values: Tensor


class FlashPrefill(NamedTuple):
    """Prompts end to end on a GPU: `ends` begins with 0 (int32); none is longer than `longest`.

    Tokens after the last end are padding, whose output is arbitrary.
    """

    places: Tensor
    ends: Tensor
    longest: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kept: Kept, scale: float) -> Tensor:
        """Causal within each prompt."""
        return flash(query, key, value, self.ends, self.ends, self.longest, self.longest, scale)


class FlashStep(NamedTuple):
    """A token a slot on a GPU: `ends` counts the queries, `starts` is where each slot's cache begins (both int32 and
    one longer than the slots), `lengths` how much of it is there, the new token counted in.
    """

    places: Tensor
    ends: Tensor
    starts: Tensor
    lengths: Tensor
    longest: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kept: Kept, scale: float) -> Tensor:
        """Over the slot's cache; a single query is the last token, so that nothing has to be masked."""
        return flash(query, kept.keys, kept.values, self.ends, self.starts, 1, self.longest, scale, self.lengths)


class PlainPrefill(NamedTuple):
    """Prompts end to end anywhere, `sizes` tokens each."""

    places: Tensor
    sizes: list[int]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kept: Kept, scale: float) -> Tensor:
        """Causal within each prompt, one after the other."""
        rows = []
        for one in zip(*(torch.split(part, self.sizes) for part in (query, key, value)), strict=True):
            q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in one)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            rows.append(seen[0].transpose(0, 1))
        return torch.cat(rows)


class PlainStep(NamedTuple):
    """A token a slot anywhere, for the first slots: `seen` is slots × 1 × 1 × longest, true where a key is there."""

    places: Tensor
    seen: Tensor
    tokens: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kept: Kept, scale: float) -> Tensor:
        """Over the slots' caches up to the longest."""
        slots, longest = len(query), self.seen.shape[-1]
        keys, values = (
            part[: slots * self.tokens].view(slots, self.tokens, *part.shape[1:])[:, :longest].transpose(1, 2)
            for part in kept
        )
        out = F.scaled_dot_product_attention(
            query.unsqueeze(2), keys, values, attn_mask=self.seen, scale=scale, enable_gqa=True
        )
        return out.squeeze(2)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, scaling: float, job: Job, **_: Any
) -> tuple[Tensor, None]:
    """Transformers' attention function: tensors are 1 × heads × tokens × size; gives 1 × tokens × heads × size."""
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    kept = Kept(module.kept_keys, module.kept_values)  # type: ignore[arg-type]
    kept.keys.index_copy_(0, job.places, key)
    kept.values.index_copy_(0, job.places, value)
    return job.attend(query, key, value, kept, scaling).unsqueeze(0), None


@contextlib.contextmanager
def attending(model: Any) -> Iterator[None]:
    """The model attends by jobs for as long as this lasts."""
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
    """Each layer of the model knows its part of the cache for as long as this lasts.

    The parts hang on the modules, not in a list by the layer's number, so that one compilation does for all layers.
    """
    attentions = [layer.self_attn for layer in model.model.layers]
    try:
        for number, module in enumerate(attentions):
            module.kept_keys, module.kept_values = cache.keys[number], cache.values[number]
        yield
    finally:
        for module in attentions:
            for name in ("kept_keys", "kept_values"):
                module.__dict__.pop(name, None)


def suits(model: Any) -> bool:
    """Whether the model's attention can be swapped: LLaMA's own classes, and positions that need no look at lengths.

    A sliding window, a cap on scores or attention sinks come with other classes.
    """
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return type(model).__name__ == "LlamaForCausalLM" and rope.get("rope_type", "default") in {
        "default",
        "linear",
        "llama3",
        "yarn",
    }
