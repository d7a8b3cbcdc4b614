"""The size of a training: its optimizer steps, the rows it sees, and its memory layouts.

All layouts learn the same, except for rounding.
"""

import math
from typing import NamedTuple

from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.tasks.spec import EPOCHS

MIN_COMPILED_STEPS = 300
"""From this number of optimizer steps on, compiling the layers takes less time than it saves."""


def optimizer_steps(steps: str, rows: int, rows_per_step: int) -> int:
    """Optimizer steps of a cell: the number itself, or k passes over the rows for `<k>-epoch`."""
    epochs = EPOCHS.match(steps)
    return int(epochs.group(1)) * math.ceil(rows / rows_per_step) if epochs else int(steps)


def rows_seen(optimizer_steps: int, rows: int, rows_per_step: int) -> int:
    """Distinct rows that the cell trains on."""
    return min(rows, optimizer_steps * rows_per_step)


class Layout(NamedTuple):
    """Rows per micro-batch, whether activations are recomputed, and whether layers are compiled."""

    micro_batch: int
    gradient_checkpointing: bool
    is_compiled: bool

    @property
    def text(self) -> str:
        """The layout in words."""
        return f"{self.memory_text}{', compiled layers' if self.is_compiled else ''}"

    @property
    def memory_text(self) -> str:
        """The part that a resumed training keeps; each process decides by itself whether to compile."""
        return f"{self.micro_batch} rows at a time{', gradient checkpointing' if self.gradient_checkpointing else ''}"


def is_mixed(spec: TrainingSpec, device: str) -> bool:
    """Whether products are computed in bfloat16 under autocast, with adapters in float32."""
    return spec.precision != "float32" and device != "cpu"


def layouts(spec: TrainingSpec, steps: int, is_gpu: bool, is_packed: bool) -> list[Layout]:
    """The layouts to try, fastest first; each needs less memory than the one before.

    The order is: all rows of a step, half of them, then gradient checkpointing with all rows down to one. With packed
    weights half the rows are slower than checkpointing, because each pass starts many small kernels. The profile's own
    micro-batch and checkpointing come first; smaller layouts follow if memory runs out.

    `steps` is the number of steps that will be trained on this loaded model.
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
    """The index of the layout that a checkpoint was written with; 0 if it is unknown."""
    return next((index for index, layout in enumerate(found) if layout.memory_text == memory_text), 0)
