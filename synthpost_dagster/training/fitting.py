"""How a training is laid out in memory: the fastest way that fits. What is learned is the same in every layout."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from synthpost_dagster.profiles import TrainingSpec

MARGIN = 0.95
"""The share of free memory that is reckoned with."""
WIDTHS, INNER_WIDTHS = 16, 4
"""Numbers that a decoder layer keeps a token for its gradient, in hidden and in intermediate sizes: measured with
LLaMA 3 8B (docs/experiments.md)."""
COMPILED_SHARE = 0.6
"""A compiled layer keeps so much of that."""
LOGIT_BYTES, COMPILED_LOGIT_BYTES = 16, 6
"""A logit with what its loss and gradient need, where the loss is made piece by piece."""
PADDED_LOGIT_BYTES = 14
WEIGHT_BYTES, WEIGHT_BYTES_8BIT = 16, 10
"""Of an adapter: weight and gradient in float32, two moments in float32 or in 8 bits."""
FLOAT8_BYTES = 2
"""Of a frozen weight beside itself, rounded for the way forth and for the way back."""
DEVIATIONS = 4.0
"""A micro-batch is reckoned to be so many standard deviations longer than the mean one. One in a whole sweep that is
longer still is what the halving after an out-of-memory error is for."""
AGAIN = 1.5
"""Work of a step whose activations are made again, of one that keeps them: three passes instead of two."""
EACH = 0.25
"""What a micro-batch costs beside its rows, as a share of a step's work: smaller products, kernels to start. Measured
on an H100 (docs/experiments.md), where steps of 1, 2 and 4 of them took 162, 198 and 252 ms, and 227 in one with
activations made again."""
LAYER_SECONDS = 3e-3
"""What Python takes for a pass through a layer with packed weights, whose products are not compiled: measured there,
where the GPU waits for it."""
COMPILING_STEPS = 300
"""From so many optimizer steps on, compiling the layers costs less time than it saves."""
PIECE = 512
"""Learned tokens whose logits are held at a time, without padding."""


class Layout(NamedTuple):
    """Rows held at once, whether activations are made again for the gradient, whether the layers are compiled."""

    micro_batch: int
    gradient_checkpointing: bool
    is_compiled: bool

    @property
    def text(self) -> str:
        """The layout in words."""
        how = ", activations made again" if self.gradient_checkpointing else ""
        return f"{self.micro_batch} rows at a time{how}{', compiled layers' if self.is_compiled else ''}"

    def smaller(self) -> Layout | None:
        """The next layout that needs less memory; None where there is none.

        It halves the micro-batch, or else takes the next smaller one that makes the same rows a step.
        """
        divisors = [size for size in range(1, self.micro_batch) if self.micro_batch % size == 0]
        if divisors:
            return self._replace(micro_batch=divisors[-1])
        return None if self.gradient_checkpointing else self._replace(gradient_checkpointing=True)


class Shape(NamedTuple):
    """What of a model decides how much memory tuning needs; `itemsize` in bytes, of an activation."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    itemsize: int

    @classmethod
    def of(cls, config: Any, itemsize: int) -> Shape:
        """From a transformers configuration; four hidden sizes are reckoned where it names no intermediate one."""
        intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        return cls(config.num_hidden_layers, config.hidden_size, intermediate, config.vocab_size, itemsize)

    @property
    def weights(self) -> int:
        """Of the layers, attention's reckoned as hidden × hidden."""
        return self.layers * self.hidden * (4 * self.hidden + 3 * self.intermediate)


def fitting(
    spec: TrainingSpec,
    shape: Shape,
    lengths: Sequence[int],
    free_bytes: float,
    steps: int,
    is_gpu: bool,
    packed_rate: float | None = None,
) -> Layout:
    """The layout that is reckoned the fastest of those that fit into `free_bytes`, the model being loaded; the most
    frugal one where none does.

    `lengths` are the rows' in tokens; `steps` are all that will be trained on this loaded model; `packed_rate` are the
    device's operations a second, where the weights are packed. What the profile says itself is kept.
    """
    wants = steps >= COMPILING_STEPS and is_gpu and spec.padding_free
    is_compiled = wants if spec.compile == "auto" else spec.compile
    layouts = [Layout(size, again, is_compiled) for again in _again(spec) for size in _sizes(spec)]
    waiting = _waiting(shape, statistics.fmean(lengths) * spec.rows_per_step, packed_rate)
    layouts.sort(key=lambda layout: _time(layout, spec.rows_per_step, waiting))
    fit = (layout for layout in layouts if needed_bytes(spec, shape, lengths, layout) <= free_bytes * MARGIN)
    return next(fit, layouts[-1])


def _waiting(shape: Shape, tokens: float, packed_rate: float | None) -> float:
    """How long Python takes for a pass through packed layers, in the time of a step's mere work; 0 where none are."""
    operations = 4 * shape.weights * tokens
    return LAYER_SECONDS * shape.layers * (packed_rate or 0.0) / operations


def _time(layout: Layout, rows_per_step: int, waiting: float) -> float:
    """Of a step, in that of its mere work with all activations kept."""
    times = rows_per_step / layout.micro_batch
    work, passes = (AGAIN, 3) if layout.gradient_checkpointing else (1.0, 2)
    return max(work + EACH * times, waiting * passes * times)


def needed_bytes(spec: TrainingSpec, shape: Shape, lengths: Sequence[int], layout: Layout) -> float:
    """What a step holds beside the model."""
    layer = (WIDTHS * shape.hidden + INNER_WIDTHS * shape.intermediate) * shape.itemsize
    if layout.is_compiled:
        layer = int(layer * COMPILED_SHARE)
    kept = shape.hidden * shape.itemsize * shape.layers + layer
    tokens = _tokens(spec, lengths, layout.micro_batch)
    activations = tokens * (kept if layout.gradient_checkpointing else layer * shape.layers)
    rounded = FLOAT8_BYTES * shape.weights if spec.precision == "float8" else 0
    return activations + _logit_bytes(spec, shape, tokens, layout) + _adapter_bytes(spec, shape) + rounded


def _tokens(spec: TrainingSpec, lengths: Sequence[int], rows: int) -> float:
    """Of a long micro-batch; no more than the longest rows have, which padded ones are filled up to."""
    longest = sorted(lengths, reverse=True)[:rows]
    if not spec.padding_free:
        return max(lengths) * rows
    spread = statistics.pstdev(lengths) * math.sqrt(rows) * DEVIATIONS
    return min(sum(longest), statistics.fmean(lengths) * rows + spread)


def _logit_bytes(spec: TrainingSpec, shape: Shape, tokens: float, layout: Layout) -> float:
    if not spec.padding_free:
        return tokens * shape.vocabulary * PADDED_LOGIT_BYTES
    each = COMPILED_LOGIT_BYTES if layout.is_compiled else LOGIT_BYTES
    return min(tokens, PIECE) * shape.vocabulary * each


def _adapter_bytes(spec: TrainingSpec, shape: Shape) -> int:
    """Attention's matrices reckoned as hidden × hidden, the others as hidden × intermediate."""
    attention = sum(name[0] in "qkvo" for name in spec.lora.target_modules)
    others = len(spec.lora.target_modules) - attention
    widths = attention * 2 * shape.hidden + others * (shape.hidden + shape.intermediate)
    each = WEIGHT_BYTES_8BIT if "8bit" in spec.optimizer else WEIGHT_BYTES
    return shape.layers * spec.lora.r * widths * each


def _sizes(spec: TrainingSpec) -> Iterator[int]:
    """Micro-batches that divide a step's rows, the largest first; that of the profile alone where it names one."""
    if spec.micro_batch != "auto":
        yield spec.micro_batch
        return
    yield from (size for size in range(spec.rows_per_step, 0, -1) if spec.rows_per_step % size == 0)


def _again(spec: TrainingSpec) -> tuple[bool, ...]:
    return (False, True) if spec.gradient_checkpointing == "auto" else (spec.gradient_checkpointing,)
