"""How many optimizer steps a cell has, and how many rows it sees."""

from __future__ import annotations

import math

from synthpost_dagster.tasks.spec import EPOCHS


def optimizer_steps(steps: str, rows: int, rows_per_step: int) -> int:
    """Optimizer steps of a cell: the number itself, or k passes over the rows for `<k>-epoch`."""
    epochs = EPOCHS.match(steps)
    return int(epochs.group(1)) * math.ceil(rows / rows_per_step) if epochs else int(steps)


def rows_seen(optimizer_steps: int, rows: int, rows_per_step: int) -> int:
    """Distinct rows that the cell trains on."""
    return min(rows, optimizer_steps * rows_per_step)
