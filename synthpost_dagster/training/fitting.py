"""How a training is laid out in memory: layouts from the fastest to the smallest, tried in that order.

What is learned is the same in every layout; only rounding differs.
"""

from __future__ import annotations

from typing import NamedTuple

from synthpost_dagster.profiles import TrainingSpec

MIN_COMPILED_STEPS = 300
"""From this number of optimizer steps on, compiling the layers costs less time than it saves."""
PIECE = 512
"""Learned tokens whose logits are held at a time, without padding."""


class Layout(NamedTuple):
    """Rows held at once, whether activations are recomputed for the gradient, whether the layers are compiled."""

    micro_batch: int
    gradient_checkpointing: bool
    is_compiled: bool

    @property
    def text(self) -> str:
        """The layout in words."""
        return f"{self.memory_text}{', compiled layers' if self.is_compiled else ''}"

    @property
    def memory_text(self) -> str:
        """What a resumed training keeps: whether compiling pays is decided for each process."""
        return f"{self.micro_batch} rows at a time{', gradient checkpointing' if self.gradient_checkpointing else ''}"


def layouts(spec: TrainingSpec, steps: int, is_gpu: bool, is_packed: bool) -> list[Layout]:
    """The layouts to try, the fastest first; each needs less memory than the one before.

    Without gradient checkpointing: all rows of a step, then half of them, which is faster than recomputing. With packed
    weights it is slower, since each pass starts many small kernels. Then with checkpointing, down to one row. The
    profile's own micro-batch and checkpointing come first; out of memory leads to smaller layouts all the same.

    `steps` is the number of steps that will be trained on this loaded model: compiling pays from
    `MIN_COMPILED_STEPS` on.
    """
    rows = spec.rows_per_step if spec.micro_batch == "auto" else spec.micro_batch
    sizes = [size for size in range(rows, 0, -1) if rows % size == 0]
    recomputed: list[tuple[int, bool]] = [(size, True) for size in sizes]
    if spec.gradient_checkpointing is False:
        order = [*((size, False) for size in sizes), (1, True)]
    elif spec.gradient_checkpointing is True:
        order = recomputed
    else:
        is_halved = spec.micro_batch == "auto" and not is_packed
        order = [*((size, False) for size in sizes[: 2 if is_halved else 1]), *recomputed]
    pays = steps >= MIN_COMPILED_STEPS and is_gpu and spec.padding_free
    is_compiled = pays if spec.compile == "auto" else spec.compile
    return [Layout(size, is_recomputed, is_compiled) for size, is_recomputed in order]


def first_index(found: list[Layout], memory_text: str) -> int:
    """Where to begin: at the layout that a checkpoint was written with, or at the fastest where that is unknown."""
    return next((index for index, layout in enumerate(found) if layout.memory_text == memory_text), 0)
