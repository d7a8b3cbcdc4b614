"""A Triton kernel that decodes an NF4 matrix of bitsandbytes, nested scales and all, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCKS = 64
"""Blocks of 64 weights that one program decodes."""


@triton.jit
def _decode(codes, scales, code, more, offset, levels, out, blocks, COUNT: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    block = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    is_there = block < blocks
    scale = tl.load(code + tl.load(scales + block, mask=is_there, other=0).to(tl.int32))
    scale = scale * tl.load(more + block // 256, mask=is_there, other=0.0) + tl.load(offset)
    at = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    pair = tl.load(codes + at, mask=is_there[:, None], other=0).to(tl.int32)
    first = tl.load(levels + (pair >> 4)) * scale[:, None]
    second = tl.load(levels + (pair & 15)) * scale[:, None]
    to = block[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + to, tl.interleave(first, second).to(tl.bfloat16), mask=is_there[:, None])


def decode(
    codes: Tensor, scales: Tensor, code: Tensor, more: Tensor, offset: Tensor, levels: Tensor, n: int, k: int
) -> Tensor:
    """The n × k matrix in bf16, from what bitsandbytes' `quantize_4bit` made of it with blocks of 64 and 256."""
    out = torch.empty(n, k, dtype=torch.bfloat16, device=codes.device)
    blocks = n * k // 64
    _decode[(triton.cdiv(blocks, BLOCKS),)](codes, scales, code, more, offset, levels, out, blocks, COUNT=BLOCKS)
    return out
