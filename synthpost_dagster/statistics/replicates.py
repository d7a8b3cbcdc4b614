"""Cells that are not different: repeats of one experiment under the names of several data sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Trained(NamedTuple):
    """What a cell's training was, as far as it tells replicates."""

    data_size: int
    optimizer_steps: int
    rows_seen: int
    """min(rows, steps × batch)."""


def replicate_groups(cells: Sequence[Trained]) -> list[int]:
    """For each cell the number of its group, from 1, or 0: at the same steps, each cell of a group sees fewer rows than
    the smallest subset of the group holds. Groups are numbered by their steps.
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
