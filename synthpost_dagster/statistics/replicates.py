"""Replicates: cells of different data sizes that saw the same amount of training data."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Trained(NamedTuple):
    """The facts of a cell's training by which replicates are found."""

    data_size: int
    optimizer_steps: int
    rows_seen: int
    """min(rows, steps × batch)."""


def replicate_groups(cells: Sequence[Trained]) -> list[int]:
    """Each cell's group: cells with the same steps that see only part of their rows. Groups are numbered from 1
    by their steps; 0 is none.
    """
    partly = Counter(cell.optimizer_steps for cell in cells if cell.rows_seen < cell.data_size)
    shared = sorted(steps for steps, count in partly.items() if count > 1)
    number = {steps: place for place, steps in enumerate(shared, start=1)}
    return [number.get(cell.optimizer_steps, 0) if cell.rows_seen < cell.data_size else 0 for cell in cells]
