"""LoRA tuning of a LLaMA whose frozen weights are fused: the fastest way found here, for bench_training.py.

One step takes all its rows end to end, without padding between them; attention stays within a row. Query, key and value
share one frozen matrix and one low-rank input, gate and up likewise, so that a layer has four products instead of
seven and eight narrow ones instead of fourteen. A layer is one compiled function, called with each layer's tensors.
Only supervised positions reach the output layer, whose gradient is made together with the loss, piece by piece.

The frozen weights are in bf16, in NF4 (bitsandbytes) or in FP8 with a scale a row. Not for inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

MASKED = -100
FP8_MOST = 448.0
"""The largest number of float8_e4m3fn."""
NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256


class Frozen(NamedTuple):
    """A frozen matrix of n × k: `kind` bf16 has it in `data`, nf4 and fp8 have codes there and what decodes them."""

    kind: str
    shape: tuple[int, int]
    data: Tensor
    more: tuple[Tensor, ...] = ()


class Adapted(NamedTuple):
    """Frozen matrices stacked, and their adapters: `down` (rank·m × k), one `up` (n_i × rank) for each."""

    frozen: Frozen
    down: Tensor
    ups: tuple[Tensor, ...]


class Layer(NamedTuple):
    """The tensors of a decoder layer."""

    norm_1: Tensor
    norm_2: Tensor
    qkv: Adapted
    out: Adapted
    gate_up: Adapted
    down: Adapted


class Shape(NamedTuple):
    """What a layer's code has to know."""

    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    scale: float


class Batch(NamedTuple):
    """Rows end to end: `ends` begins with 0; `learned` are positions whose next token is in `targets`."""

    ids: Tensor
    positions: Tensor
    ends: Tensor
    learned: Tensor
    targets: Tensor
    supervised: Tensor


# Frozen matrices ------------------------------------------------------------------------------------------------------


def freeze(weight: Tensor, kind: str) -> Frozen:
    """A bf16 matrix on its device in the wanted kind."""
    shape = (weight.shape[0], weight.shape[1])
    if kind == "nf4":
        return Frozen(kind, shape, *_nf4(weight))
    if kind == "fp8":
        rows, row_scales = fp8_rows(weight)
        columns, column_scales = fp8_rows(weight.t().contiguous())
        return Frozen(kind, shape, rows, (row_scales.t(), columns, column_scales.t()))
    return Frozen("bf16", shape, weight.contiguous())


def _nf4(weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    from bitsandbytes.functional import get_4bit_type, quantize_4bit

    codes, state = quantize_4bit(weight, blocksize=NF4_BLOCK, compress_statistics=True, quant_type="nf4")
    levels = get_4bit_type("nf4", device=weight.device)
    return codes, (state.absmax, state.state2.code, state.state2.absmax, state.offset.reshape(1), levels)


def decoded(
    codes: Tensor, scales: Tensor, code: Tensor, more: Tensor, offset: Tensor, levels: Tensor, n: int, k: int
) -> Tensor:
    """The n × k matrix in bf16: in one kernel on a GPU, through bitsandbytes elsewhere."""
    if codes.is_cuda:
        from nf4_kernel import decode

        return decode(codes, scales, code, more, offset, levels, n, k)
    ops = torch.ops.bitsandbytes
    block_scales = ops.dequantize_blockwise(scales, more, code, NF4_NESTED_BLOCK, torch.float32) + offset
    whole: Tensor = ops.dequantize_4bit(codes, block_scales, NF4_BLOCK, "nf4", [n, k], torch.bfloat16)
    return whole


# Opaque to the compiler, which would otherwise keep the decoded matrices for the gradient.
torch.library.define(
    "synthpost::nf4_matmul",
    "(Tensor x, Tensor codes, Tensor scales, Tensor code, Tensor more, Tensor offset, Tensor levels, int n, int k, "
    "bool flip) -> Tensor",
)
nf4_matmul = torch.ops.synthpost.nf4_matmul


@torch.library.impl("synthpost::nf4_matmul", "default")
def _nf4_matmul(x: Tensor, *frozen: Any) -> Tensor:
    """Gives x · Wᵀ, or x · W if the last argument says `flip`, of a matrix that is decoded for this product alone."""
    weight = decoded(*frozen[:-1])
    return x @ weight if frozen[-1] else x @ weight.t()


@torch.library.register_fake("synthpost::nf4_matmul")
def _nf4_fake(x: Tensor, *frozen: Any) -> Tensor:
    return x.new_empty(x.shape[0], frozen[-2] if frozen[-1] else frozen[-3])


def _nf4_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch names them
    ctx.save_for_backward(*inputs[1:7])
    ctx.shape = inputs[7:9]


def _nf4_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return (nf4_matmul(gradient.contiguous(), *ctx.saved_tensors, *ctx.shape, True), *[None] * 9)


torch.library.register_autograd("synthpost::nf4_matmul", _nf4_backward, setup_context=_nf4_setup)


def fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in FP8, and its scale (rows × 1)."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / FP8_MOST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


class Fp8Product(torch.autograd.Function):
    """x · Wᵀ in FP8, whose gradient for x is in FP8 too; W is kept once by rows and once by columns."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rows: Tensor, row_scales: Tensor, columns: Tensor, column_scales: Tensor
    ) -> Tensor:
        """With the copy by rows."""
        ctx.save_for_backward(columns, column_scales)
        return scaled_product(x, rows, row_scales)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """With the copy by columns."""
        return scaled_product(gradient, *ctx.saved_tensors), None, None, None, None


def scaled_product(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Gives x · weightᵀ, with x put into FP8 row by row."""
    codes, own = fp8_rows(x)
    return torch._scaled_mm(
        codes, weight.t(), scale_a=own, scale_b=scales, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def product(x: Tensor, frozen: Frozen) -> Tensor:
    """Gives x · Wᵀ."""
    if frozen.kind == "nf4":
        return nf4_matmul(x, frozen.data, *frozen.more, *frozen.shape, False)
    if frozen.kind == "fp8":
        return Fp8Product.apply(x, frozen.data, *frozen.more)
    return F.linear(x, frozen.data)


# A layer --------------------------------------------------------------------------------------------------------------


def adapted(x: Tensor, matrix: Adapted, scale: float) -> Tensor:
    """Gives x · (W + scale · up · down)ᵀ with the adapters in x's precision."""
    low = F.linear(x, matrix.down.to(x.dtype))
    up = torch.block_diag(*[part.to(x.dtype) for part in matrix.ups]) if len(matrix.ups) > 1 else matrix.ups[0]
    return product(x, matrix.frozen) + F.linear(low * scale, up.to(x.dtype))


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As transformers has it: in float32, rounded, then weighted."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of tokens × heads × size."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def attention(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> Tensor:
    """Causal within each row of tokens × heads × size; flash attention on a GPU."""
    if query.is_cuda:
        return torch.ops.aten._flash_attention_forward(
            query, key, value, ends, ends, longest, longest, 0.0, True, False
        )[0]
    rows = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        parts = [part[start:end].transpose(0, 1) for part in (query, key, value)]
        rows.append(F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True).transpose(0, 1))
    return torch.cat(rows)


def decoder_layer(
    x: Tensor, cos: Tensor, sin: Tensor, ends: Tensor, longest: int, layer: Layer, shape: Shape, wanted: Tensor | None
) -> Tensor:
    """A LLaMA layer on tokens × width; where only some positions are wanted of it, the rest ends with attention."""
    sizes = [count * shape.head_size for count in (shape.heads, shape.kv_heads, shape.kv_heads)]
    qkv = adapted(rms_norm(x, layer.norm_1, shape.epsilon), layer.qkv, shape.scale)
    query, key, value = (part.unflatten(-1, (-1, shape.head_size)) for part in qkv.split(sizes, dim=-1))
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    seen = attention(query, key, value.contiguous(), ends, longest).flatten(1)
    if wanted is not None:
        x, seen = x[wanted], seen[wanted]
    x = x + adapted(seen, layer.out, shape.scale)
    gate, up = adapted(rms_norm(x, layer.norm_2, shape.epsilon), layer.gate_up, shape.scale).chunk(2, dim=-1)
    return x + adapted(F.silu(gate) * up, layer.down, shape.scale)


# The loss -------------------------------------------------------------------------------------------------------------


def piece_loss(hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over positions and divided by `count`, and its gradient for `hidden`; MASKED ones are 0."""
    logits = (hidden @ weight.t()).float()
    most = logits.amax(dim=-1, keepdim=True)
    powers = (logits - most).exp()
    total = powers.sum(dim=-1, keepdim=True)
    is_learned = (targets != MASKED).unsqueeze(-1)
    at = targets.clamp(min=0).unsqueeze(-1)
    losses = (total.log() + most - logits.gather(-1, at)) * is_learned
    hot = torch.arange(logits.shape[-1], device=logits.device) == at
    slopes = (powers / total - hot.float()) * is_learned / count
    return losses.sum() / count, slopes.to(hidden.dtype) @ weight


class SupervisedLoss(torch.autograd.Function):
    """Mean cross-entropy under a frozen output layer; the logits of one piece are held at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor, piece: int, one: Callable[..., Any]
    ) -> Tensor:
        """The loss; `one` is piece_loss, compiled or not."""
        parts = [one(h, weight, t, count) for h, t in zip(hidden.split(piece), targets.split(piece), strict=True)]
        ctx.save_for_backward(torch.cat([gradient for _, gradient in parts]))
        return torch.stack([loss for loss, _ in parts]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """The gradient is there already."""
        return (ctx.saved_tensors[0] * gradient.to(ctx.saved_tensors[0].dtype), *[None] * 5)


# The whole model ------------------------------------------------------------------------------------------------------


@dataclass
class Settings:
    """How the frozen weights are kept and the steps are run."""

    kind: str = "bf16"
    rank: int = 16
    alpha: int = 16
    is_compiled: bool = True
    is_dynamic: bool = True
    checkpointed: int = 0
    """Layers, from the first, whose activations are made again for the gradient."""
    piece: int = 1024
    """Positions whose logits are held at a time."""
    longest: int = 2048


class FastLora:
    """A transformers LLaMA taken apart: its frozen tensors, and adapters as leaves for an optimizer."""

    def __init__(self, model: Any, device: str, settings: Settings, seed: int) -> None:
        """Takes the layers' weights out of `model` one by one, so that it can lie in the CPU's memory."""
        config = model.config
        self.settings = settings
        self.shape = Shape(
            config.num_attention_heads,
            config.num_key_value_heads,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            config.rms_norm_eps,
            settings.alpha / settings.rank,
        )
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._device = device
        self.embedding = model.model.embed_tokens.weight.detach().to(device)
        self.head = model.lm_head.weight.detach().to(device)
        self.norm = model.model.norm.weight.detach().to(device)
        self.rotary = model.model.rotary_emb.to(device)
        self.layers = [self._layer(layer) for layer in model.model.layers]
        self._run = torch.compile(decoder_layer) if settings.is_compiled else decoder_layer
        self._piece = torch.compile(piece_loss, dynamic=True) if settings.is_compiled else piece_loss

    def parameters(self) -> Iterator[Tensor]:
        """The adapters' matrices."""
        for layer in self.layers:
            for matrix in (layer.qkv, layer.out, layer.gate_up, layer.down):
                yield matrix.down
                yield from matrix.ups

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over a batch's supervised positions."""
        hidden = F.embedding(batch.ids, self.embedding)
        cos, sin = (part[0].unsqueeze(1) for part in self.rotary(hidden, batch.positions.unsqueeze(0)))
        for number, layer in enumerate(self.layers):
            if self.settings.is_dynamic and self.settings.is_compiled:
                for tensor in (hidden, cos, sin, batch.learned):
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
            wanted = batch.learned if layer is self.layers[-1] else None
            arguments = (hidden, cos, sin, batch.ends, self.settings.longest, layer, self.shape, wanted)
            if number < self.settings.checkpointed:
                hidden = torch.utils.checkpoint.checkpoint(
                    self._run, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                hidden = self._run(*arguments)
        chosen = rms_norm(hidden, self.norm, self.shape.epsilon)
        return SupervisedLoss.apply(
            chosen, self.head, batch.targets, batch.supervised, self.settings.piece, self._piece
        )

    def _layer(self, layer: Any) -> Layer:
        attention_part, mlp = layer.self_attn, layer.mlp
        return Layer(
            layer.input_layernorm.weight.detach().to(self._device),
            layer.post_attention_layernorm.weight.detach().to(self._device),
            self._adapted(attention_part.q_proj, attention_part.k_proj, attention_part.v_proj),
            self._adapted(attention_part.o_proj),
            self._adapted(mlp.gate_proj, mlp.up_proj),
            self._adapted(mlp.down_proj),
        )

    def _adapted(self, *linears: Any) -> Adapted:
        """The stacked weights, taken from their modules, and PEFT's start: `down` uniform, `ups` zero."""
        rank, width = self.settings.rank, linears[0].weight.shape[1]
        whole = torch.cat([linear.weight.detach().to(self._device) for linear in linears])
        sizes = [linear.weight.shape[0] for linear in linears]
        for linear in linears:
            linear.weight = None
        frozen = freeze(whole, self.settings.kind)
        down = torch.empty(rank * len(sizes), width, device=self._device)
        down.uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=self._generator)
        ups = tuple(torch.zeros(size, rank, device=self._device).requires_grad_() for size in sizes)
        return Adapted(frozen, down.requires_grad_(), ups)


class Graphs:
    """A step's loss and gradients as CUDA graphs, one for each pair of tokens and supervised positions, made on need.

    A step is some 3,000 kernels, which Python cannot start as fast as an H200 ends them. All graphs share their memory;
    the gradients are outside of it.
    """

    def __init__(self, fast: FastLora) -> None:
        self._fast = fast
        self._parameters = list(fast.parameters())
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._known: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Batch, Tensor]] = {}
        self._pool: Any = None

    def __call__(self, batch: Batch) -> Tensor:
        """The loss; the gradients are left in the parameters' `grad`."""
        key = (len(batch.ids), len(batch.targets))
        if key not in self._known:
            self._known[key] = self._captured(batch)
        graph, inputs, loss = self._known[key]
        for to, source in zip(inputs, batch, strict=True):
            to.copy_(source)
        graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return loss.clone()

    def _captured(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, Tensor]:
        inputs = Batch(*[tensor.clone() for tensor in batch])
        if not self._known:
            # Whatever is compiled or tuned at its first call must have been called before.
            for _ in range(2):
                torch.autograd.grad(self._fast.loss(inputs), self._parameters)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            loss = self._fast.loss(inputs)
            gradients = torch.autograd.grad(loss, self._parameters)
            torch._foreach_copy_(self._gradients, gradients)
            loss = loss.detach()
        self._pool = self._pool or graph.pool()
        return graph, inputs, loss


def flattened(
    rows: list[tuple[list[int], int]], multiple: int, device: str, is_full: bool, multiple_learned: int = 64
) -> Batch:
    """Rows (token ids, and how many of them are the prompt) end to end, filled up to a multiple with a row of zeros.

    Supervised positions are filled up to a multiple too. The begin token is no target.
    """
    ids = [token for row, _ in rows for token in row]
    positions = [at for row, _ in rows for at in range(len(row))]
    learned, targets, ends = [], [], [0]
    for row, prompt in rows:
        first = 0 if is_full else prompt - 1
        learned += [ends[-1] + at for at in range(first, len(row) - 1)]
        targets += row[first + 1 :]
        ends.append(ends[-1] + len(row))
    supervised, fill, spare = len(targets), -len(ids) % multiple, -len(targets) % multiple_learned
    ends.append(ends[-1] + fill)
    made = (
        ids + [0] * fill,
        positions + list(range(fill)),
        ends,
        learned + [0] * spare,
        targets + [MASKED] * spare,
    )
    tensors = [torch.tensor(part, dtype=torch.int32 if part is ends else torch.int64) for part in made]
    tensors.append(torch.tensor(float(supervised)))
    if device != "cpu":
        tensors = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    return Batch(*tensors)
