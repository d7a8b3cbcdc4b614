"""Replicates: cells of different data sizes that saw the same amount of training data."""

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
    by_steps: dict[int, list[int]] = {}
    for index, cell in enumerate(cells):
        if cell.rows_seen < cell.data_size:
            by_steps.setdefault(cell.optimizer_steps, []).append(index)
    groups = [by_steps[steps] for steps in sorted(by_steps) if len(by_steps[steps]) > 1]
    found = [0] * len(cells)
    for number, group in enumerate(groups, start=1):
        for index in group:
            found[index] = number
    return found
